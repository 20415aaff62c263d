/* pretokenizer_unicode.h - characters that are newer than PCRE2 10.42's tables
 * (Unicode 14) and which Hugging Face `tokenizers` knows (Unicode 16). */
#ifndef BATON_ENGINE_PRETOKENIZER_UNICODE_H
#define BATON_ENGINE_PRETOKENIZER_UNICODE_H

#include <stddef.h>
#include <stdint.h>

struct unicode_range {
    uint32_t first, last;
    char category[3]; /* one letter where the subcategory does not matter here */
};

/* All ranges, ordered by category. */
const struct unicode_range *unicode_newer(size_t *n);

#endif
