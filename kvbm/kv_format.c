#include "kvbm/kv_format.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define FINGERPRINT_DIGITS 16

static const enum dtype kv_types[] = { DTYPE_BF16, DTYPE_F16, DTYPE_F32, DTYPE_INT8 };

static const char *const order_names[] = { [KV_ORDER_LAYER_SIDE_HEAD_TOKEN] = "lsht" };
_Static_assert(sizeof order_names / sizeof *order_names == KV_ORDER_COUNT, "each order has a name");

const char *kv_format_difference_text(enum kv_format_difference difference)
{
    static const char *const texts[] = {
#define X(name, text) text,
        KV_FORMAT_DIFFERENCES(X)
#undef X
    };
    return (unsigned)difference < KV_FORMAT_DIFFERENCE_COUNT ? texts[difference] : "?";
}

enum kv_format_difference kv_format_compare(const struct kv_format *a, const struct kv_format *b)
{
    if (a->n_layers != b->n_layers || a->n_kv_heads != b->n_kv_heads || a->head_dim != b->head_dim)
        return KV_FORMAT_DIFFERS_GEOMETRY;
    if (strcmp(a->class, b->class) != 0)
        return KV_FORMAT_DIFFERS_CLASS;
    if (a->type != b->type)
        return KV_FORMAT_DIFFERS_DTYPE;
    if (a->block_tokens != b->block_tokens)
        return KV_FORMAT_DIFFERS_BLOCK_TOKENS;
    if (a->tensor_parallel != b->tensor_parallel)
        return KV_FORMAT_DIFFERS_TENSOR_PARALLEL;
    return a->order == b->order ? KV_FORMAT_DIFFERS_NONE : KV_FORMAT_DIFFERS_ORDER;
}

const char *kv_format_text(const struct kv_format *f, char out[KV_FORMAT_TEXT_BYTES])
{
    ASSERT((unsigned)f->order < KV_ORDER_COUNT);
    (void)snprintf(out, KV_FORMAT_TEXT_BYTES, "%s-%s-l%uh%ud%u-b%u-tp%u-%s", dtype_name(f->type), order_names[f->order],
                   f->n_layers, f->n_kv_heads, f->head_dim, f->block_tokens, f->tensor_parallel, f->class);
    return out;
}

static bool type_of_name(const char *name, enum dtype *out)
{
    for (size_t i = 0; i < sizeof kv_types / sizeof *kv_types; i++)
        if (!strcmp(name, dtype_name(kv_types[i]))) {
            *out = kv_types[i];
            return true;
        }
    return false;
}

static bool order_of_name(const char *name, enum kv_order *out)
{
    for (unsigned i = 0; i < KV_ORDER_COUNT; i++)
        if (!strcmp(name, order_names[i])) {
            *out = (enum kv_order)i;
            return true;
        }
    return false;
}

status kv_format_parse(const char *text, struct kv_format *out, struct error *err)
{
    struct kv_format f = { 0 };
    char type[8], order[8], again[KV_FORMAT_TEXT_BYTES];
    _Static_assert(KV_FORMAT_CLASS_BYTES == 24, "the width below leaves room for the NUL");
    int n = sscanf(text, "%7[^-]-%7[^-]-l%9uh%9ud%9u-b%9u-tp%9u-%23s", type, order, &f.n_layers, &f.n_kv_heads,
                   &f.head_dim, &f.block_tokens, &f.tensor_parallel, f.class);
    /* What does not come out as it went in has signs, leading zeros, or something behind its end. */
    if (n != 8 || !type_of_name(type, &f.type) || !order_of_name(order, &f.order) ||
        strcmp(kv_format_text(&f, again), text) != 0)
        return error_set(err, ST_INVALID,
                         "\"%.100s\" is no KV format: it must look like BF16-lsht-l30h3d64-b16-tp1-portable", text);
    *out = f;
    return ST_OK;
}

const char *kv_format_of_worker(const char *published)
{
    for (int i = 0; i < 2; i++) {
        if (strspn(published, "0123456789abcdef") != FINGERPRINT_DIGITS || published[FINGERPRINT_DIGITS] != '-')
            return NULL;
        published += FINGERPRINT_DIGITS + 1;
    }
    return published;
}

struct kv_layout kv_format_layout(const struct kv_format *f)
{
    return (struct kv_layout){ .n_layers = f->n_layers,
                               .n_kv_heads = f->n_kv_heads,
                               .head_dim = f->head_dim,
                               .block_tokens = f->block_tokens,
                               .type = f->type };
}
