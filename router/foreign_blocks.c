#include "router/foreign_blocks.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

/* One block of theirs. Behind it, in the same piece of memory, stand the hashes of our blocks that it completes, and
 * the tokens behind the last block of ours, which its children go on with. */
struct entry {
    struct kv_event_hash name;
    struct block_hash last; /* of our last complete block, in it or before it */
    uint32_t next;          /* in the same bucket, or free */
    uint8_t tiers;          /* 0: free */
    uint8_t n_made;
    uint16_t n_rest;
};

struct foreign_blocks {
    struct foreign_blocks_options options;
    uint32_t theirs; /* tokens of a block; 0: none was seen */
    uint32_t max_made, max_rest;
    size_t stride;
    uint8_t *entries; /* [max_entries], of stride bytes */
    uint32_t *buckets;
    uint32_t max_entries, n_buckets, free_list, hand;
    uint32_t *tokens; /* [max_rest + theirs] of the block at hand */
    struct foreign_blocks_stats stats;
};

status foreign_blocks_create(const struct foreign_blocks_options *options, struct foreign_blocks **out)
{
    ASSERT(options->block_tokens && options->seed && options->chain && options->stored && options->removed);
    struct foreign_blocks *b = calloc(1, sizeof *b);
    if (!b)
        return ST_NO_MEMORY;
    b->options = *options;
    *out = b;
    return ST_OK;
}

static void free_map(struct foreign_blocks *b)
{
    free(b->entries);
    free(b->buckets);
    free(b->tokens);
    b->entries = NULL;
    b->buckets = b->tokens = NULL;
    b->theirs = 0;
}

void foreign_blocks_destroy(struct foreign_blocks **blocks)
{
    struct foreign_blocks *b = *blocks;
    *blocks = NULL;
    if (!b)
        return;
    free_map(b);
    free(b);
}

/* --- the map --- */

static struct entry *entry_at(const struct foreign_blocks *b, uint32_t i)
{
    return (struct entry *)(void *)(b->entries + i * b->stride);
}

static struct block_hash *made_of(const struct entry *e)
{
    return (struct block_hash *)(e + 1);
}

static uint32_t *rest_of(const struct foreign_blocks *b, const struct entry *e)
{
    return (uint32_t *)(made_of(e) + b->max_made);
}

static uint32_t *bucket_of(const struct foreign_blocks *b, const struct kv_event_hash *name)
{
    uint64_t mixed = (name->low ^ name->high) * UINT64_C(0x9e3779b97f4a7c15);
    return &b->buckets[(mixed >> 32) * b->n_buckets >> 32];
}

/* The link that leads to the entry; of one that is not there it leads to NONE. */
static uint32_t *find(const struct foreign_blocks *b, const struct kv_event_hash *name)
{
    uint32_t *link = bucket_of(b, name);
    while (*link != NONE) {
        struct entry *e = entry_at(b, *link);
        if (e->name.low == name->low && e->name.high == name->high)
            break;
        link = &e->next;
    }
    return link;
}

static void empty_map(struct foreign_blocks *b)
{
    memset(b->buckets, 0xff, b->n_buckets * sizeof *b->buckets);
    for (uint32_t i = 0; i < b->max_entries; i++) {
        entry_at(b, i)->tiers = 0;
        entry_at(b, i)->next = i + 1 < b->max_entries ? i + 1 : NONE;
    }
    b->free_list = b->hand = 0;
    b->stats.blocks = 0;
}

static bool sizes_fit(uint32_t theirs, uint32_t ours)
{
    return theirs % ours == 0 ? theirs / ours <= FOREIGN_MAX_RATIO : ours % theirs == 0;
}

static status make_map(struct foreign_blocks *b, uint32_t theirs)
{
    uint32_t ours = b->options.block_tokens;
    if (!sizes_fit(theirs, ours))
        return ST_LIMIT;
    b->max_made = theirs < ours ? 1 : theirs / ours;
    b->max_rest = theirs < ours ? ours - theirs : 0;
    size_t bytes = sizeof(struct entry) + b->max_made * sizeof(struct block_hash) + b->max_rest * sizeof(uint32_t);
    b->stride = (bytes + 7) / 8 * 8;
    size_t n = b->options.max_bytes / (b->stride + sizeof(uint32_t));
    if (!n)
        return ST_LIMIT;
    b->max_entries = b->n_buckets = n < NONE ? (uint32_t)n : NONE - 1;
    b->entries = malloc(b->max_entries * b->stride);
    b->buckets = malloc(b->n_buckets * sizeof *b->buckets);
    b->tokens = malloc((b->max_rest + theirs) * sizeof *b->tokens);
    if (!b->entries || !b->buckets || !b->tokens) {
        free_map(b);
        return ST_NO_MEMORY;
    }
    b->theirs = theirs;
    b->stats.max_blocks = b->max_entries;
    empty_map(b);
    return ST_OK;
}

static void tell_removed(struct foreign_blocks *b, const struct entry *e, unsigned tiers)
{
    for (unsigned t = 0; t < KV_TIER_COUNT; t++)
        if (tiers & 1u << t && e->n_made)
            b->options.removed(b->options.ctx, (enum kv_tier)t, made_of(e), e->n_made);
}

static void drop(struct foreign_blocks *b, uint32_t *link)
{
    uint32_t i = *link;
    struct entry *e = entry_at(b, i);
    *link = e->next;
    e->tiers = 0;
    e->next = b->free_list;
    b->free_list = i;
    b->stats.blocks--;
}

