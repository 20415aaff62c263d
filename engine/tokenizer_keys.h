/* tokenizer_keys.h - a tokenizer, wherever it was read from, as the tokenizer.ggml.* keys of a GGUF file. Pure. */
#ifndef BATON_ENGINE_TOKENIZER_KEYS_H
#define BATON_ENGINE_TOKENIZER_KEYS_H

#include "engine/gguf_write.h"
#include "engine/tokenizer.h"

/* One token for each of the network's n_vocab rows, at least as many as tok has: those without a text are of type
 * "unused". ST_UNSUPPORTED with what the keys cannot say. */
MUST_CHECK status tokenizer_write_keys(const struct tokenizer *tok, uint32_t n_vocab, struct gguf_writer *w,
                                       struct error *err);
/* Whether the keys, read again, gave the same tokenizer but for unused tokens; ST_UNSUPPORTED with the difference. */
MUST_CHECK status tokenizer_check_same(const struct tokenizer *tok, const struct tokenizer *again, struct error *err);

#endif
