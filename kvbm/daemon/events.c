#include "kvbm/daemon/events.h"

#include <stdlib.h>
#include <zmq.h>

#include "common/log.h"

#define RUN_BLOCKS    128u
#define RING_BATCHES  8192u
#define RING_BYTES    (4u << 20)
#define DUMP_FRESH_US 200000u /* routers that start together share one */
#define DUMP_PLACES   4096u   /* looked at in one turn of the loop: less than a millisecond */

/* Blocks that become one event: a piece of one chain, or some that are gone. */
struct run {
    enum kv_event_kind kind;
    enum kv_tier tier;
    struct kv_event_hash parent, hashes[RUN_BLOCKS];
    bool has_parent;
    uint32_t n;
};

struct events {
    struct events_options options;
    void *zmq;
    struct kv_publisher *publisher;
    struct timer timer; /* the end of this turn */
    struct run live, dumped;
    struct kv_dump *dump;      /* the one that is being made */
    struct store_dump *cursor; /* of its tier */
    unsigned dumped_tier;
};

static const enum kv_tier tiers[STORE_TIER_COUNT] = { [STORE_HOST] = KV_TIER_HOST, [STORE_DISK] = KV_TIER_DISK };

static struct kv_event_hash named(struct block_hash hash)
{
    return (struct kv_event_hash){ hash.low, hash.high };
}

static bool same(struct kv_event_hash a, struct kv_event_hash b)
{
    return a.low == b.low && a.high == b.high;
}

/* ---- runs ----------------------------------------------------------------------- */

/* Into the event that is sent; the run is empty then. */
static bool end_run(const struct events *e, struct run *run, struct kv_event *out)
{
    *out = (struct kv_event){ .kind = run->kind, .tier = run->tier, .hashes = run->hashes, .n_hashes = run->n };
    if (run->kind == KV_BLOCK_STORED) {
        out->has_parent = run->has_parent;
        out->parent = run->parent;
        out->block_size = e->options.block_tokens;
    }
    run->n = 0;
    return out->n_hashes > 0;
}

static bool continues(const struct run *run, enum kv_event_kind kind, enum kv_tier tier,
                      const struct store_block *block)
{
    if (!run->n || run->n == RUN_BLOCKS || run->kind != kind || run->tier != tier)
        return false;
    return kind == KV_BLOCK_REMOVED || same(run->hashes[run->n - 1], named(block->parent));
}

static void add_to_run(struct run *run, enum kv_event_kind kind, enum kv_tier tier, const struct store_block *block)
{
    if (!run->n) {
        run->kind = kind;
        run->tier = tier;
        run->has_parent = !block->is_first; /* a seed is no block's hash, and followers would look for it */
        run->parent = named(block->parent);
    }
    run->hashes[run->n++] = named(block->hash);
}

/* ---- live ------------------------------------------------------------------------- */

static void send_run(struct events *e)
{
    struct kv_event event;
    if (end_run(e, &e->live, &event))
        kv_publisher_add(e->publisher, &event);
}

static void on_turn_ended(void *arg)
{
    struct events *e = arg;
    send_run(e);
    kv_publisher_flush(e->publisher);
}

static void tell(struct events *e, enum kv_event_kind kind, enum store_tier tier, const struct store_block *block)
{
    if (!e)
        return;
    struct timers *timers = loop_timers(e->options.loop);
    if (!continues(&e->live, kind, tiers[tier], block))
        send_run(e);
    add_to_run(&e->live, kind, tiers[tier], block);
    if (!timer_is_set(&e->timer))
        timer_set(timers, &e->timer, timers_now(timers), on_turn_ended, e);
}

void events_stored(struct events *e, enum store_tier tier, const struct store_block *block)
{
    tell(e, KV_BLOCK_STORED, tier, block);
}

void events_removed(struct events *e, enum store_tier tier, const struct store_block *block)
{
    tell(e, KV_BLOCK_REMOVED, tier, block);
}

/* ---- dumps -------------------------------------------------------------------------- */

static void dump_run(struct events *e)
{
    struct kv_event event;
    if (end_run(e, &e->dumped, &event))
        kv_dump_add(e->dump, &event);
}

static void dump_block(struct events *e, enum kv_tier tier, const struct store_block *block)
{
    if (!continues(&e->dumped, KV_BLOCK_STORED, tier, block))
        dump_run(e);
    add_to_run(&e->dumped, KV_BLOCK_STORED, tier, block);
}

static void dump_host(void *ctx, const struct store_block *block)
{
    dump_block(ctx, KV_TIER_HOST, block);
}

static void dump_disk(void *ctx, const struct store_block *block)
{
    dump_block(ctx, KV_TIER_DISK, block);
}

/* False: the tier is done. */
static bool dump_piece(struct events *e)
{
    if (!e->cursor && store_dump_begin(e->options.store, (enum store_tier)e->dumped_tier, &e->cursor) != ST_OK) {
        log_error("no memory to tell all KV blocks", "endpoint=%s", kv_publisher_replay_endpoint(e->publisher));
        return false;
    }
    if (store_dump_some(e->cursor, DUMP_PLACES, e->dumped_tier == STORE_HOST ? dump_host : dump_disk, e))
        return true;
    store_dump_end(&e->cursor);
    return false;
}

/* What waits for the end of the turn is in the dump, and comes behind it once more: a block's last event tells. */
static bool dump_some(void *ctx, struct kv_dump *dump, bool is_new)
{
    struct events *e = ctx;
    if (is_new)
        e->dumped_tier = 0;
    e->dump = dump;
    e->dumped_tier += !dump_piece(e);
    bool more = e->dumped_tier < STORE_TIER_COUNT;
    if (!more)
        dump_run(e);
    e->dump = NULL;
    return more;
}

/* ---- life ----------------------------------------------------------------------------- */

status events_create(const struct events_options *options, struct events **out, struct error *err)
{
    struct events *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, ST_NO_MEMORY, "no memory for a publisher of KV events");
    e->options = *options;
    e->zmq = zmq_ctx_new();
    const struct kv_publisher_options publisher = { .loop = options->loop,
                                                    .zmq = e->zmq,
                                                    .listen = options->listen,
                                                    .listen_replay = options->listen_replay,
                                                    .rank = 0,
                                                    .form = KV_HASH_AS_BYTES,
                                                    .max_batches = RING_BATCHES,
                                                    .max_bytes = RING_BYTES,
                                                    .dump_fresh_us = DUMP_FRESH_US,
                                                    .dump = dump_some,
                                                    .ctx = e };
    status st = e->zmq ? kv_publisher_create(&publisher, &e->publisher, err)
                       : error_set(err, ST_NO_MEMORY, "no memory for a publisher of KV events");
    if (st == ST_OK)
        *out = e;
    else
        events_destroy(&e);
    return st;
}

void events_destroy(struct events **events)
{
    struct events *e = *events;
    *events = NULL;
    if (!e)
        return;
    timer_cancel(loop_timers(e->options.loop), &e->timer);
    kv_publisher_destroy(&e->publisher);
    store_dump_end(&e->cursor);
    if (e->zmq)
        zmq_ctx_term(e->zmq);
    free(e);
}

const struct kv_publisher *events_publisher(const struct events *e)
{
    return e->publisher;
}
