#include "worker/kv_publish.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proto/instance.h"

#define RUN_BLOCKS    128u
#define RUN_TOKENS    4096u /* sent in one event: some 20 KB */
#define RING_BATCHES  8192u
#define RING_BYTES    (4u << 20)
#define DUMP_FRESH_US 200000u /* routers that start together share one */

/* Blocks that become one event: a piece of one chain, or some that are gone. */
struct run {
    enum kv_event_kind kind; /* of what is in it */
    struct kv_event_hash hashes[RUN_BLOCKS];
    uint32_t n, n_tokens;
    uint32_t *tokens; /* [RUN_TOKENS]; NULL: none are sent */
    bool has_parent, salted;
    struct kv_event_hash parent;
    char adapter[INSTANCE_ADAPTER_BYTES];
};

_Static_assert(RUN_TOKENS >= BLOCK_TOKENS_MAX, "a block fits");

struct kv_publish {
    struct kv_publish_options options;
    struct kv_publisher *publisher;
    struct timer timer; /* the end of this turn */
    struct run live, dumped;
    struct kv_dump *dump; /* the one that is being made */
};

static struct kv_event_hash named(struct block_hash hash)
{
    return (struct kv_event_hash){ hash.low, hash.high };
}

/* ---- runs ----------------------------------------------------------------------- */

/* Into the event that is sent; the run is empty then. */
static bool end_run(struct run *run, uint32_t block_tokens, struct kv_event *out)
{
    *out = (struct kv_event){ .kind = run->kind, .tier = KV_TIER_DEVICE, .hashes = run->hashes, .n_hashes = run->n };
    if (run->kind == KV_BLOCK_STORED) {
        out->has_parent = run->has_parent;
        out->parent = run->parent;
        out->tokens = run->tokens;
        out->n_tokens = run->n_tokens;
        out->block_size = block_tokens;
        out->adapter_len = (uint32_t)strlen(run->adapter);
        out->adapter = out->adapter_len ? run->adapter : NULL;
        out->has_adapter = out->adapter_len > 0;
    }
    run->n = run->n_tokens = 0;
    return out->n_hashes > 0;
}

static bool continues(const struct run *run, const struct block_stored *what)
{
    if (!run->n || run->n == RUN_BLOCKS || run->n_tokens + what->n_tokens > RUN_TOKENS ||
        run->kind != KV_BLOCK_STORED || !what->has_parent)
        return false;
    const struct kv_event_hash *last = &run->hashes[run->n - 1];
    return last->low == what->parent.low && last->high == what->parent.high && run->salted == what->has_salt &&
           !strcmp(run->adapter, what->adapter_id);
}

static void begin_run(struct run *run, const struct block_stored *what)
{
    run->kind = KV_BLOCK_STORED;
    run->has_parent = what->has_parent;
    run->parent = named(what->parent);
    run->salted = what->has_salt;
    size_t len = strlen(what->adapter_id);
    ASSERT(len < sizeof run->adapter);
    memcpy(run->adapter, what->adapter_id, len + 1);
}

static void add_to_run(struct run *run, const struct block_stored *what)
{
    run->hashes[run->n++] = named(what->hash);
    if (!run->tokens || what->has_salt)
        return;
    memcpy(run->tokens + run->n_tokens, what->tokens, what->n_tokens * sizeof *run->tokens);
    run->n_tokens += what->n_tokens;
}

/* ---- live ------------------------------------------------------------------------- */

static void send_run(struct kv_publish *k)
{
    struct kv_event event;
    if (end_run(&k->live, k->options.block_tokens, &event))
        kv_publisher_add(k->publisher, &event);
}

static void on_turn_ended(void *arg)
{
    struct kv_publish *k = arg;
    send_run(k);
    kv_publisher_flush(k->publisher);
}

static void end_turn_later(struct kv_publish *k)
{
    struct timers *timers = loop_timers(k->options.loop);
    if (!timer_is_set(&k->timer))
        timer_set(timers, &k->timer, timers_now(timers), on_turn_ended, k);
}

