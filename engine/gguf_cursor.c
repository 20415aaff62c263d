#include "engine/gguf_cursor.h"

#include <string.h>

_Static_assert(GGUF_TYPE_COUNT == 13 && GGUF_STRING == 8, "the numbering of the specification");

size_t gguf_type_bytes(enum gguf_type type)
{
    static const uint8_t sizes[GGUF_TYPE_COUNT] = {
#define X(name, bytes) bytes,
        GGUF_TYPES(X)
#undef X
    };
    return sizes[type];
}

size_t gguf_cursor_left(const struct gguf_cursor *c)
{
    return (size_t)(c->end - c->at);
}

static bool take(struct gguf_cursor *c, void *out, size_t n)
{
    if (gguf_cursor_left(c) < n)
        return false;
    memcpy(out, c->at, n);
    c->at += n;
    return true;
}

bool gguf_cursor_u32(struct gguf_cursor *c, uint32_t *out)
{
    return take(c, out, sizeof *out);
}

bool gguf_cursor_u64(struct gguf_cursor *c, uint64_t *out)
{
    return take(c, out, sizeof *out);
}

bool gguf_cursor_string(struct gguf_cursor *c, struct gguf_string *out)
{
    uint64_t len;
    if (!gguf_cursor_u64(c, &len) || len > gguf_cursor_left(c))
        return false;
    *out = (struct gguf_string){ (const char *)c->at, len };
    c->at += len;
    return true;
}

struct gguf_string gguf_string_at(const uint8_t *at)
{
    uint64_t len;
    memcpy(&len, at, sizeof len);
    return (struct gguf_string){ (const char *)at + sizeof len, len };
}

bool gguf_integer(enum gguf_type type, const uint8_t *at, int64_t *out)
{
    uint64_t bits = 0;
    size_t size = gguf_type_bytes(type);
    memcpy(&bits, at, size);
    switch (type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
        *out = (int64_t)bits;
        return true;
    case GGUF_U64:
        *out = (int64_t)bits;
        return bits <= INT64_MAX;
    case GGUF_I8:
        *out = (int8_t)bits;
        return true;
    case GGUF_I16:
        *out = (int16_t)bits;
        return true;
    case GGUF_I32:
        *out = (int32_t)bits;
        return true;
    case GGUF_I64:
        *out = (int64_t)bits;
        return true;
    default:
        return false;
    }
}

bool gguf_number(enum gguf_type type, const uint8_t *at, double *out)
{
    float narrow;
    if (type == GGUF_F32) {
        memcpy(&narrow, at, sizeof narrow);
        *out = (double)narrow;
        return true;
    }
    if (type == GGUF_F64)
        memcpy(out, at, sizeof *out);
    return type == GGUF_F64;
}

bool gguf_dtype(uint32_t ggml_type, enum dtype *out)
{
    const char *name = gguf_ggml_type_name(ggml_type);
    for (uint32_t i = 0; name != NULL && i < DTYPE_COUNT; i++)
        if (strcmp(name, dtype_name((enum dtype)i)) == 0) {
            *out = (enum dtype)i;
            return true;
        }
    return false;
}

const char *gguf_ggml_type_name(uint32_t ggml_type)
{
    static const char *const names[] = {
        [0] = "F32",     [1] = "F16",    [2] = "Q4_0",     [3] = "Q4_1",    [6] = "Q5_0",     [7] = "Q5_1",
        [8] = "Q8_0",    [9] = "Q8_1",   [10] = "Q2_K",    [11] = "Q3_K",   [12] = "Q4_K",    [13] = "Q5_K",
        [14] = "Q6_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S",
        [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS", [24] = "I8",      [25] = "I16",
        [26] = "I32",    [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",  [30] = "BF16",    [34] = "TQ1_0",
        [35] = "TQ2_0",  [39] = "MXFP4",
    };
    return ggml_type < sizeof names / sizeof *names ? names[ggml_type] : NULL;
}
