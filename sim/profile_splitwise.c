/* Splitwise's measurements, a line each, and the formula that fits them.
 *   model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,
 *   tensor_parallel
 * prompt_time is that of a batch of prompts, token_time that of a step while token_size tokens are generated behind
 * each; milliseconds. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/least_squares.h"
#include "sim/profile_forms.h"

#define COLUMNS    11u
#define MAX_LINES  65536u
#define LINE_BYTES 512u
#define MS         1000.0
#define NAME_BYTES 32u
#define HEADER     "model,hardware,prompt_size,batch_size,token_size,"
#define NO_LESS    0.5 /* of the time of a batch of half the size */

struct row {
    char model[NAME_BYTES], hardware[NAME_BYTES];
    double prompt, batch, tokens, prompt_us, token_us;
    uint32_t tensor_parallel;
};

struct table {
    struct row *rows; /* owned */
    uint32_t n;
};

static bool read_row(char *line, struct row *out)
{
    char *fields[COLUMNS], *rest = line;
    for (uint32_t i = 0; i < COLUMNS; i++)
        if (!(fields[i] = strsep(&rest, ",")))
            return false;
    (void)snprintf(out->model, sizeof out->model, "%s", fields[0]);
    (void)snprintf(out->hardware, sizeof out->hardware, "%s", fields[1]);
    out->prompt = strtod(fields[2], NULL);
    out->batch = strtod(fields[3], NULL);
    out->tokens = strtod(fields[4], NULL);
    out->prompt_us = MS * strtod(fields[7], NULL);
    out->token_us = MS * strtod(fields[8], NULL);
    out->tensor_parallel = (uint32_t)strtoul(fields[10], NULL, 10);
    return out->prompt > 0 && out->batch > 0 && out->tokens > 0 && out->prompt_us > 0 && out->token_us > 0 &&
           out->tensor_parallel > 0;
}

static status read_table(const char *text, size_t len, const char *name, struct table *t, struct error *err)
{
    char line[LINE_BYTES];
    uint32_t number = 1;
    const char *end = text + len, *at = memchr(text, '\n', len);
    if (len < strlen(HEADER) || strncmp(text, HEADER, strlen(HEADER)) != 0 || !at)
        return error_set(err, ST_INVALID, "%s, line 1: the columns do not begin with %s", name, HEADER);
    for (at++; at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        if (n >= sizeof line || t->n == MAX_LINES)
            return error_set(err, ST_LIMIT, "%s, line %u: longer than %zu bytes, or more than %u lines", name,
                             number + 1, sizeof line - 1, MAX_LINES);
        memcpy(line, at, n);
        line[n] = '\0';
        if (!read_row(line, &t->rows[t->n++]))
            return error_set(err, ST_INVALID, "%s, line %u: not %u fields with sizes and times above 0", name,
                             number + 1, COLUMNS);
        at += n + 1;
    }
    return ST_OK;
}

/* ---- which of them ----------------------------------------------------------------------------------------- */

static bool fits(const struct row *row, const struct profile_choice *c)
{
    return (!c->model || !strcmp(row->model, c->model)) && (!c->hardware || !strcmp(row->hardware, c->hardware)) &&
           (!c->tensor_parallel || row->tensor_parallel == c->tensor_parallel);
}

static bool is_alike(const struct row *a, const struct row *b)
{
    return !strcmp(a->model, b->model) && !strcmp(a->hardware, b->hardware) && a->tensor_parallel == b->tensor_parallel;
}

static status none_fits(const struct table *t, const char *name, struct error *err)
{
    char there[352] = ""; /* what is longer is cut */
    size_t n = 0;
    for (uint32_t i = 0; i < t->n && n < sizeof there; i++) {
        bool known = false;
        for (uint32_t k = 0; k < i && !known; k++)
            known = is_alike(&t->rows[k], &t->rows[i]);
        if (!known)
            n += (size_t)snprintf(there + n, sizeof there - n, "%s%s/%s/%u", i ? ", " : "", t->rows[i].model,
                                  t->rows[i].hardware, t->rows[i].tensor_parallel);
    }
    return error_set(err, ST_INVALID, "%s: it has no such model/hardware/degree of tensor parallelism, but %s", name,
                     there);
}

