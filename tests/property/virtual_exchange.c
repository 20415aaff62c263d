#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "virtual_exchange.h"

#define FORMAT "BF16-test"

static const struct transfer_geometry geometry = { VX_LAYERS, 2, VX_BLOCK_TOKENS, 16 };

enum event_kind { EV_MESSAGE, EV_COPY, EV_TAKEN, EV_LOST, EV_UP, EV_READY };

struct vx_event {
    uint64_t at, order;
    enum event_kind kind;
    uint32_t node, other; /* where it happens; the peer */
    uint64_t life;        /* of node */
    uint32_t met;         /* of the link it belongs to */
    struct frame frame;
    uint8_t *payload;
    uint64_t deadline;
    uint32_t job;
    uint64_t job_number;
    struct slow_find *slow;
};

/* A take under way. */
struct vx_job {
    struct transfer_take *take; /* NULL: a free place */
    struct vx_node *node, *holder;
    uint64_t number, holder_life;
    const uint8_t *memory;
    _Atomic uint64_t *generations;
    bool stalled; /* the holder was frozen: nothing came */
};

/* A Find whose blocks become ready one by one. */
struct slow_find {
    struct lender_find *find; /* NULL: closed */
    uint32_t held;            /* by the registry's source */
    uint32_t uses;            /* events, and the find */
};

/* ---- chance, time and content -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint32_t vx_draw(struct vx *vx, uint32_t below)
{
    vx->random = mix(vx->random);
    return (uint32_t)(vx->random >> 33) % below;
}

static bool chance(struct vx *vx, double p)
{
    return p > 0 && vx_draw(vx, 1u << 20) < p * (1u << 20);
}

static uint8_t *block_at(const struct vx_node *node, block_id block)
{
    return node->memory + block * transfer_block_bytes(&geometry);
}

static void kv_of(struct block_hash hash, uint8_t *out)
{
    for (size_t i = 0; i < transfer_block_bytes(&geometry); i += 8) {
        uint64_t word = mix(hash.low ^ mix(hash.high + i));
        memcpy(out + i, &word, sizeof word);
    }
}

static bool is_kv_of(const struct vx_node *node, block_id block, struct block_hash hash)
{
    uint8_t want[VX_LAYERS * 2 * VX_BLOCK_TOKENS * 16];
    assert_int_equal(sizeof want, transfer_block_bytes(&geometry));
    kv_of(hash, want);
    return !memcmp(block_at(node, block), want, sizeof want);
}

static void hash_chain(const struct block_seed_parts *parts, const uint32_t *tokens, uint32_t n_blocks,
                       struct block_hash out[])
{
    struct block_hasher hasher;
    block_hasher_init(&hasher, block_seed(parts), VX_BLOCK_TOKENS);
    (void)block_hasher_grow(&hasher, tokens, (size_t)n_blocks * VX_BLOCK_TOKENS, out, n_blocks);
}

static void push(struct vx *vx, struct vx_event e)
{
    if (vx->n_events == vx->room) {
        vx->room = vx->room ? 2 * vx->room : 256;
        vx->events = realloc(vx->events, vx->room * sizeof *vx->events);
        assert_non_null(vx->events);
    }
    e.order = vx->next_order++;
    vx->events[vx->n_events++] = e;
}

/* When something that happens at a node at this time really does: not while it is frozen. */
static uint64_t time_at(const struct vx_node *node, uint64_t at)
{
    return at > node->frozen_until ? at : node->frozen_until;
}

/* ---- messages -------------------------------------------------------------------------------------------------- */

static void post(struct vx *vx, struct vx_event e, const uint8_t *payload, uint32_t len)
{
    e.payload = malloc(len + 1);
    assert_non_null(e.payload);
    memcpy(e.payload, payload, len);
    e.frame.payload = e.payload;
    e.frame.payload_len = len;
    push(vx, e);
}

static uint64_t arrival(struct vx *vx, struct vx_peer *to, enum frame_type type)
{
    uint64_t at = vx->now + 20 + vx_draw(vx, 80);
    at = at > to->next_free ? at : to->next_free;
    to->next_free = at;
    while (chance(vx, vx->options.lose))
        at += VX_REPEAT_US;
    if (vx->drops[type]) {
        vx->drops[type]--;
        at += VX_REPEAT_US;
    }
    return chance(vx, vx->options.late) ? at + vx_draw(vx, 1000000) : at;
}

static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    struct vx_peer *to = peer;
    struct vx_node *node = ctx;
    struct vx *vx = node->vx;
    assert_ptr_equal(to->node, node);
    assert_true(node->alive);
    if (!to->up || (link_may_refuse(head->type) && chance(vx, vx->options.refuse)))
        return ST_CLOSED;
    vx->sent[head->type]++;
    uint8_t payload[4096];
    assert_true(protobuf_c_message_get_packed_size(body) <= sizeof payload);
    uint32_t len = (uint32_t)protobuf_c_message_pack(body, payload);
    struct vx_event e = { .kind = EV_MESSAGE,
                          .node = to->other->index,
                          .other = node->index,
                          .life = to->other->life,
                          .met = to->met,
                          .deadline = head->deadline_us,
                          .frame = { .type = head->type,
                                     .key = head->key,
                                     .attempt = head->attempt,
                                     .leg = head->leg,
                                     .incarnation = node->life } };
    uint32_t copies = chance(vx, vx->options.twice) ? 2 : 1;
    for (; copies > 0; copies--) {
        e.at = arrival(vx, to, head->type);
        post(vx, e, payload, len);
    }
    return ST_OK;
}