void kv_publish_stored(struct kv_publish *k, const struct block_stored *what)
{
    ASSERT(what->n_tokens == k->options.block_tokens);
    if (!continues(&k->live, what)) {
        send_run(k);
        begin_run(&k->live, what);
    }
    add_to_run(&k->live, what);
    end_turn_later(k);
}

void kv_publish_removed(struct kv_publish *k, const struct block_hash *hashes, uint32_t n)
{
    struct run *run = &k->live;
    for (uint32_t i = 0; i < n; i++) {
        if (run->kind != KV_BLOCK_REMOVED || run->n == RUN_BLOCKS)
            send_run(k);
        run->kind = KV_BLOCK_REMOVED;
        run->hashes[run->n++] = named(hashes[i]);
    }
    end_turn_later(k);
}

/* ---- dumps -------------------------------------------------------------------------- */

static void dump_run(struct kv_publish *k)
{
    struct kv_event event;
    if (end_run(&k->dumped, k->options.block_tokens, &event))
        kv_dump_add(k->dump, &event);
}

static void dump_block(void *ctx, const struct block_stored *what)
{
    struct kv_publish *k = ctx;
    if (!continues(&k->dumped, what)) {
        dump_run(k);
        begin_run(&k->dumped, what);
    }
    add_to_run(&k->dumped, what);
}

/* What waits for the end of the turn is in the dump, and comes behind it once more: a block's last event tells. */
static bool dump_all(void *ctx, struct kv_dump *dump, bool is_new)
{
    (void)is_new;
    struct kv_publish *k = ctx;
    k->dump = dump;
    if (k->options.each(k->options.ctx, dump_block, k) != ST_OK)
        log_error("no memory to tell all KV blocks", "endpoint=%s", kv_publisher_replay_endpoint(k->publisher));
    dump_run(k);
    k->dump = NULL;
    return false;
}

/* ---- life ----------------------------------------------------------------------------- */

static status take_memory(struct kv_publish *k)
{
    size_t bytes = RUN_TOKENS * sizeof *k->live.tokens;
    if (!k->options.tokens)
        return ST_OK;
    k->live.tokens = malloc(bytes);
    k->dumped.tokens = malloc(bytes);
    return k->live.tokens && k->dumped.tokens ? ST_OK : ST_NO_MEMORY;
}

status kv_publish_create(const struct kv_publish_options *options, struct kv_publish **out, struct error *err)
{
    ASSERT(options->block_tokens && options->block_tokens <= BLOCK_TOKENS_MAX);
    struct kv_publish *k = calloc(1, sizeof *k);
    if (!k)
        return error_set(err, ST_NO_MEMORY, "no memory for a publisher of KV events");
    k->options = *options;
    const struct kv_publisher_options publisher = { .loop = options->loop,
                                                    .zmq = options->zmq,
                                                    .listen = options->listen,
                                                    .listen_replay = options->listen_replay,
                                                    .rank = 0,
                                                    .form = KV_HASH_AS_BYTES,
                                                    .tokens = options->tokens,
                                                    .max_batches = RING_BATCHES,
                                                    .max_bytes = RING_BYTES,
                                                    .dump_fresh_us = DUMP_FRESH_US,
                                                    .dump = dump_all,
                                                    .ctx = k };
    status st = take_memory(k);
    if (st != ST_OK)
        error_set(err, st, "no memory for a publisher of KV events");
    else
        st = kv_publisher_create(&publisher, &k->publisher, err);
    if (st == ST_OK)
        *out = k;
    else
        kv_publish_destroy(&k);
    return st;
}

void kv_publish_destroy(struct kv_publish **publish)
{
    struct kv_publish *k = *publish;
    *publish = NULL;
    if (!k)
        return;
    timer_cancel(loop_timers(k->options.loop), &k->timer);
    kv_publisher_destroy(&k->publisher);
    free(k->live.tokens);
    free(k->dumped.tokens);
    free(k);
}

const struct kv_publisher *kv_publish_publisher(const struct kv_publish *k)
{
    return k->publisher;
}
