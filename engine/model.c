#include "engine/model.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "engine/chat_template.h"
#include "engine/gguf_files.h"
#include "engine/model_config.h"
#include "engine/model_folder.h"
#include "engine/model_gguf.h"
#include "engine/model_index.h"
#include "engine/model_json.h"
#include "engine/model_map.h"
#include "engine/model_weights.h"
#include "engine/tokenizer.h"

#define FINGERPRINT_END_BYTES 4096

struct model {
    char *name;
    unsigned flags;
    struct model_config config;
    struct model_weights weights;
    struct gguf_files gguf;          /* either these ... */
    struct model_shards shards;      /* ... or these     */
    struct model_index joined;       /* of the shards    */
    const struct model_index *index; /* of either        */
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct model_defaults defaults;
    uint64_t text_fingerprint;
};

/* Adds one file of the folder; the tokenizer is in the first, which must be there. */
static status hash_file(const char *dir, const char *name, uint64_t *hash, struct error *err)
{
    char path[PATH_MAX];
    struct model_map map;
    status st = model_json_path(dir, name, path, err);
    if (st == ST_OK)
        st = model_map_open(path, &map, err);
    if (st != ST_OK)
        return st;
    *hash = XXH3_64bits_withSeed(map.data, map.size, *hash);
    model_map_close(&map);
    return ST_OK;
}

static status hash_folder_text(const char *dir, uint64_t *hash, struct error *err)
{
    status st = hash_file(dir, "tokenizer.json", hash, err);
    if (st != ST_OK)
        return st;
    st = hash_file(dir, "tokenizer_config.json", hash, err);
    return st == ST_NOT_FOUND ? ST_OK : st;
}

/* The tokenizer knows keys, not files: its complaint gets the path in front. */
static status load_gguf_tokenizer(struct model *m, const char *path, struct error *err)
{
    struct error why = { "" };
    status st = tokenizer_load_gguf(m->gguf.files[0], &m->tokenizer, &why);
    return st == ST_OK ? ST_OK : error_set(err, st, "%.200s: %.300s", path, why.text);
}

static status read_gguf_text(struct model *m, const char *path, struct error *err)
{
    m->text_fingerprint = gguf_metadata_hash(m->gguf.files[0]);
    if (m->flags & MODEL_NO_TEXT)
        return ST_OK;
    status st = load_gguf_tokenizer(m, path, err);
    return st == ST_OK ? model_gguf_template(m->gguf.files[0], path, &m->chat_template, err) : st;
}

static status read_gguf(struct model *m, const char *path, struct error *err)
{
    bool weights = m->flags & MODEL_WEIGHTS;
    status st;
    if ((st = gguf_files_open(path, &m->gguf, err)) != ST_OK ||
        (st = model_gguf_config(&m->gguf, path, &m->config, err)) != ST_OK)
        return st;
    m->index = m->gguf.index;
    st = model_weights_bind(&m->config, m->index, MODEL_NAMES_GGUF, weights, path, &m->weights, err);
    return st == ST_OK ? read_gguf_text(m, path, err) : st;
}

static status read_folder_text(struct model *m, const char *dir, struct error *err)
{
    if (m->flags & MODEL_NO_TEXT)
        return hash_folder_text(dir, &m->text_fingerprint, err);
    status st = tokenizer_load_folder(dir, &m->tokenizer, err);
    if (st == ST_OK)
        st = model_folder_template(dir, &m->chat_template, err);
    return st == ST_OK ? hash_folder_text(dir, &m->text_fingerprint, err) : st;
}

static status read_folder(struct model *m, const char *dir, struct error *err)
{
    bool weights = m->flags & MODEL_WEIGHTS;
    status st;
    if ((st = model_folder_config(dir, &m->config, err)) != ST_OK ||
        (st = model_folder_shards(dir, &m->shards, &m->joined, err)) != ST_OK)
        return st;
    m->index = &m->joined;
    if ((st = model_weights_bind(&m->config, m->index, MODEL_NAMES_FOLDER, weights, dir, &m->weights, err)) != ST_OK ||
        (st = read_folder_text(m, dir, err)) != ST_OK)
        return st;
    return m->flags & MODEL_DEFAULTS ? model_defaults_read(dir, &m->defaults, err) : ST_OK;
}

