/* engine.h - runs one step of the model over rows of several sequences.
 * The caller (a worker's loop thread) forms steps and owns the KV blocks; the
 * engine thread calls engine_run and its team computes. Nothing about a result
 * depends on what else is in the step, on how a prompt is cut into steps, on
 * threads or on the instruction set: engine/contract.h writes down the arithmetic of
 * each class. */
#ifndef BATON_ENGINE_ENGINE_H
#define BATON_ENGINE_ENGINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/adapter.h"
#include "engine/contract.h"
#include "engine/device.h"
#include "engine/kv_layout.h"
#include "engine/layer_gate.h"
#include "engine/model.h"
#include "engine/page_kind.h"
#include "engine/sampling.h"

struct engine;
struct weights_store; /* weights.h */

#define ENGINE_ISAS(X) X(AUTO, "auto") X(REFERENCE, "reference") X(AVX2, "avx2") X(AVX512, "avx512") X(AMX, "amx")
enum engine_isa {
#define X(name, text) ENGINE_##name,
    ENGINE_ISAS(X)
#undef X
};

struct engine_options {
    const struct model *model; /* borrowed; opened with MODEL_WEIGHTS */
    enum engine_isa isa;       /* AUTO: the best this processor has */
    enum contract_class class; /* AMX: with the instruction set REFERENCE or AMX, and without f32_math */
    bool f32_math;             /* widen all weights to float32 first: no activation is quantised */
    uint32_t n_threads;        /* including the caller's */
    bool pin_threads; /* to processors that no other pinned engine of this machine has, where there are so many */
    struct kv_layout kv;
    struct device_memory
        kv_pool; /* borrowed: [kv_blocks][kv_block_bytes], 64-byte aligned, where the kernels find it */
    uint32_t kv_blocks;
    uint32_t max_rows; /* rows of one step at most: scratch is taken at create */
    uint32_t max_seqs; /* sequences of one step at most */
    /* Where packed weights are found or left; borrowed for the call. NULL: this process packs its own. Only for
     * engine_create. */
    const struct weights_store *weights_store;
    const struct adapter *const *adapters; /* borrowed, as they are; opened for this model's shape */
    uint32_t n_adapters;
};

MUST_CHECK status engine_create(const struct engine_options *options, struct engine **out, struct error *err);
/* The same from parts; options->model is not looked at. For generated weights (tests, benchmarks of a
 * geometry). config is copied; weights and the tensors are borrowed as the model is. */
MUST_CHECK status engine_create_from(const struct model_config *config, const struct model_weights *weights,
                                     const struct engine_options *options, struct engine **out, struct error *err);
void engine_destroy(struct engine **engine);

struct engine_weights {
    size_t bytes; /* packed, vectors among them */
    enum page_kind pages;
    bool shared, packed_here;
};
struct engine_weights engine_weights(const struct engine *engine);
bool engine_is_pinned(const struct engine *engine);
const char *engine_isa_name(const struct engine *engine);
const char *engine_class_name(enum contract_class class);
/* The word of ENGINE_ISAS; false when it is none of them. */
bool engine_isa_parse(const char *word, enum engine_isa *out);
/* Likewise a word of CONTRACT_CLASSES. */
bool engine_class_parse(const char *word, enum contract_class *out);
/* ST_UNSUPPORTED with a sentence when this processor lacks the instructions, or they make no such class. */
MUST_CHECK status engine_isa_check(enum engine_isa isa, enum contract_class class, struct error *err);
struct backend;
/* The kernels of what engine_isa_check() allows; made is room for a table that is put together. */
const struct backend *engine_backend(enum engine_isa isa, enum contract_class class, struct backend *made);

enum step_logits { STEP_NO_LOGITS, STEP_SAMPLE, STEP_SAMPLE_EACH, STEP_ALL_LOGITS };

/* One sequence's rows in a step: tokens at positions first_pos .. first_pos +
 * n_rows - 1. Their K and V are written to the blocks, then they attend to all
 * positions up to their own. */
struct step_seq {
    const uint32_t *tokens; /* borrowed: [n_rows] */
    uint32_t n_rows;
    uint32_t first_pos;
    const uint32_t *blocks; /* borrowed: block of each block_tokens positions, from 0 on */
    uint32_t adapter;       /* 0: none; else its place in engine_options.adapters, from 1 on */
    enum step_logits logits;
    /* STEP_SAMPLE: sample after the last row. history [n_history] are all ids up to and including the last row. */
    const struct sampling *sampling;
    const uint32_t *history;
    uint32_t n_history;
    struct sampled sampled; /* out */
    /* STEP_SAMPLE_EACH: the same after every row, with the history up to and including that row. */
    struct sampled *sampled_each; /* out: [n_rows] */
    /* STEP_ALL_LOGITS: called for each row in order, on the calling thread. */
    void (*on_logits)(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab);
    void *ctx;
    /* Looked at between layers: once set no further layer is computed for
     * this sequence, and done stays false. NULL: cannot be cancelled. */
    const atomic_bool *cancelled;
    /* For positions before first_pos whose K and V are still on their way into the blocks. Before a layer's attention
     * the step waits until the gate is open for that layer, closed, or at its deadline, or until the sequence is
     * cancelled (looked at every ENGINE_GATE_SLICE_US; closing the gate as well ends the wait at once). All sequences
     * of the step wait with it. Rows without logits, which attend to nothing in the last layer, wait for it as well:
     * so may be said with it that what came is right. NULL: all is in the blocks. */
    struct layer_gate *gate; /* borrowed */
    /* out: the gate was closed, or its deadline passed. No further layer is computed for this sequence, done stays
     * false, and its rows are void: K and V of some layers were written, and on_layer told of layers that were not. The
     * caller computes them again. The gate is closed. */
    bool gate_failed;
    bool done; /* out: all layers were computed (and sampled, where asked) */
};

#define ENGINE_GATE_SLICE_US 10000u

struct step {
    struct step_seq *seqs;
    uint32_t n_seqs;
    /* Called on the engine thread after layer L of all rows is in the KV pool. May be NULL. */
    void (*on_layer)(void *ctx, uint32_t layer);
    void *ctx;
    uint64_t gates_us; /* out: how long it waited for gates, which is no part of what its rows cost */
};

/* For the thread that will call engine_run: pins it, where the team is pinned. */
void engine_enter(struct engine *engine);
/* Runs on the calling thread and the team. Bounds (rows, sequences, block ids,
 * token ids) are asserted: the caller checks what came from outside. A device that fails ends the process: nothing of
 * it can be used again before that, and others replay what it was at. */
void engine_run(struct engine *engine, struct step *step);

/* Where the time of all steps so far went, on the engine thread. */
struct engine_times {
    uint64_t products_ns; /* products with weights, and what is done to their outputs on the way */
    uint64_t attention_ns;
    uint64_t steps_ns; /* all of it */
};

struct engine_times engine_times(const struct engine *engine);

/* Raised per work item, and while a step waits for a gate whose deadline has not passed; any thread may read it: a
 * standing counter of a busy engine means that it hangs. */
uint64_t engine_progress(const struct engine *engine);

#endif
