#include "bench/bench_index.h"

#include <stdlib.h>
#include <time.h>

#include "bench/plain_index.h"
#include "router/prefix_index.h"

#define SWEEP_BLOCKS (1u << 20)

/* One pass over the trace. `found` is a sum that both kinds of index must agree on: leading blocks at all workers. */
struct pass {
    uint64_t ns, covered, touched, found;
};

struct bench {
    const struct bench_index_options *options;
    struct index_trace trace;
    struct prefix_index *index;
    struct prefix_reader *reader;
    struct plain_index *plain;
    struct prefix_match matches[INDEX_TRACE_MAX_WORKERS];
    uint32_t leading[INDEX_TRACE_MAX_WORKERS];
};

/* Of this thread: what others do on the machine costs it caches, but no time. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A lookup decides about the blocks of the longest beginning and the first one behind it. */
static uint64_t decided(uint32_t longest, uint32_t n)
{
    return longest < n ? longest + 1 : n;
}

static void look_up(struct bench *b, const struct index_operation *o, struct pass *p)
{
    uint32_t n = prefix_index_lookup(b->index, b->reader, &b->trace.hashes[o->first], o->n, b->matches,
                                     b->options->trace.n_workers);
    for (uint32_t i = 0; i < n; i++)
        p->found += b->matches[i].blocks[KV_TIER_DEVICE];
    p->covered += decided(n ? b->matches[0].blocks[KV_TIER_DEVICE] : 0, o->n);
}

static struct pass pass_index(struct bench *b)
{
    struct pass p = { 0 };
    uint64_t looked = prefix_reader_looked_at(b->reader), begin = cpu_ns();
    for (size_t i = 0; i < b->trace.n_operations; i++) {
        const struct index_operation *o = &b->trace.operations[i];
        const struct block_hash *hashes = &b->trace.hashes[o->first];
        if (o->kind == INDEX_LOOKUP)
            look_up(b, o, &p);
        else if (o->kind == INDEX_STORE)
            prefix_index_store(b->index, o->worker, KV_TIER_DEVICE, hashes, o->n);
        else
            prefix_index_remove(b->index, o->worker, KV_TIER_DEVICE, hashes, o->n);
    }
    p.ns = cpu_ns() - begin;
    p.touched = prefix_reader_looked_at(b->reader) - looked;
    return p;
}

static struct pass pass_plain(struct bench *b)
{
    struct pass p = { 0 };
    uint64_t begin = cpu_ns();
    for (size_t i = 0; i < b->trace.n_operations; i++) {
        const struct index_operation *o = &b->trace.operations[i];
        const struct block_hash *hashes = &b->trace.hashes[o->first];
        if (o->kind == INDEX_LOOKUP) {
            p.covered += plain_index_lookup(b->plain, hashes, o->n, b->leading, b->options->trace.n_workers);
            for (uint32_t k = 0; k < b->options->trace.n_workers; k++)
                p.found += b->leading[k];
        } else if (o->kind == INDEX_STORE) {
            plain_index_store(b->plain, o->worker, hashes, o->n);
        } else {
            plain_index_remove(b->plain, o->worker, hashes, o->n);
        }
    }
    p.ns = cpu_ns() - begin;
    return p;
}

static void empty_index(struct bench *b)
{
    for (uint32_t i = 0; i < b->options->trace.n_workers; i++)
        prefix_index_clear(b->index, i);
    while (prefix_index_sweep(b->index, SWEEP_BLOCKS))
        ;
}

static status new_plain(struct bench *b)
{
    plain_index_destroy(&b->plain);
    return plain_index_create((uint32_t)b->trace.most_blocks + 1, &b->plain);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double values[], uint32_t n)
{
    qsort(values, n, sizeof *values, by_size);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* The first pass of each touches its memory and is not counted. */
static status measure(struct bench *b, struct bench_index_result *out)
{
    double index[BENCH_INDEX_MAX_REPEATS], plain[BENCH_INDEX_MAX_REPEATS], touched[BENCH_INDEX_MAX_REPEATS];
    uint64_t changed = b->trace.blocks[INDEX_STORE] + b->trace.blocks[INDEX_REMOVE];
    for (uint32_t i = 0; i <= b->options->repeats; i++) {
        empty_index(b);
        status st = new_plain(b);
        if (st != ST_OK)
            return st;
        struct pass p = pass_index(b), q = pass_plain(b);
        if (p.found != q.found || p.covered != q.covered)
            return ST_CORRUPT;
        out->covered = p.covered;
        out->touched = p.touched;
        if (!i)
            continue;
        index[i - 1] = (double)(changed + p.covered) * 1e9 / (double)p.ns;
        touched[i - 1] = (double)(changed + p.touched) * 1e9 / (double)p.ns;
        plain[i - 1] = (double)(changed + q.covered) * 1e9 / (double)q.ns;
    }
    out->ops_per_s = median(index, b->options->repeats);
    out->touched_per_s = median(touched, b->options->repeats);
    out->plain_ops_per_s = median(plain, b->options->repeats);
    return ST_OK;
}

static status create(struct bench *b, struct error *err)
{
    status st = index_trace_load(&b->options->trace, &b->trace, err);
    if (st != ST_OK)
        return st;
    struct prefix_index_options o = { .max_bytes = b->trace.most_blocks * PREFIX_BYTES_A_BLOCK,
                                      .max_workers = b->options->trace.n_workers,
                                      .huge_pages = true };
    st = prefix_index_create(&o, &b->index, err);
    if (st != ST_OK)
        return st;
    return prefix_reader_create(b->index, &b->reader) == ST_OK ? ST_OK
                                                               : error_set(err, ST_NO_MEMORY, "no memory for a reader");
}

static void describe(const struct bench *b, struct bench_index_result *out)
{
    struct prefix_index_stats stats;
    prefix_index_stats(b->index, &stats);
    out->requests = b->trace.n_requests;
    for (int i = 0; i < 3; i++)
        out->blocks[i] = b->trace.blocks[i];
    out->most_blocks = b->trace.most_blocks;
    out->bytes_per_block = (double)stats.bytes / (double)b->trace.most_blocks;
    out->plain_bytes_per_block = (double)plain_index_bytes(b->plain) / (double)stats.blocks;
    out->moved = stats.moved;
    out->evicted = stats.evicted;
    out->not_kept = stats.not_kept;
}

status bench_index(const struct bench_index_options *options, struct bench_index_result *out, struct error *err)
{
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return error_set(err, ST_NO_MEMORY, "no memory for the bench");
    b->options = options;
    status st = create(b, err);
    if (st == ST_OK && (st = measure(b, out)) != ST_OK)
        error_set(err, st,
                  st == ST_CORRUPT ? "the index and the plain map did not find the same"
                                   : "no memory for the plain map");
    if (st == ST_OK)
        describe(b, out);
    plain_index_destroy(&b->plain);
    prefix_reader_destroy(&b->reader);
    prefix_index_destroy(&b->index);
    index_trace_free(&b->trace);
    free(b);
    return st;
}
