#include "engine/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model_map.h"

#define LENGTH_BYTES   8
#define MAX_NAME_BYTES 255

struct safetensors {
    char *path;
    struct model_map map;
    json_t *header; /* owns the tensors' names */
    struct tensor *tensors;
    size_t n_tensors;
    struct model_index index;
};

struct data_section {
    const uint8_t *start;
    size_t size;
};

static status bad_tensor(const struct safetensors *file, const char *name, status st, const char *why,
                         struct error *err)
{
    return error_set(err, st, "%s: tensor %s: %s", file->path, name, why);
}

static status read_type(const struct safetensors *file, const char *name, const json_t *entry, enum dtype *out,
                        struct error *err)
{
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (!text)
        return bad_tensor(file, name, ST_INVALID, "dtype is not a string", err);
    static const enum dtype known[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(text, dtype_name(known[i])) == 0) {
            *out = known[i];
            return ST_OK;
        }
    return error_set(err, ST_UNSUPPORTED, "%s: tensor %s: dtype %.32s is not supported", file->path, name, text);
}

static status read_shape(const struct safetensors *file, const json_t *entry, struct tensor *t, struct error *err)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape))
        return bad_tensor(file, t->name, ST_INVALID, "shape is not an array", err);
    if (json_array_size(shape) > TENSOR_MAX_DIMS)
        return error_set(err, ST_UNSUPPORTED, "%s: tensor %s: %zu dimensions, more than %d", file->path, t->name,
                         json_array_size(shape), TENSOR_MAX_DIMS);
    t->n_dims = (uint32_t)json_array_size(shape);
    t->bytes = dtype_block_bytes(t->type);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        const json_t *n = json_array_get(shape, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return bad_tensor(file, t->name, ST_INVALID, "a dimension is not a count", err);
        t->shape[i] = (uint64_t)json_integer_value(n);
        if (__builtin_mul_overflow(t->bytes, t->shape[i], &t->bytes))
            return bad_tensor(file, t->name, ST_INVALID, "its size overflows", err);
    }
    return ST_OK;
}

static status read_place(const struct safetensors *file, const json_t *entry, const struct data_section *data,
                         struct tensor *t, struct error *err)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return bad_tensor(file, t->name, ST_INVALID, "data_offsets is not [begin, end]", err);
    uint64_t from = (uint64_t)json_integer_value(begin), to = (uint64_t)json_integer_value(end);
    if (to > data->size)
        return bad_tensor(file, t->name, ST_INVALID, "its data ends past the end of the file", err);
    if (to - from != t->bytes)
        return error_set(err, ST_INVALID, "%s: tensor %s: %llu bytes of data, but its shape takes %zu", file->path,
                         t->name, (unsigned long long)(to - from), t->bytes);
    t->data = data->start + from;
    if ((uintptr_t)t->data % dtype_block_bytes(t->type) != 0)
        return bad_tensor(file, t->name, ST_UNSUPPORTED, "its data is not aligned to its dtype", err);
    return ST_OK;
}

static status read_tensor(const struct safetensors *file, const char *name, const json_t *entry,
                          const struct data_section *data, struct tensor *t, struct error *err)
{
    size_t len = strlen(name);
    if (len == 0 || len > MAX_NAME_BYTES)
        return error_set(err, ST_INVALID, "%s: a tensor's name has %zu bytes, not 1 to %d", file->path, len,
                         MAX_NAME_BYTES);
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return bad_tensor(file, name, ST_INVALID, "its entry is not {dtype, shape, data_offsets}", err);
    t->name = name;
    status st = read_type(file, name, entry, &t->type, err);
    if (st == ST_OK)
        st = read_shape(file, entry, t, err);
    return st == ST_OK ? read_place(file, entry, data, t, err) : st;
}

/* The format wants every byte of the data to belong to one tensor: without
 * overlap the sizes add up to the whole exactly when there is no hole. */
static status check_cover(const struct safetensors *file, const struct data_section *data, struct error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < file->n_tensors; i++)
        total += file->tensors[i].bytes;
    if (total != data->size)
        return error_set(err, ST_INVALID, "%s: its tensors take %zu bytes of the %zu after the header", file->path,
                         total, data->size);
    return ST_OK;
}

static status read_tensors(struct safetensors *file, const struct data_section *data, struct error *err)
{
    size_t n = json_object_size(file->header);
    if (n > MODEL_MAX_TENSORS)
        return error_set(err, ST_LIMIT, "%s: %zu tensors, more than %u", file->path, n, MODEL_MAX_TENSORS);
    file->tensors = calloc(n + 1, sizeof *file->tensors);
    if (!file->tensors)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory for %zu tensors", file->path, n);
    const char *name;
    json_t *entry;
    json_object_foreach(file->header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        status st = read_tensor(file, name, entry, data, &file->tensors[file->n_tensors], err);
        if (st != ST_OK)
            return st;
        file->n_tensors++;
    }
    status st = model_index_build(file->tensors, file->n_tensors, file->path, &file->index, err);
    if (st == ST_OK)
        st = model_index_check_overlap(&file->index, file->path, err);
    return st == ST_OK ? check_cover(file, data, err) : st;
}

static status read_file(struct safetensors *file, struct error *err)
{
    uint64_t len;
    if (file->map.size < LENGTH_BYTES)
        return error_set(err, ST_INVALID, "%s: shorter than the length of its header", file->path);
    memcpy(&len, file->map.data, LENGTH_BYTES);
    if (len > file->map.size - LENGTH_BYTES)
        return error_set(err, ST_INVALID, "%s: a header of %llu bytes ends past the end of the file", file->path,
                         (unsigned long long)len);
    if (len > SAFETENSORS_MAX_HEADER_BYTES)
        return error_set(err, ST_LIMIT, "%s: a header of %llu bytes, more than %u", file->path, (unsigned long long)len,
                         SAFETENSORS_MAX_HEADER_BYTES);
    const char *text = (const char *)file->map.data + LENGTH_BYTES;
    json_error_t why;
    file->header = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!file->header)
        return error_set(err, ST_INVALID, "%s: header: %s at byte %d", file->path, why.text, why.position);
    if (!json_is_object(file->header))
        return error_set(err, ST_INVALID, "%s: the header is not an object", file->path);
    struct data_section data = { file->map.data + LENGTH_BYTES + len, file->map.size - LENGTH_BYTES - len };
    return read_tensors(file, &data, err);
}

status safetensors_open(const char *path, struct safetensors **out, struct error *err)
{
    struct safetensors *file = calloc(1, sizeof *file);
    if (!file || !(file->path = strdup(path))) {
        free(file);
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", path);
    }
    status st = model_map_open(path, &file->map, err);
    if (st == ST_OK)
        st = read_file(file, err);
    if (st == ST_OK)
        *out = file;
    else
        safetensors_close(&file);
    return st;
}

void safetensors_close(struct safetensors **file)
{
    struct safetensors *f = *file;
    if (!f)
        return;
    model_index_free(&f->index);
    free(f->tensors);
    json_decref(f->header);
    model_map_close(&f->map);
    free(f->path);
    free(f);
    *file = NULL;
}

const struct model_index *safetensors_index(const struct safetensors *file)
{
    return &file->index;
}

const struct model_map *safetensors_map(const struct safetensors *file)
{
    return &file->map;
}
