/* gguf_cursor.h - the pieces that a GGUF file is made of, read without ever
 * passing the end of the file. Pure. */
#ifndef BATON_ENGINE_GGUF_CURSOR_H
#define BATON_ENGINE_GGUF_CURSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/gguf.h"

/* Types of metadata values, numbered as in the file. */
#define GGUF_TYPES(X) /* name, bytes (0: varies) */                                                                    \
    X(U8, 1)                                                                                                           \
    X(I8, 1)                                                                                                           \
    X(U16, 2)                                                                                                          \
    X(I16, 2)                                                                                                          \
    X(U32, 4)                                                                                                          \
    X(I32, 4)                                                                                                          \
    X(F32, 4)                                                                                                          \
    X(BOOL, 1)                                                                                                         \
    X(STRING, 0)                                                                                                       \
    X(ARRAY, 0)                                                                                                        \
    X(U64, 8)                                                                                                          \
    X(I64, 8)                                                                                                          \
    X(F64, 8)
enum gguf_type {
#define X(name, bytes) GGUF_##name,
    GGUF_TYPES(X)
#undef X
        GGUF_TYPE_COUNT
};

size_t gguf_type_bytes(enum gguf_type type);

struct gguf_cursor {
    const uint8_t *at, *end;
};

/* All return false, leaving the cursor somewhere inside the file, where the file
 * ends too early. */
size_t gguf_cursor_left(const struct gguf_cursor *c);
MUST_CHECK bool gguf_cursor_u32(struct gguf_cursor *c, uint32_t *out);
MUST_CHECK bool gguf_cursor_u64(struct gguf_cursor *c, uint64_t *out);
MUST_CHECK bool gguf_cursor_string(struct gguf_cursor *c, struct gguf_string *out);

/* Of a string that a cursor has already passed. */
struct gguf_string gguf_string_at(const uint8_t *at);
/* One value of an integer type that fits; false for other types. */
MUST_CHECK bool gguf_integer(enum gguf_type type, const uint8_t *at, int64_t *out);
/* One value of a floating-point type. */
MUST_CHECK bool gguf_number(enum gguf_type type, const uint8_t *at, double *out);

/* ggml's numbering of tensor formats: whether it is one of ours, and the name of
 * any that ggml has (NULL: none). */
MUST_CHECK bool gguf_dtype(uint32_t ggml_type, enum dtype *out);
const char *gguf_ggml_type_name(uint32_t ggml_type);

#endif
