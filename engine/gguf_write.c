#include "engine/gguf_write.h"

#include <string.h>

#define GGUF_VERSION   3
#define GGML_TYPES_END 64u /* no number of a format reaches it */

static void put_u32(struct text_buffer *b, uint32_t x)
{
    text_buffer_append(b, &x, sizeof x);
}

static void put_u64(struct text_buffer *b, uint64_t x)
{
    text_buffer_append(b, &x, sizeof x);
}

static void put_text(struct text_buffer *b, const char *data, size_t len)
{
    put_u64(b, len);
    text_buffer_append(b, data, len);
}

static uint64_t aligned(uint64_t n)
{
    return (n + GGUF_WRITE_ALIGNMENT - 1) / GGUF_WRITE_ALIGNMENT * GGUF_WRITE_ALIGNMENT;
}

static uint32_t ggml_number(enum dtype type)
{
    enum dtype found = DTYPE_COUNT;
    uint32_t number = 0;
    while (number < GGML_TYPES_END && !(gguf_dtype(number, &found) && found == type))
        number++;
    ASSERT(number < GGML_TYPES_END);
    return number;
}

void gguf_writer_init(struct gguf_writer *w)
{
    *w = (struct gguf_writer){ .n_keys = 0 };
    text_buffer_init(&w->keys, GGUF_WRITE_MAX_BYTES);
    text_buffer_init(&w->tensors, GGUF_WRITE_MAX_BYTES);
}

void gguf_writer_free(struct gguf_writer *w)
{
    text_buffer_free(&w->keys);
    text_buffer_free(&w->tensors);
}

static void begin_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
    put_text(&w->keys, key, strlen(key));
    put_u32(&w->keys, type);
    w->n_keys++;
}

void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    begin_key(w, key, GGUF_U32);
    put_u32(&w->keys, value);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, float value)
{
    begin_key(w, key, GGUF_F32);
    text_buffer_append(&w->keys, &value, sizeof value);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, bool value)
{
    begin_key(w, key, GGUF_BOOL);
    text_buffer_char(&w->keys, value ? 1 : 0);
}

void gguf_put_string(struct gguf_writer *w, const char *key, const char *data, size_t len)
{
    begin_key(w, key, GGUF_STRING);
    put_text(&w->keys, data, len);
}

void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type type, uint64_t n)
{
    begin_key(w, key, GGUF_ARRAY);
    put_u32(&w->keys, type);
    put_u64(&w->keys, n);
}

void gguf_put_element(struct gguf_writer *w, const void *value, size_t bytes)
{
    text_buffer_append(&w->keys, value, bytes);
}

void gguf_put_text(struct gguf_writer *w, const char *data, size_t len)
{
    put_text(&w->keys, data, len);
}

void gguf_put_copy(struct gguf_writer *w, const struct gguf *from, size_t i)
{
    const struct gguf_string key = gguf_key_at(from, i), value = gguf_value_at(from, i);
    put_text(&w->keys, key.data, key.len);
    text_buffer_append(&w->keys, value.data, value.len);
    w->n_keys++;
}

uint64_t gguf_put_tensor(struct gguf_writer *w, const char *name, enum dtype type, uint32_t n_dims,
                         const uint64_t shape[TENSOR_MAX_DIMS])
{
    uint64_t rows = 1, offset = w->data_bytes;
    put_text(&w->tensors, name, strlen(name));
    put_u32(&w->tensors, n_dims);
    for (uint32_t i = n_dims; i-- > 0;) { /* the file has the innermost dimension first */
        put_u64(&w->tensors, shape[i]);
        rows *= i + 1 < n_dims ? shape[i] : 1;
    }
    put_u32(&w->tensors, ggml_number(type));
    put_u64(&w->tensors, offset);
    w->n_tensors++;
    w->data_bytes = aligned(offset + rows * dtype_row_bytes(type, shape[n_dims - 1]));
    return offset;
}

status gguf_writer_finish(const struct gguf_writer *w, struct text_buffer *out, struct error *err)
{
    static const char zeros[GGUF_WRITE_ALIGNMENT];
    text_buffer_add(out, "GGUF");
    put_u32(out, GGUF_VERSION);
    put_u64(out, w->n_tensors);
    put_u64(out, w->n_keys);
    text_buffer_append(out, w->keys.data, w->keys.len);
    text_buffer_append(out, w->tensors.data, w->tensors.len);
    text_buffer_append(out, zeros, aligned(out->len) - out->len);
    status st = w->keys.state != ST_OK ? w->keys.state : w->tensors.state != ST_OK ? w->tensors.state : out->state;
    return st == ST_OK ? st : error_set(err, st, "the metadata of the file to write: %s", status_text(st));
}
