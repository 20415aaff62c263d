#include "engine/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/bpe_heap.h"
#include "engine/spm.h"

#define FIRST_MERGE_SLOTS 1024
#define FREE_PAIR         UINT64_MAX
/* Up to this many symbols a scan for the best pair beats a heap. */
#define SMALL_PIECE       40

void bpe_init(struct bpe *bpe)
{
    *bpe = (struct bpe){ .unknown = BPE_NO_ID };
    memset(bpe->base, 0xFF, sizeof bpe->base); /* BPE_NO_ID */
}

void bpe_free(struct bpe *bpe)
{
    bpe_vocab_free(&bpe->vocab);
    free(bpe->merges);
    bpe_cache_destroy(&bpe->cache);
    bpe_init(bpe);
}

static uint64_t pair_of(uint32_t left, uint32_t right)
{
    return (uint64_t)left << 32 | right;
}

/* The slot of a pair, or the free one where it belongs. */
static struct bpe_merge *find_merge(const struct bpe *bpe, uint64_t pair)
{
    uint32_t mask = bpe->n_merge_slots - 1;
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    for (uint32_t i = (uint32_t)(hash >> 32) & mask;; i = (i + 1) & mask)
        if (bpe->merges[i].pair == pair || bpe->merges[i].pair == FREE_PAIR)
            return &bpe->merges[i];
}

static status grow_merges(struct bpe *bpe)
{
    struct bpe_merge *old = bpe->merges;
    uint32_t n_old = bpe->n_merge_slots, n = n_old ? n_old * 2 : FIRST_MERGE_SLOTS;
    struct bpe_merge *merges = malloc(n * sizeof *merges);
    if (!merges)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < n; i++)
        merges[i] = (struct bpe_merge){ .pair = FREE_PAIR };
    bpe->merges = merges;
    bpe->n_merge_slots = n;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].pair != FREE_PAIR)
            *find_merge(bpe, old[i].pair) = old[i];
    free(old);
    return ST_OK;
}

status bpe_add_merge(struct bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    if (bpe->n_merges >= bpe->n_merge_slots / 2) {
        status st = grow_merges(bpe);
        if (st != ST_OK)
            return st;
    }
    struct bpe_merge *slot = find_merge(bpe, pair_of(left, right));
    bpe->n_merges += slot->pair == FREE_PAIR;
    *slot = (struct bpe_merge){ .pair = pair_of(left, right), .rank = rank, .id = id };
    return ST_OK;
}

const struct bpe_merge *bpe_merge_of(const struct bpe *bpe, uint32_t left, uint32_t right)
{
    if (bpe->n_merge_slots == 0)
        return NULL;
    const struct bpe_merge *merge = find_merge(bpe, pair_of(left, right));
    return merge->pair == FREE_PAIR ? NULL : merge;
}

/* The id with which byte joins the symbols, or BPE_NO_ID. */
static uint32_t first_id(const struct bpe *bpe, uint8_t byte, bool *after_unknown)
{
    uint32_t id = bpe->base[byte];
    bool unknown = id == BPE_NO_ID;
    if (unknown && !(bpe->fuse_unknown && *after_unknown))
        id = bpe->unknown;
    *after_unknown = unknown;
    return id;
}

/* The symbols before the first merge; ids holds len. */
static size_t first_ids(const struct bpe *bpe, const char *piece, size_t len, uint32_t *ids)
{
    if (bpe->by_character)
        return spm_first_ids(bpe, piece, len, ids);
    size_t n = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < len; i++) {
        uint32_t id = first_id(bpe, (uint8_t)piece[i], &after_unknown);
        if (id != BPE_NO_ID)
            ids[n++] = id;
    }
    return n;
}

static status push(struct token_list *out, uint32_t id, size_t limit)
{
    return out->n >= limit ? ST_LIMIT : token_list_push(out, id);
}

static status push_all(struct token_list *out, const uint32_t *ids, size_t n, size_t limit)
{
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < n; i++)
        st = push(out, ids[i], limit);
    return st;
}

struct small_pair {
    uint32_t rank, id; /* rank UINT32_MAX: does not merge */
};

static struct small_pair small_pair(const struct bpe *bpe, const uint32_t *ids, size_t i)
{
    const struct bpe_merge *merge = bpe_merge_of(bpe, ids[i], ids[i + 1]);
    return merge ? (struct small_pair){ merge->rank, merge->id } : (struct small_pair){ UINT32_MAX, BPE_NO_ID };
}