static void hear(struct vx_node *node, struct vx_node *from, const struct frame *frame, uint64_t deadline)
{
    struct vx_peer *peer = &node->peers[from->index];
    bool heard = lender_on_message(node->lender, peer, frame, deadline) ||
                 borrower_on_message(node->borrower, peer, frame) || offers_on_message(node->offers, peer, frame) ||
                 acceptor_on_message(node->acceptor, peer, frame, deadline);
    assert_true(heard);
}

static void deliver(struct vx *vx, struct vx_event *e)
{
    struct vx_node *node = &vx->nodes[e->node];
    if (node->peers[e->other].up && node->peers[e->other].met == e->met)
        hear(node, &vx->nodes[e->other], &e->frame, e->deadline);
}

void vx_inject(struct vx_node *from, struct vx_node *to, enum frame_type type, struct request_key key, uint32_t attempt,
               uint32_t leg, uint64_t deadline_us, const uint8_t *payload, uint32_t len)
{
    const struct frame frame = { .type = type,
                                 .key = key,
                                 .attempt = attempt,
                                 .leg = leg,
                                 .incarnation = from->life,
                                 .payload = payload,
                                 .payload_len = len };
    hear(to, from, &frame, deadline_us);
}

/* ---- takes ------------------------------------------------------------------------------------------------------- */

static uint64_t io_now(void *ctx)
{
    return ((struct vx_node *)ctx)->vx->now;
}

static bool io_is_alive(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct vx_peer *)peer)->up;
}

/* transfer.h names the peer by a pointer; here it is ours. */
static struct transfer_peer *io_way(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct vx_peer *)peer)->up ? peer : NULL;
}

static const char *io_name(void *ctx, void *peer)
{
    static const char *const names[] = { "n0", "n1", "n2", "n3" };
    (void)ctx;
    return names[((struct vx_peer *)peer)->other->index];
}

static status io_take(void *ctx, struct transfer_take *take)
{
    struct vx_node *node = ctx;
    struct vx *vx = node->vx;
    uint32_t i = 0, n = take->peer ? 1 : 0;
    while (i < VX_MAX_TAKES && vx->jobs[i].take)
        i++;
    if (i == VX_MAX_TAKES || chance(vx, vx->options.refuse))
        return ST_LIMIT;
    for (uint32_t k = 0; k < VX_MAX_TAKES; k++)
        n += vx->jobs[k].take && vx->jobs[k].take->peer;
    vx->most_takes = n > vx->most_takes ? n : vx->most_takes;
    struct vx_peer *peer = (struct vx_peer *)(void *)take->peer;
    struct vx_node *holder = peer ? peer->other : node;
    uint64_t *busy = peer ? &peer->busy_until : &node->peers[node->index].busy_until;
    uint64_t begin = *busy > vx->now ? *busy : vx->now, cost = 20 + 4 * (uint64_t)take->n_spans * take->n_layers;
    cost += chance(vx, vx->options.slow) ? vx_draw(vx, 50000) : 0;
    *busy = begin + cost;
    vx->jobs[i] = (struct vx_job){ .take = take,
                                   .node = node,
                                   .holder = holder,
                                   .number = ++vx->next_order,
                                   .holder_life = holder->life,
                                   .memory = holder->memory,
                                   .generations = holder->generations };
    struct vx_event e = { .at = begin + cost / 2,
                          .kind = EV_COPY,
                          .node = node->index,
                          .life = node->life,
                          .job = i,
                          .job_number = vx->jobs[i].number };
    push(vx, e);
    e.kind = EV_TAKEN;
    e.at = begin + cost < take->deadline_us ? begin + cost : take->deadline_us;
    push(vx, e);
    return ST_OK;
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    struct vx_node *node = ctx;
    struct vx *vx = node->vx;
    atomic_store(&take->cancelled, true);
    for (uint32_t i = 0; i < VX_MAX_TAKES; i++)
        if (vx->jobs[i].take == take)
            push(vx, (struct vx_event){ .at = vx->now + 5,
                                        .kind = EV_TAKEN,
                                        .node = node->index,
                                        .life = node->life,
                                        .job = i,
                                        .job_number = vx->jobs[i].number });
}

static struct vx_job *job_of(struct vx *vx, const struct vx_event *e)
{
    struct vx_job *job = &vx->jobs[e->job];
    return job->take && job->number == e->job_number ? job : NULL;
}

static void flip(struct vx *vx, uint8_t *layer)
{
    if (vx->flips_left == 0 && !chance(vx, vx->options.flip))
        return;
    vx->flips_left -= vx->flips_left > 0;
    vx->flipped++;
    layer[vx_draw(vx, (uint32_t)transfer_layer_bytes(&geometry))] ^= (uint8_t)(1u << vx_draw(vx, 8));
}

static void copy(struct vx *vx, struct vx_job *job)
{
    const struct transfer_take *take = job->take;
    size_t layer = transfer_layer_bytes(&geometry);
    if (!take->peer)
        return;
    job->stalled = vx->options.by_tcp && (!job->holder->alive || job->holder->life != job->holder_life ||
                                          vx->now < job->holder->frozen_until);
    for (uint32_t s = 0; s < take->n_spans && !job->stalled; s++)
        for (uint32_t l = take->first_layer; l < take->first_layer + take->n_layers; l++) {
            uint8_t *to = block_at(job->node, take->spans[s].local_block) + l * layer;
            memcpy(to, job->memory + take->spans[s].remote_block * transfer_block_bytes(&geometry) + l * layer, layer);
            flip(vx, to);
        }
}