static status check_vocab(const struct model *m, const char *path, struct error *err)
{
    uint32_t n = tokenizer_vocab_size(m->tokenizer);
    if (n > m->config.n_vocab)
        return error_set(err, ST_INVALID, "%s: the tokenizer has %u tokens, the network only %u", path, n,
                         m->config.n_vocab);
    return ST_OK;
}

/* The last part of the resolved path, so that "." and "dir/" have names too. */
static status set_name(struct model *m, const char *path, bool is_folder, struct error *err)
{
    char *full = realpath(path, NULL);
    if (!full)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    const char *slash = strrchr(full, '/');
    m->name = strdup(slash ? slash + 1 : full);
    free(full);
    if (!m->name)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    size_t split = is_folder ? 0 : gguf_split_name(m->name);
    char *extension = is_folder ? NULL : split > 0 ? m->name + split : strrchr(m->name, '.');
    if (extension && extension != m->name)
        *extension = '\0';
    return ST_OK;
}

static status read_model(struct model *m, const char *path, struct error *err)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return error_set(err, errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    bool is_folder = S_ISDIR(info.st_mode);
    status st = set_name(m, path, is_folder, err);
    if (st == ST_OK)
        st = is_folder ? read_folder(m, path, err) : read_gguf(m, path, err);
    return st == ST_OK && m->tokenizer ? check_vocab(m, path, err) : st;
}

status model_open(const char *path, unsigned flags, struct model **out, struct error *err)
{
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    m->flags = flags;
    m->defaults = MODEL_DEFAULTS_NEUTRAL;
    status st = read_model(m, path, err);
    if (st == ST_OK)
        *out = m;
    else
        model_close(&m);
    return st;
}

void model_close(struct model **model)
{
    struct model *m = *model;
    if (!m)
        return;
    chat_template_destroy(&m->chat_template);
    tokenizer_destroy(&m->tokenizer);
    model_weights_release(&m->weights);
    model_index_free(&m->joined);
    model_shards_close(&m->shards);
    gguf_files_close(&m->gguf);
    free(m->name);
    free(m);
    *model = NULL;
}

const char *model_name(const struct model *model)
{
    return model->name;
}

const struct model_config *model_config(const struct model *model)
{
    return &model->config;
}

const struct model_weights *model_weights(const struct model *model)
{
    return model->flags & MODEL_WEIGHTS ? &model->weights : NULL;
}

const struct tokenizer *model_tokenizer(const struct model *model)
{
    return model->tokenizer;
}

const struct chat_template *model_chat_template(const struct model *model)
{
    return model->chat_template;
}

const struct model_defaults *model_defaults(const struct model *model)
{
    return &model->defaults;
}

uint64_t model_text_fingerprint(const struct model *model)
{
    return model->text_fingerprint;
}

void model_will_need(const struct model *model)
{
    gguf_files_will_need(&model->gguf);
    for (size_t i = 0; i < model->shards.n; i++)
        model_map_will_need(safetensors_map(model->shards.files[i]));
}

void model_drop(const struct model *model, const struct tensor *tensor, bool cached)
{
    for (size_t i = 0; i < model->gguf.n; i++)
        model_map_drop(gguf_map(model->gguf.files[i]), tensor->data, tensor->bytes, FINGERPRINT_END_BYTES, cached);
    for (size_t i = 0; i < model->shards.n; i++)
        model_map_drop(safetensors_map(model->shards.files[i]), tensor->data, tensor->bytes, FINGERPRINT_END_BYTES,
                       cached);
}

uint64_t model_tensor_count(const struct model *model)
{
    return model->index->n;
}

const struct tensor *model_tensor_at(const struct model *model, uint64_t i)
{
    ASSERT(i < model->index->n);
    return model->index->by_name[i];
}

/* The same holds for models that rotate whole heads by frequencies that follow from their base. */
static void hash_rotation(XXH3_state_t *state, const struct model_config *c)
{
    if (c->n_rotated != 0)
        XXH3_64bits_update(state, &c->n_rotated, sizeof c->n_rotated);
    XXH3_64bits_update(state, c->rope_factors, c->n_rope_factors * sizeof *c->rope_factors);
}

