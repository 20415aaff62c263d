#include "engine/model_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/architecture.h"
#include "engine/model_config.h"

struct binder {
    const struct model_config *config;
    const struct model_index *index;
    const char *file;
    bool is_gguf;
    bool *known;      /* [index->n]: tensors that are accounted for */
    size_t n_experts; /* those of all layers that were bound */
    struct tensor *next_view;
};

/* What one layer holds besides experts, in the names of both kinds of file; rows 0: a vector. */
struct layer_role {
    size_t place; /* in struct model_layer */
    const char *gguf, *folder;
    uint32_t rows, cols;
    bool there;         /* this layer has it */
    uint32_t first, of; /* rows first .. first + rows - 1 of a tensor of so many; of 0: a tensor of its own */
};

#define LAYER_ROLES  22
#define FUSED_PARTS  5
#define PLACE(field) offsetof(struct model_layer, field)

static void list_layer_roles(const struct model_config *c, uint32_t layer, struct layer_role out[LAYER_ROLES])
{
    const uint32_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const struct expert_names *experts = architecture_of(c->arch)->experts;
    const bool sparse = model_has_experts(c, layer);
    const struct layer_role roles[LAYER_ROLES] = {
        { PLACE(attn_norm), "attn_norm.weight", "input_layernorm.weight", 0, c->n_embd, .there = true },
        { PLACE(wq), "attn_q.weight", "self_attn.q_proj.weight", q, c->n_embd, .there = !c->fused },
        { PLACE(wk), "attn_k.weight", "self_attn.k_proj.weight", kv, c->n_embd, .there = !c->fused },
        { PLACE(wv), "attn_v.weight", "self_attn.v_proj.weight", kv, c->n_embd, .there = !c->fused },
        { PLACE(wq), "attn_qkv.weight", "self_attn.qkv_proj.weight", q, c->n_embd, .there = c->fused, .first = 0,
          .of = q + 2 * kv },
        { PLACE(wk), "attn_qkv.weight", "self_attn.qkv_proj.weight", kv, c->n_embd, .there = c->fused, .first = q,
          .of = q + 2 * kv },
        { PLACE(wv), "attn_qkv.weight", "self_attn.qkv_proj.weight", kv, c->n_embd, .there = c->fused, .first = q + kv,
          .of = q + 2 * kv },
        { PLACE(wo), "attn_output.weight", "self_attn.o_proj.weight", c->n_embd, q, .there = true },
        { PLACE(bq), "attn_q.bias", "self_attn.q_proj.bias", 0, q, .there = c->qkv_bias },
        { PLACE(bk), "attn_k.bias", "self_attn.k_proj.bias", 0, kv, .there = c->qkv_bias },
        { PLACE(bv), "attn_v.bias", "self_attn.v_proj.bias", 0, kv, .there = c->qkv_bias },
        { PLACE(q_norm), "attn_q_norm.weight", "self_attn.q_norm.weight", 0, c->head_dim, .there = c->qk_norm },
        { PLACE(k_norm), "attn_k_norm.weight", "self_attn.k_norm.weight", 0, c->head_dim, .there = c->qk_norm },
        { PLACE(ffn_norm), "ffn_norm.weight",
          c->post_norms ? "pre_feedforward_layernorm.weight" : "post_attention_layernorm.weight", 0, c->n_embd,
          .there = true },
        { PLACE(attn_post_norm), "post_attention_norm.weight", "post_attention_layernorm.weight", 0, c->n_embd,
          .there = c->post_norms },
        { PLACE(ffn_post_norm), "post_ffw_norm.weight", "post_feedforward_layernorm.weight", 0, c->n_embd,
          .there = c->post_norms },
        { PLACE(gate), "ffn_gate.weight", "mlp.gate_proj.weight", c->n_ffn, c->n_embd, .there = !sparse && !c->fused },
        { PLACE(up), "ffn_up.weight", "mlp.up_proj.weight", c->n_ffn, c->n_embd, .there = !sparse && !c->fused },
        { PLACE(gate), "ffn_up.weight", "mlp.gate_up_proj.weight", c->n_ffn, c->n_embd, .there = c->fused, .first = 0,
          .of = 2 * c->n_ffn },
        { PLACE(up), "ffn_up.weight", "mlp.gate_up_proj.weight", c->n_ffn, c->n_embd, .there = c->fused,
          .first = c->n_ffn, .of = 2 * c->n_ffn },
        { PLACE(down), "ffn_down.weight", "mlp.down_proj.weight", c->n_embd, c->n_ffn, .there = !sparse },
        { PLACE(router), "ffn_gate_inp.weight", experts ? experts->router : NULL, c->n_experts, c->n_embd,
          .there = sparse },
    };
    memcpy(out, roles, sizeof roles);
}

