/* model_quantise.h - a model, GGUF or a Hugging Face folder, written as a GGUF file in fewer bits.
 * A GGUF's metadata is copied; a folder's becomes the keys that say the same, or the reason is given why it cannot.
 * The new file stands under a temporary name beside its place until it is whole and on the disk; its metadata is read
 * again, as a worker would, before the first weight is quantised. Memory: the source's mapping and one panel of rows.
 */
#ifndef BATON_ENGINE_MODEL_QUANTISE_H
#define BATON_ENGINE_MODEL_QUANTISE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/status.h"
#include "engine/tensor.h"

/* Mixes that go by one name, and llama.cpp's number for a file of each. Vectors and routers stay F32.
 *   Q8_0    all matrices.
 *   Q4_0    all but the head, which is Q6_K.
 *   Q4_K_M  Q4_K; Q6_K for the head, and for V and down of the first and last eighth of the layers and of each third
 *           between.
 * The head is the embeddings where they are tied. Rows that do not fill blocks of 256: Q5_0 for Q4_K, Q8_0 for Q6_K; of
 * 32: F16. */
#define QUANTISE_MIXES(X) X(Q8_0, 7) X(Q4_0, 2) X(Q4_K_M, 15)

enum quantise_mix {
#define X(name, number) MIX_##name,
    QUANTISE_MIXES(X)
#undef X
        MIX_COUNT
};

const char *quantise_mix_name(enum quantise_mix mix);

struct quantise_options {
    const char *source, *out;
    enum quantise_mix mix;
    uint32_t n_threads;           /* at least 1 */
    bool force;                   /* replaces a file that is there */
    const atomic_bool *cancelled; /* looked at between panels; NULL: cannot be cancelled */
    void (*on_progress)(void *ctx, const char *tensor, uint64_t done_bytes, uint64_t all_bytes); /* may be NULL */
    void *ctx;
};

struct quantise_report {
    uint64_t values, source_bytes, bytes; /* of the tensors; of the file */
    uint32_t n_tensors[DTYPE_COUNT];      /* by format written */
    uint64_t tensor_bytes[DTYPE_COUNT];
    uint32_t n_instead[DTYPE_COUNT][DTYPE_COUNT]; /* [wanted][written]: matrices whose rows do not fill the blocks */
    bool from_quantised;                          /* the source had lost precision before */
    bool drops_defaults;                          /* generation_config.json's sampling defaults have no key */
};

/* ST_CANCELLED when *cancelled was set. Nothing is left behind after an error. */
MUST_CHECK status model_quantise(const struct quantise_options *options, struct quantise_report *out,
                                 struct error *err);

#endif
