/* pretokenizer_scan.h - the published patterns matched by hand where the text
 * is ASCII, at a small part of what PCRE2 costs. Whatever hangs on another
 * character is left to the regular expression, so that what counts as letter,
 * number or space is decided in one place. Pure: any thread. */
#ifndef BATON_ENGINE_PRETOKENIZER_SCAN_H
#define BATON_ENGINE_PRETOKENIZER_SCAN_H

#include <stddef.h>

enum scan_outcome {
    SCAN_MATCH,  /* [*start, *end) is what the pattern matches first at or behind at    */
    SCAN_NONE,   /* nothing more matches                                              */
    SCAN_UNSURE, /* the pattern must be asked; before *start it matches nothing for sure */
};

typedef enum scan_outcome (*scanner)(const char *text, size_t len, size_t at, size_t *start, size_t *end);

/* NULL for a pattern that is not known. */
scanner scanner_of(const char *pattern, size_t len);

#endif