static bool is_plain(enum dtype type)
{
    return dtype_block_values(type) == 1;
}

static void describe_shape(const struct tensor *t, char *buf, size_t size)
{
    size_t used = 0;
    for (uint32_t i = 0; i < t->n_dims && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
}

static status wrong_shape(const struct binder *b, const struct tensor *t, const char *wanted, struct error *err)
{
    char found[TENSOR_MAX_DIMS * 22] = "";
    describe_shape(t, found, sizeof found);
    return error_set(err, ST_INVALID, "%s: tensor %s: its shape is [%s], not [%s]", b->file, t->name, found, wanted);
}

/* rows 0 asks for a vector of cols values in a plain number format. */
static status check_shape(const struct binder *b, const struct tensor *t, uint32_t rows, uint32_t cols,
                          struct error *err)
{
    char wanted[48];
    bool fits =
        rows ? t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == cols : t->n_dims == 1 && t->shape[0] == cols;
    if (fits && (rows || is_plain(t->type)))
        return ST_OK;
    if (fits)
        return error_set(err, ST_UNSUPPORTED, "%s: tensor %s: a vector in number format %s is not supported", b->file,
                         t->name, dtype_name(t->type));
    if (rows)
        snprintf(wanted, sizeof wanted, "%u, %u", rows, cols);
    else
        snprintf(wanted, sizeof wanted, "%u", cols);
    return wrong_shape(b, t, wanted, err);
}

/* The tensor, which is accounted for from now on. */
static status find(struct binder *b, const char *name, const struct tensor **out, struct error *err)
{
    size_t place = model_index_place(b->index, name);
    if (place == b->index->n)
        return error_set(err, ST_INVALID, "%s: tensor %s is missing", b->file, name);
    b->known[place] = true;
    *out = b->index->by_name[place];
    return ST_OK;
}

static status bind(struct binder *b, const char *name, uint32_t rows, uint32_t cols, const struct tensor **out,
                   struct error *err)
{
    const struct tensor *t = NULL;
    status st = find(b, name, &t, err);
    if (st != ST_OK)
        return st;
    ASSERT(t);
    st = check_shape(b, t, rows, cols, err);
    if (st == ST_OK)
        *out = t;
    return st;
}

/* Rows first .. first + rows - 1 of the matrix or matrices in t, as a tensor of their own. */
static struct tensor view_rows(const struct tensor *t, size_t first, uint32_t rows, uint32_t cols)
{
    const size_t row_bytes = dtype_row_bytes(t->type, cols);
    return (struct tensor){ .name = t->name,
                            .type = t->type,
                            .n_dims = 2,
                            .shape = { rows, cols },
                            .data = (const uint8_t *)t->data + first * row_bytes,
                            .bytes = rows * row_bytes };
}

/* Matrix i of a tensor [count, rows, cols]. */
static status bind_slice(struct binder *b, const char *name, uint32_t i, uint32_t count, uint32_t rows, uint32_t cols,
                         const struct tensor **out, struct error *err)
{
    const struct tensor *t = NULL;
    char wanted[48];
    status st = find(b, name, &t, err);
    if (st != ST_OK)
        return st;
    ASSERT(t);
    if (t->n_dims != 3 || t->shape[0] != count || t->shape[1] != rows || t->shape[2] != cols) {
        snprintf(wanted, sizeof wanted, "%u, %u, %u", count, rows, cols);
        return wrong_shape(b, t, wanted, err);
    }
    *b->next_view = view_rows(t, (size_t)i * rows, rows, cols);
    *out = b->next_view++;
    return ST_OK;
}

static status bind_role(struct binder *b, const char *name, const struct layer_role *role, const struct tensor **out,
                        struct error *err)
{
    const struct tensor *t = NULL;
    status st = bind(b, name, role->of > 0 ? role->of : role->rows, role->cols, &t, err);
    if (st != ST_OK)
        return st;
    ASSERT(t);
    if (role->of > 0) {
        *b->next_view = view_rows(t, role->first, role->rows, role->cols);
        t = b->next_view++;
    }
    *out = t;
    return ST_OK;
}

/* A GGUF file has the matrices of all experts of a layer in one tensor, a folder has a tensor for each. */
static status bind_expert(struct binder *b, uint32_t layer, uint32_t expert, struct model_weights *w, struct error *err)
{
    const struct model_config *c = b->config;
    const struct expert_names *names = architecture_of(c->arch)->experts;
    struct model_expert *out = &w->experts[b->n_experts++];
    const struct {
        const char *gguf, *folder;
        uint32_t rows, cols;
        const struct tensor **place;
    } parts[] = {
        { "ffn_gate_exps.weight", names->gate, c->n_expert_ffn, c->n_embd, &out->gate },
        { "ffn_up_exps.weight", names->up, c->n_expert_ffn, c->n_embd, &out->up },
        { "ffn_down_exps.weight", names->down, c->n_embd, c->n_expert_ffn, &out->down },
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[MODEL_TENSOR_NAME_BYTES];
        status st;
        if (b->is_gguf) {
            snprintf(name, sizeof name, "blk.%u.%s", layer, parts[i].gguf);
            st = bind_slice(b, name, expert, c->n_experts, parts[i].rows, parts[i].cols, parts[i].place, err);
        } else {
            snprintf(name, sizeof name, "model.layers.%u.%s%u.%s.weight", layer, names->experts, expert,
                     parts[i].folder);
            st = bind(b, name, parts[i].rows, parts[i].cols, parts[i].place, err);
        }
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* Files of early 2024 have each expert in a tensor of its own. */
static status check_old_experts(const struct binder *b, uint32_t layer, struct error *err)
{
    char name[MODEL_TENSOR_NAME_BYTES];
    snprintf(name, sizeof name, "blk.%u.ffn_gate.0.weight", layer);
    if (!b->is_gguf || !model_index_find(b->index, name))
        return ST_OK;
    return error_set(
        err, ST_UNSUPPORTED,
        "%s: tensor %s: experts in tensors of their own are not supported, only blk.%u.ffn_gate_exps.weight "
        "of all: convert the model anew",
        b->file, name, layer);
}

static status bind_experts(struct binder *b, uint32_t layer, struct model_weights *w, struct error *err)
{
    status st = ST_OK;
    w->layers[layer].experts = &w->experts[b->n_experts];
    for (uint32_t e = 0; e < b->config->n_experts && st == ST_OK; e++)
        st = bind_expert(b, layer, e, w, err);
    return st;
}

static status bind_layer(struct binder *b, uint32_t n, struct model_layer *layer, struct error *err)
{
    struct layer_role roles[LAYER_ROLES];
    char name[MODEL_TENSOR_NAME_BYTES];
    list_layer_roles(b->config, n, roles);
    for (size_t i = 0; i < LAYER_ROLES; i++) {
        if (!roles[i].there)
            continue;
        if (b->is_gguf)
            snprintf(name, sizeof name, "blk.%u.%s", n, roles[i].gguf);
        else
            snprintf(name, sizeof name, "model.layers.%u.%s", n, roles[i].folder);
        const struct tensor **place = (const struct tensor **)(void *)((char *)layer + roles[i].place);
        status st = bind_role(b, name, &roles[i], place, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* A folder may hold the tied head a second time; it must not say anything else. */
static status check_second_head(struct binder *b, const struct tensor *embed, bool compare, struct error *err)
{
    const struct tensor *head = model_index_find(b->index, "lm_head.weight");
    if (b->is_gguf || !head || head == embed)
        return ST_OK;
    status st = check_shape(b, head, b->config->n_vocab, b->config->n_embd, err);
    if (st != ST_OK)
        return st;
    if (compare && (head->type != embed->type || memcmp(head->data, embed->data, embed->bytes) != 0))
        return error_set(err, ST_INVALID, "%s: tensor lm_head.weight differs from the embeddings it is tied to",
                         b->file);
    b->known[model_index_place(b->index, head->name)] = true;
    return ST_OK;
}

/* safetensors stores tensors that share memory once, under either name. */
static const char *embed_name(const struct binder *b)
{
    if (b->is_gguf)
        return "token_embd.weight";
    const char *name = "model.embed_tokens.weight", *other = "lm_head.weight";
    bool by_other =
        b->config->tied_embeddings && !model_index_find(b->index, name) && model_index_find(b->index, other);
    return by_other ? other : name;
}

static status bind_ends(struct binder *b, bool compare_tied, struct model_weights *w, struct error *err)
{
    const struct model_config *c = b->config;
    const char *norm = b->is_gguf ? "output_norm.weight" : "model.norm.weight";
    status st = bind(b, embed_name(b), c->n_vocab, c->n_embd, &w->embed, err);
    if (st == ST_OK)
        st = bind(b, norm, 0, c->n_embd, &w->final_norm, err);
    if (st != ST_OK)
        return st;
    if (!c->tied_embeddings)
        return bind(b, b->is_gguf ? "output.weight" : "lm_head.weight", c->n_vocab, c->n_embd, &w->head, err);
    w->head = w->embed;
    return check_second_head(b, w->embed, compare_tied, err);
}

/* *out is NULL when the file has none. */
static status bind_factors(struct binder *b, const char *name, const struct tensor **out, struct error *err)
{
    const struct tensor *t = model_index_find(b->index, name);
    const uint32_t n = model_rotated(b->config) / 2;
    *out = t;
    if (!t)
        return ST_OK;
    if (t->type != DTYPE_F32 || t->n_dims != 1 || t->shape[0] != n)
        return error_set(err, ST_INVALID, "%s: tensor %s is not %u values of F32", b->file, name, n);
    const float *factors = t->data;
    for (uint64_t i = 0; i < t->shape[0]; i++)
        if (!(isfinite(factors[i]) && factors[i] > 0))
            return error_set(err, ST_INVALID, "%s: tensor %s: %g is no factor of a frequency", b->file, name,
                             (double)factors[i]);
    b->known[model_index_place(b->index, name)] = true;
    return ST_OK;
}

/* Llama 3.1's files hold what its frequencies are divided by, LongRoPE's two sets of it; a folder has them in its
 * config. */
static status bind_rope_factors(struct binder *b, struct model_weights *w, struct error *err)
{
    const struct model_config *c = b->config;
    const struct tensor *unused;
    if (c->n_rope_factors > 0) {
        w->config_factors = (struct tensor){ .name = "short_factor",
                                             .type = DTYPE_F32,
                                             .n_dims = 1,
                                             .shape = { c->n_rope_factors },
                                             .data = c->rope_factors,
                                             .bytes = c->n_rope_factors * sizeof *c->rope_factors };
        w->rope_factors = &w->config_factors;
    }
    if (!b->is_gguf)
        return ST_OK;
    if (c->rope.scaling != ROPE_LONG)
        return bind_factors(b, "rope_freqs.weight", &w->rope_factors, err);
    status st = bind_factors(b, "rope_factors_short.weight", &w->rope_factors, err);
    return st == ST_OK ? bind_factors(b, "rope_factors_long.weight", &unused, err) : st;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Old checkpoints store the rotary frequencies, which follow from the config
 * and which transformers ignores as well. */
static bool is_ignored(const struct binder *b, const struct tensor *t)
{
    return !b->is_gguf && ends_with(t->name, ".rotary_emb.inv_freq");
}

static status check_all_known(const struct binder *b, struct error *err)
{
    for (size_t i = 0; i < b->index->n; i++) {
        const struct tensor *t = b->index->by_name[i];
        if (!b->known[i] && !is_ignored(b, t))
            return error_set(err, ST_UNSUPPORTED, "%s: tensor %s is not part of a supported %s network", b->file,
                             t->name, model_arch_name(b->config->arch));
    }
    return ST_OK;
}

static status allocate(struct binder *b, struct model_weights *w, struct error *err)
{
    size_t experts = (size_t)b->config->n_layers * b->config->n_experts;
    b->known = calloc(b->index->n + 1, sizeof *b->known);
    w->experts = calloc(experts + 1, sizeof *w->experts);
    w->views = b->next_view = calloc(experts * 3 + (size_t)b->config->n_layers * FUSED_PARTS, sizeof *w->views);
    return b->known && w->experts && w->views ? ST_OK : error_set(err, ST_NO_MEMORY, "%s: out of memory", b->file);
}

static status bind_all(struct binder *b, bool compare_tied, struct model_weights *w, struct error *err)
{
    status st = bind_ends(b, compare_tied, w, err);
    for (uint32_t n = 0; n < b->config->n_layers && st == ST_OK; n++) {
        st = check_old_experts(b, n, err);
        if (st == ST_OK)
            st = bind_layer(b, n, &w->layers[n], err);
        if (st == ST_OK && model_has_experts(b->config, n))
            st = bind_experts(b, n, w, err);
    }
    if (st == ST_OK)
        st = bind_rope_factors(b, w, err);
    return st == ST_OK ? check_all_known(b, err) : st;
}

status model_weights_bind(const struct model_config *config, const struct model_index *index, enum model_naming naming,
                          bool compare_tied, const char *file, struct model_weights *out, struct error *err)
{
    struct binder b = { .config = config, .index = index, .file = file, .is_gguf = naming == MODEL_NAMES_GGUF };
    ASSERT(config->n_layers <= MODEL_MAX_LAYERS);
    status st = allocate(&b, out, err);
    if (st == ST_OK)
        st = bind_all(&b, compare_tied, out, err);
    free(b.known);
    return st;
}

void model_weights_release(struct model_weights *weights)
{
    free(weights->experts);
    free(weights->views);
    weights->experts = NULL;
    weights->views = NULL;
}

bool model_weights_gguf_name(const struct model_config *config, const struct model_weights *weights,
                             const struct tensor *t, char out[MODEL_TENSOR_NAME_BYTES])
{
    const char *end = t == weights->embed        ? "token_embd.weight"
                      : t == weights->final_norm ? "output_norm.weight"
                      : t == weights->head       ? "output.weight"
                                                 : NULL;
    struct layer_role roles[LAYER_ROLES];
    unsigned layer;
    int prefix = 0;
    if (end)
        snprintf(out, MODEL_TENSOR_NAME_BYTES, "%s", end);
    if (end || sscanf(t->name, "model.layers.%u.%n", &layer, &prefix) != 1 || layer >= config->n_layers)
        return end != NULL;
    list_layer_roles(config, layer, roles);
    for (size_t i = 0; i < LAYER_ROLES; i++)
        if (roles[i].there && strcmp(t->name + prefix, roles[i].folder) == 0) {
            snprintf(out, MODEL_TENSOR_NAME_BYTES, "blk.%u.%s", layer, roles[i].gguf);
            return true;
        }
    return false;
}
