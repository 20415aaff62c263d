/* The cores that move KV blocks hear anything from their peers, in any order: random bytes as payloads, and well-formed
 * messages with numbers from the edges, some of them about what is really under way. They must not crash, and once the
 * peers are gone nothing may be left lent, reserved or under way. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/acceptor.h"
#include "kvbm/borrower.h"
#include "kvbm/offers.h"
#include "kvbm/registry_source.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define LAYERS       2u
#define BLOCKS       32u
#define BLOCK_TOKENS 2u
#define CHAIN        6u
#define PEERS        2u
#define MAX_ITEMS    24u
#define MAX_TAKES    64u

static const struct transfer_geometry geometry = { LAYERS, 1, BLOCK_TOKENS, 8 };
static const struct block_seed_parts parts = { 1, 2, 3, { 4, 5 } };

/* A pull of ours, and the blocks reserved for it. */
struct pulling {
    struct world *world;
    struct pull *pull; /* NULL: none */
    block_id blocks[CHAIN];
    uint32_t n;
};

struct world {
    const uint8_t *data;
    size_t left;
    uint64_t now;
    struct timers timers;
    struct exchange_io io;
    char peers[PEERS]; /* their addresses are all that counts */
    bool up[PEERS];
    struct block_pool *pool;
    struct block_registry *registry;
    struct whole_checksums *checksums;
    struct registry_source source;
    struct acceptor_store store;
    struct lender *lender;
    struct borrower *borrower;
    struct offers *offers;
    struct acceptor *acceptor;
    uint32_t tokens[CHAIN * BLOCK_TOKENS];
    struct transfer_take *takes[MAX_TAKES];
    size_t n_takes;
    struct message_head last; /* that was sent: random numbers alone would never name it */
    struct pulling pulls[2];
    uint64_t zero_sum; /* checksum of a block whose layers all sum to 0 */
};

static uint8_t byte(struct world *w)
{
    if (w->left == 0)
        return 0;
    w->left--;
    return *w->data++;
}

static uint32_t number(struct world *w)
{
    static const uint32_t edges[] = { 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, 0xfffffff0, 65536, 255, 100 };
    uint8_t b = byte(w);
    return b < 200 ? b % 16u : edges[b % 8];
}

/* ---- the world ---------------------------------------------------------------------------------------------- */

static uint64_t io_now(void *ctx)
{
    return ((struct world *)ctx)->now;
}

static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    struct world *w = ctx;
    ASSERT(w->up[(char *)peer - w->peers]);
    uint8_t *packed = malloc(protobuf_c_message_get_packed_size(body) + 1);
    ASSERT(packed);
    protobuf_c_message_pack(body, packed); /* whatever is sent can be packed */
    free(packed);
    if (link_may_refuse(head->type) && byte(w) % 16 == 15)
        return ST_LIMIT;
    if (link_may_refuse(head->type))
        w->last = *head;
    return ST_OK;
}

static bool io_is_alive(void *ctx, void *peer)
{
    struct world *w = ctx;
    return w->up[(char *)peer - w->peers];
}

