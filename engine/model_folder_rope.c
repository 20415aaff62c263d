#include "engine/model_folder_rope.h"

#include <math.h>
#include <string.h>

#include "engine/model_json.h"

/* The numbers of a rope_scaling, by name. */
struct rope_fields {
    float factor, original, low, high, slow, fast, magnitude, mscale, mscale_all;
    bool truncate;
};

static status read_rope_type(const json_t *rope, const char *file, const char *field, enum rope_scaling *out,
                             struct error *err)
{
    static const char *const words[] = {
#define X(name, text) text,
        ROPE_SCALINGS(X)
#undef X
    };
    const json_t *type = json_object_get(rope, "rope_type");
    if (!type)
        type = json_object_get(rope, "type");
    if (model_json_is(type, "su")) {
        *out = ROPE_LONG; /* by its first name */
        return ST_OK;
    }
    for (size_t i = 0; type && i < sizeof words / sizeof *words; i++)
        if (model_json_is(type, words[i])) {
            *out = (enum rope_scaling)i;
            return ST_OK;
        }
    return type ? model_json_unsupported(
                      file, field, "null or of type \"default\", \"linear\", \"llama3\", \"yarn\" or \"longrope\"", err)
                : ST_OK;
}

static bool is_read_elsewhere(const char *name, enum rope_scaling scaling)
{
    const struct {
        const char *name;
        unsigned kinds;
    } fields[] = {
        { "rope_type", ~0u },
        { "type", ~0u },
        { "rope_theta", ~0u },
        { "partial_rotary_factor", ~0u },
        { "truncate", 1u << ROPE_YARN },
        { "short_factor", 1u << ROPE_LONG },
        { "long_factor", 1u << ROPE_LONG },
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(name, fields[i].name) == 0)
            return fields[i].kinds >> scaling & 1;
    return false;
}

/* Which fields each kind of scaling reads; others change what is computed, and are refused. */
static status read_rope_fields(const json_t *rope, const char *file, const char *field, enum rope_scaling scaling,
                               struct rope_fields *f, struct error *err)
{
    const struct {
        const char *name;
        float *out;
        unsigned kinds;
    } numbers[] = {
        { "factor", &f->factor, 1u << ROPE_LINEAR | 1u << ROPE_LLAMA3 | 1u << ROPE_YARN | 1u << ROPE_LONG },
        { "original_max_position_embeddings", &f->original, 1u << ROPE_LLAMA3 | 1u << ROPE_YARN | 1u << ROPE_LONG },
        { "low_freq_factor", &f->low, 1u << ROPE_LLAMA3 },
        { "high_freq_factor", &f->high, 1u << ROPE_LLAMA3 },
        { "beta_slow", &f->slow, 1u << ROPE_YARN },
        { "beta_fast", &f->fast, 1u << ROPE_YARN },
        { "attention_factor", &f->magnitude, 1u << ROPE_YARN | 1u << ROPE_LONG },
        { "mscale", &f->mscale, 1u << ROPE_YARN },
        { "mscale_all_dim", &f->mscale_all, 1u << ROPE_YARN },
    };
    const json_t *value;
    const char *name;
    json_object_foreach((json_t *)(uintptr_t)rope, name, value)
    {
        size_t i = 0;
        while (i < sizeof numbers / sizeof *numbers &&
               (strcmp(name, numbers[i].name) != 0 || !(numbers[i].kinds >> scaling & 1)))
            i++;
        const bool known = is_read_elsewhere(name, scaling);
        if (!known && i == sizeof numbers / sizeof *numbers)
            return error_set(err, ST_UNSUPPORTED, "%s: %s: %.64s is not understood", file, field, name);
        status st = known ? ST_OK : model_json_float(rope, file, name, numbers[i].out, err);
        if (st != ST_OK)
            return st;
    }
    return model_json_bool(rope, file, "truncate", &f->truncate, err);
}

static status read_short_factors(const json_t *rope, const char *file, struct model_config *c, struct error *err)
{
    const json_t *list = json_object_get(rope, "short_factor");
    c->n_rope_factors = 0;
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > MODEL_MAX_HEAD_DIM / 2)
        return error_set(err, ST_INVALID, "%s: short_factor is not an array of a number for each pair of dimensions",
                         file);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const double factor = json_number_value(json_array_get(list, i));
        if (!(factor > 0 && (double)(float)factor > 0 && isfinite((float)factor)))
            return error_set(err, ST_INVALID, "%s: short_factor: element %zu is no factor of a frequency", file, i);
        c->rope_factors[c->n_rope_factors++] = (float)factor;
    }
    return ST_OK;
}

