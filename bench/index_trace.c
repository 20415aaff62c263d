#include "bench/index_trace.h"

#include <stdbool.h>
#include <stdlib.h>

#include "bench/trace.h"
#include "common/draw.h"

#define MAX_IDS (1u << 24) /* different ones: each worker has a place for every one */
#define NONE    UINT32_MAX

/* What one worker holds: a list of ids, used last first. */
struct lru {
    uint32_t *before, *after; /* [n]; of an id that is not held, before is NONE - 1 */
    uint32_t *last_use;       /* [n]: where in all prompts its blocks stand */
    uint32_t first, last, held;
};

#define NOT_HELD (NONE - 1)

/* --- reading --- */

static status read_prompts(const char *path, struct trace *out, struct error *err)
{
    struct trace t;
    status st = trace_load(path, TRACE_NEEDS_BLOCKS, &t, err);
    if (st != ST_OK)
        return st;
    if (t.n_ids > MAX_IDS || t.n_blocks > INDEX_TRACE_MAX_IDS) {
        st = error_set(err, ST_LIMIT, "%s: %zu ids below %u, where at most %u below %u are replayed", path, t.n_blocks,
                       t.n_ids, INDEX_TRACE_MAX_IDS, MAX_IDS);
        trace_free(&t);
        return st;
    }
    *out = t;
    return ST_OK;
}

/* --- workers --- */

static status lru_create(struct lru *l, uint32_t n)
{
    *l = (struct lru){ .first = NONE, .last = NONE };
    l->before = malloc(n * sizeof *l->before);
    l->after = malloc(n * sizeof *l->after);
    l->last_use = malloc(n * sizeof *l->last_use);
    for (uint32_t i = 0; l->before && i < n; i++)
        l->before[i] = NOT_HELD;
    return l->before && l->after && l->last_use ? ST_OK : ST_NO_MEMORY;
}

static void lru_free(struct lru *l)
{
    free(l->before);
    free(l->after);
    free(l->last_use);
}

static void lru_take_out(struct lru *l, uint32_t id)
{
    uint32_t before = l->before[id], after = l->after[id];
    *(before == NONE ? &l->first : &l->after[before]) = after;
    *(after == NONE ? &l->last : &l->before[after]) = before;
    l->before[id] = NOT_HELD;
    l->held--;
}

static void lru_put_first(struct lru *l, uint32_t id)
{
    l->before[id] = NONE;
    l->after[id] = l->first;
    *(l->first == NONE ? &l->last : &l->before[l->first]) = id;
    l->first = id;
    l->held++;
}

/* --- operations --- */

struct maker {
    struct index_trace *trace;
    struct trace prompts;
    struct lru workers[INDEX_TRACE_MAX_WORKERS];
    uint16_t *holders; /* [n_ids]: workers that hold it */
    uint32_t n_workers, room, turn;
    uint64_t held_ids;
    size_t capacity;
};

static status add(struct maker *m, enum index_operation_kind kind, uint32_t worker, uint32_t first_id, uint32_t n_ids)
{
    struct index_trace *t = m->trace;
    if (t->n_operations == m->capacity) {
        size_t larger = m->capacity ? 2 * m->capacity : 4096;
        struct index_operation *memory = realloc(t->operations, larger * sizeof *memory);
        if (!memory)
            return ST_NO_MEMORY;
        t->operations = memory;
        m->capacity = larger;
    }
    uint32_t first = first_id * INDEX_TRACE_ID_BLOCKS, n = n_ids * INDEX_TRACE_ID_BLOCKS;
    t->operations[t->n_operations++] = (struct index_operation){ kind, worker, first, n };
    t->blocks[kind] += n;
    return ST_OK;
}

static uint32_t leading(const struct lru *l, const uint32_t ids[], uint32_t n)
{
    uint32_t i = 0;
    while (i < n && l->before[ids[i]] != NOT_HELD)
        i++;
    return i;
}

static uint32_t pick(struct maker *m, const uint32_t ids[], uint32_t n, uint32_t *hit)
{
    uint32_t best = m->turn = (m->turn + 1) % m->n_workers;
    *hit = leading(&m->workers[best], ids, n);
    for (uint32_t i = 0; i < m->n_workers; i++) {
        uint32_t has = leading(&m->workers[i], ids, n);
        if (has > *hit) {
            *hit = has;
            best = i;
        }
    }
    if (2 * *hit >= n)
        return best;
    *hit = leading(&m->workers[m->turn], ids, n);
    return m->turn;
}

