#include "router/trace_parent.h"

#include <string.h>

#define TRACE_PARENT_BYTES 55

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n bytes of lower-case hexadecimal; all zero is not allowed unless may_be_zero. */
static bool read_hex(const char *text, size_t n, bool may_be_zero, uint8_t *out)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++) {
        int high = digit(text[2 * i]), low = high < 0 ? -1 : digit(text[2 * i + 1]);
        if (low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
        any |= out[i];
    }
    return any || may_be_zero;
}

bool trace_parent_read(const char *text, struct trace_context *out)
{
    uint8_t version, flags;
    struct trace_context t;
    memset(out, 0, sizeof *out);
    size_t len = text ? strlen(text) : 0;
    if (len < TRACE_PARENT_BYTES || text[2] != '-' || text[35] != '-' || text[52] != '-')
        return false;
    if (!read_hex(text, 1, true, &version) || version == 0xff || !read_hex(text + 53, 1, true, &flags))
        return false;
    if (len > TRACE_PARENT_BYTES && (version == 0 || text[TRACE_PARENT_BYTES] != '-'))
        return false;
    if (!read_hex(text + 3, sizeof t.trace_id, false, t.trace_id) ||
        !read_hex(text + 36, sizeof t.span_id, false, t.span_id))
        return false;
    *out = t;
    return true;
}
