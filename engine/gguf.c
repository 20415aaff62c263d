#include "engine/gguf.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/gguf_cursor.h"
#include "engine/model_index.h"
#include "engine/model_map.h"

#define GGUF_VERSION           3
#define GGUF_MAX_KEYS          (1u << 16)
#define GGUF_MAX_KEY_BYTES     65535 /* the specification's own bound */
#define GGUF_MAX_NAME_BYTES    255
#define GGUF_DEFAULT_ALIGNMENT 32
#define GGUF_MAX_ALIGNMENT     (1u << 20)
/* The least bytes that an entry takes, so that a count can be refused before memory is taken for it. */
#define KEY_LEAST_BYTES        (8 + 4 + 1)
#define TENSOR_LEAST_BYTES     (8 + 1 + 4 + 8 + 4 + 8)

struct gguf_key {
    const char *name; /* into the map; not NUL-terminated */
    size_t name_len;
    enum gguf_type type; /* of the value, or of the elements of an array */
    bool is_array;
    uint64_t n;            /* elements; 1 for a plain value */
    const uint8_t *value;  /* the first element, in the map */
    const uint8_t **texts; /* of an array of strings: where each begins */
    const uint8_t *end;    /* behind the value */
};

struct gguf {
    char *path;
    struct model_map map;
    size_t alignment;
    struct gguf_key *keys;
    size_t n_keys;
    const struct gguf_key **keys_by_name;
    struct tensor *tensors;
    size_t n_tensors;
    char *names; /* of the tensors, each NUL-terminated */
    struct model_index index;
};

