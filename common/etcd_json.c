#include "common/etcd_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

json_t *etcd_json_bytes(const void *data, size_t len)
{
    const unsigned char *in = data;
    size_t n = (len + 2) / 3 * 4;
    char *text = malloc(n + 1), *to = text;
    if (!text)
        return NULL;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t v =
            (uint32_t)in[i] << 16 | (i + 1 < len ? (uint32_t)in[i + 1] << 8 : 0) | (i + 2 < len ? in[i + 2] : 0);
        *to++ = alphabet[v >> 18];
        *to++ = alphabet[v >> 12 & 63];
        *to++ = i + 1 < len ? alphabet[v >> 6 & 63] : '=';
        *to++ = i + 2 < len ? alphabet[v & 63] : '=';
    }
    json_t *string = json_stringn(text, n);
    free(text);
    return string;
}

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Four characters to as many bytes as they stand for; 0 when malformed. */
static size_t decode_group(const char *in, bool last, char *out)
{
    size_t pad = last && in[3] == '=' ? (in[2] == '=' ? 2 : 1) : 0;
    uint32_t v = 0;
    for (size_t i = 0; i < 4; i++) {
        int s = i < 4 - pad ? sextet(in[i]) : 0;
        if (s < 0)
            return 0;
        v = v << 6 | (uint32_t)s;
    }
    if ((pad == 1 && (v & 0xff)) || (pad == 2 && (v & 0xffff)))
        return 0;
    for (size_t i = 0; i < 3 - pad; i++)
        out[i] = (char)(v >> (16 - 8 * i) & 0xff);
    return 3 - pad;
}

char *etcd_json_text(const json_t *object, const char *field, size_t *len)
{
    const json_t *value = json_object_get(object, field);
    const char *text = value ? json_string_value(value) : "";
    size_t n = value ? json_string_length(value) : 0, at = 0;
    char *out = text && n % 4 == 0 ? malloc(n / 4 * 3 + 1) : NULL;
    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i += 4) {
        size_t got = decode_group(text + i, i + 4 == n, out + at);
        if (got == 0) {
            free(out);
            return NULL;
        }
        at += got;
    }
    out[at] = '\0';
    *len = at;
    return out;
}

int64_t etcd_json_int(const json_t *object, const char *field)
{
    const json_t *value = json_object_get(object, field);
    if (json_is_integer(value))
        return json_integer_value(value);
    return json_is_string(value) ? strtoll(json_string_value(value), NULL, 10) : 0;
}

json_t *etcd_json_int_string(int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    return json_string(text);
}

size_t etcd_prefix_end(const char *prefix, size_t len, char *out)
{
    memcpy(out, prefix, len);
    while (len > 0 && (unsigned char)out[len - 1] == 0xff)
        len--;
    if (len == 0) {
        out[0] = '\0';
        return 1;
    }
    out[len - 1] = (char)((unsigned char)out[len - 1] + 1);
    return len;
}

json_t *etcd_json_prefix(const char *prefix)
{
    size_t len = strlen(prefix);
    char *end = malloc(len + 1);
    if (!end)
        return NULL;
    size_t end_len = etcd_prefix_end(prefix, len, end);
    json_t *range = json_pack("{s:o, s:o}", "key", etcd_json_bytes(len ? prefix : "", len ? len : 1), "range_end",
                              etcd_json_bytes(end, end_len));
    free(end);
    return range;
}
