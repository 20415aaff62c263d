/* forward_impl.h - a forward pass, for the files that make it: forward.c computes, forward_scratch.c hands out what its
 * buffers point to. */
#ifndef BATON_ENGINE_FORWARD_IMPL_H
#define BATON_ENGINE_FORWARD_IMPL_H

#include "engine/activations.h"
#include "engine/attention_step.h"
#include "engine/experts.h"
#include "engine/forward.h"
#include "engine/forward_device.h"
#include "engine/lora.h"
#include "engine/rows.h"

#define LOGIT_ROWS 32u /* rows whose logits stand in memory at once */

/* Scratch that one work item uses at a time. */
struct desk {
    float *rows;  /* [item_rows][widest input] */
    float *vocab; /* [2][n_vocab], for sampling */
    void *attend;
};

struct forward {
    const struct model_config *config;
    const struct weights *weights;
    const struct backend *backend;
    struct team *team;
    uint32_t n_threads; /* of the team */
    struct kv_layout kv;
    struct device_memory pool;
    uint32_t kv_blocks;
    struct kv_place *places; /* [row] */
    uint32_t *tokens;        /* [row] */
    uint32_t item_rows;      /* of a row operation: ACT_TILE, or all of a step where the backend is whole */
    struct step *step;
    struct rows rows;
    struct loras *loras; /* NULL without adapters */
    uint32_t n_adapters;
    bool adapted;       /* some sequence of this step has one */
    bool gated;         /* some sequence of this step has a gate */
    uint32_t layer;     /* under way */
    uint32_t n_rotated; /* dimensions of a head */
    uint32_t n_ropes;   /* 2: windowed layers have the second */
    double *inv_freq;   /* [n_ropes][n_rotated / 2] */
    double rope_magnitude[2];
    float *x, *y;           /* [row][n_embd]: the residual stream, and what is added to it */
    float *cosines, *sines; /* [row][n_ropes][n_rotated] */
    float *q, *attended;    /* [row][n_heads][head_dim] */
    float *k, *v;           /* [row][n_kv_heads][head_dim] */
    float *gate, *up;       /* [row][n_ffn] */
    float *logits;          /* [LOGIT_ROWS][n_vocab] */
    /* What the host makes or reads: the same buffers, or where copies of them go from or to. */
    float *host_cosines, *host_sines, *host_logits;
    struct activations acts;
    struct experts *experts; /* NULL without */
    struct attention_step *attention;
    struct desk *desks;
    struct engine_times times;
    struct device_memory memory; /* the backend's own */
    struct device_memory host_memory;
    struct forward_device on_device;
};

#endif