static status judge(const struct vx *vx, const struct vx_job *job)
{
    const struct transfer_take *take = job->take;
    if (atomic_load(&take->cancelled))
        return ST_CANCELLED;
    if (job->stalled || vx->now >= take->deadline_us)
        return job->stalled && vx->now < take->deadline_us ? ST_CLOSED : ST_TIMEOUT;
    for (uint32_t s = 0; take->peer && s < take->n_spans; s++)
        if (atomic_load(&job->generations[take->spans[s].remote_block]) != take->spans[s].remote_generation)
            return ST_STALE;
    return ST_OK;
}

/* Over TCP nothing comes while the holder is frozen. */
static bool waits(struct vx *vx, const struct vx_job *job, const struct vx_event *e)
{
    if (!job->stalled || !job->holder->alive || job->holder->life != job->holder_life ||
        atomic_load(&job->take->cancelled) || vx->now >= job->take->deadline_us)
        return false;
    struct vx_event again = *e;
    again.kind = EV_COPY;
    again.at = job->holder->frozen_until;
    push(vx, again);
    again.kind = EV_TAKEN;
    again.at = again.at + 10 < job->take->deadline_us ? again.at + 10 : job->take->deadline_us;
    push(vx, again);
    return true;
}

static void end_take(struct vx *vx, struct vx_job *job, const struct vx_event *e)
{
    struct transfer_take *take = job->take;
    if (waits(vx, job, e))
        return;
    take->st = judge(vx, job);
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t s = 0; s < take->n_spans; s++) {
            take->checksums[l * take->n_spans + s] = transfer_layer_checksum(
                &geometry, block_at(job->node, take->spans[s].local_block), take->first_layer + l, 0, VX_BLOCK_TOKENS);
            if (take->st == ST_CANCELLED && take->peer) /* until here it was writing */
                memset(block_at(job->node, take->spans[s].local_block), 0xee, 8);
        }
    take->bytes = take->st == ST_OK && take->peer
                      ? (uint64_t)take->n_layers * take->n_spans * transfer_layer_bytes(&geometry)
                      : 0;
    job->take = NULL;
    take->done(take);
}

/* ---- a source that is slow ----------------------------------------------------------------------------------------
 */

static void slow_put(struct slow_find *slow)
{
    if (--slow->uses == 0)
        free(slow);
}

static void ready_later(struct vx_node *node, struct slow_find *slow)
{
    slow->uses++;
    push(node->vx, (struct vx_event){ .at = node->vx->now + 100 + vx_draw(node->vx, 20000),
                                      .kind = EV_READY,
                                      .node = node->index,
                                      .life = node->life,
                                      .slow = slow });
}

static void open_find(void *ctx, struct lender_find *find)
{
    struct vx_node *node = ctx;
    node->registry_source.source.open(&node->registry_source, find);
    struct slow_find *slow = calloc(1, sizeof *slow);
    assert_non_null(slow);
    *slow = (struct slow_find){ .find = find, .held = find->n_ready, .uses = 1 };
    find->source = slow;
    if (!find->n_ready || !chance(node->vx, node->vx->options.slow))
        return;
    find->n_ready = vx_draw(node->vx, find->n_ready);
    ready_later(node, slow);
}

static void close_find(void *ctx, struct lender_find *find)
{
    struct vx_node *node = ctx;
    struct slow_find *slow = find->source;
    find->n_ready = slow->held;
    node->registry_source.source.close(&node->registry_source, find);
    slow->find = NULL;
    slow_put(slow);
}

static void become_ready(struct vx_node *node, struct slow_find *slow)
{
    struct lender_find *find = slow->find;
    if (find) {
        if (chance(node->vx, node->vx->options.fail))
            find->run = find->n_ready;
        else
            find->n_ready++;
        if (find->n_ready < find->run)
            ready_later(node, slow);
        lender_progress(node->lender, find);
    }
    slow_put(slow);
}

static void on_suspect(void *ctx, block_id block)
{
    (void)block;
    ((struct vx_node *)ctx)->suspects++;
}

static void suspect(void *ctx, const struct lender_find *find, uint32_t index)
{
    struct vx_node *node = ctx;
    node->registry_source.source.suspect(&node->registry_source, find, index);
}

/* ---- a small store -------------------------------------------------------------------------------------------------
 */

static uint32_t match(struct vx_node *node, struct block_hash seed, const struct block_hash *hashes,
                      const uint32_t *tokens, uint32_t n_blocks, block_id out[])
{
    return block_registry_match(node->registry, &(struct registry_query){ seed, hashes, tokens, n_blocks }, out);
}

static void release(struct vx_node *node, const block_id blocks[], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        block_pool_release(node->pool, blocks[i], BLOCK_OF_SEQUENCE);
}

