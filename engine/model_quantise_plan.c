#include "engine/model_quantise_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model_config.h"
#include "engine/model_keys.h"
#include "engine/model_weights.h"
#include "engine/quantise.h"

/* -1: no part of a layer. */
static int layer_of(const char *name)
{
    unsigned layer;
    return sscanf(name, "blk.%u.", &layer) == 1 && layer < MODEL_MAX_LAYERS ? (int)layer : -1;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A router decides between experts, and costs next to nothing. */
static bool is_matrix(const struct planned_tensor *t)
{
    return t->source->n_dims >= 2 && ends_with(t->name, ".weight") && !strstr(t->name, ".ffn_gate_inp.");
}

/* The first and last eighth of the layers, and each third between, as llama.cpp's mixes of this name. */
static bool gets_more_bits(int layer, uint32_t n_layers)
{
    const int n = (int)n_layers, eighth = n / 8;
    return layer < eighth || layer >= 7 * n / 8 || (layer - eighth) % 3 == 2;
}

static enum dtype mixed(enum quantise_mix mix, const struct planned_tensor *t, const struct model_config *c)
{
    const char *head = c->tied_embeddings ? "token_embd.weight" : "output.weight";
    const bool sensitive = strstr(t->name, ".attn_v.") || strstr(t->name, ".ffn_down");
    if (!is_matrix(t))
        return DTYPE_F32;
    if (mix == MIX_Q8_0)
        return DTYPE_Q8_0;
    if (strcmp(t->name, head) == 0)
        return DTYPE_Q6_K;
    if (mix == MIX_Q4_0)
        return DTYPE_Q4_0;
    return sensitive && gets_more_bits(layer_of(t->name), c->n_layers) ? DTYPE_Q6_K : DTYPE_Q4_K;
}

static bool fills(enum dtype type, uint64_t cols)
{
    return cols % dtype_block_values(type) == 0;
}

/* With a block that the rows fill: of at least as many bits. */
static enum dtype fitting(enum dtype type, uint64_t cols)
{
    if (!fills(type, cols))
        type = type == DTYPE_Q4_K ? DTYPE_Q5_0 : type == DTYPE_Q6_K ? DTYPE_Q8_0 : type;
    return fills(type, cols) ? type : DTYPE_F16;
}

static void add(struct quantise_plan *plan, const struct tensor *source, const char *name, enum quantise_mix mix,
                const struct model_config *c)
{
    struct planned_tensor *t = &plan->tensors[plan->n++];
    *t = (struct planned_tensor){ .source = source, .values = 1, .cols = source->shape[source->n_dims - 1] };
    snprintf(t->name, sizeof t->name, "%s", name);
    for (uint32_t i = 0; i < source->n_dims; i++)
        t->values *= source->shape[i];
    t->wanted = mixed(mix, t, c);
    t->type = fitting(t->wanted, t->cols);
    plan->widest = t->cols > plan->widest ? t->cols : plan->widest;
}

/* Rotary factors, which the loader looks at; embeddings; layers; the end. */
static int place_of(const struct planned_tensor *t)
{
    const int layer = layer_of(t->name);
    if (strcmp(t->name, "rope_freqs.weight") == 0)
        return -2;
    if (strcmp(t->name, "token_embd.weight") == 0)
        return -1;
    return layer >= 0 ? layer : MODEL_MAX_LAYERS;
}

static int compare_places(const void *a, const void *b)
{
    const struct planned_tensor *x = a, *y = b;
    const int p = place_of(x), q = place_of(y);
    return p != q ? (p > q) - (p < q) : strcmp(x->name, y->name);
}

static status make_rope(struct quantise_plan *plan, const struct model_config *c, struct error *err)
{
    plan->rope_factors = malloc(MODEL_MAX_HEAD_DIM / 2 * sizeof *plan->rope_factors);
    if (!plan->rope_factors)
        return error_set(err, ST_NO_MEMORY, "out of memory for the plan");
    if (model_rope_factors(c, plan->rope_factors))
        plan->rope = (struct tensor){ .name = "rope_freqs.weight",
                                      .type = DTYPE_F32,
                                      .n_dims = 1,
                                      .shape = { c->head_dim / 2 },
                                      .data = plan->rope_factors,
                                      .bytes = c->head_dim / 2 * sizeof *plan->rope_factors };
    return ST_OK;
}

enum { STACKS_A_LAYER = 3 };

static status take_stacks(struct quantise_plan *plan, const struct model_config *c, struct error *err)
{
    const size_t n = (size_t)c->n_layers * STACKS_A_LAYER;
    plan->stacks = calloc(n + 1, sizeof *plan->stacks);
    plan->parts = calloc(n * c->n_experts + 1, sizeof *plan->parts);
    return plan->stacks && plan->parts ? ST_OK : error_set(err, ST_NO_MEMORY, "out of memory for the plan");
}

/* In the file the matrices of all experts of a layer are one tensor. */
static void add_experts(struct quantise_plan *plan, uint32_t layer, const struct model_layer *l, enum quantise_mix mix,
                        const struct model_config *c)
{
    static const char *const names[STACKS_A_LAYER] = { "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps" };
    ASSERT(c->n_experts > 0);
    for (size_t i = 0; i < STACKS_A_LAYER; i++) {
        struct tensor *stack = &plan->stacks[layer * STACKS_A_LAYER + i];
        const struct tensor **parts = &plan->parts[(layer * STACKS_A_LAYER + i) * c->n_experts];
        char name[MODEL_TENSOR_NAME_BYTES];
        uint64_t bytes = 0;
        for (uint32_t e = 0; e < c->n_experts; e++) {
            const struct model_expert *x = &l->experts[e];
            parts[e] = i == 0 ? x->gate : i == 1 ? x->up : x->down;
            bytes += parts[e]->bytes;
        }
        ASSERT(parts[0]);
        *stack = (struct tensor){ .name = parts[0]->name,
                                  .type = parts[0]->type,
                                  .n_dims = 3,
                                  .shape = { c->n_experts, parts[0]->shape[0], parts[0]->shape[1] },
                                  .bytes = bytes };
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, names[i]);
        add(plan, stack, name, mix, c);
        plan->tensors[plan->n - 1].parts = parts;
    }
}

