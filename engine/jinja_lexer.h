/* jinja_lexer.h - cuts a template into tokens, with trim_blocks and
 * lstrip_blocks on: the newline after a block tag goes, and so does the white
 * space from the start of a line to a block tag. */
#ifndef BATON_ENGINE_JINJA_LEXER_H
#define BATON_ENGINE_JINJA_LEXER_H

#include "engine/jinja_value.h"

enum jinja_token_type {
    TOKEN_END, /* of the template */
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING, /* text is unescaped */
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR,
};

struct jinja_token {
    enum jinja_token_type type;
    uint32_t line;
    int op; /* TOKEN_OPERATOR: '+' or JINJA_OP2('*', '*') */
    const char *text;
    size_t len; /* bytes of text */
    int64_t integer;
    double real;
};

/* Fails through the heap. The last token is TOKEN_END. source is valid UTF-8 or
 * refused; tokens point into copies on the heap. */
const struct jinja_token *jinja_lex(struct jinja_heap *heap, const char *source, size_t len);

#endif
