#include "engine/bpe_cache.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define INDEX_BITS 11

_Static_assert(BPE_CACHE_ENTRIES == 1 << INDEX_BITS, "the index is taken from the top bits of a hash");
_Static_assert(BPE_CACHE_MAX_IDS % 2 == 0, "two ids share a word");

/* Together the three words tell every piece of up to 16 bytes from every other. */
struct key {
    uint64_t head, tail, len;
};

/* A sequence lock. Words are stored with release and loaded with acquire, so that who sees one of a later
 * writing also sees its odd version. */
struct entry {
    alignas(CACHE_LINE) _Atomic uint64_t version; /* odd while it is written */
    _Atomic uint64_t head, tail;
    _Atomic uint64_t sizes; /* of the piece << 32 | number of ids; 0: free */
    _Atomic uint64_t ids[BPE_CACHE_MAX_IDS / 2];
};

_Static_assert(sizeof(struct entry) == CACHE_LINE, "an entry fills a cache line");

struct bpe_cache {
    struct entry entries[BPE_CACHE_ENTRIES];
};

status bpe_cache_create(struct bpe_cache **out)
{
    struct bpe_cache *cache = aligned_alloc(CACHE_LINE, sizeof *cache);
    if (!cache)
        return ST_NO_MEMORY;
    memset(cache, 0, sizeof *cache);
    *out = cache;
    return ST_OK;
}

void bpe_cache_destroy(struct bpe_cache **cache)
{
    free(*cache);
    *cache = NULL;
}

static uint64_t load_8(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static uint32_t load_4(const char *p)
{
    uint32_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

/* The first and the last bytes, which overlap. */
static struct key key_of(const char *piece, size_t len)
{
    if (len >= 8)
        return (struct key){ load_8(piece), load_8(piece + len - 8), len };
    if (len >= 4)
        return (struct key){ load_4(piece), load_4(piece + len - 4), len };
    return (struct key){ (uint8_t)piece[0], (uint64_t)(uint8_t)piece[len / 2] << 8 | (uint8_t)piece[len - 1], len };
}

static size_t place_of(const struct key *key)
{
    uint64_t hash = (key->head + key->len) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ hash >> 29 ^ key->tail) * 0xBF58476D1CE4E5B9u;
    hash ^= hash >> 32;
    return (size_t)(hash * 0x94D049BB133111EBu >> (64 - INDEX_BITS));
}

static bool may_be_kept(size_t len)
{
    return len > 0 && len <= BPE_CACHE_MAX_PIECE_BYTES;
}

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void store(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

size_t bpe_cache_find(const struct bpe_cache *cache, const char *piece, size_t len, uint32_t ids[BPE_CACHE_MAX_IDS])
{
    if (!may_be_kept(len))
        return 0;
    struct key key = key_of(piece, len);
    const struct entry *entry = &cache->entries[place_of(&key)];
    uint64_t version = load(&entry->version), sizes = load(&entry->sizes);
    if (version % 2 != 0 || sizes >> 32 != len || load(&entry->head) != key.head || load(&entry->tail) != key.tail)
        return 0;
    size_t n = (uint32_t)sizes;
    for (size_t i = 0; i < n && i < BPE_CACHE_MAX_IDS; i += 2) {
        uint64_t two = load(&entry->ids[i / 2]);
        ids[i] = (uint32_t)two;
        ids[i + 1] = (uint32_t)(two >> 32);
    }
    return atomic_load_explicit(&entry->version, memory_order_relaxed) == version ? n : 0;
}

void bpe_cache_keep(struct bpe_cache *cache, const char *piece, size_t len, const uint32_t *ids, size_t n)
{
    if (!may_be_kept(len) || n == 0 || n > BPE_CACHE_MAX_IDS)
        return;
    struct key key = key_of(piece, len);
    struct entry *entry = &cache->entries[place_of(&key)];
    uint64_t version = atomic_load_explicit(&entry->version, memory_order_relaxed);
    if (version % 2 != 0 || !atomic_compare_exchange_strong_explicit(&entry->version, &version, version + 1,
                                                                     memory_order_acquire, memory_order_relaxed))
        return;
    store(&entry->head, key.head);
    store(&entry->tail, key.tail);
    store(&entry->sizes, (uint64_t)len << 32 | n);
    for (size_t i = 0; i < n; i += 2)
        store(&entry->ids[i / 2], ids[i] | (uint64_t)(i + 1 < n ? ids[i + 1] : 0) << 32);
    store(&entry->version, version + 2);
}