static bool is_coming(const struct vx_node *node, const struct store_chain *chain, uint32_t n_blocks)
{
    for (uint32_t i = 0; i < VX_BLOCKS; i++)
        if (node->reserved[i].is_set && node->reserved[i].n_blocks == n_blocks &&
            block_hash_equal(node->reserved[i].seed, chain->seed) &&
            !memcmp(node->reserved[i].tokens, chain->tokens, n_blocks * VX_BLOCK_TOKENS * sizeof(uint32_t)))
            return true;
    return false;
}

static void reserve(struct vx_node *node, const struct store_offer *offer, uint32_t i, struct store_answer *out)
{
    block_id slot;
    if (block_pool_take(node->pool, 1, BLOCK_RESERVED, &slot) != ST_OK) {
        out->verdict = STORE_ROOM;
        return;
    }
    struct vx_reserved *r = &node->reserved[slot];
    assert_false(r->is_set);
    *r = (struct vx_reserved){
        .is_set = true, .seed = offer->chain.seed, .n_blocks = i + 1, .checksum = offer->checksums[i - offer->first]
    };
    memcpy(r->tokens, offer->chain.tokens, (i + 1) * VX_BLOCK_TOKENS * sizeof *r->tokens);
    *out = (struct store_answer){ STORE_WANTED, { slot, block_pool_generation(node->pool, slot) } };
}

static void store_put(void *ctx, const struct store_offer *offer, struct store_answer out[])
{
    struct vx_node *node = ctx;
    block_id held[VX_CHAIN];
    uint32_t n = match(node, offer->chain.seed, offer->chain.hashes, offer->chain.tokens, offer->chain.n_blocks, held);
    bool has_parent = offer->first <= n || is_coming(node, &offer->chain, offer->first);
    for (uint32_t i = offer->first; i < offer->chain.n_blocks; i++) {
        struct store_answer *answer = &out[i - offer->first];
        if (i < n)
            answer->verdict = STORE_PRESENT;
        else if (is_coming(node, &offer->chain, i + 1))
            answer->verdict = STORE_COMING;
        else if (!has_parent)
            answer->verdict = STORE_PARENT;
        else
            reserve(node, offer, i, answer);
        has_parent = answer->verdict <= STORE_COMING;
    }
    release(node, held, n);
}

static struct vx_reserved *reserved_of(struct vx_node *node, struct store_slot slot)
{
    struct vx_reserved *r = &node->reserved[slot.slot];
    assert_true(r->is_set && block_pool_generation(node->pool, slot.slot) == slot.generation);
    return r;
}

static status store_keep(void *ctx, struct store_slot slot)
{
    struct vx_node *node = ctx;
    struct vx_reserved *r = reserved_of(node, slot);
    struct block_hash hashes[VX_CHAIN], last = r->seed;
    block_id held[VX_CHAIN], block = slot.slot;
    for (uint32_t i = 0; i < r->n_blocks; i++)
        hashes[i] = last = block_hash_next(last, r->tokens + i * VX_BLOCK_TOKENS, VX_BLOCK_TOKENS);
    assert_true(is_kv_of(node, block, last)); /* never a wrong block */
    uint32_t n = match(node, r->seed, hashes, r->tokens, r->n_blocks - 1, held);
    status st = ST_CANCELLED;
    if (n == r->n_blocks - 1) {
        const struct registry_block what = { r->seed, last, r->tokens + n * VX_BLOCK_TOKENS,
                                             n ? held[n - 1] : BLOCK_NONE };
        block_pool_filled(node->pool, block, VX_BLOCK_TOKENS);
        st = block_registry_register(node->registry, &what, &block) == REGISTRY_REFUSED ? ST_CANCELLED : ST_OK;
        whole_checksums_set(node->checksums, block, r->checksum);
    }
    r->is_set = false;
    release(node, held, n);
    release(node, &block, 1);
    return st;
}

static void store_drop(void *ctx, struct store_slot slot, bool damaged)
{
    struct vx_node *node = ctx;
    block_id block = slot.slot;
    node->aborted_damaged += damaged;
    reserved_of(node, slot)->is_set = false;
    release(node, &block, 1);
}

/* ---- nodes
 * ------------------------------------------------------------------------------------------------------------ */