/* The last id first, so that the ends of chains are the oldest. */
static void use(struct maker *m, struct lru *l, uint32_t start, uint32_t n)
{
    for (uint32_t i = n; i--;) {
        uint32_t id = m->prompts.blocks[start + i];
        if (l->before[id] != NOT_HELD)
            lru_take_out(l, id);
        else if (!m->holders[id]++)
            m->held_ids++;
        lru_put_first(l, id);
        l->last_use[id] = start + i;
    }
    uint64_t blocks = m->held_ids * INDEX_TRACE_ID_BLOCKS;
    m->trace->most_blocks = blocks > m->trace->most_blocks ? blocks : m->trace->most_blocks;
}

static status remove_oldest(struct maker *m, uint32_t worker)
{
    struct lru *l = &m->workers[worker];
    uint32_t id = l->last;
    lru_take_out(l, id);
    m->held_ids -= !--m->holders[id];
    return add(m, INDEX_REMOVE, worker, l->last_use[id], 1);
}

static status make_request(struct maker *m, uint32_t start, uint32_t n)
{
    uint32_t hit, worker = pick(m, &m->prompts.blocks[start], n, &hit);
    struct lru *l = &m->workers[worker];
    status st = add(m, INDEX_LOOKUP, worker, start, n);
    if (n > m->room) /* longer than a worker: looked up, not kept */
        return st;
    use(m, l, start, n);
    while (st == ST_OK && l->held > m->room)
        st = remove_oldest(m, worker);
    if (st == ST_OK && hit < n)
        st = add(m, INDEX_STORE, worker, start + hit, n - hit);
    m->trace->n_requests++;
    return st;
}

static status make_hashes(const struct trace *p, struct index_trace *t)
{
    t->n_hashes = p->n_blocks * INDEX_TRACE_ID_BLOCKS;
    t->hashes = malloc(t->n_hashes * sizeof *t->hashes + 1);
    if (!t->hashes)
        return ST_NO_MEMORY;
    for (size_t i = 0; i < t->n_hashes; i++) {
        uint64_t block =
            (uint64_t)p->blocks[i / INDEX_TRACE_ID_BLOCKS] * INDEX_TRACE_ID_BLOCKS + i % INDEX_TRACE_ID_BLOCKS;
        t->hashes[i] = (struct block_hash){ draw_mix(block), draw_mix(~block) };
    }
    return ST_OK;
}

static status make_operations(struct maker *m)
{
    const struct trace *p = &m->prompts;
    ASSERT(p->n_ids > 0); /* each request has blocks */
    m->holders = calloc(p->n_ids, sizeof *m->holders);
    status st = m->holders ? make_hashes(p, m->trace) : ST_NO_MEMORY;
    for (uint32_t i = 0; st == ST_OK && i < m->n_workers; i++)
        st = lru_create(&m->workers[i], p->n_ids);
    for (size_t i = 0, first = 0; st == ST_OK && i < p->n_requests; first = p->ends[i++])
        st = make_request(m, (uint32_t)first, (uint32_t)(p->ends[i] - first));
    return st;
}

status index_trace_load(const struct index_trace_options *o, struct index_trace *out, struct error *err)
{
    ASSERT(o->n_workers >= 1 && o->n_workers <= INDEX_TRACE_MAX_WORKERS);
    struct maker *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(err, ST_NO_MEMORY, "no memory for a trace");
    *out = (struct index_trace){ 0 };
    m->trace = out;
    m->n_workers = o->n_workers;
    m->room = o->worker_tokens / TRACE_BLOCK_TOKENS;
    status st = read_prompts(o->path, &m->prompts, err);
    if (st == ST_OK && (st = make_operations(m)) != ST_OK)
        error_set(err, st, "no memory for the trace %s", o->path);
    for (uint32_t i = 0; i < m->n_workers; i++)
        lru_free(&m->workers[i]);
    trace_free(&m->prompts);
    free(m->holders);
    free(m);
    if (st != ST_OK)
        index_trace_free(out);
    return st;
}

void index_trace_free(struct index_trace *t)
{
    free(t->hashes);
    free(t->operations);
    *t = (struct index_trace){ 0 };
}
