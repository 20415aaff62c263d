/* toy_engine.h - engines on toy models, whose logits the tests compare as hashes. */
#ifndef BATON_TESTS_TOY_ENGINE_H
#define BATON_TESTS_TOY_ENGINE_H

#include <xxhash.h>

#include "tests/unit/engine/toy_model.h"

#define MAX_POSITIONS 192u
#define MAX_SEQS      32u
#define BLOCK_TOKENS  16u
#define SEQ_BLOCKS    (MAX_POSITIONS / BLOCK_TOKENS)
#define POOL_BLOCKS   (MAX_SEQS * SEQ_BLOCKS + 5)

/* An engine with a pool whose blocks are dealt in an order of their own. */
struct bench {
    struct engine *engine;
    struct engine_options options;
    uint32_t blocks[MAX_SEQS][SEQ_BLOCKS];
};

static inline void shuffle_blocks(struct bench *b)
{
    uint32_t all[POOL_BLOCKS];
    for (uint32_t i = 0; i < POOL_BLOCKS; i++)
        all[i] = i;
    for (uint32_t i = POOL_BLOCKS; i > 1; i--) {
        uint32_t other = random_u32() % i;
        uint32_t t = all[i - 1];
        all[i - 1] = all[other];
        all[other] = t;
    }
    memcpy(b->blocks, all, sizeof b->blocks);
}

/* The class is the toy's. */
static inline void bench_create(struct bench *b, const struct toy *toy, enum engine_isa isa, uint32_t n_threads,
                                enum dtype kv_type, bool f32_math)
{
    struct error err;
    b->options = (struct engine_options){ .isa = isa,
                                          .class = toy->class,
                                          .f32_math = f32_math,
                                          .n_threads = n_threads,
                                          .kv_blocks = POOL_BLOCKS,
                                          .max_rows = MAX_POSITIONS + MAX_SEQS,
                                          .max_seqs = MAX_SEQS };
    model_kv_layout(&toy->config, BLOCK_TOKENS, kv_type, &b->options.kv);
    size_t bytes = POOL_BLOCKS * kv_block_bytes(&b->options.kv);
    b->options.kv_pool.host = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(b->options.kv_pool.host);
    memset(b->options.kv_pool.host, 0xff, bytes); /* NaNs: reading a slot that nobody wrote would show */
    if (engine_create_from(&toy->config, &toy->weights, &b->options, &b->engine, &err) != ST_OK)
        fail_msg("%s", err.text);
    shuffle_blocks(b);
}

static inline void bench_destroy(struct bench *b)
{
    engine_destroy(&b->engine);
    free(b->options.kv_pool.host);
}

struct hashes {
    uint64_t of[MAX_POSITIONS];
};

struct sink {
    struct hashes *hashes;
    uint32_t first_pos;
    bool finite;
};

static inline void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    struct sink *sink = ctx;
    sink->hashes->of[sink->first_pos + row] = XXH3_64bits(logits, n_vocab * sizeof *logits);
    for (uint32_t i = 0; i < n_vocab; i++)
        sink->finite = sink->finite && isfinite(logits[i]);
}

/* Runs seq 0's tokens in chunks beside n_others sequences with tokens of their own in each step. */
static inline void run_chunks(struct bench *b, const uint32_t *tokens, uint32_t n, uint32_t chunk, uint32_t n_others,
                              uint32_t n_vocab, struct hashes *out)
{
    uint32_t others[MAX_SEQS][8];
    uint32_t other_pos[MAX_SEQS] = { 0 };
    for (uint32_t at = 0; at < n; at += chunk) {
        struct step_seq seqs[MAX_SEQS] = { 0 };
        struct sink sink = { out, at, true };
        uint32_t self = n_others > 0 ? random_u32() % (n_others + 1) : 0;
        for (uint32_t s = 0, o = 1; s <= n_others; s++) {
            if (s == self) {
                seqs[s] = (struct step_seq){ .tokens = tokens + at,
                                             .n_rows = n - at < chunk ? n - at : chunk,
                                             .first_pos = at,
                                             .blocks = b->blocks[0],
                                             .logits = STEP_ALL_LOGITS,
                                             .on_logits = on_logits,
                                             .ctx = &sink };
                continue;
            }
            uint32_t rows = 1 + random_u32() % 4;
            rows = other_pos[o] + rows > MAX_POSITIONS ? 1 : rows;
            other_pos[o] = other_pos[o] + rows > MAX_POSITIONS ? 0 : other_pos[o];
            for (uint32_t r = 0; r < rows; r++)
                others[o][r] = random_u32() % n_vocab;
            seqs[s] = (struct step_seq){
                .tokens = others[o], .n_rows = rows, .first_pos = other_pos[o], .blocks = b->blocks[o]
            };
            other_pos[o] += rows;
            o++;
        }
        engine_run(b->engine, &(struct step){ .seqs = seqs, .n_seqs = n_others + 1 });
        for (uint32_t s = 0; s <= n_others; s++)
            assert_true(seqs[s].done);
        assert_true(sink.finite);
    }
}

static inline void expect_same(const struct hashes *a, const struct hashes *b, uint32_t n, const char *what)
{
    for (uint32_t i = 0; i < n; i++)
        if (a->of[i] != b->of[i])
            fail_msg("%s: the logits of position %u differ", what, i);
}

static inline void random_tokens(uint32_t *tokens, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = random_u32() % n_vocab;
}

#endif
