/* jinja_text.h - what Python's str does, on UTF-8: lengths and offsets count
 * code points, white space and case are Unicode's. Input is valid UTF-8. */
#ifndef BATON_ENGINE_JINJA_TEXT_H
#define BATON_ENGINE_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/jinja_heap.h"
#include "engine/jinja_value.h"

/* Bytes of the code point at text, which is not at its end. */
size_t jinja_char_at(const char *text, size_t len, int32_t *code);
void jinja_put_char(struct jinja_heap *heap, struct jinja_buf *buf, int32_t code);
bool jinja_valid_utf8(const char *text, size_t len);

/* As str.isspace() of one character; re's \s is the same set. */
bool jinja_is_space(int32_t code);
/* As str.isprintable() of one character. */
bool jinja_is_printable(int32_t code);

/* Bytes of leading (trailing) white space. */
size_t jinja_leading_space(const char *text, size_t len);
size_t jinja_trailing_space(const char *text, size_t len);

/* Byte offset of code point number at, or len when there are fewer. */
size_t jinja_byte_offset(const struct jinja_str *s, size_t at);
/* Code points in a part. */
size_t jinja_count_chars(const char *text, size_t len);

/* The first (last) place of needle in s at or after byte from (wholly before
 * byte to); SIZE_MAX when there is none. */
size_t jinja_find(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *needle, size_t from,
                  size_t to);
size_t jinja_find_last(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *needle, size_t from,
                       size_t to);

/* chars NULL: white space. */
const struct jinja_str *jinja_strip(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *chars,
                                    bool left, bool right);
/* max < 0: all. */
const struct jinja_str *jinja_replace(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *old,
                                      const struct jinja_str *new_text, int64_t max);
/* sep NULL: runs of white space. from_right: as rsplit. */
struct jinja_value jinja_split(struct jinja_heap *heap, const struct jinja_str *s, const struct jinja_str *sep,
                               int64_t max, bool from_right);
struct jinja_value jinja_splitlines(struct jinja_heap *heap, const struct jinja_str *s, bool keep_ends);

#endif
