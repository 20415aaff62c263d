#include "bench/trace.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/trace_reader.h"

#define FIRST_ROOM 4096u

/* Room for one more element; the array at least doubles. */
static bool grow(void **array, size_t n, size_t *room, size_t size)
{
    if (n < *room)
        return true;
    size_t more = *room ? 2 * *room : FIRST_ROOM;
    void *grown = realloc(*array, more * size);
    if (!grown)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static status no_memory(const struct trace_reader *r)
{
    return error_set(r->err, ST_NO_MEMORY, "%s: out of memory after %zu requests", r->name, r->trace.n_requests);
}

/* ---- what is kept ---------------------------------------------------------------------------- */

status trace_reader_add_block(struct trace_reader *r, int64_t id)
{
    struct trace *t = &r->trace;
    void *blocks = t->blocks;
    if (id < 0 || id >= TRACE_MAX_BLOCKS)
        return error_set(r->err, ST_INVALID, "%s, line %zu: the id of a block is no integer from 0 to %u", r->name,
                         r->line, TRACE_MAX_BLOCKS - 1);
    if (t->n_blocks == TRACE_MAX_BLOCKS)
        return error_set(r->err, ST_LIMIT, "%s: more than %u blocks", r->name, TRACE_MAX_BLOCKS);
    if (!grow(&blocks, t->n_blocks, &t->room_blocks, sizeof *t->blocks))
        return no_memory(r);
    t->blocks = blocks;
    t->blocks[t->n_blocks++] = (uint32_t)id;
    if ((uint32_t)id >= t->n_ids)
        t->n_ids = (uint32_t)id + 1;
    return ST_OK;
}

static size_t n_new_blocks(const struct trace *t)
{
    return t->n_blocks - (t->n_requests ? t->ends[t->n_requests - 1] : 0);
}

static status add(struct trace_reader *r, const struct trace_request *request)
{
    struct trace *t = &r->trace;
    void *requests = t->requests, *ends = t->ends;
    if (t->n_requests == TRACE_MAX_REQUESTS)
        return error_set(r->err, ST_LIMIT, "%s: more than %u requests", r->name, TRACE_MAX_REQUESTS);
    if ((r->needs & TRACE_NEEDS_BLOCKS) && n_new_blocks(t) == 0)
        return error_set(r->err, ST_INVALID, "%s, line %zu: the request has no blocks", r->name, r->line);
    bool ok = grow(&requests, t->n_requests, &t->room_requests, sizeof *t->requests);
    t->requests = requests;
    ok = ok && grow(&ends, t->n_requests, &t->room_ends, sizeof *t->ends);
    t->ends = ends;
    if (!ok)
        return no_memory(r);
    t->requests[t->n_requests] = *request;
    t->ends[t->n_requests++] = t->n_blocks;
    return ST_OK;
}

status trace_reader_add_blocks_only(struct trace_reader *r)
{
    if (r->needs & TRACE_NEEDS_ARRIVALS)
        return error_set(r->err, ST_INVALID,
                         "%s, line %zu: \"timestamp\", \"input_length\" and \"output_length\" are missing", r->name,
                         r->line);
    return add(r, &(struct trace_request){ .arrival_us = 0 });
}

static status check_tokens(const struct trace_reader *r, const char *what, int64_t n)
{
    if (n >= 1 && n <= TRACE_MAX_TOKENS)
        return ST_OK;
    return error_set(r->err, ST_INVALID, "%s, line %zu: tokens of the %s are no number from 1 to %u", r->name, r->line,
                     what, TRACE_MAX_TOKENS);
}

static status check_arrival(struct trace_reader *r, double arrival_s)
{
    if (r->trace.n_requests == 0)
        r->first_s = r->last_s = arrival_s;
    if (!(arrival_s >= r->last_s))
        return error_set(r->err, ST_INVALID, "%s, line %zu: the request came before the one above it", r->name,
                         r->line);
    if (!(arrival_s - r->first_s <= TRACE_MAX_SECONDS))
        return error_set(r->err, ST_INVALID, "%s, line %zu: the request came more than %.0f s after the first", r->name,
                         r->line, TRACE_MAX_SECONDS);
    r->last_s = arrival_s;
    return ST_OK;
}

status trace_reader_add_request(struct trace_reader *r, double arrival_s, int64_t input, int64_t output)
{
    status st = check_tokens(r, "prompt", input);
    if (st == ST_OK)
        st = check_tokens(r, "answer", output);
    if (st == ST_OK)
        st = check_arrival(r, arrival_s);
    if (st != ST_OK)
        return st;
    size_t n = n_new_blocks(&r->trace), theory = ((size_t)input + TRACE_BLOCK_TOKENS - 1) / TRACE_BLOCK_TOKENS;
    if (n != 0 && n != theory)
        return error_set(r->err, ST_INVALID, "%s, line %zu: %zu blocks, where a prompt of %lld tokens has %zu of %u",
                         r->name, r->line, n, (long long)input, theory, TRACE_BLOCK_TOKENS);
    return add(r, &(struct trace_request){ .arrival_us = (uint64_t)llround((arrival_s - r->first_s) * 1e6),
                                           .input_tokens = (uint32_t)input,
                                           .output_tokens = (uint32_t)output });
}

/* ---- Mooncake's lines -------------------------------------------------------------------------- */

/* -1: it is no integer. */
static int64_t integer(const json_t *value)
{
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

static status add_hash_ids(struct trace_reader *r, const json_t *ids)
{
    if (ids && !json_is_array(ids))
        return error_set(r->err, ST_INVALID, "%s, line %zu: \"hash_ids\" is no array", r->name, r->line);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        status st = trace_reader_add_block(r, integer(json_array_get(ids, i)));
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

static status add_object(struct trace_reader *r, const json_t *object)
{
    const json_t *at = json_object_get(object, "timestamp"), *input = json_object_get(object, "input_length"),
                 *output = json_object_get(object, "output_length");
    status st = add_hash_ids(r, json_object_get(object, "hash_ids"));
    if (st != ST_OK)
        return st;
    if (!at && !input && !output)
        return trace_reader_add_blocks_only(r);
    if (!json_is_number(at) || json_number_value(at) < 0)
        return error_set(r->err, ST_INVALID, "%s, line %zu: \"timestamp\" is no number of milliseconds", r->name,
                         r->line);
    return trace_reader_add_request(r, json_number_value(at) / 1e3, integer(input), integer(output));
}

static status add_json(struct trace_reader *r, const char *text, size_t len)
{
    json_t *object = json_loadb(text, len, 0, NULL);
    status st = json_is_object(object)
                    ? add_object(r, object)
                    : error_set(r->err, ST_INVALID, "%s, line %zu: no JSON object", r->name, r->line);
    json_decref(object);
    return st;
}

/* ---- files --------------------------------------------------------------------------------------- */

/* Without its end. */
static size_t trim(char *text, size_t len)
{
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r' || text[len - 1] == ' '))
        len--;
    text[len] = '\0';
    return len;
}

static status take_line(struct trace_reader *r, char *text, size_t len, bool is_first)
{
    if (strlen(text) != len)
        return error_set(r->err, ST_INVALID, "%s, line %zu: it holds a byte 0", r->name, r->line);
    if (r->n_columns == 0 && text[0] == '{')
        return add_json(r, text, len);
    if (is_first)
        return trace_csv_header(r, text);
    if (r->n_columns == 0)
        return error_set(r->err, ST_INVALID, "%s, line %zu: no JSON object", r->name, r->line);
    return trace_csv_line(r, text);
}

static status read_lines(struct trace_reader *r, FILE *file)
{
    char *text = NULL;
    size_t room = 0;
    ssize_t got;
    status st = ST_OK;
    bool is_first = true;
    while (st == ST_OK && (got = getline(&text, &room, file)) > 0) {
        size_t len = trim(text, (size_t)got);
        r->line++;
        if (len > 0)
            st = take_line(r, text, len, is_first);
        is_first = is_first && len == 0;
    }
    if (st == ST_OK && ferror(file))
        st = error_set(r->err, ST_IO, "%s: %s", r->name, strerror(errno));
    free(text);
    return st;
}

status trace_read(FILE *file, const char *name, unsigned needs, struct trace *out, struct error *err)
{
    struct trace_reader r = { .name = name, .needs = needs, .err = err };
    status st = read_lines(&r, file);
    if (st == ST_OK && r.trace.n_requests == 0)
        st = error_set(err, ST_INVALID, "%s holds no requests", name);
    if (st == ST_OK)
        *out = r.trace;
    else
        trace_free(&r.trace);
    return st;
}

status trace_load(const char *path, unsigned needs, struct trace *out, struct error *err)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    status st = trace_read(file, path, needs, out, err);
    (void)fclose(file);
    return st;
}

void trace_free(struct trace *trace)
{
    free(trace->requests);
    free(trace->blocks);
    free(trace->ends);
    *trace = (struct trace){ 0 };
}