static void create_cores(struct vx_node *node)
{
    const struct block_registry_options registry = { node->pool, VX_BLOCK_TOKENS };
    const struct whole_checksums_options sums = { &node->io, node->pool, geometry, 4, 1000000, NULL, NULL, NULL };
    assert_int_equal(block_registry_create(&registry, &node->registry), ST_OK);
    assert_int_equal(whole_checksums_create(&sums, &node->checksums), ST_OK);
    registry_source_init(&node->registry_source, node->pool, node->registry, node->checksums);
    node->registry_source.suspect = on_suspect;
    node->registry_source.ctx = node;
    node->source = (struct lender_source){ node, open_find, close_find, NULL, suspect };
    node->store = (struct acceptor_store){ node, store_put, store_keep, store_drop };
    const struct lender_options lender = { .io = &node->io,
                                           .source = &node->source,
                                           .timers = &node->timers,
                                           .kv_format = FORMAT,
                                           .block_tokens = VX_BLOCK_TOKENS,
                                           .max_loans = 3,
                                           .max_blocks = VX_CHAIN - 2,
                                           .max_chain = VX_CHAIN,
                                           .lifetime_us = VX_LIFETIME_US };
    const struct borrower_options borrower = { .io = &node->io,
                                               .timers = &node->timers,
                                               .kv_format = FORMAT,
                                               .geometry = geometry,
                                               .max_pulls = 4,
                                               .max_blocks = VX_CHAIN,
                                               .batch_blocks = 4,
                                               .takes = 4,
                                               .take_bytes = 600, /* one layer of four blocks, all of one */
                                               .layer_take_bytes = 600,
                                               .answer_us = 1000000 };
    const struct offers_options offers = { .io = &node->io,
                                           .timers = &node->timers,
                                           .pool = node->pool,
                                           .kv_format = FORMAT,
                                           .block_tokens = VX_BLOCK_TOKENS,
                                           .incarnation = node->life,
                                           .max_queue = 2 * VX_CHAIN,
                                           .max_chain = VX_CHAIN,
                                           .batch = 4,
                                           .max_offers = 2,
                                           .linger_us = 1000,
                                           .lifetime_us = VX_LIFETIME_US };
    const struct acceptor_options acceptor = { .io = &node->io,
                                               .store = &node->store,
                                               .kv_format = FORMAT,
                                               .geometry = geometry,
                                               .max_offers = 3,
                                               .max_blocks = VX_CHAIN,
                                               .max_chain = VX_CHAIN,
                                               .take_us = 1000000 };
    assert_int_equal(lender_create(&lender, &node->lender), ST_OK);
    assert_int_equal(borrower_create(&borrower, &node->borrower), ST_OK);
    assert_int_equal(offers_create(&offers, &node->offers), ST_OK);
    assert_int_equal(acceptor_create(&acceptor, &node->acceptor), ST_OK);
}

static void start(struct vx_node *node)
{
    struct vx *vx = node->vx;
    node->alive = true;
    node->life = ++vx->next_life;
    node->frozen_until = 0;
    node->memory = calloc(VX_BLOCKS, transfer_block_bytes(&geometry));
    node->generations = calloc(VX_BLOCKS, sizeof *node->generations);
    assert_true(node->memory && node->generations);
    timers_init(&node->timers);
    timers_set_now(&node->timers, vx->now);
    node->io = (struct exchange_io){ node, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    memset(node->reserved, 0, sizeof node->reserved);
    node->n_hogged = 0;
    const struct block_pool_options pool = { .n_blocks = VX_BLOCKS,
                                             .block_tokens = VX_BLOCK_TOKENS,
                                             .generations = node->generations,
                                             .policy = &eviction_lru };
    assert_int_equal(block_pool_create(&pool, &node->pool), ST_OK);
    create_cores(node);
}

/* What its own takes and pulls were is forgotten; its memory stays for who still copies from it. */
static void stop(struct vx_node *node)
{
    struct vx *vx = node->vx;
    struct retired *old = malloc(sizeof *old);
    assert_non_null(old);
    *old = (struct retired){ vx->retired, node->memory, node->generations };
    vx->retired = old;
    for (uint32_t i = 0; i < VX_MAX_TAKES; i++)
        if (vx->jobs[i].take && vx->jobs[i].node == node)
            vx->jobs[i].take = NULL;
    for (uint32_t i = 0; i < VX_MAX_PULLS; i++)
        if (vx->pulls[i].node == node)
            vx->pulls[i].node = NULL;
    lender_destroy(&node->lender);
    borrower_destroy(&node->borrower);
    offers_destroy(&node->offers);
    acceptor_destroy(&node->acceptor);
    whole_checksums_destroy(&node->checksums);
    block_registry_destroy(&node->registry);
    block_pool_destroy(&node->pool);
    assert_true(timers_next(&node->timers) == TIMERS_NEVER);
    timers_free(&node->timers);
    node->alive = false;
}

static void lose(struct vx_node *node, uint32_t other, uint32_t met)
{
    struct vx_peer *peer = &node->peers[other];
    if (!peer->up || peer->met != met)
        return;
    peer->up = false;
    lender_on_peer_lost(node->lender, peer);
    borrower_on_peer_lost(node->borrower, peer);
    offers_on_peer_lost(node->offers, peer);
    acceptor_on_peer_lost(node->acceptor, peer);
}

static void happens(struct vx_node *node, enum event_kind kind, uint32_t other, uint64_t at)
{
    push(node->vx, (struct vx_event){ .at = at,
                                      .kind = kind,
                                      .node = node->index,
                                      .other = other,
                                      .life = node->life,
                                      .met = node->peers[other].met });
}

static void meet(struct vx_node *node, uint32_t other)
{
    struct vx *vx = node->vx;
    struct vx_peer *there = &vx->nodes[other].peers[node->index], *here = &node->peers[other];
    if (!there->node->alive || (here->up && there->up))
        return;
    if (here->up || there->up) { /* one side has not noticed yet that the link was lost */
        happens(node, EV_UP, other, vx->now + 100000);
        return;
    }
    here->met = there->met = ++vx->next_meeting;
    here->up = there->up = true;
    if (other == 0)
        offers_set_manager(node->offers, here);
    if (node->index == 0)
        offers_set_manager(there->node->offers, there);
}

void vx_kill(struct vx_node *node)
{
    if (!node->alive)
        return;
    for (uint32_t i = 0; i < VX_NODES; i++) {
        node->peers[i].up = false;
        if (node->vx->nodes[i].alive && i != node->index)
            happens(&node->vx->nodes[i], EV_LOST, node->index, node->vx->now + VX_CLOSED_US);
    }
    stop(node);
}

void vx_restart(struct vx_node *node)
{
    if (node->alive)
        return;
    start(node);
    for (uint32_t i = 0; i < VX_NODES; i++) {
        struct vx_node *other = &node->vx->nodes[i];
        node->peers[i].busy_until = node->peers[i].next_free = 0;
        if (i == node->index || !other->alive)
            continue;
        /* It says hello: who thought it alive hears of another incarnation first. */
        happens(other, EV_LOST, node->index, node->vx->now + 500);
        happens(other, EV_UP, node->index, node->vx->now + 1000);
    }
}

void vx_freeze(struct vx_node *node, uint64_t us)
{
    struct vx *vx = node->vx;
    if (!vx_is_up(node))
        return;
    node->frozen_until = vx->now + us;
    for (uint32_t i = 0; us >= VX_FROZEN_US && i < VX_NODES; i++) {
        struct vx_node *other = &vx->nodes[i];
        if (i == node->index || !other->alive)
            continue;
        happens(other, EV_LOST, node->index, vx->now + VX_FROZEN_US);
        happens(node, EV_LOST, i, node->frozen_until);
        happens(node, EV_UP, i, node->frozen_until + 5000);
    }
}

/* ---- sequences
 * ---------------------------------------------------------------------------------------------------------- */

static void offer_run(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens,
                      const block_id blocks[], uint32_t first, uint32_t n)
{
    uint64_t checksums[VX_CHAIN];
    for (uint32_t i = 0; i < n; i++)
        assert_true(whole_checksums_get(node->checksums, blocks[first + i], &checksums[i]));
    (void)offers_add(node->offers, &(struct offered_run){ *parts, tokens, first, n, blocks + first, checksums, NULL });
}

/* The blocks are the sequence's from `first` on, complete, and become registered behind those before them. */
static uint32_t register_run(struct vx_node *node, struct block_hash seed, const struct block_hash *hashes,
                             const uint32_t *tokens, block_id blocks[], uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < n; i++) {
        const struct registry_block what = { seed, hashes[i], tokens + i * VX_BLOCK_TOKENS,
                                             i ? blocks[i - 1] : BLOCK_NONE };
        uint64_t checksum = whole_checksum_of_bytes(&geometry, block_at(node, blocks[i]));
        if (block_registry_register(node->registry, &what, &blocks[i]) == REGISTRY_REFUSED)
            return i;
        whole_checksums_set(node->checksums, blocks[i], checksum);
    }
    return n;
}

