/* tokenizer_impl.h - the parts of a tokenizer, for the files that load them. */
#ifndef BATON_ENGINE_TOKENIZER_IMPL_H
#define BATON_ENGINE_TOKENIZER_IMPL_H

#include "engine/bpe.h"
#include "engine/pretokenizer.h"
#include "engine/tokenizer.h"
#include "engine/tokenizer_added.h"

/* Where a SentencePiece vocabulary has a text's spaces made U+2581, and which texts get one more in front. */
enum spm_stage {
    SPM_OFF,          /* byte-level BPE                                                 */
    SPM_NORMALIZED,   /* before normalised added tokens are looked for: llama.cpp, too  */
    SPM_PRETOKENIZED, /* behind that                                                    */
};
enum spm_prefix {
    SPM_PREFIX_NEVER,
    SPM_PREFIX_ALWAYS,  /* all that stand between added tokens     */
    SPM_PREFIX_MISSING, /* ... that do not start with a space      */
    SPM_PREFIX_FIRST,   /* ... and stand at the start of the whole */
};

struct tokenizer {
    struct bpe bpe;
    enum spm_stage spm;
    enum spm_prefix prefix;
    bool drops_first_space; /* decoding */
    struct pretokenizer pre;
    struct added_set as_given;   /* looked for in the text as given ...       */
    struct added_set normalized; /* ... and in what normalisation makes of it */
    bool nfc;
    bool byte_level; /* the pre-tokeniser ends in GPT-2's alphabet, as all do that are supported */
    uint32_t bos;
    bool adds_bos;
    uint32_t eos[TOKENIZER_MAX_EOS];
    size_t n_eos;
    char *bos_text, *eos_text; /* NULL when there is none */
    uint64_t fingerprint;
};

/* All loaders go this way: tokenizer_new; then tokenizer_add_token for each
 * plain token, tokenizer_add_merge, the pre-tokeniser; then, when nfc is set,
 * tokenizer_add_added for each added token; then tokenizer_finish.
 * The messages name file and reason. */
MUST_CHECK status tokenizer_new(struct tokenizer **out);
/* From here on plain tokens are written as SentencePiece writes them. */
void tokenizer_use_spm(struct tokenizer *tok, enum spm_stage stage);
/* text in GPT-2's alphabet, or SentencePiece's. findable: merges and whole pieces may lead to it. */
MUST_CHECK status tokenizer_add_token(struct tokenizer *tok, uint32_t id, const char *text, size_t len, bool findable);
/* The id of a plain token by such a text; BPE_NO_ID when absent. */
uint32_t tokenizer_plain_id(const struct tokenizer *tok, const char *text, size_t len);
/* ST_NOT_FOUND when a side, or the two together, is no token. */
MUST_CHECK status tokenizer_add_merge(struct tokenizer *tok, const char *left, size_t left_len, const char *right,
                                      size_t right_len, uint32_t rank);
MUST_CHECK status tokenizer_add_added(struct tokenizer *tok, const struct added_token *token);
/* ST_LIMIT beyond TOKENIZER_MAX_EOS; an id that is there already is fine. */
MUST_CHECK status tokenizer_add_eos(struct tokenizer *tok, uint32_t id);
/* Replaces *slot (bos_text or eos_text) by a copy. */
MUST_CHECK status tokenizer_set_text(char **slot, const char *text, size_t len);
MUST_CHECK status tokenizer_finish(struct tokenizer *tok);

/* What the normaliser makes of a text: *out is malloc'd, or NULL where the text stays as it is. */
MUST_CHECK status tokenizer_normalize(const struct tokenizer *tok, const char *text, size_t len, char **out,
                                      size_t *out_len);

/* What tokenizer.ggml.pre calls the way a byte-level tokenizer cuts texts; NULL when it has no name for it. */
const char *tokenizer_gguf_family(const struct tokenizer *tok);

/* The contents of a tokenizer.json; name stands in messages. */
MUST_CHECK status tokenizer_load_json(const char *name, const char *data, size_t len, struct tokenizer **out,
                                      struct error *err);

#endif