/* Those that were asked for are moved to the front; they must be of one worker. */
static status select_rows(struct table *t, const struct profile_choice *choice, const char *name, struct error *err)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (fits(&t->rows[i], choice))
            t->rows[n++] = t->rows[i];
    for (uint32_t i = 1; i < n; i++)
        if (!is_alike(&t->rows[i], &t->rows[0]))
            return error_set(err, ST_INVALID,
                             "%s: several fit, as %s on %s with tensor parallel %u and %s on %s with %u; say which",
                             name, t->rows[0].model, t->rows[0].hardware, t->rows[0].tensor_parallel, t->rows[i].model,
                             t->rows[i].hardware, t->rows[i].tensor_parallel);
    if (n == 0)
        return none_fits(t, name, err);
    t->n = n;
    return ST_OK;
}

/* ---- fitting ---------------------------------------------------------------------------------------------------- */

/* A batch that took less than half of what half of it took did not run as one: it is no measure. */
static bool is_whole(const struct table *t, const struct row *row)
{
    for (uint32_t i = 0; i < t->n; i++) {
        const struct row *other = &t->rows[i];
        if (other->prompt == row->prompt && other->tokens == row->tokens && 2 * other->batch == row->batch &&
            row->prompt_us < NO_LESS * other->prompt_us)
            return false;
    }
    return true;
}

static double fit_prefill(const struct table *t, struct least_squares_sample *samples, struct profile *p)
{
    uint32_t n = 0;
    double w[3];
    for (uint32_t i = 0; i < t->n; i++) {
        const struct row *r = &t->rows[i];
        if (is_whole(t, r))
            samples[n++] = (struct least_squares_sample){ { 1, r->batch * r->prompt, r->batch * r->prompt * r->prompt },
                                                          r->prompt_us };
    }
    double error = least_squares(samples, n, w);
    p->prefill_base_us = w[0];
    p->prefill_token_us = w[1];
    p->prefill_square_us = w[2];
    return error;
}

/* While so many tokens are generated, half of them are there on average. */
static double fit_decode(const struct table *t, struct least_squares_sample *samples, struct profile *p)
{
    uint32_t n = 0;
    double w[3];
    for (uint32_t i = 0; i < t->n; i++) {
        const struct row *r = &t->rows[i];
        if (is_whole(t, r))
            samples[n++] =
                (struct least_squares_sample){ { 1, r->batch * (r->prompt + r->tokens / 2), r->batch }, r->token_us };
    }
    double error = least_squares(samples, n, w);
    p->decode[0] = (struct profile_decode){ UINT32_MAX, w[0], w[1], w[2] };
    p->n_decode = 1;
    return error;
}

static status fit(const struct table *t, struct profile *p)
{
    struct least_squares_sample *samples = calloc((size_t)t->n + 1, sizeof *samples);
    if (!samples)
        return ST_NO_MEMORY;
    p->prefill_error = fit_prefill(t, samples, p);
    p->decode_error = fit_decode(t, samples, p);
    free(samples);
    return ST_OK;
}

status profile_read_splitwise(const char *text, size_t len, const char *name, const struct profile_choice *choice,
                              struct profile *p, struct error *err)
{
    struct table t = { .rows = calloc(MAX_LINES, sizeof *t.rows) };
    if (!t.rows)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", name);
    status st = read_table(text, len, name, &t, err);
    if (st == ST_OK)
        st = select_rows(&t, choice, name, err);
    if (st == ST_OK)
        st = fit(&t, p);
    if (st == ST_OK) {
        const struct row *row = &t.rows[0];
        (void)snprintf(p->name, sizeof p->name, "%s, tensor parallel %u, %s", row->model, row->tensor_parallel,
                       row->hardware);
        profile_know_model(p, row->model, row->tensor_parallel);
    }
    free(t.rows);
    return st;
}
