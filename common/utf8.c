#include "common/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Length of the sequence that a lead byte opens; 0 when it opens none. */
static unsigned sequence_len(uint8_t lead)
{
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* May byte stand at index i of a sequence opened by lead? The second byte is
 * narrower for overlong forms, surrogates and what lies beyond U+10FFFF. */
static bool continues(uint8_t lead, unsigned i, uint8_t byte)
{
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {
        if (lead == 0xE0)
            low = 0xA0;
        else if (lead == 0xED)
            high = 0x9F;
        else if (lead == 0xF0)
            low = 0x90;
        else if (lead == 0xF4)
            high = 0x8F;
    }
    return byte >= low && byte <= high;
}

size_t utf8_flush(struct utf8_pending *pending, char *out)
{
    if (pending->n == 0)
        return 0;
    pending->n = 0;
    memcpy(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_LEN);
    return UTF8_REPLACEMENT_LEN;
}

size_t utf8_feed(struct utf8_pending *pending, uint8_t byte, char *out)
{
    size_t written = 0;
    if (pending->n > 0 && continues(pending->bytes[0], pending->n, byte)) {
        pending->bytes[pending->n++] = byte;
        if (pending->n < sequence_len(pending->bytes[0]))
            return 0;
        written = pending->n;
        memcpy(out, pending->bytes, written);
        pending->n = 0;
        return written;
    }
    written = utf8_flush(pending, out);
    unsigned len = sequence_len(byte);
    if (len == 1) {
        out[written++] = (char)byte;
    } else {
        pending->bytes[0] = byte;
        pending->n = 1;
        if (len == 0)
            written += utf8_flush(pending, out + written);
    }
    return written;
}

uint32_t utf8_next(const char **p)
{
    const uint8_t *s = (const uint8_t *)*p;
    unsigned len = sequence_len(s[0]);
    uint32_t cp = len < 2 ? s[0] : s[0] & (0x7Fu >> len);
    for (unsigned i = 1; i < len; i++)
        cp = cp << 6 | (s[i] & 0x3Fu);
    *p += len < 2 ? 1 : len;
    return cp;
}

size_t utf8_put(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3F));
        cp >>= 6;
    }
    out[0] = (char)((0xF00u >> len & 0xFFu) | cp);
    return len;
}

size_t utf8_sequence(const char *text, size_t left)
{
    const uint8_t *s = (const uint8_t *)text;
    unsigned n = sequence_len(s[0]);
    if (n > left)
        return 0;
    for (unsigned i = 1; i < n; i++)
        if (!continues(s[0], i, s[i]))
            return 0;
    return n;
}

size_t utf8_valid_prefix(const char *text, size_t len)
{
    size_t at = 0;
    while (at < len) {
        uint64_t eight;
        while (len - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if (eight & 0x8080808080808080u)
                break;
            at += sizeof eight;
        }
        if (at == len)
            break;
        size_t n = utf8_sequence(text + at, len - at);
        if (n == 0)
            return at;
        at += n;
    }
    return at;
}

status utf8_replace(const char *text, size_t len, char **out, size_t *out_len)
{
    char *copy = malloc(len * UTF8_REPLACEMENT_LEN + 1);
    if (!copy)
        return ST_NO_MEMORY;
    struct utf8_pending pending = { .n = 0 };
    size_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += utf8_feed(&pending, (uint8_t)text[i], copy + n);
    n += utf8_flush(&pending, copy + n);
    copy[n] = '\0';
    *out = copy;
    *out_len = n;
    return ST_OK;
}
