/* bpe.h - byte-pair encoding of one piece of text.
 * The merges are applied as Hugging Face `tokenizers` applies them: always the
 * pair of lowest rank, among equals the leftmost. O(n log n) in the piece. */
#ifndef BATON_ENGINE_BPE_H
#define BATON_ENGINE_BPE_H

#include "engine/bpe_cache.h"
#include "engine/bpe_vocab.h"
#include "engine/tokenizer.h"

struct bpe_merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free slot */
    uint32_t rank, id;
};

struct bpe {
    struct bpe_vocab vocab;
    uint32_t base[256];       /* the token of each byte; BPE_NO_ID when the vocabulary lacks it */
    bool by_character;        /* symbols start as characters, only those without token as bytes: spm.h */
    bool has_inner_spaces;    /* by_character: a token has a space behind another character */
    struct bpe_merge *merges; /* open addressing, by pair */
    uint32_t n_merge_slots, n_merges;
    bool ignore_merges;      /* a piece that is a token is that token, whatever the merges say */
    uint32_t unknown;        /* stands for bytes without a token; BPE_NO_ID: they are left out */
    bool fuse_unknown;       /* one for a run of them */
    struct bpe_cache *cache; /* what was encoded since bpe_finish */
};

/* Memory that long pieces reuse (bpe_heap.h); zero-initialise, one per call of tokenizer_encode. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    size_t symbols_capacity;
    uint32_t *ids; /* [symbols_capacity] */
    struct bpe_candidate *heap;
    size_t n_heap, heap_capacity;
};
void bpe_scratch_free(struct bpe_scratch *scratch);

void bpe_init(struct bpe *bpe);
void bpe_free(struct bpe *bpe);
/* A merge named twice takes the later rank. */
MUST_CHECK status bpe_add_merge(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
/* After all tokens and merges: finds the tokens of single bytes, unless
 * by_character, and marks those that a lookup of the whole piece may answer.
 * What decides ids stays as it is once something was encoded. */
MUST_CHECK status bpe_finish(struct bpe *bpe);

/* NULL when the pair does not merge. */
const struct bpe_merge *bpe_merge_of(const struct bpe *bpe, uint32_t left, uint32_t right);
/* Appends; ST_LIMIT, with a prefix in out, rather than let out->n pass limit. */
MUST_CHECK status bpe_encode(const struct bpe *bpe, const char *piece, size_t len, struct bpe_scratch *scratch,
                             size_t limit, struct token_list *out);

#endif
