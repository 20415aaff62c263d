/* Publishes which KV blocks this worker has, where its options do not forbid it. */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "worker/prefix_cache.h"
#include "worker/process.h"

void kv_events_stored(void *ctx, const struct block_stored *what)
{
    struct worker_process *p = ctx;
    if (p->kv_publish)
        kv_publish_stored(p->kv_publish, what);
}

void kv_events_removed(void *ctx, const struct block_hash *hashes, uint32_t n)
{
    struct worker_process *p = ctx;
    if (p->kv_publish)
        kv_publish_removed(p->kv_publish, hashes, n);
}

static status each(void *ctx, void (*visit)(void *ctx, const struct block_stored *what), void *visit_ctx)
{
    const struct worker_process *p = ctx;
    return prefix_cache_each(worker_prefix_cache(p->worker), visit, visit_ctx);
}

/* `own`, or any port of the host of --listen. */
static status listen_at(const char *own, const struct daemon_config *c, char *out, size_t size, struct error *err)
{
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (own[0])
        snprintf(out, size, "tcp://%s", own);
    else if (config_split_address(c->listen, host, sizeof host, &port) == ST_OK)
        snprintf(out, size, strchr(host, ':') ? "tcp://[%.200s]:0" : "tcp://%.200s:0", host);
    else
        return error_set(err, ST_INVALID, "--listen %s is no address", c->listen);
    return ST_OK;
}

static status kv_events_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    const struct worker_config *c = p->config;
    char events[CONFIG_TEXT_BYTES + 8], replay[CONFIG_TEXT_BYTES + 8];
    if (!c->kv_events)
        return ST_OK;
    status st = listen_at(c->kv_events_listen, &c->daemon, events, sizeof events, err);
    if (st == ST_OK)
        st = listen_at(c->kv_replay_listen, &c->daemon, replay, sizeof replay, err);
    const struct kv_publish_options options = {
        .loop = daemon_loop(d),
        .zmq = links_context(p->links),
        .listen = events,
        .listen_replay = replay,
        .tokens = c->kv_events_tokens,
        .block_tokens = p->layout.block_tokens,
        .each = each,
        .ctx = p,
    };
    if (st == ST_OK)
        st = kv_publish_create(&options, &p->kv_publish, err);
    if (st == ST_OK)
        log_info("KV events published", "address=%s replay=%s",
                 kv_publisher_endpoint(kv_publish_publisher(p->kv_publish)),
                 kv_publisher_replay_endpoint(kv_publish_publisher(p->kv_publish)));
    return st;
}

static void kv_events_stop(struct daemon *d)
{
    kv_publish_destroy(&worker_process_of(d)->kv_publish);
}

const struct part part_kv_events = { .name = "kv_events", .start = kv_events_start, .stop = kv_events_stop };
