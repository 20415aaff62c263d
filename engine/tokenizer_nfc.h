/* tokenizer_nfc.h - Unicode normalisation form C in near-linear time, equal to
 * Hugging Face `tokenizers`, whose tables are those of Unicode 9. */
#ifndef BATON_ENGINE_TOKENIZER_NFC_H
#define BATON_ENGINE_TOKENIZER_NFC_H

#include <stddef.h>

#include "common/status.h"

/* text is well-formed UTF-8. *out is malloc'd, or NULL when text is already in
 * the form; *out_len is then unset. */
MUST_CHECK status nfc_normalize(const char *text, size_t len, char **out, size_t *out_len);

#endif
