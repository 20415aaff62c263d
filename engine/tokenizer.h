/* tokenizer.h - BPE: text to token ids and back.
 * Byte-level, equal to Hugging Face `tokenizers` for the GPT-2, Llama-3, Qwen2
 * and SmolLM families; and SentencePiece's with byte fallback (Llama 2, Mistral,
 * TinyLlama), equal to it and for GGUF to llama.cpp, but that a token of type
 * "unused" is never made. Immutable after load: any thread may encode and decode.
 * Encoding is near-linear in the length of the text, also for hostile input. */
#ifndef BATON_ENGINE_TOKENIZER_H
#define BATON_ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct gguf;
struct tokenizer;

#define TOKENIZER_MAX_VOCAB       (1u << 20)  /* tokens                          */
#define TOKENIZER_MAX_TOKEN_BYTES 4096        /* bytes of one token              */
#define TOKENIZER_MAX_TEXT_BYTES  (32u << 20) /* bytes of one tokenizer_encode() */
#define TOKENIZER_MAX_EOS         16          /* ids that end an answer          */

/* dir holds tokenizer.json (and perhaps tokenizer_config.json, config.json,
 * generation_config.json, read for BOS and EOS). A file that asks for something
 * that is not built is refused with its name and the construct. */
MUST_CHECK status tokenizer_load_folder(const char *dir, struct tokenizer **out, struct error *err);
/* From tokenizer.ggml.* keys; the file may be closed afterwards. */
MUST_CHECK status tokenizer_load_gguf(const struct gguf *file, struct tokenizer **out, struct error *err);
void tokenizer_destroy(struct tokenizer **tok);

uint32_t tokenizer_vocab_size(const struct tokenizer *tok);
#define TOKENIZER_NONE UINT32_MAX
uint32_t tokenizer_bos(const struct tokenizer *tok); /* TOKENIZER_NONE when the model has none */
bool tokenizer_adds_bos(const struct tokenizer *tok);
/* Ids that end an answer (config's and generation_config's eos ids, and for GGUF also eot). */
const uint32_t *tokenizer_eos(const struct tokenizer *tok, size_t *n);
bool tokenizer_is_special(const struct tokenizer *tok, uint32_t id);
/* XXH3-64 over everything that decides ids: part of the compatibility record. */
uint64_t tokenizer_fingerprint(const struct tokenizer *tok);
/* The id of the token with exactly these raw bytes (" the", not "\u0120the"), special
 * and other added tokens first; TOKENIZER_NONE when absent. */
uint32_t tokenizer_id(const struct tokenizer *tok, const char *text, size_t len);
/* NUL-terminated text of the BOS / EOS token for templates; "" when there is none. */
const char *tokenizer_bos_text(const struct tokenizer *tok);
const char *tokenizer_eos_text(const struct tokenizer *tok);

/* A growing list of ids; zero-initialise, free with token_list_free. */
struct token_list {
    uint32_t *ids;
    size_t n, capacity;
};
void token_list_free(struct token_list *list);
MUST_CHECK status token_list_push(struct token_list *list, uint32_t id);

enum {
    TOKENIZE_SPECIAL = 1, /* special tokens written in the text are recognised */
    TOKENIZE_ADD_BOS = 2, /* put BOS first where the model wants one           */
};

/* Appends to out. Text is any bytes; invalid UTF-8 is handled as Hugging Face's
 * Python binding would after decoding with errors="replace". ST_LIMIT when more than max_tokens
 * would result (0: no limit); out then holds a prefix. ST_LIMIT also for a text beyond
 * TOKENIZER_MAX_TEXT_BYTES. ST_UNSUPPORTED when a tokenizer.json's own pattern runs into PCRE2's
 * match limits on this text; the patterns of the four families never do. */
MUST_CHECK status tokenizer_encode(const struct tokenizer *tok, const char *text, size_t len, unsigned flags,
                                   size_t max_tokens, struct token_list *out);

/* The raw bytes of one token (special tokens: their text). Borrowed. */
const char *tokenizer_bytes(const struct tokenizer *tok, uint32_t id, size_t *len);

/* Streaming detokenisation that never emits half a character: bytes of an
 * unfinished UTF-8 sequence wait; what can never become valid turns to U+FFFD
 * exactly as bytes.decode("utf-8", errors="replace") does.
 * Special tokens yield no text unless keep_special. */
struct detokenizer {
    const struct tokenizer *tok; /* borrowed */
    bool keep_special, drop_space;
    uint8_t pending[4];
    uint8_t n_pending;
};
void detokenizer_init(struct detokenizer *d, const struct tokenizer *tok, bool keep_special);
/* What follows is the beginning of a text, not more of one: where the model's decoder strips it of one
 * leading space (SentencePiece's), so is this. */
void detokenizer_at_start(struct detokenizer *d);
#define DETOKENIZER_MAX_BYTES(token_bytes) (3 * (token_bytes) + 12)
/* Returns the number of bytes written to out, which holds DETOKENIZER_MAX_BYTES(len of the token). */
size_t detokenizer_push(struct detokenizer *d, uint32_t id, char *out);
/* What is still pending, as U+FFFD. */
size_t detokenizer_finish(struct detokenizer *d, char *out);

#endif