static int compare_texts(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

static int compare_keys(const void *a, const void *b)
{
    const struct gguf_key *x = *(const struct gguf_key *const *)a, *y = *(const struct gguf_key *const *)b;
    return compare_texts(x->name, x->name_len, y->name, y->name_len);
}

static const struct gguf_key *find_key(const struct gguf *file, const char *name)
{
    size_t len = strlen(name), low = 0, high = file->n_keys;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct gguf_key *key = file->keys_by_name[middle];
        int order = compare_texts(name, len, key->name, key->name_len);
        if (order == 0)
            return key;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* Metadata */

static status out_of_memory(const struct gguf *file, struct error *err)
{
    return error_set(err, ST_NO_MEMORY, "%s: out of memory for its metadata", file->path);
}

static status bad_key(const struct gguf *file, const struct gguf_key *key, status st, const char *why,
                      struct error *err)
{
    int len = key->name_len > 128 ? 128 : (int)key->name_len;
    return error_set(err, st, "%s: key %.*s: %s", file->path, len, key->name, why);
}

static status read_string_array(struct gguf *file, struct gguf_cursor *c, struct gguf_key *key, struct error *err)
{
    if (key->n > gguf_cursor_left(c) / sizeof(uint64_t))
        return bad_key(file, key, ST_INVALID, "its array ends past the end of the file", err);
    key->texts = malloc((key->n + 1) * sizeof *key->texts);
    if (!key->texts)
        return out_of_memory(file, err);
    struct gguf_string text;
    for (uint64_t i = 0; i < key->n; i++) {
        key->texts[i] = c->at;
        if (!gguf_cursor_string(c, &text))
            return bad_key(file, key, ST_INVALID, "a string of its array ends past the end of the file", err);
    }
    return ST_OK;
}

static status read_values(struct gguf *file, struct gguf_cursor *c, struct gguf_key *key, struct error *err)
{
    key->value = c->at;
    if (key->type == GGUF_STRING && key->is_array)
        return read_string_array(file, c, key, err);
    if (key->type == GGUF_STRING) {
        struct gguf_string text;
        return gguf_cursor_string(c, &text)
                   ? ST_OK
                   : bad_key(file, key, ST_INVALID, "its string ends past the end of the file", err);
    }
    size_t size = gguf_type_bytes(key->type);
    if (key->n > gguf_cursor_left(c) / size)
        return bad_key(file, key, ST_INVALID, "its value ends past the end of the file", err);
    c->at += key->n * size;
    if (key->type == GGUF_BOOL)
        for (uint64_t i = 0; i < key->n; i++)
            if (key->value[i] > 1)
                return bad_key(file, key, ST_INVALID, "a truth value is neither 0 nor 1", err);
    return ST_OK;
}

static status read_key(struct gguf *file, struct gguf_cursor *c, struct gguf_key *key, struct error *err)
{
    struct gguf_string name;
    uint32_t type;
    if (!gguf_cursor_string(c, &name) || !gguf_cursor_u32(c, &type))
        return error_set(err, ST_INVALID, "%s: the file ends inside its metadata", file->path);
    if (name.len == 0 || name.len > GGUF_MAX_KEY_BYTES || memchr(name.data, 0, name.len))
        return error_set(err, ST_INVALID, "%s: a metadata key of %zu bytes is empty, too long or holds a NUL",
                         file->path, name.len);
    *key = (struct gguf_key){ .name = name.data, .name_len = name.len, .n = 1, .is_array = type == GGUF_ARRAY };
    if (key->is_array && (!gguf_cursor_u32(c, &type) || !gguf_cursor_u64(c, &key->n)))
        return bad_key(file, key, ST_INVALID, "the file ends inside it", err);
    if (key->is_array && type == GGUF_ARRAY)
        return bad_key(file, key, ST_UNSUPPORTED, "arrays of arrays are not supported", err);
    if (type >= GGUF_TYPE_COUNT)
        return bad_key(file, key, ST_INVALID, "its value type is unknown", err);
    key->type = (enum gguf_type)type;
    return read_values(file, c, key, err);
}

static status sort_keys(struct gguf *file, struct error *err)
{
    file->keys_by_name = malloc((file->n_keys + 1) * sizeof *file->keys_by_name);
    if (!file->keys_by_name)
        return out_of_memory(file, err);
    for (size_t i = 0; i < file->n_keys; i++)
        file->keys_by_name[i] = &file->keys[i];
    qsort(file->keys_by_name, file->n_keys, sizeof *file->keys_by_name, compare_keys);
    for (size_t i = 1; i < file->n_keys; i++)
        if (compare_keys(&file->keys_by_name[i - 1], &file->keys_by_name[i]) == 0)
            return bad_key(file, file->keys_by_name[i], ST_INVALID, "it is there twice", err);
    return ST_OK;
}

static status read_keys(struct gguf *file, struct gguf_cursor *c, uint64_t n, struct error *err)
{
    file->keys = calloc(n + 1, sizeof *file->keys);
    if (!file->keys)
        return out_of_memory(file, err);
    for (; file->n_keys < n; file->n_keys++) {
        status st = read_key(file, c, &file->keys[file->n_keys], err);
        file->keys[file->n_keys].end = c->at;
        if (st != ST_OK) {
            file->n_keys++; /* what it holds so far is freed by gguf_close */
            return st;
        }
    }
    return sort_keys(file, err);
}

static status read_alignment(struct gguf *file, struct error *err)
{
    uint64_t alignment = GGUF_DEFAULT_ALIGNMENT;
    status st = gguf_get_u64(file, "general.alignment", &alignment);
    if (st == ST_INVALID || alignment < 8 || alignment > GGUF_MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return error_set(err, ST_INVALID, "%s: key general.alignment: not a power of two from 8 to %u", file->path,
                         GGUF_MAX_ALIGNMENT);
    file->alignment = alignment;
    return ST_OK;
}

/* Tensors. Until the data section is known, data holds nothing and offsets stand apart. */

static status bad_tensor(const struct gguf *file, const struct tensor *t, status st, const char *why, struct error *err)
{
    return error_set(err, st, "%s: tensor %s: %s", file->path, t->name, why);
}

static status read_shape(struct gguf *file, struct gguf_cursor *c, struct tensor *t, struct error *err)
{
    if (!gguf_cursor_u32(c, &t->n_dims))
        return bad_tensor(file, t, ST_INVALID, "the file ends inside its description", err);
    if (t->n_dims < 1 || t->n_dims > TENSOR_MAX_DIMS)
        return error_set(err, ST_INVALID, "%s: tensor %s: %u dimensions, not 1 to %d", file->path, t->name, t->n_dims,
                         TENSOR_MAX_DIMS);
    for (uint32_t i = t->n_dims; i-- > 0;) /* the file has the innermost dimension first */
        if (!gguf_cursor_u64(c, &t->shape[i]))
            return bad_tensor(file, t, ST_INVALID, "the file ends inside its description", err);
    return ST_OK;
}

static status set_bytes(struct gguf *file, struct tensor *t, struct error *err)
{
    size_t values = 1;
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (t->shape[i] == 0 || __builtin_mul_overflow(values, t->shape[i], &values))
            return bad_tensor(file, t, ST_INVALID, "a dimension is zero or its size overflows", err);
    if (t->shape[t->n_dims - 1] % dtype_block_values(t->type) != 0)
        return error_set(err, ST_INVALID, "%s: tensor %s: rows of %llu values do not fill blocks of %s", file->path,
                         t->name, (unsigned long long)t->shape[t->n_dims - 1], dtype_name(t->type));
    if (__builtin_mul_overflow(values / dtype_block_values(t->type), dtype_block_bytes(t->type), &t->bytes))
        return bad_tensor(file, t, ST_INVALID, "its size overflows", err);
    return ST_OK;
}

static status read_type(struct gguf *file, struct gguf_cursor *c, struct tensor *t, struct error *err)
{
    uint32_t type;
    if (!gguf_cursor_u32(c, &type))
        return bad_tensor(file, t, ST_INVALID, "the file ends inside its description", err);
    if (gguf_dtype(type, &t->type))
        return ST_OK;
    const char *name = gguf_ggml_type_name(type);
    if (!name)
        return error_set(err, ST_INVALID, "%s: tensor %s: unknown number format %u", file->path, t->name, type);
    return error_set(err, ST_UNSUPPORTED, "%s: tensor %s: number format %s is not supported", file->path, t->name,
                     name);
}

/* Names are copied to *names to be NUL-terminated; offset is relative to the data section. */
static status read_tensor(struct gguf *file, struct gguf_cursor *c, char **names, struct tensor *t, uint64_t *offset,
                          struct error *err)
{
    struct gguf_string name;
    if (!gguf_cursor_string(c, &name))
        return error_set(err, ST_INVALID, "%s: the file ends inside its list of tensors", file->path);
    if (name.len == 0 || name.len > GGUF_MAX_NAME_BYTES || memchr(name.data, 0, name.len))
        return error_set(err, ST_INVALID, "%s: a tensor's name of %zu bytes is empty, too long or holds a NUL",
                         file->path, name.len);
    memcpy(*names, name.data, name.len);
    (*names)[name.len] = '\0';
    t->name = *names;
    *names += name.len + 1;
    status st = read_shape(file, c, t, err);
    if (st == ST_OK)
        st = read_type(file, c, t, err);
    if (st == ST_OK)
        st = set_bytes(file, t, err);
    if (st == ST_OK && !gguf_cursor_u64(c, offset))
        st = bad_tensor(file, t, ST_INVALID, "the file ends inside its description", err);
    if (st == ST_OK && *offset % file->alignment != 0)
        st = bad_tensor(file, t, ST_INVALID, "its offset is not aligned", err);
    return st;
}

static status place_tensors(struct gguf *file, const struct gguf_cursor *c, const uint64_t *offsets, struct error *err)
{
    size_t start = ((size_t)(c->at - file->map.data) + file->alignment - 1) & ~(file->alignment - 1);
    size_t room = start < file->map.size ? file->map.size - start : 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        struct tensor *t = &file->tensors[i];
        if (offsets[i] > room || t->bytes > room - offsets[i])
            return error_set(err, ST_INVALID,
                             "%s: tensor %s: its %zu bytes at offset %llu end past the end of the file", file->path,
                             t->name, t->bytes, (unsigned long long)offsets[i]);
        t->data = file->map.data + start + offsets[i];
    }
    status st = model_index_build(file->tensors, file->n_tensors, file->path, &file->index, err);
    return st == ST_OK ? model_index_check_overlap(&file->index, file->path, err) : st;
}

static status read_tensors(struct gguf *file, struct gguf_cursor *c, uint64_t n, struct error *err)
{
    uint64_t *offsets = calloc(n + 1, sizeof *offsets);
    file->tensors = calloc(n + 1, sizeof *file->tensors);
    file->names = malloc(n * (GGUF_MAX_NAME_BYTES + 1) + 1);
    if (!offsets || !file->tensors || !file->names) {
        free(offsets);
        return out_of_memory(file, err);
    }
    char *names = file->names;
    status st = ST_OK;
    for (size_t i = 0; i < n && st == ST_OK; i++)
        st = read_tensor(file, c, &names, &file->tensors[i], &offsets[i], err);
    file->n_tensors = n;
    if (st == ST_OK)
        st = place_tensors(file, c, offsets, err);
    free(offsets);
    return st;
}

/* The file */

static status read_header(const struct gguf *file, struct gguf_cursor *c, uint64_t *n_tensors, uint64_t *n_keys,
                          struct error *err)
{
    uint32_t magic, version;
    if (!gguf_cursor_u32(c, &magic) || magic != 0x46554747 /* "GGUF" */)
        return error_set(err, ST_INVALID, "%s: not a GGUF file", file->path);
    if (!gguf_cursor_u32(c, &version) || !gguf_cursor_u64(c, n_tensors) || !gguf_cursor_u64(c, n_keys))
        return error_set(err, ST_INVALID, "%s: the file ends inside its header", file->path);
    if (version == __builtin_bswap32(GGUF_VERSION))
        return error_set(err, ST_UNSUPPORTED, "%s: big-endian GGUF files are not supported", file->path);
    if (version != GGUF_VERSION)
        return error_set(err, ST_UNSUPPORTED, "%s: GGUF version %u is not supported, only %d", file->path, version,
                         GGUF_VERSION);
    if (*n_keys > gguf_cursor_left(c) / KEY_LEAST_BYTES || *n_tensors > gguf_cursor_left(c) / TENSOR_LEAST_BYTES)
        return error_set(err, ST_INVALID, "%s: %llu keys and %llu tensors do not fit in the file", file->path,
                         (unsigned long long)*n_keys, (unsigned long long)*n_tensors);
    if (*n_keys > GGUF_MAX_KEYS || *n_tensors > MODEL_MAX_TENSORS)
        return error_set(err, ST_LIMIT, "%s: more than %u keys or %u tensors", file->path, GGUF_MAX_KEYS,
                         MODEL_MAX_TENSORS);
    return ST_OK;
}

static status read_file(struct gguf *file, struct error *err)
{
    struct gguf_cursor c = { file->map.data, file->map.data + file->map.size };
    uint64_t n_tensors = 0, n_keys = 0;
    status st = read_header(file, &c, &n_tensors, &n_keys, err);
    if (st == ST_OK)
        st = read_keys(file, &c, n_keys, err);
    if (st == ST_OK)
        st = read_alignment(file, err);
    return st == ST_OK ? read_tensors(file, &c, n_tensors, err) : st;
}

status gguf_open(const char *path, struct gguf **out, struct error *err)
{
    struct gguf *file = calloc(1, sizeof *file);
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
        gguf_close(&file);
    return st;
}

void gguf_close(struct gguf **file)
{
    struct gguf *f = *file;
    if (!f)
        return;
    for (size_t i = 0; i < f->n_keys; i++)
        free(f->keys[i].texts);
    free(f->keys);
    free(f->keys_by_name);
    free(f->tensors);
    free(f->names);
    model_index_free(&f->index);
    model_map_close(&f->map);
    free(f->path);
    free(f);
    *file = NULL;
}

/* Lookups */

static status find_value(const struct gguf *file, const char *name, bool is_array, const struct gguf_key **out)
{
    const struct gguf_key *key = find_key(file, name);
    if (!key)
        return ST_NOT_FOUND;
    if (key->is_array != is_array)
        return ST_INVALID;
    *out = key;
    return ST_OK;
}

status gguf_get_u64(const struct gguf *file, const char *key, uint64_t *out)
{
    const struct gguf_key *k;
    status st = find_value(file, key, false, &k);
    int64_t value;
    if (st != ST_OK)
        return st;
    if (k->type == GGUF_U64) {
        memcpy(out, k->value, sizeof *out);
        return ST_OK;
    }
    if (!gguf_integer(k->type, k->value, &value) || value < 0)
        return ST_INVALID;
    *out = (uint64_t)value;
    return ST_OK;
}

status gguf_get_f64(const struct gguf *file, const char *key, double *out)
{
    const struct gguf_key *k;
    status st = find_value(file, key, false, &k);
    return st != ST_OK ? st : gguf_number(k->type, k->value, out) ? ST_OK : ST_INVALID;
}

status gguf_get_bool(const struct gguf *file, const char *key, bool *out)
{
    const struct gguf_key *k;
    status st = find_value(file, key, false, &k);
    if (st != ST_OK || k->type != GGUF_BOOL)
        return st != ST_OK ? st : ST_INVALID;
    *out = *k->value == 1;
    return ST_OK;
}

status gguf_get_string(const struct gguf *file, const char *key, struct gguf_string *out)
{
    const struct gguf_key *k;
    status st = find_value(file, key, false, &k);
    if (st != ST_OK || k->type != GGUF_STRING)
        return st != ST_OK ? st : ST_INVALID;
    *out = gguf_string_at(k->value);
    return ST_OK;
}

status gguf_array_len(const struct gguf *file, const char *key, uint64_t *out)
{
    const struct gguf_key *k;
    status st = find_value(file, key, true, &k);
    if (st == ST_OK)
        *out = k->n;
    return st;
}

static status find_element(const struct gguf *file, const char *key, uint64_t i, const struct gguf_key **out)
{
    status st = find_value(file, key, true, out);
    return st == ST_OK && i >= (*out)->n ? ST_NOT_FOUND : st;
}

status gguf_array_string(const struct gguf *file, const char *key, uint64_t i, struct gguf_string *out)
{
    const struct gguf_key *k;
    status st = find_element(file, key, i, &k);
    if (st != ST_OK || k->type != GGUF_STRING)
        return st != ST_OK ? st : ST_INVALID;
    *out = gguf_string_at(k->texts[i]);
    return ST_OK;
}

status gguf_array_i64(const struct gguf *file, const char *key, uint64_t i, int64_t *out)
{
    const struct gguf_key *k;
    status st = find_element(file, key, i, &k);
    if (st != ST_OK)
        return st;
    size_t size = gguf_type_bytes(k->type);
    return size > 0 && gguf_integer(k->type, k->value + i * size, out) ? ST_OK : ST_INVALID;
}

status gguf_array_f64(const struct gguf *file, const char *key, uint64_t i, double *out)
{
    const struct gguf_key *k;
    status st = find_element(file, key, i, &k);
    if (st != ST_OK)
        return st;
    size_t size = gguf_type_bytes(k->type);
    return size > 0 && gguf_number(k->type, k->value + i * size, out) ? ST_OK : ST_INVALID;
}

size_t gguf_key_count(const struct gguf *file)
{
    return file->n_keys;
}

struct gguf_string gguf_key_at(const struct gguf *file, size_t i)
{
    ASSERT(i < file->n_keys);
    return (struct gguf_string){ file->keys[i].name, file->keys[i].name_len };
}

struct gguf_string gguf_value_at(const struct gguf *file, size_t i)
{
    ASSERT(i < file->n_keys);
    const struct gguf_key *key = &file->keys[i];
    const char *begin = key->name + key->name_len;
    return (struct gguf_string){ begin, (size_t)((const char *)key->end - begin) };
}

uint64_t gguf_tensor_count(const struct gguf *file)
{
    return file->n_tensors;
}

const struct tensor *gguf_tensor_at(const struct gguf *file, uint64_t i)
{
    ASSERT(i < file->n_tensors);
    return &file->tensors[i];
}

const struct tensor *gguf_tensor(const struct gguf *file, const char *name)
{
    return model_index_find(&file->index, name);
}

const struct model_index *gguf_index(const struct gguf *file)
{
    return &file->index;
}

uint64_t gguf_metadata_hash(const struct gguf *file)
{
    size_t end = file->map.size;
    for (size_t i = 0; i < file->n_tensors; i++) {
        size_t at = (size_t)((const uint8_t *)file->tensors[i].data - file->map.data);
        end = at < end ? at : end;
    }
    return XXH3_64bits(file->map.data, end);
}

const struct model_map *gguf_map(const struct gguf *file)
{
    return &file->map;
}