uint32_t vx_compute(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens,
                    uint32_t n_blocks, bool offer)
{
    struct block_hash hashes[VX_CHAIN], seed = block_seed(parts);
    block_id blocks[VX_CHAIN];
    hash_chain(parts, tokens, n_blocks, hashes);
    uint32_t had = match(node, seed, hashes, tokens, n_blocks, blocks), n = had;
    for (; n < n_blocks && block_pool_take(node->pool, 1, BLOCK_FILLING, &blocks[n]) == ST_OK; n++) {
        kv_of(hashes[n], block_at(node, blocks[n]));
        block_pool_filled(node->pool, blocks[n], VX_BLOCK_TOKENS);
    }
    assert_int_equal(register_run(node, seed, hashes, tokens, blocks, had, n), n);
    if (offer && n > had)
        offer_run(node, parts, tokens, blocks, had, n - had);
    release(node, blocks, n);
    return n;
}

uint32_t vx_has(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens, uint32_t n_blocks)
{
    struct block_hash hashes[VX_CHAIN];
    hash_chain(parts, tokens, n_blocks, hashes);
    return block_registry_peek(node->registry, &(struct registry_query){ block_seed(parts), hashes, tokens, n_blocks });
}

void vx_hog(struct vx_node *node)
{
    uint32_t n = block_pool_free(node->pool);
    if (node->n_hogged) {
        release(node, node->hogged, node->n_hogged);
        node->n_hogged = 0;
        return;
    }
    assert_int_equal(block_pool_take(node->pool, n, BLOCK_FILLING, node->hogged), ST_OK);
    for (uint32_t i = 0; i < n; i++)
        memset(block_at(node, node->hogged[i]), 0x77, transfer_block_bytes(&geometry));
    node->n_hogged = n;
}

void vx_crowd_out(struct vx_node *node)
{
    bool was_hogged = node->n_hogged > 0;
    vx_hog(node);
    if (!was_hogged && node->n_hogged)
        vx_hog(node);
}

void vx_damage(struct vx_node *node, const struct block_seed_parts *parts, const uint32_t *tokens, uint32_t block)
{
    struct block_hash hashes[VX_CHAIN];
    block_id blocks[VX_CHAIN];
    hash_chain(parts, tokens, block + 1, hashes);
    assert_int_equal(match(node, block_seed(parts), hashes, tokens, block + 1, blocks), block + 1);
    block_at(node, blocks[block])[100] ^= 4;
    release(node, blocks, block + 1);
}

/* ---- pulls
 * ---------------------------------------------------------------------------------------------------------------- */

static status refusal;

status vx_pull_refusal(void)
{
    return refusal;
}

static void on_announced(void *arg, uint32_t run)
{
    struct vx_pull *p = arg;
    assert_true(run <= p->n_blocks && (p->tells == 0 || run < p->told_run));
    p->told_run = run;
    p->tells++;
}

