/* kv_format.h - in which form a pool's blocks hold their KV.
 * It stands beside the hash of a block (block_hash.h), which says what was computed: the router hashes a prompt
 * once for all formats, and two pools exchange blocks where their formats are equal. Pure functions; any thread. */
#ifndef BATON_KVBM_KV_FORMAT_H
#define BATON_KVBM_KV_FORMAT_H

#include <stdint.h>

#include "common/status.h"
#include "engine/kv_layout.h"

#define KV_FORMAT_CLASS_BYTES 24u
#define KV_FORMAT_TEXT_BYTES  96u

/* How values lie in a block: kv_layout.h. */
enum kv_order { KV_ORDER_LAYER_SIDE_HEAD_TOKEN, KV_ORDER_COUNT };

struct kv_format {
    enum dtype type;
    enum kv_order order;
    uint32_t n_layers, n_kv_heads, head_dim; /* of the whole model, whatever its parts */
    uint32_t block_tokens;
    uint32_t tensor_parallel;          /* parts that the heads are divided among; 1: not divided */
    char class[KV_FORMAT_CLASS_BYTES]; /* of arithmetic: the same class computes the same bits */
};

/* In the order in which they are looked for. */
#define KV_FORMAT_DIFFERENCES(X)                                                                                       \
    X(NONE, "none")                                                                                                    \
    X(GEOMETRY, "layers, heads or head dimension")                                                                     \
    X(CLASS, "class of arithmetic")                                                                                    \
    X(DTYPE, "number format")                                                                                          \
    X(BLOCK_TOKENS, "tokens of a block")                                                                               \
    X(TENSOR_PARALLEL, "tensor-parallel degree")                                                                       \
    X(ORDER, "order of values in a block")

enum kv_format_difference {
#define X(name, text) KV_FORMAT_DIFFERS_##name,
    KV_FORMAT_DIFFERENCES(X)
#undef X
        KV_FORMAT_DIFFERENCE_COUNT
};

/* The first difference; KV_FORMAT_DIFFERS_NONE when blocks of one are blocks of the other. */
enum kv_format_difference kv_format_compare(const struct kv_format *a, const struct kv_format *b);
const char *kv_format_difference_text(enum kv_format_difference difference);

/* "BF16-lsht-l30h3d64-b16-tp1-portable". Returns out. */
const char *kv_format_text(const struct kv_format *format, char out[KV_FORMAT_TEXT_BYTES]);
/* What kv_format_text wrote; ST_INVALID, with a sentence, for anything else. */
MUST_CHECK status kv_format_parse(const char *text, struct kv_format *out, struct error *err);

/* A worker publishes "WEIGHTS-TEXT-" before it, two fingerprints of 16 digits: what it serves. The part behind them;
 * NULL where they are missing. */
const char *kv_format_of_worker(const char *published);
/* How a block of this format lies in memory. */
struct kv_layout kv_format_layout(const struct kv_format *format);

#endif
