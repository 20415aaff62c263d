#include "engine/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include "engine/adapter_config.h"
#include "engine/model_json.h"
#include "engine/safetensors.h"

static const char *const module_names[] = {
#define X(name, text) text,
    ADAPTER_MODULES(X)
#undef X
};

void adapter_module_shape(const struct model_config *c, enum adapter_module module, uint32_t *n_out, uint32_t *n_in)
{
    const uint32_t n_q = c->n_heads * c->head_dim, n_kv = c->n_kv_heads * c->head_dim;
    const uint32_t outputs[] = { n_q, n_kv, n_kv, c->n_embd, c->n_ffn, c->n_ffn, c->n_embd };
    _Static_assert(sizeof outputs / sizeof *outputs == ADAPTER_MODULE_COUNT, "one for each module");
    *n_out = outputs[module];
    *n_in = module == ADAPTER_O ? n_q : module == ADAPTER_DOWN ? c->n_ffn : c->n_embd;
}

/* Where a tensor belongs. */
struct place {
    uint32_t layer;
    enum adapter_module module;
    bool is_b;
};

/* base_model.model.model.layers.LAYER.MODULE.lora_A.weight, or lora_B */
static bool read_place(const char *name, struct place *out)
{
    static const char prefix[] = "base_model.model.model.layers.";
    char *end;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return false;
    name += sizeof prefix - 1;
    if (*name < '0' || *name > '9' || (*name == '0' && name[1] != '.'))
        return false;
    unsigned long layer = strtoul(name, &end, 10);
    if (layer >= MODEL_MAX_LAYERS || *end != '.')
        return false;
    for (size_t m = 0; m < ADAPTER_MODULE_COUNT; m++) {
        size_t len = strlen(module_names[m]);
        if (strncmp(end + 1, module_names[m], len) != 0)
            continue;
        const char *rest = end + 1 + len;
        *out = (struct place){ (uint32_t)layer, (enum adapter_module)m, !strcmp(rest, ".lora_B.weight") };
        return out->is_b || !strcmp(rest, ".lora_A.weight");
    }
    return false;
}

static struct adapter_pair *pair_at(struct adapter *a, const struct place *place)
{
    return &a->pairs[place->layer * ADAPTER_MODULE_COUNT + place->module];
}

/* Describes the tensor of a place; its values come later. */
static status take_tensor(struct adapter *a, const struct model_config *config, const struct tensor *t,
                          const char *file, size_t *values, struct error *err)
{
    struct place place;
    uint32_t n_out, n_in;
    if (!read_place(t->name, &place))
        return error_set(
            err, ST_UNSUPPORTED,
            "%s: tensor %s: only lora_A and lora_B of the attention's q, k, v and o and the FFN's gate, up "
            "and down projections are supported",
            file, t->name);
    if (place.layer >= a->n_layers)
        return error_set(err, ST_INVALID, "%s: tensor %s: the model has %u layers", file, t->name, a->n_layers);
    if (place.module >= ADAPTER_GATE && model_has_experts(config, place.layer))
        return error_set(err, ST_UNSUPPORTED, "%s: tensor %s: adapters of layers with experts are not supported", file,
                         t->name);
    adapter_module_shape(config, place.module, &n_out, &n_in);
    const uint32_t rows = place.is_b ? n_out : a->rank, cols = place.is_b ? a->rank : n_in;
    if (t->n_dims != 2 || t->shape[0] != rows || t->shape[1] != cols)
        return error_set(err, ST_INVALID, "%s: tensor %s is [%llu, %llu], the model and rank %u want [%u, %u]", file,
                         t->name, (unsigned long long)(t->n_dims > 0 ? t->shape[0] : 0),
                         (unsigned long long)(t->n_dims > 1 ? t->shape[1] : 0), a->rank, rows, cols);
    struct tensor *to = place.is_b ? &pair_at(a, &place)->b : &pair_at(a, &place)->a;
    *to = (struct tensor){ .type = DTYPE_F32, .n_dims = 2, .shape = { rows, cols } };
    to->bytes = (size_t)rows * cols * sizeof(float);
    *values += (size_t)rows * cols;
    return ST_OK;
}

static status take_tensors(struct adapter *a, const struct model_config *config, const struct model_index *index,
                           const char *file, size_t *values, struct error *err)
{
    for (size_t i = 0; i < index->n; i++) {
        status st = take_tensor(a, config, index->by_name[i], file, values, err);
        if (st != ST_OK)
            return st;
    }
    for (uint32_t i = 0; i < a->n_layers * ADAPTER_MODULE_COUNT; i++)
        if ((a->pairs[i].a.bytes == 0) != (a->pairs[i].b.bytes == 0))
            return error_set(err, ST_INVALID, "%s: layer %u, %s: lora_A or lora_B is missing", file,
                             i / ADAPTER_MODULE_COUNT, module_names[i % ADAPTER_MODULE_COUNT]);
    return ST_OK;
}