/* Gemma's numbers; networks that have none of them hash as they did before there were any. */
static void hash_gemma(XXH3_state_t *state, const struct model_config *c)
{
    const float numbers[] = { c->embed_scale, c->attention_scale, c->attention_cap, c->logit_cap };
    const uint32_t kinds[] = { c->post_norms, c->norms_from_one, c->activation };
    char rope[128];
    const struct rope_config *r = &c->local_rope;
    int n = snprintf(rope, sizeof rope, "rope %d %a %a", (int)r->scaling, (double)r->theta, (double)r->factor);
    if (!c->post_norms)
        return;
    XXH3_64bits_update(state, numbers, sizeof numbers);
    XXH3_64bits_update(state, kinds, sizeof kinds);
    XXH3_64bits_update(state, rope, (size_t)n);
}

/* What models without experts do not have enters no hash of theirs. */
static void hash_experts(XXH3_state_t *state, const struct model_config *c)
{
    const uint32_t numbers[] = { c->n_experts, c->n_experts_used, c->n_expert_ffn, c->experts_sum_to_one };
    if (c->n_experts == 0)
        return;
    XXH3_64bits_update(state, numbers, sizeof numbers);
    XXH3_64bits_update(state, c->dense, c->n_layers * sizeof *c->dense);
}

/* Hashed as text, so that neither padding nor the struct's layout enters. */
static void hash_config(XXH3_state_t *state, const struct model_config *c)
{
    char text[512];
    const struct rope_config *r = &c->rope;
    int n =
        snprintf(text, sizeof text, "%s %u %u %u %u %u %u %u %u %a %a %d %d %d %d rope %d %a %a %a %a %a %d",
                 model_arch_name(c->arch), c->n_layers, c->n_embd, c->n_heads, c->n_kv_heads, c->head_dim, c->n_ffn,
                 c->n_vocab, c->max_positions, (double)c->rms_eps, (double)r->theta, c->rope_interleaved, c->qk_norm,
                 c->qkv_bias, c->tied_embeddings, (int)r->scaling, (double)r->factor, (double)r->original_positions,
                 (double)r->low, (double)r->high, (double)r->magnitude, r->exact_range);
    ASSERT(n > 0 && (size_t)n < sizeof text);
    XXH3_64bits_update(state, text, (size_t)n);
    for (uint32_t l = 0; c->window > 0 && l < c->n_layers; l++)
        if (c->windowed[l]) {
            const uint32_t row[] = { l, c->window };
            XXH3_64bits_update(state, row, sizeof row);
        }
    hash_experts(state, c);
    hash_rotation(state, c);
    hash_gemma(state, c);
}

uint64_t model_config_fingerprint(const struct model_config *config)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    hash_config(&state, config);
    return XXH3_64bits_digest(&state);
}

static void hash_tensor(XXH3_state_t *state, const struct tensor *t)
{
    const char *type = dtype_name(t->type);
    size_t n = t->bytes < FINGERPRINT_END_BYTES ? t->bytes : FINGERPRINT_END_BYTES;
    uint64_t bytes = t->bytes;
    XXH3_64bits_update(state, t->name, strlen(t->name) + 1);
    XXH3_64bits_update(state, type, strlen(type) + 1);
    XXH3_64bits_update(state, t->shape, t->n_dims * sizeof *t->shape);
    XXH3_64bits_update(state, &bytes, sizeof bytes);
    XXH3_64bits_update(state, t->data, n);
    XXH3_64bits_update(state, (const uint8_t *)t->data + t->bytes - n, n);
}

uint64_t model_fingerprint(const struct model *model)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    hash_config(&state, &model->config);
    for (size_t i = 0; i < model->index->n; i++)
        hash_tensor(&state, model->index->by_name[i]);
    return XXH3_64bits_digest(&state);
}

void model_kv_layout(const struct model_config *config, uint32_t block_tokens, enum dtype type, struct kv_layout *out)
{
    *out = (struct kv_layout){ .n_layers = config->n_layers,
                               .n_kv_heads = config->n_kv_heads,
                               .head_dim = config->head_dim,
                               .block_tokens = block_tokens,
                               .type = type };
}