/* Phi-3 has the trained context outside of the object, and no factor: rope.h says why it is also the longest one. */
static status read_long(const json_t *json, const json_t *rope, const char *file, struct rope_fields *f,
                        struct model_config *c, struct error *err)
{
    if (!json_object_get(rope, "original_max_position_embeddings")) {
        status st = model_json_float(json, file, "original_max_position_embeddings", &f->original, err);
        if (st != ST_OK)
            return st;
    }
    if (!(f->original >= 1))
        return error_set(err, ST_INVALID, "%s: original_max_position_embeddings: not a count", file);
    if (f->factor == 0)
        f->factor = (float)c->max_positions / f->original;
    f->factor = f->factor > 1 ? f->factor : 1;
    if (f->original < (float)c->max_positions)
        c->max_positions = (uint32_t)f->original;
    return read_short_factors(rope, file, c, err);
}

static status read_rotated(const json_t *object, const char *file, const struct architecture *arch,
                           struct model_config *c, struct error *err)
{
    const json_t *value = json_object_get(object, "partial_rotary_factor");
    const double part = json_number_value(value);
    if (!value || json_is_null(value) || part == 1)
        return ST_OK;
    if (!arch->partly_rotated)
        return model_json_unsupported(file, "partial_rotary_factor", "1", err);
    c->n_rotated = part > 0 && part < 1 ? (uint32_t)(c->head_dim * part) : 0;
    if (c->n_rotated == 0)
        return error_set(err, ST_INVALID, "%s: partial_rotary_factor leaves nothing to rotate", file);
    return ST_OK;
}

static void set_scaling(const struct rope_fields *f, struct rope_config *out)
{
    bool is_yarn = out->scaling == ROPE_YARN;
    out->factor = f->factor;
    out->original_positions = f->original;
    out->low = is_yarn ? f->slow : f->low;
    out->high = is_yarn ? f->fast : f->high;
    out->exact_range = !f->truncate;
    out->magnitude = f->magnitude;
    if (is_yarn && f->magnitude == 0 && f->mscale > 0 && f->mscale_all > 0)
        out->magnitude =
            (float)(rope_yarn_magnitude(f->factor, f->mscale) / rope_yarn_magnitude(f->factor, f->mscale_all));
}

/* rope_scaling, or rope_parameters as transformers 5 writes it, which also holds rope_theta. */
static status read_object(const json_t *json, const char *file, const char *field, const struct architecture *arch,
                          struct model_config *c, struct rope_config *out, struct error *err)
{
    const json_t *rope = json_object_get(json, field);
    struct rope_fields f = {
        .original = (float)c->max_positions,
        .low = ROPE_LLAMA3_LOW,
        .high = ROPE_LLAMA3_HIGH,
        .slow = ROPE_YARN_LOW,
        .fast = ROPE_YARN_HIGH,
        .truncate = true,
    };
    if (!rope || json_is_null(rope))
        return ST_OK;
    if (!json_is_object(rope))
        return error_set(err, ST_INVALID, "%s: %s is not an object", file, field);
    status st;
    if ((st = read_rope_type(rope, file, field, &out->scaling, err)) != ST_OK ||
        (st = read_rope_fields(rope, file, field, out->scaling, &f, err)) != ST_OK ||
        (st = read_rotated(rope, file, arch, c, err)) != ST_OK ||
        (st = model_json_float(rope, file, "rope_theta", &out->theta, err)) != ST_OK || out->scaling == ROPE_PLAIN)
        return st;
    if (out->scaling == ROPE_LONG)
        st = read_long(json, rope, file, &f, c, err);
    if (st == ST_OK)
        set_scaling(&f, out);
    return st;
}

/* Gemma 3 has a base of its own for windowed layers, which nothing scales. */
static status read_local(const json_t *json, const char *file, const struct architecture *arch, struct model_config *c,
                         struct error *err)
{
    const json_t *named = json_object_get(json, "rope_parameters");
    if (arch->local_rope_theta == 0)
        return ST_OK;
    c->local_rope.theta = arch->local_rope_theta;
    status st = model_json_float(json, file, "rope_local_base_freq", &c->local_rope.theta, err);
    return st == ST_OK ? read_object(named, file, "sliding_attention", arch, c, &c->local_rope, err) : st;
}

status model_folder_rope(const json_t *json, const char *file, const struct architecture *arch, struct model_config *c,
                         struct error *err)
{
    const json_t *named = json_object_get(json, "rope_parameters");
    const bool is_pair = arch->local_rope_theta > 0 && json_object_get(named, "full_attention");
    c->rope.theta = arch->rope_theta > 0 ? arch->rope_theta : 10000.0f;
    status st;
    if ((st = model_json_float(json, file, "rope_theta", &c->rope.theta, err)) != ST_OK ||
        (st = read_rotated(json, file, arch, c, err)) != ST_OK ||
        (st = read_object(json, file, "rope_scaling", arch, c, &c->rope, err)) != ST_OK ||
        (st = read_local(json, file, arch, c, err)) != ST_OK)
        return st;
    return is_pair ? read_object(named, file, "full_attention", arch, c, &c->rope, err)
                   : read_object(json, file, "rope_parameters", arch, c, &c->rope, err);
}
