#include "engine/pretokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/pretokenizer_regex.h"

void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch)
{
    regex_scratch_destroy(&scratch->regex);
    free(scratch->spaced);
    *scratch = (struct pretokenizer_scratch){ 0 };
}

void pretokenizer_free(struct pretokenizer *pre)
{
    for (size_t i = 0; i < pre->n_steps; i++)
        regex_destroy(&pre->steps[i].regex);
    *pre = (struct pretokenizer){ 0 };
}

static status add_step(struct pretokenizer *pre, struct pretokenizer_step step, const char *text, size_t len,
                       bool literal, struct error *err)
{
    if (pre->n_steps == PRETOKENIZER_MAX_STEPS)
        return error_set(err, ST_LIMIT, "more than %d pre-tokenizer steps", PRETOKENIZER_MAX_STEPS);
    if (text) {
        status st = regex_create(text, len, literal, &step.regex, err);
        if (st != ST_OK)
            return st;
    }
    uint64_t shape[4] = { pre->fingerprint, step.behavior, (step.invert ? 1u : 0u) | (literal ? 2u : 0u),
                          text ? XXH3_64bits(text, len) : 0 };
    pre->fingerprint = XXH3_64bits(shape, sizeof shape);
    pre->steps[pre->n_steps++] = step;
    return ST_OK;
}

status pretokenizer_add_split(struct pretokenizer *pre, const char *pattern, size_t len, bool literal,
                              enum split_behavior behavior, bool invert, struct error *err)
{
    return add_step(pre, (struct pretokenizer_step){ .behavior = behavior, .invert = invert }, pattern, len, literal,
                    err);
}

status pretokenizer_add_space(struct pretokenizer *pre, struct error *err)
{
    for (size_t i = 0; i < pre->n_steps; i++)
        ASSERT(pre->steps[i].regex != NULL);
    return add_step(pre, (struct pretokenizer_step){ .regex = NULL }, NULL, 0, false, err);
}

/* One run; steps recurse, so that no list of pieces is ever stored. */
struct run {
    const struct pretokenizer *pre;
    struct pretokenizer_scratch *scratch;
    pretokenizer_emit emit;
    void *ctx;
};

/* What a step holds back until it knows whether the next segment joins. */
struct joiner {
    const struct run *run;
    size_t next_step;
    const struct pretokenizer_step *step;
    const char *text;
    size_t start, end;
    bool held, last_matched;
};

static status apply(const struct run *run, size_t step, const char *text, size_t len);

static status release(struct joiner *j)
{
    if (!j->held)
        return ST_OK;
    j->held = false;
    return apply(j->run, j->next_step, j->text + j->start, j->end - j->start);
}

static bool joins(const struct joiner *j, bool matched)
{
    switch (j->step->behavior) {
    case SPLIT_CONTIGUOUS:
        return matched == j->last_matched;
    case SPLIT_MERGED_WITH_PREVIOUS:
        return matched && !j->last_matched;
    case SPLIT_MERGED_WITH_NEXT:
        return !matched && j->last_matched;
    case SPLIT_ISOLATED:
    case SPLIT_REMOVED:
        break;
    }
    return false;
}

static status segment(struct joiner *j, size_t start, size_t end, bool matched)
{
    matched ^= j->step->invert;
    if (matched && j->step->behavior == SPLIT_REMOVED)
        return ST_OK;
    bool join = j->held && joins(j, matched);
    j->last_matched = matched;
    if (join) {
        j->end = end;
        return ST_OK;
    }
    status st = release(j);
    j->start = start;
    j->end = end;
    j->held = true;
    return st;
}

static status split(const struct run *run, size_t step, const char *text, size_t len)
{
    struct joiner j = { .run = run, .next_step = step + 1, .step = &run->pre->steps[step], .text = text };
    struct regex_walk walk = { .text = text, .len = len };
    size_t done = 0, start, end;
    status st = ST_OK;
    while (st == ST_OK && (st = regex_next(j.step->regex, &run->scratch->regex, &walk, &start, &end)) == ST_OK) {
        if (done < start)
            st = segment(&j, done, start, false);
        if (st == ST_OK)
            st = segment(&j, start, end, true);
        done = end;
    }
    if (st != ST_NOT_FOUND)
        return st;
    st = done < len ? segment(&j, done, len, false) : ST_OK;
    return st == ST_OK ? release(&j) : st;
}

static status put_space(const struct run *run, size_t step, const char *text, size_t len)
{
    if (text[0] == ' ')
        return apply(run, step + 1, text, len);
    struct pretokenizer_scratch *scratch = run->scratch;
    if (scratch->spaced_capacity < len + 1) {
        char *spaced = realloc(scratch->spaced, len + 1);
        if (!spaced)
            return ST_NO_MEMORY;
        scratch->spaced = spaced;
        scratch->spaced_capacity = len + 1;
    }
    scratch->spaced[0] = ' ';
    memcpy(scratch->spaced + 1, text, len);
    return apply(run, step + 1, scratch->spaced, len + 1);
}

static status apply(const struct run *run, size_t step, const char *text, size_t len)
{
    if (len == 0)
        return ST_OK;
    if (step == run->pre->n_steps)
        return run->emit(run->ctx, text, len);
    return run->pre->steps[step].regex ? split(run, step, text, len) : put_space(run, step, text, len);
}

status pretokenizer_run(const struct pretokenizer *pre, struct pretokenizer_scratch *scratch, const char *text,
                        size_t len, pretokenizer_emit emit, void *ctx)
{
    struct run run = { pre, scratch, emit, ctx };
    return apply(&run, 0, text, len);
}
