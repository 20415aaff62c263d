/* solo.h - an engine with sequences and blocks of its own: no worker, no scheduler.
 * What `baton bench engine` and `baton model score` run on. One thread. */
#ifndef BATON_BENCH_SOLO_H
#define BATON_BENCH_SOLO_H

#include "engine/engine.h"

#define SOLO_BLOCK_TOKENS 16u

struct solo_options {
    const char *path; /* of the model */
    enum engine_isa isa;
    enum contract_class class;
    bool f32_math;
    enum dtype kv_type;  /* F32, BF16, F16 or INT8 */
    uint32_t n_threads;  /* 0: one for each core that this process may use */
    uint32_t max_tokens; /* of a sequence; ST_LIMIT when the model has fewer positions */
    uint32_t max_rows;   /* of one step, at least n_seqs */
    uint32_t n_seqs;     /* 0: one */
    bool pin_threads;
    const struct weights_store *store; /* of packed weights; NULL: its own */
};

struct solo;

MUST_CHECK status solo_create(const struct solo_options *options, struct solo **out, struct error *err);
void solo_destroy(struct solo **solo);
const struct model *solo_model(const struct solo *solo);
const char *solo_isa(const struct solo *solo);
uint32_t solo_threads(const struct solo *solo);
struct engine_times solo_times(const struct solo *solo);

/* One step of sequence 0: n tokens from first_pos on. on_logits may be NULL: then only the last row's logits are
 * computed, and the likeliest token is returned (else 0). Bounds are asserted. */
uint32_t solo_step(struct solo *solo, const uint32_t *tokens, uint32_t n, uint32_t first_pos,
                   void (*on_logits)(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab), void *ctx);
/* The same for any sequence, without logits. */
uint32_t solo_step_of(struct solo *solo, uint32_t seq, const uint32_t *tokens, uint32_t n, uint32_t first_pos);
/* One step of one token of every sequence, all at the same position; each is replaced by its likeliest successor. */
void solo_decode(struct solo *solo, uint32_t *tokens, uint32_t pos);

#endif
