/* utf8.h - UTF-8 checked, decoded, and one byte at a time with the error handling of
 * bytes.decode("utf-8", errors="replace"): each maximal subpart of an
 * ill-formed sequence becomes one U+FFFD (Unicode 15, section 3.9). */
#ifndef BATON_COMMON_UTF8_H
#define BATON_COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define UTF8_REPLACEMENT     "\xEF\xBF\xBD"
#define UTF8_REPLACEMENT_LEN 3

/* An unfinished sequence; zero-initialise. */
struct utf8_pending {
    uint8_t bytes[4];
    uint8_t n;
};

/* Feeds one byte, writes what it completes to out (at most 3 + 4 bytes) and
 * returns how many bytes that were. */
size_t utf8_feed(struct utf8_pending *pending, uint8_t byte, char *out);
/* The unfinished sequence as U+FFFD: 0 or 3 bytes. */
size_t utf8_flush(struct utf8_pending *pending, char *out);

/* Reads one code point of well-formed text, advancing *p. */
uint32_t utf8_next(const char **p);
/* Writes one code point, returns its length. */
size_t utf8_put(uint32_t cp, char *out);

/* The length of the well-formed sequence at text, of which left > 0 bytes are there; 0 when it is none. */
size_t utf8_sequence(const char *text, size_t left);
/* The length of the well-formed prefix. */
size_t utf8_valid_prefix(const char *text, size_t len);
/* A malloc'd, NUL-terminated copy with every ill-formed part replaced. */
MUST_CHECK status utf8_replace(const char *text, size_t len, char **out, size_t *out_len);

#endif
