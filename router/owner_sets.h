/* owner_sets.h - who holds a block, in 32 bits: nobody, one owner, or a set that all blocks with the same owners share.
 * Blocks of one conversation lie at the same workers, and those of a system prompt at all of them, so there are few
 * different sets. A set is never changed: a block that gains an owner is given another set. Sets count their blocks and
 * lie in chunks of 32 bytes, all taken at create. One thread writes; any may read a set as long as a block refers to it
 * (prefix_index.h says how it makes sure of that), which is why all words are atomic. */
#ifndef BATON_ROUTER_OWNER_SETS_H
#define BATON_ROUTER_OWNER_SETS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define OWNER_SLOT_BITS   16
#define OWNER_TIER_BITS   4
#define OWNER_CHUNK_WORDS 8
#define OWNER_MAX_CHUNKS  OWNERS_ARE_SET /* numbers lie below the mark */

/* slot << OWNER_TIER_BITS | tiers, of which at least one bit is set. */
typedef uint32_t owner_entry;

/* 0: nobody. With OWNERS_ARE_SET: a chunk's number. Otherwise one owner_entry. */
typedef uint32_t owners_ref;
#define OWNERS_NOBODY  0u
#define OWNERS_ARE_SET (1u << 25)
#define OWNERS_BITS    26 /* of a ref; what is above them is the user's */

static inline uint32_t owner_slot(owner_entry e)
{
    return e >> OWNER_TIER_BITS;
}

static inline uint32_t owner_tiers(owner_entry e)
{
    return e & ((1u << OWNER_TIER_BITS) - 1);
}

struct owner_chunk {
    _Atomic uint32_t words[OWNER_CHUNK_WORDS];
};

struct owner_sets {
    struct owner_chunk *chunks; /* [n_chunks]; number 0 is none */
    uint32_t *buckets;          /* [n_buckets] of the table that finds a set by its hash */
    owner_entry *scratch;       /* [max_owners] */
    uint32_t n_chunks, n_buckets, max_owners;
    uint32_t free_list, fresh; /* chunks given back; the first one never used */
    uint32_t in_use;           /* chunks */
    uint32_t n_sets;
    size_t bytes;
};

/* Uses at most max_bytes; max_owners is the most that one set may have. ST_LIMIT: too little for anything. */
MUST_CHECK status owner_sets_init(struct owner_sets *s, size_t max_bytes, uint32_t max_owners);
void owner_sets_free(struct owner_sets *s);

/* Counts a block that refers to it; what nothing refers to is freed. */
void owner_sets_hold(struct owner_sets *s, owners_ref ref);
void owner_sets_release(struct owner_sets *s, owners_ref ref);

/* The ref of `ref` with a tier of an owner more, or less; it is not held yet. False: no memory for the set. */
MUST_CHECK bool owner_sets_add(struct owner_sets *s, owners_ref ref, uint32_t slot, uint32_t tier, owners_ref *out);
MUST_CHECK bool owner_sets_remove(struct owner_sets *s, owners_ref ref, uint32_t slot, uint32_t tier, owners_ref *out);
/* Without the owners of which gone is true. */
MUST_CHECK bool owner_sets_strip(struct owner_sets *s, owners_ref ref, const uint8_t gone[], owners_ref *out);

/* Any thread: copies at most max owners, ascending by slot; returns how many. What is copied makes sense only when the
 * block turns out to have referred to ref all the time. */
uint32_t owner_sets_read(const struct owner_sets *s, owners_ref ref, owner_entry out[], uint32_t max);

#endif