/* The hand goes round, so what it comes to was put there a whole round ago, mostly. */
static void evict_one(struct foreign_blocks *b)
{
    struct entry *e = entry_at(b, b->hand);
    b->hand = (b->hand + 1) % b->max_entries;
    tell_removed(b, e, e->tiers);
    drop(b, find(b, &e->name));
    b->stats.evicted++;
}

static struct entry *add(struct foreign_blocks *b, const struct kv_event_hash *name)
{
    if (b->free_list == NONE)
        evict_one(b);
    uint32_t i = b->free_list, *link = bucket_of(b, name);
    struct entry *e = entry_at(b, i);
    b->free_list = e->next;
    *e = (struct entry){ .name = *name, .next = *link };
    *link = i;
    b->stats.blocks++;
    return e;
}

/* --- storing --- */

/* Where a chain goes on. */
struct end {
    struct block_hash last;
    uint32_t n_rest; /* in tokens of foreign_blocks */
};

static void end_of(const struct foreign_blocks *b, const struct entry *e, struct end *out)
{
    out->last = e->last;
    out->n_rest = e->n_rest;
    memcpy(b->tokens, rest_of(b, e), e->n_rest * sizeof *b->tokens);
}

static bool begin(struct foreign_blocks *b, const struct kv_event *event, struct end *out)
{
    out->n_rest = 0;
    if (!event->has_parent) {
        b->stats.not_mappable += event->n_hashes;
        bool known = b->options.seed(b->options.ctx, event, &out->last);
        b->stats.not_mappable -= known ? event->n_hashes : 0;
        return known;
    }
    uint32_t parent = *find(b, &event->parent);
    if (parent == NONE) {
        b->stats.no_parent += event->n_hashes;
        return false;
    }
    end_of(b, entry_at(b, parent), out);
    return true;
}

/* The block's tokens behind what is left of its parent's: as many of our blocks as they make. */
static void make(struct foreign_blocks *b, struct entry *e, const uint32_t tokens[], struct end *end)
{
    uint32_t ours = b->options.block_tokens, n = end->n_rest + b->theirs, at = 0;
    memcpy(b->tokens + end->n_rest, tokens, b->theirs * sizeof *tokens);
    for (; n - at >= ours; at += ours) {
        struct block_hash hash;
        b->options.chain(b->options.ctx, &end->last, b->tokens + at, ours, &hash);
        made_of(e)[e->n_made++] = end->last = hash;
    }
    end->n_rest = n - at;
    memmove(b->tokens, b->tokens + at, end->n_rest * sizeof *b->tokens);
    e->last = end->last;
    e->n_rest = (uint16_t)end->n_rest;
    memcpy(rest_of(b, e), b->tokens, end->n_rest * sizeof *b->tokens);
}

static void store_block(struct foreign_blocks *b, const struct kv_event *event, uint32_t i, struct end *end)
{
    uint32_t known = *find(b, &event->hashes[i]);
    struct entry *e;
    if (known != NONE) {
        e = entry_at(b, known);
        end_of(b, e, end);
    } else {
        e = add(b, &event->hashes[i]);
        make(b, e, event->tokens + (size_t)i * b->theirs, end);
        b->stats.mapped++;
    }
    e->tiers |= (uint8_t)(1u << event->tier);
    if (e->n_made)
        b->options.stored(b->options.ctx, event->tier, made_of(e), e->n_made);
}

static status store(struct foreign_blocks *b, const struct kv_event *event)
{
    struct end end;
    if (event->tier == KV_TIER_COUNT || event->has_extra_keys || (event->has_group && event->group)) {
        b->stats.not_mappable += event->n_hashes;
        return ST_OK;
    }
    if (!event->n_tokens) {
        b->stats.no_tokens += event->n_hashes;
        return ST_OK;
    }
    status st = b->theirs ? ST_OK : make_map(b, event->block_size);
    if (st != ST_OK)
        return st;
    if (event->block_size != b->theirs)
        return ST_LIMIT;
    if (!begin(b, event, &end))
        return ST_OK;
    for (uint32_t i = 0; i < event->n_hashes; i++)
        store_block(b, event, i, &end);
    return ST_OK;
}

static void remove_block(struct foreign_blocks *b, const struct kv_event *event, uint32_t i)
{
    uint32_t *link = find(b, &event->hashes[i]);
    if (*link == NONE) {
        b->stats.unknown++;
        return;
    }
    struct entry *e = entry_at(b, *link);
    unsigned tier = 1u << event->tier;
    tell_removed(b, e, e->tiers & tier);
    e->tiers &= (uint8_t)~tier;
    if (!e->tiers)
        drop(b, link);
}

status foreign_blocks_apply(struct foreign_blocks *b, const struct kv_event *event)
{
    if (event->kind == KV_BLOCK_STORED)
        return store(b, event);
    if (event->kind != KV_BLOCK_REMOVED || !b->theirs || event->tier == KV_TIER_COUNT ||
        (event->has_group && event->group))
        return ST_OK;
    for (uint32_t i = 0; i < event->n_hashes; i++)
        remove_block(b, event, i);
    return ST_OK;
}

void foreign_blocks_clear(struct foreign_blocks *b)
{
    if (b->theirs)
        empty_map(b);
}

void foreign_blocks_stats(const struct foreign_blocks *b, struct foreign_blocks_stats *out)
{
    *out = b->stats;
}
