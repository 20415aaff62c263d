#include "bench/trace.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for one more element; the array at least doubles. */
static bool grow(void **array, size_t n, size_t *room, size_t size)
{
    if (n < *room)
        return true;
    size_t more = *room ? 2 * *room : 4096;
    void *grown = realloc(*array, more * size);
    if (!grown)
        return false;
    *array = grown;
    *room = more;
    return true;
}

static status add_block(struct trace *t, json_int_t id)
{
    void *blocks = t->blocks;
    if (!grow(&blocks, t->n_blocks, &t->room_blocks, sizeof *t->blocks))
        return ST_NO_MEMORY;
    t->blocks = blocks;
    t->blocks[t->n_blocks++] = (uint32_t)id;
    if ((uint32_t)id >= t->n_ids)
        t->n_ids = (uint32_t)id + 1;
    return ST_OK;
}

static status add_request(struct trace *t, const char *path, const json_t *ids, struct error *err)
{
    void *ends = t->ends;
    status st = grow(&ends, t->n_requests, &t->room_requests, sizeof *t->ends) ? ST_OK : ST_NO_MEMORY;
    t->ends = ends;
    if (!json_is_array(ids))
        return error_set(err, ST_INVALID, "%s, line %zu: no object with an array \"hash_ids\"", path,
                         t->n_requests + 1);
    for (size_t i = 0; st == ST_OK && i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= TRACE_MAX_BLOCKS)
            return error_set(err, ST_INVALID, "%s, line %zu: hash_ids[%zu] is no integer from 0 to %u", path,
                             t->n_requests + 1, i, TRACE_MAX_BLOCKS - 1);
        st = add_block(t, value);
    }
    if (st != ST_OK)
        return error_set(err, st, "%s: out of memory after %zu requests", path, t->n_requests);
    t->ends[t->n_requests++] = t->n_blocks;
    return ST_OK;
}

status trace_load(const char *path, struct trace *out, struct error *err)
{
    struct trace t = { 0 };
    FILE *file = fopen(path, "r");
    if (!file)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    status st = ST_OK;
    while (st == ST_OK && (len = getline(&line, &room, file)) > 0) {
        json_t *request = json_loadb(line, (size_t)len, 0, NULL);
        st = add_request(&t, path, json_object_get(request, "hash_ids"), err);
        json_decref(request);
    }
    if (st == ST_OK && ferror(file))
        st = error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    if (st == ST_OK && t.n_blocks == 0)
        st = error_set(err, ST_INVALID, "%s holds no blocks", path);
    free(line);
    (void)fclose(file);
    if (st == ST_OK)
        *out = t;
    else
        trace_free(&t);
    return st;
}

void trace_free(struct trace *trace)
{
    free(trace->blocks);
    free(trace->ends);
    *trace = (struct trace){ 0 };
}
