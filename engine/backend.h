/* backend.h - the operations of which the forward pass is made.
 * One table per instruction set, or per kind of device. All operations are pure on what they are given; all of a class
 * give the bits that contract.h fixes for it.
 *
 * CPU tables (device NULL): an operation is over when it returns, and may run on any thread of the team at once for
 * different outputs.
 * Device tables: an operation is queued to the stream that the calling thread entered (device.h) and returns; what
 * fails stays with that stream. The table is whole: each operation comes once, for all rows, outputs and items, from
 * the thread that entered.
 *
 * Pointers to values (float *) and scratch are the table's own addresses, as device.h says. Everything else that is
 * pointed to (the structs, tokens, places, items and their blocks) is the host's, and was read when an operation
 * returns. */
#ifndef BATON_ENGINE_BACKEND_H
#define BATON_ENGINE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/activations.h"
#include "engine/attention.h"
#include "engine/device.h"
#include "engine/embeddings.h"
#include "engine/tensor.h"

#define PANEL 16u /* outputs that are computed together */

/* A linear layer's weight [n_out, n_in] as the backend wants it. */
struct matrix {
    enum dtype type; /* of data */
    enum product_rule rule;
    uint32_t n_out, n_in;
    struct device_memory data;
    size_t panel_bytes; /* distance of panels in data; 0 when data is the tensor's own */
};

static inline uint32_t matrix_panels(const struct matrix *m)
{
    return (m->n_out + PANEL - 1) / PANEL;
}

/* Rows of heads that are to be rotated: x [n_rows][n_heads][head_dim]. */
struct rotation {
    const float *cosines, *sines; /* of the first row, sines with their sign: dim values each, rows stride apart */
    size_t stride;
    uint32_t n_rows, n_heads, head_dim;
    uint32_t dim; /* of a head, the first dimensions, which are rotated */
    bool interleaved;
};

struct backend {
    const char *name;
    struct device *device; /* borrowed; NULL: the host computes */
    bool whole;            /* its operations are not divided: one item takes all rows and outputs */

    /* Bytes that pack() needs for a tensor, a multiple of 64; 0: the tensor is used where it lies, which device
     * tables never say. */
    size_t (*pack_bytes)(const struct tensor *t, bool f32_math);
    /* Describes the packed form at dst, which is data.host; whoever copies it to a device sets data.device. */
    void (*pack_describe)(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out);
    /* Writes one panel, on the host. row holds n_in floats of scratch. */
    void (*pack_panel)(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row);

    /* x [n][n_embd] = the rows of n tokens, widened. */
    void (*embed)(const struct embeddings *e, const uint32_t *tokens, uint32_t n, float *x);
    /* Prepares rows [row0, row0 + n) from x [n][n_in] for the rules of the set. */
    void (*prepare)(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x);
    /* Rows that one item of products should take, a multiple of ACT_TILE: their activations stay in the second-level
     * cache. Not used where the table is whole. */
    uint32_t product_rows;
    /* out[row * stride + o] for rows [row0, row1) and the outputs of panels [panel0, panel1). */
    void (*product)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1, uint32_t panel0,
                    uint32_t panel1, float *out, size_t stride);

    /* Of each of n_rows rows [width]; out may be x. */
    void (*rms_norm)(const float *x, const float *weight, float eps, uint32_t n_rows, uint32_t width, float *out);
    void (*rope)(float *x, const struct rotation *r); /* in place */
    void (*scale)(float *x, float factor, uint32_t n);
    void (*add)(float *x, const float *y, uint32_t n);
    void (*add_to_rows)(float *x, const float *y, uint32_t n_rows, uint32_t width); /* y [width] to each */
    void (*silu_mul)(float *gate, const float *up, uint32_t n);                     /* gate = silu(gate) * up */
    void (*gelu_mul)(float *gate, const float *up, uint32_t n);                     /* gate = gelu(gate) * up */
    void (*soft_cap)(float *x, float cap, uint32_t n);                              /* x = cap * tanh(x / cap) */
    /* x [n_rows][n_kv_heads][head_dim] into their slots of a KV cache (kv_layout.h). */
    void (*kv_store)(const struct kv_rows *rows, enum kv_side side, const float *x);

    size_t (*attend_scratch_bytes)(uint32_t head_dim, uint32_t group); /* group: query heads of a KV head */
    uint32_t (*attend_rows)(uint32_t group);                           /* rows that one item should take */
    void (*attend)(const struct attention *a, const struct attention_item *items, uint32_t n_items, void *scratch);
    /* A part of one, for attention_merge(), on the host; NULL where a split's result depends on those before it. */
    void (*attend_part)(const struct attention *a, const struct attention_item *item, const struct attention_part *part,
                        void *scratch);
};

extern const struct backend backend_reference;
extern const struct backend backend_avx2;   /* only where backend_avx2_missing() is NULL   */
extern const struct backend backend_avx512; /* only where backend_avx512_missing() is NULL */

/* Tables of a class, made of those above. amx_backend(): only where backend_amx_missing(class) is NULL. */
struct backend reference_backend(enum contract_class class);
struct backend amx_backend(enum contract_class class);

/* The first instruction set of the backend that this processor (or its kernel)
 * lacks, as /proc/cpuinfo names it; NULL when it can run. */
const char *backend_avx2_missing(void);
const char *backend_avx512_missing(void);
const char *backend_avx512_bf16_missing(void); /* what the kernels with AMX need beside its tiles */
/* Asks the kernel for leave to use tiles, once a process. */
const char *backend_amx_missing(enum contract_class class);

#endif
