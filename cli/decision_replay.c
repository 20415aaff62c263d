#include "cli/decision_replay.h"

#include <stdlib.h>
#include <string.h>

/* ---- sums ---------------------------------------------------------------------------- */

static struct replay_worker *worker_of(struct replay_side *side, const char *id)
{
    for (uint32_t i = 0; i < side->n; i++)
        if (!strcmp(side->at[i].id, id))
            return &side->at[i];
    if (side->n == side->capacity) {
        uint32_t capacity = side->capacity ? 2 * side->capacity : 64;
        struct replay_worker *grown = side->n < REPLAY_MAX_WORKERS ? realloc(side->at, capacity * sizeof *grown) : NULL;
        if (!grown)
            return NULL;
        side->at = grown;
        side->capacity = capacity;
    }
    struct replay_worker *worker = &side->at[side->n++];
    *worker = (struct replay_worker){ .logged = 0 };
    snprintf(worker->id, sizeof worker->id, "%s", id);
    return worker;
}

static void count(struct replay_side *side, const char *id, bool logged)
{
    struct replay_worker *worker = worker_of(side, id);
    if (worker && logged)
        worker->logged++;
    else if (worker)
        worker->policy++;
}

static bool add_error(struct replay *r, int part, double error)
{
    if (r->errors[part].n == r->errors[part].capacity) {
        size_t capacity = r->errors[part].capacity ? 2 * r->errors[part].capacity : 1024;
        double *grown = realloc(r->errors[part].at, capacity * sizeof *grown);
        if (!grown)
            return false;
        r->errors[part].at = grown;
        r->errors[part].capacity = capacity;
    }
    r->errors[part].at[r->errors[part].n++] = error;
    return true;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double replay_error_at(const struct replay *r, int part, double share)
{
    size_t n = r->errors[part].n;
    return n ? r->errors[part].at[(size_t)(share * (double)(n - 1) + 0.5)] : 0.0;
}

double replay_mean_ms(const struct replay *r, uint64_t sum_us)
{
    return r->compared ? (double)sum_us / 1e3 / (double)r->compared : 0.0;
}

/* ---- one line --------------------------------------------------------------------------- */

static void count_choice(struct replay *r, const struct decision_line *line, const struct pick_choice *c, bool logged)
{
    if (c->decode != PICK_NONE)
        count(&r->decodes, line->decode_ids[c->decode], logged);
    if (c->n_prefills)
        count(&r->prefills, line->prefill_ids[c->prefills[0]], logged);
}

static uint64_t predicted_us(const struct decision_line *line, const struct pick_choice *c)
{
    uint32_t prefill = c->n_prefills ? c->prefills[0] : PICK_NONE;
    return c->decode == PICK_NONE ? 0 : pick_predict(&line->input, c->decode, prefill, NULL);
}

/* What is sent, but for the order of those that would help if the first one failed. */
static bool goes_the_same_way(const struct pick_choice *a, const struct pick_choice *b)
{
    bool helped = a->n_prefills > 0;
    return a->decode == b->decode && helped == (b->n_prefills > 0) && (!helped || a->prefills[0] == b->prefills[0]);
}

static bool is_same(const struct pick_choice *a, const struct pick_choice *b)
{
    return a->decode == b->decode && a->route == b->route && a->n_prefills == b->n_prefills &&
           !memcmp(a->prefills, b->prefills, a->n_prefills * sizeof *a->prefills);
}

static int say_choice(char *out, size_t size, const struct decision_line *line, const struct pick_choice *c)
{
    int n =
        snprintf(out, size, "decode=%s route=%s prefills=", c->decode == PICK_NONE ? "-" : line->decode_ids[c->decode],
                 pick_route_name(c->route));
    for (uint32_t i = 0; i < c->n_prefills && n > 0 && (size_t)n < size; i++)
        n += snprintf(out + n, size - (size_t)n, "%s%s", i ? "," : "", line->prefill_ids[c->prefills[i]]);
    return n;
}

static void tell(const struct replay_options *options, uint64_t number, const struct decision_line *line,
                 const struct pick_choice *now)
{
    char before[1024], after[1024], text[2304];
    (void)say_choice(before, sizeof before, line, &line->choice);
    (void)say_choice(after, sizeof after, line, now);
    (void)snprintf(text, sizeof text, "line %llu, request %s: logged %s; now %s", (unsigned long long)number,
                   line->request, before, after);
    if (options->differs)
        options->differs(options->ctx, text);
}

/* A cut list holds all that predicting picks among, but not all that the others do. */
static bool can_be_decided(const struct decision_line *line, enum pick_policy policy)
{
    return line->is_whole || policy == PICK_CACHE_AWARE;
}

static void replay_decision(struct replay *r, const struct replay_options *options, uint64_t number,
                            struct decision_line *line)
{
    struct pick_choice now;
    r->decisions++;
    r->cut += !line->is_whole;
    count_choice(r, line, &line->choice, true);
    if (options->by_policy)
        line->input.policy = options->policy;
    if (!can_be_decided(line, line->input.policy))
        return;
    pick(&line->input, &now);
    bool same = options->by_policy ? goes_the_same_way(&now, &line->choice) : is_same(&now, &line->choice);
    r->compared++;
    r->same += same;
    r->logged_us += predicted_us(line, &line->choice);
    r->policy_us += predicted_us(line, &now);
    if (options->by_policy)
        count_choice(r, line, &now, false);
    else if (!same)
        tell(options, number, line, &now);
}

static status replay_outcome(struct replay *r, const struct decision_line *line, struct error *err)
{
    r->outcomes++;
    for (int i = 0; i < DECISION_PART_COUNT; i++)
        if (line->has[i] && !add_error(r, i, line->error[i]))
            return error_set(err, ST_NO_MEMORY, "no memory");
    return ST_OK;
}

/* ---- the file ----------------------------------------------------------------------------- */

static status replay_line(struct replay *r, const struct replay_options *options, uint64_t number, const char *text,
                          size_t len, struct error *err)
{
    struct decision_line *line = NULL;
    struct error why;
    status st = decision_read(text, len, &line, &why);
    if (st != ST_OK)
        return error_set(err, st, "line %llu: %s", (unsigned long long)number, why.text);
    if (line->is_outcome)
        st = replay_outcome(r, line, err);
    else
        replay_decision(r, options, number, line);
    decision_line_free(&line);
    return st;
}

static status replay_lines(struct replay *r, FILE *file, const struct replay_options *options, char *text,
                           struct error *err)
{
    status st = ST_OK;
    for (uint64_t number = 1; st == ST_OK && fgets(text, (int)DECISION_LINE_BYTES + 2, file); number++) {
        size_t len = strlen(text);
        if (len > DECISION_LINE_BYTES && text[len - 1] != '\n')
            return error_set(err, ST_INVALID, "line %llu is longer than %zu bytes", (unsigned long long)number,
                             DECISION_LINE_BYTES);
        if (text[len - 1] != '\n' && feof(file))
            break; /* the router ended while it was written */
        st = replay_line(r, options, number, text, len, err);
    }
    if (st == ST_OK && ferror(file))
        st = error_set(err, ST_INVALID, "it cannot be read");
    return st;
}

status replay_run(FILE *file, const struct replay_options *options, struct replay **out, struct error *err)
{
    struct replay *r = calloc(1, sizeof *r);
    char *text = malloc(DECISION_LINE_BYTES + 2);
    if (!r || !text) {
        free(r);
        free(text);
        return error_set(err, ST_NO_MEMORY, "no memory");
    }
    status st = replay_lines(r, file, options, text, err);
    free(text);
    if (st != ST_OK) {
        replay_free(&r);
        return st;
    }
    for (int i = 0; i < DECISION_PART_COUNT; i++)
        if (r->errors[i].n)
            qsort(r->errors[i].at, r->errors[i].n, sizeof *r->errors[i].at, by_size);
    *out = r;
    return ST_OK;
}

void replay_free(struct replay **replay)
{
    struct replay *r = *replay;
    if (!r)
        return;
    *replay = NULL;
    free(r->decodes.at);
    free(r->prefills.at);
    for (int i = 0; i < DECISION_PART_COUNT; i++)
        free(r->errors[i].at);
    free(r);
}
