/* gguf.h - reads GGUF version 3 files (llama.cpp's docs/gguf.md).
 * The file is mapped read-only and checked as a whole at open: every count,
 * string, offset and tensor extent lies inside the file, or open fails with a
 * sentence that names the file, the tensor or key, and the reason.
 * All pointers handed out live until gguf_close. Thread-safe once open. */
#ifndef BATON_ENGINE_GGUF_H
#define BATON_ENGINE_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/model_map.h"
#include "engine/tensor.h"

struct gguf;
struct model_index;

/* Not NUL-terminated. */
struct gguf_string {
    const char *data;
    size_t len;
};

MUST_CHECK status gguf_open(const char *path, struct gguf **out, struct error *err);
void gguf_close(struct gguf **file);

/* ST_NOT_FOUND when absent, ST_INVALID when of another type. Any integer type
 * that holds the value is accepted for get_u64, any float type for get_f64. */
MUST_CHECK status gguf_get_u64(const struct gguf *file, const char *key, uint64_t *out);
MUST_CHECK status gguf_get_f64(const struct gguf *file, const char *key, double *out);
MUST_CHECK status gguf_get_bool(const struct gguf *file, const char *key, bool *out);
MUST_CHECK status gguf_get_string(const struct gguf *file, const char *key, struct gguf_string *out);

/* Arrays: the length, then elements by index (O(1) also for strings). */
MUST_CHECK status gguf_array_len(const struct gguf *file, const char *key, uint64_t *out);
MUST_CHECK status gguf_array_string(const struct gguf *file, const char *key, uint64_t i, struct gguf_string *out);
MUST_CHECK status gguf_array_i64(const struct gguf *file, const char *key, uint64_t i, int64_t *out);
MUST_CHECK status gguf_array_f64(const struct gguf *file, const char *key, uint64_t i, double *out);

/* Every key in the file's order. */
size_t gguf_key_count(const struct gguf *file);
struct gguf_string gguf_key_at(const struct gguf *file, size_t i);
/* Its value as it lies in the file, the number of its type first. */
struct gguf_string gguf_value_at(const struct gguf *file, size_t i);

uint64_t gguf_tensor_count(const struct gguf *file);
/* By index; name is NUL-terminated. */
const struct tensor *gguf_tensor_at(const struct gguf *file, uint64_t i);
/* NULL when absent. */
const struct tensor *gguf_tensor(const struct gguf *file, const char *name);
const struct model_index *gguf_index(const struct gguf *file);
/* XXH3-64 over all bytes before the first tensor's. */
uint64_t gguf_metadata_hash(const struct gguf *file);
/* Borrowed. */
const struct model_map *gguf_map(const struct gguf *file);

#endif
