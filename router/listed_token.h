/* listed_token.h - a token's bytes as vocabularies list them, and as /tokenize answers with return_token_strs. Pure. */
#ifndef BATON_ROUTER_LISTED_TOKEN_H
#define BATON_ROUTER_LISTED_TOKEN_H

#include "common/text_buffer.h"

/* Bytes become the letters of GPT-2's table: printable ones stand for themselves, the others follow from U+0100 on. */
void listed_token_write(const char *bytes, size_t len, struct text_buffer *out);

#endif
