/* Adapters in the forward pass: what merged weights would give, for the rows that have one and no others, and the same
 * bits whatever else is in the step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/unit/engine/toy_model.h"

#define N_LAYERS   3u
#define N_VOCAB    301u
#define N_TOKENS   40u
#define N_SEQS     5u
#define SEQ_BLOCKS ((N_TOKENS + 15) / 16)

static const struct model_config *const shape = &llama_shape;
static const enum dtype in_f32[3] = { DTYPE_F32, DTYPE_F32, DTYPE_F32 };
static const enum dtype in_q8_0[3] = { DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0 };

static void *take(size_t bytes)
{
    void *p = calloc(1, bytes);
    assert_non_null(p);
    return p;
}

/* The matrices of a layer, in the order of the modules. */
static const struct tensor **matrix_at(struct model_layer *w, enum adapter_module module)
{
    const struct tensor **all[] = { &w->wq, &w->wk, &w->wv, &w->wo, &w->gate, &w->up, &w->down };
    return all[module];
}

/* Pairs for the modules of the set. */
static struct adapter *random_adapter(uint32_t rank, float scale, unsigned modules)
{
    struct adapter *a = take(sizeof *a);
    *a = (struct adapter){ .rank = rank, .n_layers = N_LAYERS, .scale = scale };
    a->pairs = take(sizeof *a->pairs * N_LAYERS * ADAPTER_MODULE_COUNT);
    for (uint32_t i = 0; i < N_LAYERS * ADAPTER_MODULE_COUNT; i++) {
        uint32_t n_out, n_in, module = i % ADAPTER_MODULE_COUNT;
        if (!(modules >> module & 1))
            continue;
        adapter_module_shape(shape, (enum adapter_module)module, &n_out, &n_in);
        a->pairs[i].a = random_tensor(DTYPE_F32, rank, n_in, 0.2f);
        a->pairs[i].b = random_tensor(DTYPE_F32, n_out, rank, 0.2f);
    }
    return a;
}

static void release_adapter(struct adapter *a)
{
    for (uint32_t i = 0; i < N_LAYERS * ADAPTER_MODULE_COUNT; i++) {
        free((void *)(uintptr_t)a->pairs[i].a.data);
        free((void *)(uintptr_t)a->pairs[i].b.data);
    }
    free(a->pairs);
    free(a);
}

/* W += scale * B A, of a model in F32. */
static void merge(struct toy *toy, const struct adapter *a)
{
    for (uint32_t i = 0; i < N_LAYERS * ADAPTER_MODULE_COUNT; i++) {
        const struct adapter_pair *pair = &a->pairs[i];
        const struct tensor *w =
            *matrix_at(&toy->weights.layers[i / ADAPTER_MODULE_COUNT], (enum adapter_module)(i % ADAPTER_MODULE_COUNT));
        float *values = (float *)(uintptr_t)w->data;
        const float *pa = pair->a.data, *pb = pair->b.data;
        for (uint64_t o = 0; pa && o < w->shape[0]; o++)
            for (uint64_t k = 0; k < w->shape[1]; k++) {
                double sum = 0;
                for (uint32_t r = 0; r < a->rank; r++)
                    sum += (double)pb[o * a->rank + r] * (double)pa[r * w->shape[1] + k];
                values[o * w->shape[1] + k] += (float)((double)a->scale * sum);
            }
    }
}

/* An engine, and the logits of its sequences. */
struct world {
    struct engine_options options;
    struct engine *engine;
    uint32_t tokens[N_TOKENS];
    uint32_t blocks[N_SEQS][SEQ_BLOCKS];
    float logits[N_SEQS][N_TOKENS][N_VOCAB];
};

struct sink {
    struct world *world;
    uint32_t seq, first;
};

static void world_create(struct world *w, const struct toy *toy, enum engine_isa isa, bool f32_math,
                         const struct adapter *const *adapters, uint32_t n_adapters)
{
    struct error err;
    memset(w, 0, sizeof *w);
    w->options = (struct engine_options){ .isa = isa,
                                          .f32_math = f32_math,
                                          .n_threads = 2,
                                          .kv_blocks = N_SEQS * SEQ_BLOCKS,
                                          .max_rows = N_SEQS * N_TOKENS,
                                          .max_seqs = N_SEQS,
                                          .adapters = adapters,
                                          .n_adapters = n_adapters };
    model_kv_layout(shape, 16, DTYPE_F32, &w->options.kv);
    w->options.kv_pool.host = aligned_alloc(64, w->options.kv_blocks * kv_block_bytes(&w->options.kv));
    assert_non_null(w->options.kv_pool.host);
    if (engine_create_from(shape, &toy->weights, &w->options, &w->engine, &err) != ST_OK)
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < N_SEQS * SEQ_BLOCKS; i++)
        w->blocks[i / SEQ_BLOCKS][i % SEQ_BLOCKS] = i;
    for (uint32_t i = 0; i < N_TOKENS; i++)
        w->tokens[i] = i * 37 % N_VOCAB;
}

static void world_destroy(struct world *w)
{
    engine_destroy(&w->engine);
    free(w->options.kv_pool.host);
}

static void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    struct sink *sink = ctx;
    memcpy(sink->world->logits[sink->seq][sink->first + row], logits, n_vocab * sizeof *logits);
}

