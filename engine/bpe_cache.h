/* bpe_cache.h - the tokens of short pieces that were encoded before: words repeat, and merging one anew costs many
 * times a lookup. A fixed table, in which a piece replaces whatever had its place; bytes are compared exactly.
 * Any thread may find and keep at any time: an entry that another thread is writing is simply not found, or not
 * written. Nothing is allocated after create. */
#ifndef BATON_ENGINE_BPE_CACHE_H
#define BATON_ENGINE_BPE_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define BPE_CACHE_ENTRIES         2048 /* of one cache line each */
#define BPE_CACHE_MAX_PIECE_BYTES 16
#define BPE_CACHE_MAX_IDS         8

struct bpe_cache;

MUST_CHECK status bpe_cache_create(struct bpe_cache **out);
void bpe_cache_destroy(struct bpe_cache **cache);

/* How many ids the piece has; 0 when it is not there. */
size_t bpe_cache_find(const struct bpe_cache *cache, const char *piece, size_t len, uint32_t ids[BPE_CACHE_MAX_IDS]);
/* Pieces and lists that are empty or too long are left out. */
void bpe_cache_keep(struct bpe_cache *cache, const char *piece, size_t len, const uint32_t *ids, size_t n);

#endif
