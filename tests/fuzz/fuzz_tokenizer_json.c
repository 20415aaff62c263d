/* A tokenizer.json from any bytes: refused with a sentence, or every token can
 * be read and any text encoded and decoded. */
#include <stdlib.h>

#include "common/utf8.h"
#include "engine/tokenizer_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Longer texts would let a slow pattern hide what is looked for here. */
#define MAX_TEXT 64

static void decode(const struct tokenizer *tok, const struct token_list *list)
{
    struct detokenizer d;
    detokenizer_init(&d, tok, true);
    for (size_t i = 0; i < list->n; i++) {
        size_t len;
        ASSERT(list->ids[i] < tokenizer_vocab_size(tok));
        (void)tokenizer_bytes(tok, list->ids[i], &len);
        char *out = malloc(DETOKENIZER_MAX_BYTES(len));
        ASSERT(out != NULL);
        size_t n = detokenizer_push(&d, list->ids[i], out);
        ASSERT(n <= DETOKENIZER_MAX_BYTES(len) && utf8_valid_prefix(out, n) == n);
        free(out);
    }
}

static void encode(const struct tokenizer *tok, const char *text, size_t len)
{
    struct token_list list = { 0 };
    status st = tokenizer_encode(tok, text, len, TOKENIZE_SPECIAL | TOKENIZE_ADD_BOS, 0, &list);
    ASSERT(st == ST_OK || st == ST_UNSUPPORTED);
    decode(tok, &list);
    token_list_free(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    status st = tokenizer_load_json("fuzz.json", (const char *)data, size, &tok, &err);
    if (st != ST_OK) {
        ASSERT(tok == NULL && err.text[0] != '\0');
        return 0;
    }
    encode(tok, (const char *)data, size < MAX_TEXT ? size : MAX_TEXT);
    encode(tok, (const char *)data + size / 2, size / 2 < MAX_TEXT ? size - size / 2 : MAX_TEXT);
    static const char text[] = "a'll  12\xC3\xA9 e\xCC\x81\xF0\x9F\x98\x80 <s>ab\r\n";
    encode(tok, text, sizeof text - 1);
    for (uint32_t id = 0; id < tokenizer_vocab_size(tok); id++) {
        size_t len;
        const char *bytes = tokenizer_bytes(tok, id, &len);
        ASSERT(bytes[len] == '\0');
        (void)tokenizer_id(tok, bytes, len);
    }
    tokenizer_destroy(&tok);
    return 0;
}
