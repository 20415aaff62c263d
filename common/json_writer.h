/* json_writer.h - JSON written straight into a text_buffer, commas included.
 *   json_write_object(&w); json_write_key(&w, "id"); json_write_uint(&w, 7); json_write_end(&w);
 * Wrong nesting and a value without its key are our own bugs and assert; running out of
 * room shows in the buffer's state. */
#ifndef BATON_COMMON_JSON_WRITER_H
#define BATON_COMMON_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text_buffer.h"

#define JSON_WRITER_MAX_DEPTH 64
#define JSON_REAL_BYTES       40

struct json_writer {
    struct text_buffer *out; /* borrowed */
    uint32_t depth;
    uint64_t is_object; /* bit d: the container at depth d + 1 is an object */
    uint64_t has_items; /* bit d: it has at least one item */
    bool after_key;
};

void json_writer_init(struct json_writer *w, struct text_buffer *out);
/* All containers are closed and the buffer took everything. */
bool json_writer_complete(const struct json_writer *w);

void json_write_object(struct json_writer *w);
void json_write_array(struct json_writer *w);
void json_write_end(struct json_writer *w); /* of the innermost object or array */
void json_write_key(struct json_writer *w, const char *key);

/* Strings are UTF-8; each byte that is no part of a valid sequence becomes U+FFFD. */
void json_write_string(struct json_writer *w, const char *text);
void json_write_bytes(struct json_writer *w, const char *text, size_t len); /* may hold NUL */
void json_write_int(struct json_writer *w, int64_t v);
void json_write_uint(struct json_writer *w, uint64_t v);
void json_write_real(struct json_writer *w, double v); /* shortest that reads back equal; NaN and infinities: null */
void json_write_float(struct json_writer *w, float v); /* shortest that reads back as the same float */
void json_write_bool(struct json_writer *w, bool v);
void json_write_null(struct json_writer *w);
void json_write_raw(struct json_writer *w, const char *json, size_t len); /* a complete value, not looked at */

/* Key and value in one call. */
void json_field_string(struct json_writer *w, const char *key, const char *text);
void json_field_int(struct json_writer *w, const char *key, int64_t v);
void json_field_uint(struct json_writer *w, const char *key, uint64_t v);
void json_field_real(struct json_writer *w, const char *key, double v);
void json_field_bool(struct json_writer *w, const char *key, bool v);

/* The shortest text that reads back as v, which is finite. Returns out. */
const char *json_real_text(double v, char out[JSON_REAL_BYTES]);
/* Only the escaped inside of a string, without quotes: for writers with a shape of their own. */
void json_escape(struct text_buffer *out, const char *text, size_t len);

#endif