/* Sequences [first, end) with the given adapters, `chunk` tokens of each at a time. */
static void run(struct world *w, const uint32_t *adapters, uint32_t first, uint32_t end, uint32_t chunk)
{
    for (uint32_t at = 0; at < N_TOKENS; at += chunk) {
        struct step_seq seqs[N_SEQS] = { 0 };
        struct sink sinks[N_SEQS];
        for (uint32_t s = first; s < end; s++) {
            sinks[s] = (struct sink){ w, s, at };
            seqs[s - first] = (struct step_seq){ .tokens = w->tokens + at,
                                                 .n_rows = N_TOKENS - at < chunk ? N_TOKENS - at : chunk,
                                                 .first_pos = at,
                                                 .blocks = w->blocks[s],
                                                 .adapter = adapters[s],
                                                 .logits = STEP_ALL_LOGITS,
                                                 .on_logits = on_logits,
                                                 .ctx = &sinks[s] };
        }
        engine_run(w->engine, &(struct step){ .seqs = seqs, .n_seqs = end - first });
    }
}

static float largest_difference(const struct world *a, const struct world *b)
{
    float most = 0;
    for (uint32_t t = 0; t < N_TOKENS; t++)
        for (uint32_t i = 0; i < N_VOCAB; i++)
            most = fmaxf(most, fabsf(a->logits[0][t][i] - b->logits[0][t][i]));
    return most;
}

static void test_equals_merged_weights(void **state)
{
    (void)state;
    static struct world adapted, merged, base;
    const unsigned sets[] = { 0x7f, 1u << ADAPTER_Q | 1u << ADAPTER_V, 1u << ADAPTER_UP, 1u << ADAPTER_DOWN };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        struct toy toy;
        random_counter = 0;
        toy_create(&toy, shape, in_f32);
        struct adapter *a = random_adapter(4 + 3 * (uint32_t)i, 0.5f, sets[i]);
        world_create(&adapted, &toy, ENGINE_AUTO, true, (const struct adapter *const[]){ a }, 1);
        run(&adapted, (uint32_t[]){ 1 }, 0, 1, 7);
        world_create(&base, &toy, ENGINE_AUTO, true, NULL, 0);
        run(&base, (uint32_t[]){ 0 }, 0, 1, 7);
        merge(&toy, a);
        world_create(&merged, &toy, ENGINE_AUTO, true, NULL, 0);
        run(&merged, (uint32_t[]){ 0 }, 0, 1, 7);
        assert_true(largest_difference(&adapted, &merged) < 2e-5f);
        assert_true(largest_difference(&adapted, &base) > 1e-2f);
        world_destroy(&adapted);
        world_destroy(&merged);
        world_destroy(&base);
        release_adapter(a);
        toy_release(&toy);
    }
}

static void expect_rows(const struct world *want, const struct world *got, const char *what)
{
    for (uint32_t s = 0; s < N_SEQS; s++)
        for (uint32_t t = 0; t < N_TOKENS; t++)
            if (XXH3_64bits(want->logits[s][t], sizeof want->logits[s][t]) !=
                XXH3_64bits(got->logits[s][t], sizeof got->logits[s][t]))
                fail_msg("%s: sequence %u, position %u", what, s, t);
}

/* Base and two adapters of different ranks beside one another, neighbours in one tile. */
static void test_bits_are_the_rows_own(void **state)
{
    (void)state;
    static struct world alone, plain, mixed;
    const enum engine_isa isas[] = { ENGINE_REFERENCE, ENGINE_AVX2, ENGINE_AVX512, ENGINE_AMX };
    const uint32_t which[N_SEQS] = { 1, 0, 2, 1, 0 }, chunks[] = { N_TOKENS, 1, 5, 3 };
    struct toy toy;
    struct error err;
    random_counter = 0;
    toy_create(&toy, shape, in_q8_0);
    struct adapter *a[] = { random_adapter(5, 2.0f, 0x7f), random_adapter(17, 0.25f, 0x5b) };
    world_create(&plain, &toy, ENGINE_REFERENCE, false, NULL, 0);
    run(&plain, (uint32_t[N_SEQS]){ 0 }, 0, N_SEQS, N_TOKENS);
    world_create(&alone, &toy, ENGINE_REFERENCE, false, (const struct adapter *const *)a, 2);
    for (uint32_t s = 0; s < N_SEQS; s++)
        run(&alone, which, s, s + 1, N_TOKENS);
    assert_memory_equal(alone.logits[1], plain.logits[1], sizeof plain.logits[1]);
    assert_memory_not_equal(alone.logits[0], plain.logits[0], sizeof plain.logits[0]);
    assert_memory_not_equal(alone.logits[0], alone.logits[2], sizeof plain.logits[0]);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (engine_isa_check(isas[i], CLASS_PORTABLE, &err) != ST_OK) {
            print_message("skipped: %s\n", err.text);
            continue;
        }
        world_create(&mixed, &toy, isas[i], false, (const struct adapter *const *)a, 2);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            memset(mixed.logits, 0, sizeof mixed.logits);
            run(&mixed, which, 0, N_SEQS, chunks[c]);
            expect_rows(&alone, &mixed, engine_isa_name(mixed.engine));
        }
        world_destroy(&mixed);
    }
    world_destroy(&alone);
    world_destroy(&plain);
    release_adapter(a[0]);
    release_adapter(a[1]);
    toy_release(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_merged_weights),
        cmocka_unit_test(test_bits_are_the_rows_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
