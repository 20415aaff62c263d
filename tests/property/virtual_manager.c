#include <stdlib.h>
#include <string.h>

#include "kvbm/acceptor.h"
#include "kvbm/offers.h"
#include "kvbm/registry_source.h"
#include "virtual_internal.h"

#define MAX_CHAIN   64u
#define LIFETIME_US 3000000u
#define TAKE_US     1000000u

/* A slot that an offer reserved. */
struct reserved {
    bool is_set;
    struct block_hash seed;
    uint32_t n_blocks; /* of the chain up to this block */
    uint32_t tokens[MAX_CHAIN * BLOCK_TOKENS];
    uint64_t checksum;
};

/* A manager whose store is a pool with its registry, and takes whatever it has room for. */
struct virtual_manager {
    struct node *node;
    struct exchange_io io;
    struct block_pool *pool;
    struct block_registry *registry;
    struct whole_checksums *checksums;
    struct registry_source from_registry;
    struct lender_source source; /* the registry's, where blocks lie in host memory */
    struct acceptor_store store;
    struct reserved *reserved; /* [n_blocks] */
    struct lender *lender;
    struct acceptor *acceptor;
};

/* ---- the world ----------------------------------------------------------------------------------------------- */

static struct node *node_of(void *ctx)
{
    return ((struct virtual_manager *)ctx)->node;
}

static uint64_t io_now(void *ctx)
{
    return node_now(node_of(ctx));
}

static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    return network_worker_send(node_of(ctx), peer, head, body, true);
}

static bool io_is_alive(void *ctx, void *peer)
{
    return network_is_alive(node_of(ctx), peer);
}

static struct transfer_peer *io_way(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct worker_peer *)peer)->transfer;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    return virtual_take(node_of(ctx), take);
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    virtual_cancel_take(node_of(ctx), take);
}

static const char *io_name(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct worker_peer *)peer)->id;
}

/* ---- the store ----------------------------------------------------------------------------------------------- */

static uint32_t match(struct virtual_manager *m, struct block_hash seed, const struct block_hash *hashes,
                      const uint32_t *tokens, uint32_t n_blocks, block_id out[])
{
    return block_registry_match(m->registry, &(struct registry_query){ seed, hashes, tokens, n_blocks }, out);
}

static void release(struct virtual_manager *m, const block_id blocks[], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        block_pool_release(m->pool, blocks[i], BLOCK_OF_SEQUENCE);
}

static bool is_coming(const struct virtual_manager *m, const struct store_chain *chain, uint32_t n_blocks)
{
    for (uint32_t i = 0; i < block_pool_size(m->pool); i++) {
        const struct reserved *r = &m->reserved[i];
        if (r->is_set && r->n_blocks == n_blocks && block_hash_equal(r->seed, chain->seed) &&
            !memcmp(r->tokens, chain->tokens, n_blocks * BLOCK_TOKENS * sizeof r->tokens[0]))
            return true;
    }
    return false;
}

static void reserve(struct virtual_manager *m, const struct store_offer *offer, uint32_t i, struct store_answer *out)
{
    block_id slot;
    out->verdict = STORE_ROOM;
    if (i >= MAX_CHAIN || block_pool_take(m->pool, 1, BLOCK_RESERVED, &slot) != ST_OK)
        return;
    struct reserved *r = &m->reserved[slot];
    ASSERT(!r->is_set);
    r->is_set = true;
    r->seed = offer->chain.seed;
    r->n_blocks = i + 1;
    r->checksum = offer->checksums[i - offer->first];
    memcpy(r->tokens, offer->chain.tokens, (i + 1) * BLOCK_TOKENS * sizeof r->tokens[0]);
    *out = (struct store_answer){ STORE_WANTED, { slot, block_pool_generation(m->pool, slot) } };
}

static void store_put(void *ctx, const struct store_offer *offer, struct store_answer out[])
{
    struct virtual_manager *m = ctx;
    block_id held[MAX_CHAIN];
    uint32_t length = offer->chain.n_blocks < MAX_CHAIN ? offer->chain.n_blocks : MAX_CHAIN;
    uint32_t n = match(m, offer->chain.seed, offer->chain.hashes, offer->chain.tokens, length, held);
    bool has_parent = offer->first <= n || is_coming(m, &offer->chain, offer->first);
    for (uint32_t i = offer->first; i < offer->chain.n_blocks; i++) {
        struct store_answer *answer = &out[i - offer->first];
        if (i < n)
            answer->verdict = STORE_PRESENT;
        else if (is_coming(m, &offer->chain, i + 1))
            answer->verdict = STORE_COMING;
        else if (!has_parent)
            answer->verdict = STORE_PARENT;
        else
            reserve(m, offer, i, answer);
        has_parent = answer->verdict <= STORE_COMING;
    }
    release(m, held, n);
}

static struct reserved *reserved_of(struct virtual_manager *m, struct store_slot slot)
{
    ASSERT(m->reserved[slot.slot].is_set && block_pool_generation(m->pool, slot.slot) == slot.generation);
    return &m->reserved[slot.slot];
}