status quantise_plan_make(const struct model *model, bool from_gguf, enum quantise_mix mix, struct quantise_plan *out,
                          struct error *err)
{
    const struct model_config *c = model_config(model);
    const struct model_weights *w = model_weights(model);
    const uint64_t n = model_tensor_count(model);
    char name[MODEL_TENSOR_NAME_BYTES];
    /* A stack takes the place of at least one tensor. */
    out->tensors = malloc((n + 1) * sizeof *out->tensors);
    if (!out->tensors)
        return error_set(err, ST_NO_MEMORY, "out of memory for %llu tensors", (unsigned long long)n);
    status st = make_rope(out, c, err);
    if (st == ST_OK)
        st = take_stacks(out, c, err);
    if (st != ST_OK)
        return st;
    if (out->rope.data)
        add(out, &out->rope, out->rope.name, mix, c);
    for (uint64_t i = 0; i < n; i++) {
        const struct tensor *t = model_tensor_at(model, i);
        if (from_gguf)
            add(out, t, t->name, mix, c);
        else if (model_weights_gguf_name(c, w, t, name))
            add(out, t, name, mix, c);
    }
    for (uint32_t l = 0; !from_gguf && l < c->n_layers; l++)
        if (w->layers[l].experts)
            add_experts(out, l, &w->layers[l], mix, c);
    qsort(out->tensors, out->n, sizeof *out->tensors, compare_places);
    out->n_first = out->n > 0 && place_of(&out->tensors[0]) == -2;
    return ST_OK;
}

void quantise_plan_free(struct quantise_plan *plan)
{
    free(plan->tensors);
    free(plan->rope_factors);
    free(plan->stacks);
    free(plan->parts);
    *plan = (struct quantise_plan){ .tensors = NULL };
}

void quantise_plan_interleave(struct quantise_plan *plan, const struct model_config *config,
                              const struct model_weights *weights)
{
    for (size_t i = 0; i < plan->n; i++) {
        struct planned_tensor *t = &plan->tensors[i];
        const int layer = layer_of(t->name);
        const struct model_layer *l = layer >= 0 ? &weights->layers[layer] : NULL;
        if (!l || (t->source != l->wq && t->source != l->wk && t->source != l->bq && t->source != l->bk))
            continue;
        t->head_rows = config->head_dim;
        t->cols = t->source->n_dims == 1 ? 1 : t->cols; /* of a bias each value is a row */
    }
}

void quantise_plan_report(const struct quantise_plan *plan, struct quantise_report *out)
{
    *out = (struct quantise_report){ .values = 0 };
    for (size_t i = 0; i < plan->n; i++) {
        const struct planned_tensor *t = &plan->tensors[i];
        out->values += t->values;
        out->source_bytes += t->source->bytes;
        out->n_tensors[t->type]++;
        out->tensor_bytes[t->type] += dtype_row_bytes(t->type, t->values);
        out->n_instead[t->wanted][t->type] += t->type != t->wanted;
        out->from_quantised |= dtype_is_quantised(t->source->type) && t->source->type != t->type;
    }
}
