/* gguf_write.h - the header of a GGUF version 3 file, made in memory: metadata, then the descriptions of the tensors,
 * whose data follows in the same order. Appending never fails half-way; what went wrong is said once, at the end
 * (text_buffer.h). One thread at a time. */
#ifndef BATON_ENGINE_GGUF_WRITE_H
#define BATON_ENGINE_GGUF_WRITE_H

#include "common/text_buffer.h"
#include "engine/gguf_cursor.h"

#define GGUF_WRITE_ALIGNMENT 32u
#define GGUF_WRITE_MAX_BYTES ((size_t)1 << 30) /* of metadata and of descriptions */

struct gguf_writer {
    struct text_buffer keys, tensors;
    uint64_t n_keys, n_tensors;
    uint64_t data_bytes; /* of the tensors so far, each padded */
};

void gguf_writer_init(struct gguf_writer *w);
void gguf_writer_free(struct gguf_writer *w);

/* Keys are NUL-terminated and differ from one another. */
void gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t value);
void gguf_put_f32(struct gguf_writer *w, const char *key, float value);
void gguf_put_bool(struct gguf_writer *w, const char *key, bool value);
void gguf_put_string(struct gguf_writer *w, const char *key, const char *data, size_t len);
/* n elements follow, by gguf_put_element or, in an array of strings, gguf_put_text. */
void gguf_put_array(struct gguf_writer *w, const char *key, enum gguf_type type, uint64_t n);
void gguf_put_element(struct gguf_writer *w, const void *value, size_t bytes);
void gguf_put_text(struct gguf_writer *w, const char *data, size_t len);
/* Key number i of another file, as it is there. */
void gguf_put_copy(struct gguf_writer *w, const struct gguf *from, size_t i);

/* Returns the offset of its data behind the header. */
uint64_t gguf_put_tensor(struct gguf_writer *w, const char *name, enum dtype type, uint32_t n_dims,
                         const uint64_t shape[TENSOR_MAX_DIMS]);

/* The header with its padding, into an initialised buffer. */
MUST_CHECK status gguf_writer_finish(const struct gguf_writer *w, struct text_buffer *out, struct error *err);

#endif