static struct transfer_peer *io_way(void *ctx, void *peer)
{
    return io_is_alive(ctx, peer) && byte(ctx) % 16 != 15 ? peer : NULL;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    struct world *w = ctx;
    if (w->n_takes == MAX_TAKES || byte(w) % 16 == 15)
        return ST_LIMIT;
    ASSERT(take->peer && take->n_spans > 0 && take->n_layers > 0 && take->first_layer + take->n_layers <= LAYERS);
    for (uint32_t i = 0; i < take->n_spans; i++)
        ASSERT(take->spans[i].local_block < BLOCKS && take->spans[i].n == BLOCK_TOKENS);
    w->takes[w->n_takes++] = take;
    return ST_OK;
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static const char *io_name(void *ctx, void *peer)
{
    (void)ctx, (void)peer;
    return "peer";
}

static void end_take(struct world *w, status st)
{
    struct transfer_take *take = w->takes[0];
    memmove(w->takes, w->takes + 1, --w->n_takes * sizeof w->takes[0]);
    take->st = atomic_load(&take->cancelled) ? ST_CANCELLED : st;
    memset(take->checksums, 0, (size_t)take->n_layers * take->n_spans * sizeof *take->checksums);
    take->done(take);
}

static void store_put(void *ctx, const struct store_offer *offer, struct store_answer out[])
{
    struct world *w = ctx;
    for (uint32_t i = 0; i < offer->chain.n_blocks - offer->first; i++) {
        block_id slot;
        out[i].verdict = (enum store_verdict)(byte(w) % STORE_VERDICT_COUNT);
        if (out[i].verdict != STORE_WANTED)
            continue;
        if (block_pool_take(w->pool, 1, BLOCK_RESERVED, &slot) == ST_OK)
            out[i].slot = (struct store_slot){ slot, block_pool_generation(w->pool, slot) };
        else
            out[i].verdict = STORE_ROOM;
    }
}

static void store_drop(void *ctx, struct store_slot slot, bool damaged)
{
    struct world *w = ctx;
    (void)damaged;
    ASSERT(block_pool_generation(w->pool, slot.slot) == slot.generation);
    block_pool_release(w->pool, slot.slot, BLOCK_OF_SEQUENCE);
}

static status store_keep(void *ctx, struct store_slot slot)
{
    store_drop(ctx, slot, false);
    return byte(ctx) % 4 ? ST_OK : ST_CANCELLED;
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

struct items {
    uint32_t u32[MAX_ITEMS];
    uint64_t u64[MAX_ITEMS];
    protobuf_c_boolean flags[MAX_ITEMS];
    Baton__OfferOutcome outcomes[MAX_ITEMS];
};

static void fill(struct world *w, struct items *items)
{
    bool wild = byte(w) % 4 == 3;
    for (size_t i = 0; i < MAX_ITEMS; i++) {
        items->u32[i] = wild ? number(w) : (uint32_t)i % BLOCKS;
        items->u64[i] = wild ? number(w) : w->zero_sum;
        items->flags[i] = i % 2;
        items->outcomes[i] = (Baton__OfferOutcome)(wild ? number(w) : i % 9);
    }
}

static size_t some(struct world *w, size_t usual)
{
    return byte(w) % 8 == 7 ? byte(w) % MAX_ITEMS : usual;
}

static void fill_seed(struct world *w, Baton__BlockSeed *out, uint8_t salt[BLOCK_HASH_BYTES])
{
    exchange_write_seed(&parts, salt, out);
    if (byte(w) % 8 == 7)
        out->salt.len = byte(w) % 17;
}

static size_t pack(const void *message, uint8_t *out)
{
    const ProtobufCMessage *base = message;
    return protobuf_c_message_pack(base, out);
}

static size_t pack_find(struct world *w, uint8_t *out)
{
    Baton__Find msg = BATON__FIND__INIT;
    Baton__BlockSeed seed;
    uint8_t salt[BLOCK_HASH_BYTES];
    fill_seed(w, &seed, salt);
    msg.seed = byte(w) % 16 == 15 ? NULL : &seed;
    msg.kv_format = byte(w) % 16 == 15 ? "other" : "f";
    msg.tokens = w->tokens;
    msg.n_tokens = some(w, CHAIN * BLOCK_TOKENS) % (CHAIN * BLOCK_TOKENS + 1);
    msg.first = byte(w) % 4 == 3 ? number(w) : 0;
    return pack(&msg, out);
}

static size_t pack_found(struct world *w, struct items *items, uint8_t *out)
{
    Baton__Found msg = BATON__FOUND__INIT;
    size_t n = byte(w) % (CHAIN + 1);
    uint32_t tiers[MAX_ITEMS];
    for (size_t i = 0; i < MAX_ITEMS; i++)
        tiers[i] = byte(w) % 16 == 15 ? number(w) : 1;
    msg.first = byte(w) % 2 ? number(w) : 0;
    msg.blocks = items->u32;
    msg.generations = items->u64;
    msg.checksums = items->u64;
    msg.tiers = tiers;
    msg.n_blocks = n;
    msg.n_generations = some(w, n);
    msg.n_checksums = some(w, n);
    msg.n_tiers = some(w, n);
    msg.run = byte(w) % 2 ? number(w) : (uint32_t)n;
    msg.reason = byte(w) % 4 == 3 ? (Baton__FoundReason)number(w) : BATON__FOUND_REASON__FOUND_ALL;
    return pack(&msg, out);
}

static size_t pack_pulled(struct world *w, struct items *items, uint8_t *out)
{
    Baton__Pulled msg = BATON__PULLED__INIT;
    msg.blocks = number(w);
    msg.damaged = items->u32;
    msg.n_damaged = some(w, 0);
    return pack(&msg, out);
}

static size_t pack_offer(struct world *w, struct items *items, uint8_t *out)
{
    Baton__Offer msg = BATON__OFFER__INIT;
    Baton__BlockSeed seed;
    uint8_t salt[BLOCK_HASH_BYTES];
    size_t n = 1 + byte(w) % CHAIN;
    fill_seed(w, &seed, salt);
    msg.seed = byte(w) % 16 == 15 ? NULL : &seed;
    msg.kv_format = byte(w) % 16 == 15 ? "other" : "f";
    msg.first = byte(w) % 4 == 3 ? number(w) : 0;
    msg.tokens = w->tokens;
    msg.n_tokens = some(w, (msg.first + n) * BLOCK_TOKENS % (CHAIN * BLOCK_TOKENS + 1)) % (CHAIN * BLOCK_TOKENS + 1);
    msg.blocks = items->u32;
    msg.generations = items->u64;
    msg.checksums = items->u64;
    msg.shared = items->flags;
    msg.n_blocks = n;
    msg.n_generations = some(w, n);
    msg.n_checksums = some(w, n);
    msg.n_shared = byte(w) % 2 ? some(w, n) : 0;
    return pack(&msg, out);
}

static size_t pack_taken(struct world *w, struct items *items, uint8_t *out)
{
    Baton__OfferTaken msg = BATON__OFFER_TAKEN__INIT;
    msg.outcomes = items->outcomes;
    msg.n_outcomes = byte(w) % MAX_ITEMS;
    return pack(&msg, out);
}

static size_t pack_noise(struct world *w, uint8_t *out)
{
    size_t n = byte(w);
    for (size_t i = 0; i < n; i++)
        out[i] = byte(w);
    return n;
}

static size_t pack_message(struct world *w, enum frame_type type, uint8_t *out)
{
    struct items items;
    fill(w, &items);
    if (byte(w) % 8 == 7)
        return pack_noise(w, out);
    switch (type) {
    case FRAME_FIND:
        return pack_find(w, out);
    case FRAME_FOUND:
        return pack_found(w, &items, out);
    case FRAME_PULLED:
        return pack_pulled(w, &items, out);
    case FRAME_OFFER:
        return pack_offer(w, &items, out);
    default:
        return pack_taken(w, &items, out);
    }
}

static void say(struct world *w)
{
    static const enum frame_type types[] = { FRAME_FIND, FRAME_FOUND, FRAME_PULLED, FRAME_OFFER, FRAME_OFFER_TAKEN };
    static uint8_t payload[4096];
    uint8_t who = byte(w) % PEERS, when = byte(w);
    struct frame frame = { .type = types[byte(w) % 5],
                           .key = { 1, byte(w) % 4 },
                           .attempt = byte(w) % 3,
                           .leg = byte(w) % 4,
                           .incarnation = 100u + who,
                           .payload = payload };
    if (when % 2 && (frame.type == FRAME_FOUND || frame.type == FRAME_OFFER_TAKEN)) {
        frame.key = w->last.key;
        frame.attempt = w->last.attempt;
        frame.leg = w->last.leg;
    }
    frame.payload_len = (uint32_t)pack_message(w, frame.type, payload);
    if (!w->up[who])
        return;
    uint64_t deadline = when < 200 ? FRAME_NO_DEADLINE : w->now + 100u * when;
    void *peer = &w->peers[who];
    ASSERT(lender_on_message(w->lender, peer, &frame, deadline) || borrower_on_message(w->borrower, peer, &frame) ||
           offers_on_message(w->offers, peer, &frame) || acceptor_on_message(w->acceptor, peer, &frame, deadline));
}

/* ---- what happens here ---------------------------------------------------------------------------------------- */

/* Registers the next block of the chain, and offers it. */
static void compute(struct world *w)
{
    struct block_hash hashes[CHAIN], hash = block_seed(&parts);
    block_id blocks[CHAIN];
    for (uint32_t i = 0; i < CHAIN; i++)
        hashes[i] = hash = block_hash_next(hash, w->tokens + i * BLOCK_TOKENS, BLOCK_TOKENS);
    const struct registry_query query = { block_seed(&parts), hashes, w->tokens, CHAIN };
    uint32_t n = block_registry_match(w->registry, &query, blocks);
    if (n < CHAIN && block_pool_take(w->pool, 1, BLOCK_FILLING, &blocks[n]) == ST_OK) {
        const struct registry_block what = { block_seed(&parts), hashes[n], w->tokens + n * BLOCK_TOKENS,
                                             n ? blocks[n - 1] : BLOCK_NONE };
        block_pool_filled(w->pool, blocks[n], BLOCK_TOKENS);
        (void)block_registry_register(w->registry, &what, &blocks[n]);
        whole_checksums_set(w->checksums, blocks[n], w->zero_sum);
        const struct offered_run run = { parts, w->tokens, n, 1, &blocks[n], &w->zero_sum, NULL };
        (void)offers_add(w->offers, &run);
        n++;
    }
    for (uint32_t i = 0; i < n; i++)
        block_pool_release(w->pool, blocks[i], BLOCK_OF_SEQUENCE);
}

static void release(struct pulling *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        block_pool_release(p->world->pool, p->blocks[i], BLOCK_OF_SEQUENCE);
    p->pull = NULL;
}

static void on_ended(void *arg, const struct pull_result *result)
{
    struct pulling *p = arg;
    ASSERT(result->n_blocks <= p->n);
    release(p);
}

static void pull(struct world *w)
{
    struct pulling *p = &w->pulls[byte(w) % 2];
    uint32_t n = 1 + byte(w) % CHAIN, first = byte(w) % CHAIN;
    uint8_t who = byte(w) % PEERS;
    if (p->pull || !w->up[who] || first + n > CHAIN || block_pool_take(w->pool, n, BLOCK_RESERVED, p->blocks) != ST_OK)
        return;
    p->world = w;
    p->n = n;
    const struct pull_options options = { .holder = &w->peers[who],
                                          .key = { 1, byte(w) % 4 },
                                          .attempt = 1,
                                          .parts = parts,
                                          .tokens = w->tokens,
                                          .first = first,
                                          .n_blocks = n,
                                          .blocks = p->blocks,
                                          .deadline_us = w->now + 100u * byte(w),
                                          .ended = on_ended,
                                          .arg = p };
    if (borrower_pull(w->borrower, &options, &p->pull) != ST_OK)
        release(p);
}

static void lose(struct world *w, uint32_t who)
{
    void *peer = &w->peers[who];
    w->up[who] = false;
    lender_on_peer_lost(w->lender, peer);
    borrower_on_peer_lost(w->borrower, peer);
    offers_on_peer_lost(w->offers, peer);
    acceptor_on_peer_lost(w->acceptor, peer);
}

static void pass_time(struct world *w, uint64_t us)
{
    w->now += us;
    timers_run(&w->timers, w->now);
}

static void act(struct world *w)
{
    uint8_t op = byte(w);
    if (op < 140)
        say(w);
    else if (op < 180 && w->n_takes)
        end_take(w, byte(w) % 8 == 7 ? ST_STALE : ST_OK);
    else if (op < 205)
        pull(w);
    else if (op < 225)
        compute(w);
    else if (op < 240)
        pass_time(w, (uint64_t)byte(w) * 100);
    else if (op < 250 && w->pulls[op % 2].pull)
        borrower_cancel(w->pulls[op % 2].pull);
    else if (op < 252)
        lose(w, op % PEERS);
}

static void settle(struct world *w)
{
    for (uint32_t i = 0; i < PEERS; i++)
        lose(w, i);
    while (w->n_takes)
        end_take(w, ST_OK);
    ASSERT(lender_open_loans(w->lender) == 0 && borrower_open_pulls(w->borrower) == 0);
    ASSERT(offers_under_way(w->offers) == 0 && acceptor_under_way(w->acceptor) == 0);
    ASSERT(block_pool_free(w->pool) == BLOCKS);
    ASSERT(timers_next(&w->timers) == TIMERS_NEVER);
}

static void create_cores(struct world *w)
{
    const struct lender_options lender = { .io = &w->io,
                                           .source = &w->source.source,
                                           .timers = &w->timers,
                                           .kv_format = "f",
                                           .block_tokens = BLOCK_TOKENS,
                                           .max_loans = 3,
                                           .max_blocks = 4,
                                           .max_chain = CHAIN,
                                           .lifetime_us = 5000 };
    const struct borrower_options borrower = { .io = &w->io,
                                               .timers = &w->timers,
                                               .kv_format = "f",
                                               .geometry = geometry,
                                               .max_pulls = 2,
                                               .max_blocks = CHAIN,
                                               .batch_blocks = 2,
                                               .takes = 3,
                                               .answer_us = 3000,
                                               .take_bytes = 1,
                                               .layer_take_bytes = 1 };
    const struct offers_options offers = { .io = &w->io,
                                           .timers = &w->timers,
                                           .pool = w->pool,
                                           .kv_format = "f",
                                           .block_tokens = BLOCK_TOKENS,
                                           .incarnation = 1,
                                           .max_queue = CHAIN,
                                           .max_chain = CHAIN,
                                           .batch = 2,
                                           .max_offers = 2,
                                           .linger_us = 300,
                                           .lifetime_us = 5000 };
    const struct acceptor_options acceptor = { .io = &w->io,
                                               .store = &w->store,
                                               .kv_format = "f",
                                               .geometry = geometry,
                                               .max_offers = 2,
                                               .max_blocks = CHAIN,
                                               .max_chain = CHAIN,
                                               .take_us = 3000 };
    ASSERT(lender_create(&lender, &w->lender) == ST_OK && borrower_create(&borrower, &w->borrower) == ST_OK);
    ASSERT(offers_create(&offers, &w->offers) == ST_OK && acceptor_create(&acceptor, &w->acceptor) == ST_OK);
    offers_set_manager(w->offers, &w->peers[0]);
}

static void start(struct world *w)
{
    const uint64_t zeros[LAYERS] = { 0 };
    const struct block_pool_options pool = { .n_blocks = BLOCKS,
                                             .block_tokens = BLOCK_TOKENS,
                                             .policy = &eviction_lru };
    timers_init(&w->timers);
    timers_set_now(&w->timers, w->now);
    w->io = (struct exchange_io){ w, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    w->store = (struct acceptor_store){ w, store_put, store_keep, store_drop };
    w->zero_sum = transfer_block_checksum(zeros, LAYERS);
    for (uint32_t i = 0; i < PEERS; i++)
        w->up[i] = true;
    for (uint32_t i = 0; i < CHAIN * BLOCK_TOKENS; i++)
        w->tokens[i] = i;
    ASSERT(block_pool_create(&pool, &w->pool) == ST_OK);
    const struct block_registry_options registry = { w->pool, BLOCK_TOKENS };
    const struct whole_checksums_options sums = { &w->io, w->pool, geometry, 1, 1000, NULL, NULL, NULL };
    ASSERT(block_registry_create(&registry, &w->registry) == ST_OK);
    ASSERT(whole_checksums_create(&sums, &w->checksums) == ST_OK);
    registry_source_init(&w->source, w->pool, w->registry, w->checksums);
    create_cores(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = { .data = data, .left = size, .now = 1000000 };
    log_init("fuzz", LOG_OFF);
    start(&w);
    while (w.left)
        act(&w);
    settle(&w);
    lender_destroy(&w.lender);
    borrower_destroy(&w.borrower);
    offers_destroy(&w.offers);
    acceptor_destroy(&w.acceptor);
    whole_checksums_destroy(&w.checksums);
    block_registry_destroy(&w.registry);
    block_pool_destroy(&w.pool);
    timers_free(&w.timers);
    return 0;
}
