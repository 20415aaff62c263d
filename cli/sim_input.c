#include "cli/sim_input.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/trace.h"

#define MOST_SECONDS 1e9

/* ---- traces ------------------------------------------------------------------------------------------------- */

static status make_room(struct workload *w, const struct trace *t, size_t n, uint32_t repeats)
{
    size_t ids = t->ends[n - 1];
    w->n_requests = n * repeats;
    w->requests = calloc(w->n_requests + 1, sizeof *w->requests);
    w->id_tokens = TRACE_BLOCK_TOKENS;
    if (ids) {
        w->ids = calloc(ids * repeats, sizeof *w->ids);
        w->ends = calloc(w->n_requests + 1, sizeof *w->ends);
    }
    return w->requests && (!ids || (w->ids && w->ends)) ? ST_OK : ST_NO_MEMORY;
}

static void copy(struct workload *w, const struct trace *t, size_t n, uint32_t turn, const struct sim_trace *from)
{
    size_t ids = t->ends[n - 1];
    double length = (double)t->requests[n - 1].arrival_us * (double)(n + 1) / (double)n; /* and the gap behind it */
    for (size_t i = 0; i < n; i++) {
        const struct trace_request *r = &t->requests[i];
        w->requests[turn * n + i] = (struct workload_request){
            .arrival_us = (uint64_t)(((double)r->arrival_us + turn * length) / from->speed),
            .n_input = r->input_tokens,
            .n_output = r->output_tokens,
        };
        if (w->ends)
            w->ends[turn * n + i] = turn * ids + t->ends[i];
    }
    for (size_t i = 0; i < ids; i++)
        w->ids[turn * ids + i] = t->blocks[i] + turn * t->n_ids;
}

static status check_size(const struct trace *t, size_t n, const struct sim_trace *from, struct error *err)
{
    if ((uint64_t)n * from->repeats > SIM_MAX_REQUESTS || (uint64_t)t->n_ids * from->repeats > UINT32_MAX / 2)
        return error_set(err, ST_LIMIT, "%s: %u repeats of %zu requests are more than %u", from->path, from->repeats, n,
                         SIM_MAX_REQUESTS);
    return n && t->ends ? ST_OK : error_set(err, ST_INVALID, "%s holds no requests", from->path);
}

status sim_read_trace(const struct sim_trace *from, struct workload *out, struct error *err)
{
    struct trace t;
    struct workload w = { 0 };
    status st = trace_load(from->path, TRACE_NEEDS_ARRIVALS, &t, err);
    if (st != ST_OK)
        return st;
    size_t n = from->most && from->most < t.n_requests ? (size_t)from->most : t.n_requests;
    st = check_size(&t, n, from, err);
    if (st == ST_OK && make_room(&w, &t, n, from->repeats) != ST_OK)
        st = error_set(err, ST_NO_MEMORY, "%s: out of memory", from->path);
    for (uint32_t turn = 0; st == ST_OK && turn < from->repeats; turn++)
        copy(&w, &t, n, turn, from);
    w.n_ids = t.n_ids * from->repeats;
    trace_free(&t);
    if (st == ST_OK)
        *out = w;
    else
        workload_free(&w);
    return st;
}

/* ---- words ------------------------------------------------------------------------------------------------------- */

/* A whole number and what ends it, which is passed. */
static bool read_count(const char **at, char end, uint32_t *out)
{
    char *stop;
    if (**at < '0' || **at > '9')
        return false;
    unsigned long n = strtoul(*at, &stop, 10);
    if (*stop != end || n > UINT32_MAX)
        return false;
    *at = end ? stop + 1 : stop;
    *out = (uint32_t)n;
    return true;
}

status sim_read_workers(const char *text, struct sim_options *o, struct error *err)
{
    const char *at = text;
    if (read_count(&at, '\0', &o->n_decode)) {
        o->n_prefill = 0;
        return ST_OK;
    }
    at = text;
    if (read_count(&at, 'P', &o->n_prefill) && *at++ == ':' && read_count(&at, 'D', &o->n_decode) && *at == '\0')
        return ST_OK;
    return error_set(err, ST_INVALID,
                     "--workers %.40s is neither 4P:8D, prefill and decode workers, nor 8, workers that do both", text);
}

static bool read_seconds(const char **at, uint64_t *us)
{
    char *stop;
    double s = strtod(*at, &stop);
    if (stop == *at || !(s >= 0) || s > MOST_SECONDS)
        return false;
    *at = stop;
    *us = (uint64_t)llround(1e6 * s);
    return true;
}

status sim_read_failure(const char *text, struct sim_failure *out, struct error *err)
{
    const char *at = text;
    struct sim_failure f = { .back_us = UINT64_MAX };
    uint64_t away_us = 0;
    f.is_decode = !strncmp(text, "decode-", strlen("decode-"));
    bool ok = f.is_decode || !strncmp(text, "prefill-", strlen("prefill-"));
    at += strlen(f.is_decode ? "decode-" : "prefill-") * ok;
    ok = ok && read_count(&at, '@', &f.worker) && read_seconds(&at, &f.at_us);
    if (ok && *at == '+') {
        at++;
        ok = read_seconds(&at, &away_us);
        f.back_us = f.at_us + away_us;
    }
    if (!ok || *at)
        return error_set(err, ST_INVALID,
                         "--fail %.60s is not of the form decode-3@120+60 or prefill-0@120, in seconds", text);
    *out = f;
    return ST_OK;
}
