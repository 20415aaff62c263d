#include "common/json_writer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/status.h"
#include "common/utf8.h"

void json_writer_init(struct json_writer *w, struct text_buffer *out)
{
    *w = (struct json_writer){ .out = out };
}

bool json_writer_complete(const struct json_writer *w)
{
    return w->depth == 0 && !w->after_key && w->out->state == ST_OK && w->out->len > 0;
}

static uint64_t innermost(const struct json_writer *w)
{
    return UINT64_C(1) << (w->depth - 1);
}

/* The comma before an item of the innermost container. */
static void separate(struct json_writer *w)
{
    if (w->depth == 0)
        return;
    if (w->has_items & innermost(w))
        text_buffer_char(w->out, ',');
    w->has_items |= innermost(w);
}

static void before_value(struct json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    ASSERT(w->depth == 0 || !(w->is_object & innermost(w)));
    separate(w);
}

static void begin(struct json_writer *w, bool object)
{
    before_value(w);
    ASSERT(w->depth < JSON_WRITER_MAX_DEPTH);
    w->depth++;
    w->has_items &= ~innermost(w);
    w->is_object = object ? w->is_object | innermost(w) : w->is_object & ~innermost(w);
    text_buffer_char(w->out, object ? '{' : '[');
}

void json_write_object(struct json_writer *w)
{
    begin(w, true);
}

void json_write_array(struct json_writer *w)
{
    begin(w, false);
}

void json_write_end(struct json_writer *w)
{
    ASSERT(w->depth > 0 && !w->after_key);
    text_buffer_char(w->out, w->is_object & innermost(w) ? '}' : ']');
    w->depth--;
}

static void escape_control(struct text_buffer *out, unsigned char c)
{
    static const char letters[] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r', ['"'] = '"', ['\\'] = '\\'
    };
    if (c < sizeof letters && letters[c])
        text_buffer_append(out, (char[]){ '\\', letters[c] }, 2);
    else
        text_buffer_printf(out, "\\u%04x", c);
}

void json_escape(struct text_buffer *out, const char *text, size_t len)
{
    if (len == 0)
        return; /* text may be NULL then */
    const char *p = text, *end = p + len, *plain = p;
    while (p < end) {
        unsigned char c = (unsigned char)*p;
        size_t n = c < 0x80 ? 1 : utf8_sequence(p, (size_t)(end - p));
        if (n > 0 && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            p += n;
            continue;
        }
        text_buffer_append(out, plain, (size_t)(p - plain));
        if (n == 0)
            text_buffer_append(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_LEN);
        else
            escape_control(out, c);
        plain = ++p;
    }
    text_buffer_append(out, plain, (size_t)(p - plain));
}

static void quoted(struct json_writer *w, const char *text, size_t len)
{
    text_buffer_char(w->out, '"');
    json_escape(w->out, text, len);
    text_buffer_char(w->out, '"');
}

void json_write_key(struct json_writer *w, const char *key)
{
    ASSERT(w->depth > 0 && (w->is_object & innermost(w)) && !w->after_key);
    separate(w);
    quoted(w, key, strlen(key));
    text_buffer_char(w->out, ':');
    w->after_key = true;
}

void json_write_string(struct json_writer *w, const char *text)
{
    json_write_bytes(w, text, strlen(text));
}

void json_write_bytes(struct json_writer *w, const char *text, size_t len)
{
    before_value(w);
    quoted(w, text, len);
}

void json_write_int(struct json_writer *w, int64_t v)
{
    before_value(w);
    text_buffer_printf(w->out, "%" PRId64, v);
}

void json_write_uint(struct json_writer *w, uint64_t v)
{
    before_value(w);
    text_buffer_printf(w->out, "%" PRIu64, v);
}

const char *json_real_text(double v, char out[JSON_REAL_BYTES])
{
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(out, JSON_REAL_BYTES, "%.*g", precision, v);
        if (strtod(out, NULL) == v)
            break;
    }
    return out;
}

void json_write_real(struct json_writer *w, double v)
{
    char text[JSON_REAL_BYTES];
    if (!isfinite(v)) {
        json_write_null(w);
        return;
    }
    before_value(w);
    text_buffer_add(w->out, json_real_text(v, text));
}

void json_write_float(struct json_writer *w, float v)
{
    char text[40];
    if (!isfinite(v)) {
        json_write_null(w);
        return;
    }
    for (int precision = 6; precision <= 9; precision++) {
        snprintf(text, sizeof text, "%.*g", precision, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    before_value(w);
    text_buffer_add(w->out, text);
}

void json_write_bool(struct json_writer *w, bool v)
{
    before_value(w);
    text_buffer_add(w->out, v ? "true" : "false");
}

void json_write_null(struct json_writer *w)
{
    before_value(w);
    text_buffer_add(w->out, "null");
}

void json_write_raw(struct json_writer *w, const char *json, size_t len)
{
    before_value(w);
    text_buffer_append(w->out, json, len);
}

void json_field_string(struct json_writer *w, const char *key, const char *text)
{
    json_write_key(w, key);
    json_write_string(w, text);
}

void json_field_int(struct json_writer *w, const char *key, int64_t v)
{
    json_write_key(w, key);
    json_write_int(w, v);
}

void json_field_uint(struct json_writer *w, const char *key, uint64_t v)
{
    json_write_key(w, key);
    json_write_uint(w, v);
}

void json_field_real(struct json_writer *w, const char *key, double v)
{
    json_write_key(w, key);
    json_write_real(w, v);
}

void json_field_bool(struct json_writer *w, const char *key, bool v)
{
    json_write_key(w, key);
    json_write_bool(w, v);
}
