/* model_quantise_plan.h - which tensors a quantised file has, in which order and number format. */
#ifndef BATON_ENGINE_MODEL_QUANTISE_PLAN_H
#define BATON_ENGINE_MODEL_QUANTISE_PLAN_H

#include "engine/model.h"
#include "engine/model_quantise.h"

#define PLAN_NAME_BYTES 256 /* of a tensor, as gguf.c bounds them */

struct planned_tensor {
    const struct tensor *source; /* borrowed from the model, or one of the plan's own */
    const struct tensor *const
        *parts; /* of a stack of matrices those that it is made of, [shape[0]]; NULL: source has data */
    char name[PLAN_NAME_BYTES];
    enum dtype type, wanted; /* wanted: before its rows turned out not to fill blocks */
    uint64_t values;
    size_t cols;        /* values of what is converted in one go */
    uint32_t head_rows; /* rows of a head whose two halves are interleaved in the file; 0: rows keep their order */
};

struct quantise_plan {
    struct planned_tensor *tensors; /* first the n_first whose values the loader looks at */
    size_t n, n_first, widest;      /* widest: of all cols */
    uint64_t data_bytes;            /* set by who lays them out */
    struct tensor rope;             /* made from a folder's config; data is NULL without */
    float *rope_factors;
    struct tensor *stacks;       /* of experts, which a folder has one by one */
    const struct tensor **parts; /* of all stacks */
};

/* Borrows from the model, which has its weights; the tensors of a GGUF file keep their names. out is zeros; freed also
 * after an error. */
MUST_CHECK status quantise_plan_make(const struct model *model, bool from_gguf, enum quantise_mix mix,
                                     struct quantise_plan *out, struct error *err);
void quantise_plan_free(struct quantise_plan *plan);
/* The rows of Q and K, and their biases, stand in a folder's order and go to that of interleaved rotary pairs. */
void quantise_plan_interleave(struct quantise_plan *plan, const struct model_config *config,
                              const struct model_weights *weights);
/* All but bytes and drops_defaults. */
void quantise_plan_report(const struct quantise_plan *plan, struct quantise_report *out);

#endif