/* Whole layers are here; what is wrong with them nobody knows yet. */
static void on_layers(void *arg, uint32_t layers, double arrived)
{
    struct vx_pull *p = arg;
    assert_true(vx_is_up(p->node) && p->tells > 0 && p->n_by_layer > 0);
    assert_true(layers > p->told_layers && layers < VX_LAYERS && p->told_blocks < p->told_run);
    assert_true(arrived >= p->told_arrived && arrived * VX_LAYERS > layers - 1e-9 && arrived < 1);
    if (!p->told_layers)
        p->blocks_before_layers = p->told_blocks;
    p->told_layers = layers;
    p->told_arrived = arrived;
    if (p->cancel_at && layers >= p->cancel_at)
        borrower_cancel(p->pull);
}

static void on_verified(void *arg, uint32_t first, uint32_t n)
{
    struct vx_pull *p = arg;
    struct vx_node *node = p->node;
    struct block_hash hashes[VX_CHAIN];
    assert_true(vx_is_up(node) && n > 0 && first == p->told_blocks && first + n <= p->n_blocks);
    hash_chain(&p->parts, p->tokens, p->first + p->n_blocks, hashes);
    for (uint32_t i = first; i < first + n; i++)
        assert_true(is_kv_of(node, p->blocks[i], hashes[p->first + i]));
    p->told_blocks = first + n;
    if (p->cancel_at)
        borrower_cancel(p->pull);
}

static void keep_pulled(struct vx_pull *p, uint32_t n)
{
    struct vx_node *node = p->node;
    struct block_hash hashes[VX_CHAIN];
    block_id blocks[2 * VX_CHAIN];
    hash_chain(&p->parts, p->tokens, p->first + p->n_blocks, hashes);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(is_kv_of(node, p->blocks[i], hashes[p->first + i])); /* never a wrong block */
        block_pool_filled(node->pool, p->blocks[i], VX_BLOCK_TOKENS);
    }
    assert_int_equal(p->told_blocks, n);
    uint32_t before = match(node, block_seed(&p->parts), hashes, p->tokens, p->first, blocks);
    memcpy(blocks + before, p->blocks, p->n_blocks * sizeof *blocks);
    if (before == p->first)
        (void)register_run(node, block_seed(&p->parts), hashes, p->tokens, blocks, before, before + n);
    release(node, blocks, before + p->n_blocks);
}

static void on_ended(void *arg, const struct pull_result *result)
{
    struct vx_pull *p = arg;
    struct vx *vx = p->node->vx;
    assert_true(p->node->alive && p->life == p->node->life);
    uint32_t n = 0;
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        n += result->by_tier[tier];
    assert_int_equal(n, result->n_blocks);
    assert_true(result->n_blocks <= result->announced && result->announced <= p->n_blocks);
    keep_pulled(p, result->n_blocks);
    vx->ended.times++;
    vx->ended.result = *result;
    vx->ended.took_us = vx->now - p->began_us;
    /* The moment in which takes are given up comes on top, and a freeze of our own. */
    assert_true(vx->now <= p->deadline_us + 100 || p->node->frozen_until + 100 >= vx->now);
    p->node = NULL;
}

struct vx_pull *vx_pull(struct vx_node *node, struct vx_node *holder, const struct block_seed_parts *parts,
                        const uint32_t *tokens, uint32_t first, uint32_t n_blocks, uint64_t deadline_us)
{
    struct vx *vx = node->vx;
    uint32_t i = 0;
    while (i < VX_MAX_PULLS && vx->pulls[i].node)
        i++;
    struct vx_pull *p = &vx->pulls[i];
    refusal = ST_LIMIT;
    if (i == VX_MAX_PULLS)
        return NULL;
    *p = (struct vx_pull){ .life = node->life,
                           .parts = *parts,
                           .first = first,
                           .n_blocks = n_blocks,
                           .n_by_layer = vx->n_by_layer,
                           .began_us = vx->now,
                           .deadline_us = vx->now + deadline_us };
    if (block_pool_take(node->pool, n_blocks, BLOCK_RESERVED, p->blocks) != ST_OK)
        return NULL;
    memcpy(p->tokens, tokens, (first + n_blocks) * VX_BLOCK_TOKENS * sizeof *tokens);
    const struct pull_options options = { .holder = &node->peers[holder->index],
                                          .key = { 7, ++vx->next_key },
                                          .attempt = 1,
                                          .parts = *parts,
                                          .tokens = p->tokens,
                                          .first = first,
                                          .n_blocks = n_blocks,
                                          .blocks = p->blocks,
                                          .deadline_us = p->deadline_us,
                                          .tokens_per_s = vx->tokens_per_s,
                                          .local_only = vx->local_only,
                                          .n_by_layer = vx->n_by_layer,
                                          .announced = on_announced,
                                          .layers = on_layers,
                                          .verified = on_verified,
                                          .ended = on_ended,
                                          .arg = p };
    refusal = borrower_pull(node->borrower, &options, &p->pull);
    if (refusal == ST_OK) {
        p->node = node;
        return p;
    }
    release(node, p->blocks, n_blocks);
    return NULL;
}

/* ---- time goes by
 * ------------------------------------------------------------------------------------------------------------ */