static status store_keep(void *ctx, struct store_slot slot)
{
    struct virtual_manager *m = ctx;
    struct reserved *r = reserved_of(m, slot);
    struct block_hash hashes[MAX_CHAIN], last = r->seed;
    block_id held[MAX_CHAIN], block = slot.slot;
    for (uint32_t i = 0; i < r->n_blocks; i++)
        hashes[i] = last = block_hash_next(last, r->tokens + i * BLOCK_TOKENS, BLOCK_TOKENS);
    uint32_t n = match(m, r->seed, hashes, r->tokens, r->n_blocks - 1, held);
    status st = ST_CANCELLED;
    if (n == r->n_blocks - 1) {
        const struct registry_block what = { r->seed, last, r->tokens + n * BLOCK_TOKENS,
                                             n ? held[n - 1] : BLOCK_NONE };
        block_pool_filled(m->pool, block, BLOCK_TOKENS);
        st = block_registry_register(m->registry, &what, &block) == REGISTRY_REFUSED ? ST_CANCELLED : ST_OK;
        whole_checksums_set(m->checksums, block, r->checksum);
    }
    r->is_set = false;
    release(m, held, n);
    release(m, &block, 1);
    return st;
}

static void store_drop(void *ctx, struct store_slot slot, bool damaged)
{
    struct virtual_manager *m = ctx;
    block_id block = slot.slot;
    (void)damaged;
    reserved_of(m, slot)->is_set = false;
    release(m, &block, 1);
}

/* The first half of a chain lies on disk, as far as the borrower is told. */
static void open_find(void *ctx, struct lender_find *find)
{
    struct virtual_manager *m = ctx;
    m->from_registry.source.open(&m->from_registry, find);
    for (uint32_t i = 0; i < find->n_ready; i++)
        find->blocks[i].tier = find->first + i < find->n_blocks / 2 ? KV_TIER_DISK : KV_TIER_HOST;
}

static void close_find(void *ctx, struct lender_find *find)
{
    struct virtual_manager *m = ctx;
    m->from_registry.source.close(&m->from_registry, find);
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

static void open_store(struct virtual_manager *m)
{
    const struct vc *vc = m->node->vc;
    uint32_t n_blocks = vc->options.manager_blocks;
    const struct block_pool_options pool = { .n_blocks = n_blocks,
                                             .block_tokens = BLOCK_TOKENS,
                                             .generations = m->node->generations,
                                             .policy = &eviction_s3fifo };
    ASSERT(block_pool_create(&pool, &m->pool) == ST_OK);
    const struct block_registry_options registry = { m->pool, BLOCK_TOKENS };
    ASSERT(block_registry_create(&registry, &m->registry) == ST_OK);
    const struct whole_checksums_options sums = { .io = &m->io, .pool = m->pool, .geometry = vc->geometry };
    ASSERT(whole_checksums_create(&sums, &m->checksums) == ST_OK);
    registry_source_init(&m->from_registry, m->pool, m->registry, m->checksums);
    m->source = (struct lender_source){ .ctx = m, .open = open_find, .close = close_find };
    m->store = (struct acceptor_store){ m, store_put, store_keep, store_drop };
}

static void open_cores(struct virtual_manager *m)
{
    const struct lender_options lender = { .io = &m->io,
                                           .source = &m->source,
                                           .timers = &m->node->timers,
                                           .kv_format = "f",
                                           .block_tokens = BLOCK_TOKENS,
                                           .max_loans = 16,
                                           .max_blocks = MAX_CHAIN,
                                           .max_chain = MAX_CHAIN,
                                           .lifetime_us = LIFETIME_US };
    const struct acceptor_options acceptor = { .io = &m->io,
                                               .store = &m->store,
                                               .kv_format = "f",
                                               .geometry = m->node->vc->geometry,
                                               .max_offers = 16,
                                               .max_blocks = OFFER_MAX_BLOCKS,
                                               .max_chain = MAX_CHAIN,
                                               .take_us = TAKE_US };
    ASSERT(lender_create(&lender, &m->lender) == ST_OK);
    ASSERT(acceptor_create(&acceptor, &m->acceptor) == ST_OK);
}

void node_start_manager(struct node *n)
{
    struct vc *vc = n->vc;
    uint32_t n_blocks = vc->options.manager_blocks;
    struct virtual_manager *m = calloc(1, sizeof *m);
    n->is_manager = n->alive = true;
    n->doomed = false;
    n->frozen_until = 0;
    n->life = ++vc->next_life;
    n->memory = calloc(n_blocks, kv_block_bytes(&vc->layout));
    n->generations = calloc(n_blocks, sizeof *n->generations);
    n->manager = m;
    ASSERT(m && n->memory && n->generations);
    m->node = n;
    m->reserved = calloc(n_blocks, sizeof *m->reserved);
    ASSERT(m->reserved);
    m->io = (struct exchange_io){ m, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    open_store(m);
    open_cores(m);
}

void virtual_manager_free(struct node *n)
{
    struct virtual_manager *m = n->manager;
    acceptor_destroy(&m->acceptor);
    lender_destroy(&m->lender);
    whole_checksums_destroy(&m->checksums);
    block_registry_destroy(&m->registry);
    block_pool_destroy(&m->pool);
    free(m->reserved);
    free(m);
    n->manager = NULL;
}

void virtual_manager_deliver(struct node *n, struct worker_peer *from, const struct frame *frame, uint64_t deadline_us)
{
    if (!lender_on_message(n->manager->lender, from, frame, deadline_us))
        (void)acceptor_on_message(n->manager->acceptor, from, frame, deadline_us);
}

void virtual_manager_lost(struct node *n, struct worker_peer *peer)
{
    lender_on_peer_lost(n->manager->lender, peer);
    acceptor_on_peer_lost(n->manager->acceptor, peer);
}

bool virtual_manager_is_idle(const struct node *n)
{
    return lender_open_loans(n->manager->lender) == 0 && acceptor_under_way(n->manager->acceptor) == 0;
}

uint32_t virtual_manager_held(const struct node *n)
{
    return block_pool_size(n->manager->pool) - block_pool_free(n->manager->pool) + !virtual_manager_is_idle(n);
}
