/* backend.h - the operations of which the forward pass is made.
 * One table per instruction set. All functions are pure on what they are given
 * and may run on any thread of the team at once for different outputs; all of a
 * class give the bits that contract.h fixes for it. */
#ifndef BATON_ENGINE_BACKEND_H
#define BATON_ENGINE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/activations.h"
#include "engine/attention.h"
#include "engine/tensor.h"

#define PANEL 16u /* outputs that are computed together */

/* A linear layer's weight [n_out, n_in] as the backend wants it. */
struct matrix {
    enum dtype type; /* of data */
    enum product_rule rule;
    uint32_t n_out, n_in;
    const uint8_t *data;
    size_t panel_bytes; /* distance of panels in data; 0 when data is the tensor's own */
};

static inline uint32_t matrix_panels(const struct matrix *m)
{
    return (m->n_out + PANEL - 1) / PANEL;
}

struct backend {
    const char *name;

    /* Bytes that pack() needs for a tensor, a multiple of 64; 0: the tensor is used where it lies. */
    size_t (*pack_bytes)(const struct tensor *t, bool f32_math);
    /* Describes the packed form at dst. */
    void (*pack_describe)(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out);
    /* Writes one panel. row holds n_in floats of scratch. */
    void (*pack_panel)(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row);

    /* Prepares rows [row0, row0 + n) from x [n][n_in] for the rules of the set. */
    void (*prepare)(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x);
    /* out[row * stride + o] for rows [row0, row1) and the outputs of panels [panel0, panel1). */
    void (*product)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1, uint32_t panel0,
                    uint32_t panel1, float *out, size_t stride);

    void (*rms_norm)(const float *x, const float *weight, float eps, uint32_t n, float *out);
    /* In place on one head; cos and sin hold dim values, sin with its sign. */
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t dim, bool interleaved);
    void (*scale)(float *x, float factor, uint32_t n);
    void (*add)(float *x, const float *y, uint32_t n);
    void (*silu_mul)(float *gate, const float *up, uint32_t n); /* gate = silu(gate) * up */
    void (*gelu_mul)(float *gate, const float *up, uint32_t n); /* gate = gelu(gate) * up */
    void (*soft_cap)(float *x, float cap, uint32_t n);          /* x = cap * tanh(x / cap) */
    /* One slot of a KV cache (kv_layout.h) from its n values. */
    void (*kv_store)(enum dtype type, const float *x, void *dst, uint32_t n);

    size_t (*attend_scratch_bytes)(uint32_t head_dim, uint32_t group); /* group: query heads of a KV head */
    uint32_t (*attend_rows)(uint32_t group);                           /* rows that one item should take */
    void (*attend)(const struct attention *a, const struct attention_item *item, void *scratch);
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
