/* kv_blocks.h - the KV blocks of a simulated worker: how many there are, which of them can be found, and who goes next.
 * What a worker does with block_pool and block_registry, without tokens and memory: a block has a key, equal keys stand
 * for equal blocks behind equal prefixes, and the order in which they go is kvbm/eviction's, leaf first, as in a
 * worker. Blocks without a key (parts of blocks, answers) are only counted. A value for one thread. */
#ifndef BATON_SIM_KV_BLOCKS_H
#define BATON_SIM_KV_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "kvbm/eviction.h"

struct kv_blocks;

struct kv_blocks_options {
    uint32_t capacity; /* blocks, at least 1 */
    const struct eviction_policy *policy;
    void (*stored)(void *ctx, const uint32_t keys[], uint32_t n); /* can be found from now on, in order of a chain */
    void (*removed)(void *ctx, uint32_t key);
    void *ctx;
    uint32_t *free_blocks; /* where kv_blocks_free's answer always stands: one place to look at; NULL: nowhere */
};

MUST_CHECK status kv_blocks_create(const struct kv_blocks_options *options, struct kv_blocks **out);
void kv_blocks_destroy(struct kv_blocks **blocks);
/* Everything is lost; nobody holds anything. Nothing is told. */
void kv_blocks_forget(struct kv_blocks *blocks);

/* What a request holds: `known` blocks of its beginning that can be found, the last of them in `leaf`; others. */
struct kv_hold { /* zeroed: nothing */
    uint32_t leaf, known, others;
};

uint32_t kv_blocks_free(const struct kv_blocks *blocks); /* or could be */
/* How many leading blocks are here. */
uint32_t kv_blocks_peek(const struct kv_blocks *blocks, const uint32_t keys[], uint32_t n);
/* Takes `total` blocks for who holds none, of which those of its beginning that are here count as used, and `spare`
 * stay free: all or none. */
bool kv_blocks_take(struct kv_blocks *blocks, const uint32_t keys[], uint32_t n, uint32_t total, uint32_t spare,
                    struct kv_hold *hold);
bool kv_blocks_grow(struct kv_blocks *blocks, uint32_t more, struct kv_hold *hold);
/* The KV of the first n blocks of the chain is there: they can be found. One that another request had made meanwhile
 * is held instead, and its own set free. */
void kv_blocks_filled(struct kv_blocks *blocks, const uint32_t keys[], uint32_t n, struct kv_hold *hold);
void kv_blocks_release(struct kv_blocks *blocks, struct kv_hold *hold);

struct kv_blocks_counters {
    uint64_t hit, asked, stored, evicted; /* blocks */
};
const struct kv_blocks_counters *kv_blocks_counters(const struct kv_blocks *blocks);

#endif
