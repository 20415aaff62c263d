/* model_files.h - writes small model files for the tests, byte by byte. */
#ifndef BATON_TESTS_MODEL_FILES_H
#define BATON_TESTS_MODEL_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bytes {
    uint8_t data[1 << 17];
    size_t n;
};

static inline void put(struct bytes *b, const void *data, size_t n)
{
    if (n > sizeof b->data - b->n)
        abort();
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void put_u32(struct bytes *b, uint32_t x)
{
    put(b, &x, sizeof x);
}

static inline void put_u64(struct bytes *b, uint64_t x)
{
    put(b, &x, sizeof x);
}

static inline void put_text(struct bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static inline void put_padding(struct bytes *b, size_t alignment)
{
    while (b->n % alignment != 0)
        b->data[b->n++] = 0;
}

/* Where u64 value was put: after the first occurrence of text. */
static inline size_t find_after(const struct bytes *b, const char *text)
{
    for (size_t i = 0; i + strlen(text) <= b->n; i++)
        if (memcmp(b->data + i, text, strlen(text)) == 0)
            return i + strlen(text);
    abort();
}

/* GGUF; types are numbered as in the specification. */
static inline void put_gguf_header(struct bytes *b, uint64_t n_tensors, uint64_t n_keys)
{
    put(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

static inline void put_key(struct bytes *b, const char *key, uint32_t type)
{
    put_text(b, key);
    put_u32(b, type);
}

static inline void put_key_u32(struct bytes *b, const char *key, uint32_t value)
{
    put_key(b, key, 4);
    put_u32(b, value);
}

static inline void put_key_f32(struct bytes *b, const char *key, float value)
{
    put_key(b, key, 6);
    put(b, &value, sizeof value);
}

static inline void put_key_text(struct bytes *b, const char *key, const char *value)
{
    put_key(b, key, 8);
    put_text(b, value);
}

static inline void put_key_array(struct bytes *b, const char *key, uint32_t type, uint64_t n)
{
    put_key(b, key, 9);
    put_u32(b, type);
    put_u64(b, n);
}

/* outer 0: a vector. ggml has the innermost dimension first. */
static inline void put_gguf_tensor(struct bytes *b, const char *name, uint64_t outer, uint64_t inner, uint32_t type,
                                   uint64_t offset)
{
    put_text(b, name);
    put_u32(b, outer ? 2 : 1);
    put_u64(b, inner);
    if (outer)
        put_u64(b, outer);
    put_u32(b, type);
    put_u64(b, offset);
}

/* A folder of the test's own; files are removed with it. */
struct scratch {
    char dir[64];
    char path[160];
};

static inline void scratch_make(struct scratch *s)
{
    strcpy(s->dir, "/tmp/baton-test-XXXXXX");
    if (!mkdtemp(s->dir))
        abort();
}

/* Replaces the file; returns its path, which the next call overwrites. */
static inline const char *scratch_write(struct scratch *s, const char *name, const void *data, size_t n)
{
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    FILE *f = fopen(s->path, "wb");
    if (!f || (n > 0 && fwrite(data, 1, n, f) != n) || fclose(f) != 0)
        abort();
    return s->path;
}

static inline void scratch_remove_file(struct scratch *s, const char *name)
{
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    unlink(s->path);
}

static inline void scratch_remove(struct scratch *s, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        scratch_remove_file(s, names[i]);
    if (rmdir(s->dir) != 0)
        abort();
}

#endif
