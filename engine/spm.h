/* spm.h - what BPE is in SentencePiece's vocabularies (Llama 2, Mistral, TinyLlama): symbols start as
 * characters, not bytes; a character without token becomes the tokens of its bytes, written <0x0A>;
 * U+2581 stands for a space; and merges follow from the tokens' scores. Here tokens and texts have spaces. */
#ifndef BATON_ENGINE_SPM_H
#define BATON_ENGINE_SPM_H

#include "engine/bpe.h"

/* text with a space for every U+2581. out holds len bytes; returns how many were written. */
size_t spm_spaces(const char *text, size_t len, char *out);
/* Whether a text starts with what becomes a space. */
bool spm_starts_with_space(const char *text, size_t len);
/* The byte that <0x0A> and its like mean; -1 for other texts. */
int spm_byte(const char *text, size_t len);

/* A token by its text in the file. Tokens of bytes are not found by a text, nor are those that no text
 * can have (with a space of their own, or ill-formed); others only when findable. Status as bpe_vocab_add and _index.
 */
MUST_CHECK status spm_add_token(struct bpe *bpe, uint32_t id, const char *text, size_t len, bool findable);
/* The id of a findable token, or one of a byte, by its text in the file; BPE_NO_ID when absent. */
uint32_t spm_find(const struct bpe *bpe, const char *text, size_t len);
/* scores[bpe->vocab.n], none NaN: any two tokens that make a token merge, the better the score the sooner.
 * Hugging Face derives the merges of its files in this way, too. */
MUST_CHECK status spm_add_merges(struct bpe *bpe, const double *scores);
/* How many bytes have a token. */
unsigned spm_count_bytes(const struct bpe *bpe);

/* The symbols of a piece before the first merge; ids holds len. Returns how many there are. */
size_t spm_first_ids(const struct bpe *bpe, const char *piece, size_t len, uint32_t *ids);
/* How far a text (len > 0) can be encoded on its own: up to a space behind another character, where no
 * token has one. Cut so, pieces stay short whatever the text. */
size_t spm_piece(const struct bpe *bpe, const char *text, size_t len);

#endif