/* The row of Hugging Face's order that is row r of a matrix whose rotary pairs are neighbours. */
static uint32_t interleaved_row(uint32_t r, uint32_t dim)
{
    return r / dim * dim + r % 2 * (dim / 2) + r % dim / 2;
}

static bool are_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

static status fill_tensor(struct adapter *a, const struct model_config *config, const struct tensor *t,
                          const char *file, float *values, struct error *err)
{
    struct place place = { 0 };
    ASSERT(read_place(t->name, &place));
    const bool reorder = place.is_b && config->rope_interleaved && place.module <= ADAPTER_K;
    struct tensor *to = place.is_b ? &pair_at(a, &place)->b : &pair_at(a, &place)->a;
    const size_t row_bytes = dtype_row_bytes(t->type, t->shape[1]);
    to->data = values;
    for (uint32_t r = 0; r < t->shape[0]; r++, values += t->shape[1]) {
        uint32_t from = reorder ? interleaved_row(r, config->head_dim) : r;
        dtype_to_f32(t->type, (const uint8_t *)t->data + from * row_bytes, values, t->shape[1]);
        if (!are_finite(values, t->shape[1]))
            return error_set(err, ST_INVALID, "%s: tensor %s has values that are no finite numbers", file, t->name);
    }
    return ST_OK;
}

static void find_fingerprint(struct adapter *a, size_t values)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, &a->rank, sizeof a->rank);
    XXH3_64bits_update(&state, &a->scale, sizeof a->scale);
    for (uint32_t i = 0; i < a->n_layers * ADAPTER_MODULE_COUNT; i++)
        if (a->pairs[i].a.bytes > 0)
            XXH3_64bits_update(&state, &i, sizeof i);
    XXH3_64bits_update(&state, a->values, values * sizeof *a->values);
    a->fingerprint = XXH3_64bits_digest(&state);
}

/* The index is in the order of names, so that equal adapters have equal values however their files are laid out. */
static status read_tensors(struct adapter *a, const struct model_config *config, const struct safetensors *file,
                           const char *path, struct error *err)
{
    const struct model_index *index = safetensors_index(file);
    size_t values = 0, used = 0;
    status st = take_tensors(a, config, index, path, &values, err);
    if (st != ST_OK)
        return st;
    if (values == 0)
        return error_set(err, ST_INVALID, "%s: it adapts nothing", path);
    a->values = malloc(values * sizeof *a->values);
    if (!a->values)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory for %zu values", path, values);
    for (size_t i = 0; st == ST_OK && i < index->n; i++) {
        const struct tensor *t = index->by_name[i];
        st = fill_tensor(a, config, t, path, a->values + used, err);
        used += t->shape[0] * t->shape[1];
    }
    if (st == ST_OK)
        find_fingerprint(a, values);
    return st;
}

static status read_adapter(const char *path, const struct model_config *config, struct adapter *a, struct error *err)
{
    char file[MODEL_MAX_PATH];
    struct adapter_config settings;
    struct safetensors *tensors = NULL;
    status st = model_json_path(path, "adapter_config.json", file, err);
    if (st == ST_OK)
        st = adapter_config_read(file, &settings, err);
    if (st == ST_OK)
        st = model_json_path(path, "adapter_model.safetensors", file, err);
    if (st == ST_OK)
        st = safetensors_open(file, &tensors, err);
    if (st != ST_OK)
        return st;
    a->rank = settings.rank;
    a->scale = settings.scale;
    a->n_layers = config->n_layers;
    a->pairs = calloc((size_t)a->n_layers * ADAPTER_MODULE_COUNT, sizeof *a->pairs);
    st = a->pairs ? read_tensors(a, config, tensors, file, err)
                  : error_set(err, ST_NO_MEMORY, "%s: out of memory", file);
    safetensors_close(&tensors);
    return st;
}

status adapter_open(const char *path, const struct model_config *config, struct adapter **out, struct error *err)
{
    struct adapter *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    status st = read_adapter(path, config, a, err);
    if (st == ST_OK)
        *out = a;
    else
        adapter_close(&a);
    return st;
}

void adapter_close(struct adapter **adapter)
{
    struct adapter *a = *adapter;
    if (!a)
        return;
    free(a->pairs);
    free(a->values);
    free(a);
    *adapter = NULL;
}