static void dispatch(struct vx *vx, struct vx_event *e)
{
    struct vx_node *node = &vx->nodes[e->node];
    struct vx_job *job = e->kind == EV_COPY || e->kind == EV_TAKEN ? job_of(vx, e) : NULL;
    bool is_same_life = node->alive && node->life == e->life;
    switch (e->kind) {
    case EV_MESSAGE:
        if (is_same_life)
            deliver(vx, e);
        break;
    case EV_COPY:
        if (is_same_life && job)
            copy(vx, job);
        break;
    case EV_TAKEN:
        if (is_same_life && job)
            end_take(vx, job, e);
        break;
    case EV_LOST:
        if (is_same_life)
            lose(node, e->other, e->met);
        break;
    case EV_UP:
        if (is_same_life)
            meet(node, e->other);
        break;
    case EV_READY:
        if (is_same_life)
            become_ready(node, e->slow);
        else
            slow_put(e->slow);
        break;
    }
}

/* The next event, at its own time or when its node thaws; n_events: none. */
static size_t next_event(const struct vx *vx, uint64_t *at)
{
    size_t best = vx->n_events;
    for (size_t i = 0; i < vx->n_events; i++) {
        uint64_t when = time_at(&vx->nodes[vx->events[i].node], vx->events[i].at);
        if (best == vx->n_events || when < *at || (when == *at && vx->events[i].order < vx->events[best].order)) {
            best = i;
            *at = when;
        }
    }
    return best;
}

static struct vx_node *next_timer(struct vx *vx, uint64_t *at)
{
    struct vx_node *best = NULL;
    for (uint32_t i = 0; i < VX_NODES; i++) {
        struct vx_node *node = &vx->nodes[i];
        uint64_t due = node->alive ? timers_next(&node->timers) : TIMERS_NEVER;
        if (due == TIMERS_NEVER)
            continue;
        due = time_at(node, due);
        if (!best || due < *at) {
            best = node;
            *at = due;
        }
    }
    return best;
}

void vx_run(struct vx *vx, uint64_t us)
{
    uint64_t until = vx->now + us;
    for (;;) {
        uint64_t at = 0, due = 0;
        size_t i = next_event(vx, &at);
        struct vx_node *node = next_timer(vx, &due);
        bool is_timer = node && (i == vx->n_events || due < at);
        if ((!node && i == vx->n_events) || (is_timer ? due : at) > until)
            break;
        vx->now = is_timer ? (due > vx->now ? due : vx->now) : (at > vx->now ? at : vx->now);
        if (is_timer) {
            timers_run(&node->timers, vx->now);
            continue;
        }
        struct vx_event e = vx->events[i];
        vx->events[i] = vx->events[--vx->n_events];
        timers_set_now(&vx->nodes[e.node].timers, vx->now);
        dispatch(vx, &e);
        free(e.payload);
    }
    vx->now = until;
}

struct vx *vx_create(const struct vx_options *options)
{
    struct vx *vx = calloc(1, sizeof *vx);
    assert_non_null(vx);
    vx->options = *options;
    vx->random = options->random;
    vx->now = 1000000;
    vx->jobs = calloc(VX_MAX_TAKES, sizeof *vx->jobs);
    assert_non_null(vx->jobs);
    for (uint32_t i = 0; i < VX_NODES; i++) {
        vx->nodes[i].vx = vx;
        vx->nodes[i].index = i;
        for (uint32_t j = 0; j < VX_NODES; j++)
            vx->nodes[i].peers[j] = (struct vx_peer){ .node = &vx->nodes[i], .other = &vx->nodes[j] };
        start(&vx->nodes[i]);
    }
    for (uint32_t i = 0; i < VX_NODES; i++)
        for (uint32_t j = i + 1; j < VX_NODES; j++)
            meet(&vx->nodes[i], j);
    return vx;
}

void vx_destroy(struct vx *vx)
{
    for (uint32_t i = 0; i < VX_NODES; i++)
        if (vx->nodes[i].alive)
            stop(&vx->nodes[i]);
    for (size_t i = 0; i < vx->n_events; i++) {
        free(vx->events[i].payload);
        if (vx->events[i].kind == EV_READY)
            slow_put(vx->events[i].slow);
    }
    while (vx->retired) {
        struct retired *next = vx->retired->next;
        free(vx->retired->memory);
        free(vx->retired->generations);
        free(vx->retired);
        vx->retired = next;
    }
    free(vx->events);
    free(vx->jobs);
    free(vx);
}

void vx_assert_at_rest(struct vx *vx)
{
    for (uint32_t i = 0; i < VX_MAX_TAKES; i++)
        assert_null(vx->jobs[i].take);
    for (uint32_t i = 0; i < VX_MAX_PULLS; i++)
        assert_null(vx->pulls[i].node);
    for (uint32_t i = 0; i < VX_NODES; i++) {
        struct vx_node *node = &vx->nodes[i];
        if (!node->alive)
            continue;
        assert_int_equal(lender_open_loans(node->lender), 0);
        assert_int_equal(borrower_open_pulls(node->borrower), 0);
        assert_int_equal(offers_under_way(node->offers), 0);
        assert_int_equal(acceptor_under_way(node->acceptor), 0);
        assert_int_equal(block_pool_free(node->pool), VX_BLOCKS);
        assert_true(timers_next(&node->timers) == TIMERS_NEVER);
        for (uint32_t b = 0; b < VX_BLOCKS; b++) {
            assert_false(node->reserved[b].is_set);
            if (block_pool_state(node->pool, b) == BLOCK_REGISTERED)
                assert_true(is_kv_of(node, b, block_registry_at(node->registry, b).hash));
        }
    }
}