/* Merges ids[n] in place, n >= 1, and returns how many are left. */
static size_t merge_small(const struct bpe *bpe, uint32_t *ids, size_t n)
{
    struct small_pair pairs[SMALL_PIECE];
    for (size_t i = 0; i + 1 < n; i++)
        pairs[i] = small_pair(bpe, ids, i);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pairs[i].rank < pairs[best].rank)
                best = i;
        if (pairs[best].rank == UINT32_MAX)
            break;
        ids[best] = pairs[best].id;
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        if (best + 2 < n)
            memmove(pairs + best, pairs + best + 1, (n - best - 2) * sizeof *pairs);
        n--;
        if (best + 1 < n)
            pairs[best] = small_pair(bpe, ids, best);
        if (best > 0)
            pairs[best - 1] = small_pair(bpe, ids, best - 1);
    }
    return n;
}

static status encode_small(const struct bpe *bpe, const char *piece, size_t len, size_t limit, struct token_list *out)
{
    uint32_t ids[SMALL_PIECE];
    size_t n = first_ids(bpe, piece, len, ids);
    if (n > 0)
        n = merge_small(bpe, ids, n);
    return push_all(out, ids, n, limit);
}

static status encode_large(const struct bpe *bpe, const char *piece, size_t len, struct bpe_scratch *scratch,
                           size_t limit, struct token_list *out)
{
    status st = bpe_heap_reserve(scratch, len);
    if (st != ST_OK)
        return st;
    size_t n = first_ids(bpe, piece, len, scratch->ids);
    if (n == 0)
        return ST_OK;
    st = bpe_heap_merge(bpe, scratch, (uint32_t)n);
    for (uint32_t i = 0; st == ST_OK && i != BPE_NO_ID; i = scratch->symbols[i].next)
        st = push(out, scratch->symbols[i].id, limit);
    return st;
}

static status encode_new(const struct bpe *bpe, const char *piece, size_t len, struct bpe_scratch *scratch,
                         size_t limit, struct token_list *out)
{
    uint32_t whole = len <= TOKENIZER_MAX_TOKEN_BYTES ? bpe_vocab_find(&bpe->vocab, piece, len) : BPE_NO_ID;
    if (whole != BPE_NO_ID && (bpe->vocab.tokens[whole].flags & BPE_WHOLE))
        return push(out, whole, limit);
    if (len <= SMALL_PIECE)
        return encode_small(bpe, piece, len, limit, out);
    return encode_large(bpe, piece, len, scratch, limit, out);
}

status bpe_encode(const struct bpe *bpe, const char *piece, size_t len, struct bpe_scratch *scratch, size_t limit,
                  struct token_list *out)
{
    uint32_t ids[BPE_CACHE_MAX_IDS];
    size_t n = bpe->cache ? bpe_cache_find(bpe->cache, piece, len, ids) : 0;
    if (n > 0)
        return push_all(out, ids, n, limit);
    size_t before = out->n;
    status st = encode_new(bpe, piece, len, scratch, limit, out);
    if (st == ST_OK && bpe->cache)
        bpe_cache_keep(bpe->cache, piece, len, out->ids + before, out->n - before);
    return st;
}

static void find_byte_tokens(struct bpe *bpe)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        bpe->base[byte] = bpe_vocab_find(&bpe->vocab, &c, 1);
    }
}

status bpe_finish(struct bpe *bpe)
{
    if (!bpe->by_character)
        find_byte_tokens(bpe);
    struct bpe_scratch scratch = { 0 };
    struct token_list ids = { 0 };
    status st = ST_OK;
    for (uint32_t id = 0; st == ST_OK && id < bpe->vocab.n; id++) {
        struct bpe_token *token = &bpe->vocab.tokens[id];
        size_t len;
        const char *bytes = bpe_vocab_bytes(&bpe->vocab, id, &len);
        if ((token->flags & BPE_ADDED) || len == 0 || bpe_vocab_find(&bpe->vocab, bytes, len) != id)
            continue;
        ids.n = 0;
        if (!bpe->ignore_merges)
            st = bpe_encode(bpe, bytes, len, &scratch, SIZE_MAX, &ids);
        if (bpe->ignore_merges || (st == ST_OK && ids.n == 1 && ids.ids[0] == id))
            token->flags |= BPE_WHOLE;
    }
    bpe_scratch_free(&scratch);
    token_list_free(&ids);
    return st == ST_OK ? bpe_cache_create(&bpe->cache) : st;
}
