/* The other daemons that a worker speaks with: routers and decode workers come
 * to us; a decode worker connects to every prefill worker whose KV it can use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "worker/process.h"

#define WAY_TIMEOUT_US 3000000u /* for connecting to a peer's blocks and testing the way */
#define WAY_RETRY_US   1000000u

struct process_peer {
    struct worker_peer peer; /* first; what worker.h sees */
    TAILQ_ENTRY(process_peer) link;
    struct worker_process *process;
    struct link *own_link; /* we opened it and close it; NULL for a peer that came to us */
    char address[128];     /* that own_link was opened to */
    bool is_member;        /* etcd knows it */
    bool up, way_ready;
    struct transfer_peer *way;
    uint8_t *description; /* transfer_description of the peer, for another try */
    size_t description_len;
    struct timer retry;
};

static void drop_way(struct process_peer *peer)
{
    peer->peer.transfer = NULL;
    peer->way_ready = false;
    timer_cancel(loop_timers(daemon_loop(peer->process->daemon)), &peer->retry);
    transfer_disconnect(&peer->way);
}

static void peer_free(struct process_peer *peer)
{
    drop_way(peer);
    TAILQ_REMOVE(&peer->process->peers, peer, link);
    free(peer->description);
    free(peer);
}

/* ---- the way to a prefill worker's blocks ------------------------------------------ */

static void open_way(void *arg);

static void retry_way(struct process_peer *peer)
{
    drop_way(peer);
    timer_set(loop_timers(daemon_loop(peer->process->daemon)), &peer->retry, clock_now_us() + WAY_RETRY_US, open_way,
              peer);
}

static void on_way_ready(void *arg, status st, enum transfer_transport transport, const char *why)
{
    struct process_peer *peer = arg;
    if (st != ST_OK) {
        log_warn("no way to the blocks of a worker", "peer=%s reason=\"%s\"", peer->peer.id, why);
        retry_way(peer);
        return;
    }
    log_info("way to the blocks of a worker", "peer=%s transport=%s", peer->peer.id,
             transfer_transport_name(transport));
    peer->way_ready = true;
    peer->peer.transfer = peer->way;
    peer->peer.transport = transfer_transport_name(transport);
}

/* Takes under way have ended by themselves; the peer is asked again when the way is back. */
static void on_way_lost(void *arg)
{
    struct process_peer *peer = arg;
    log_warn("way to the blocks of a worker lost", "peer=%s", peer->peer.id);
    retry_way(peer);
}

static void open_way(void *arg)
{
    struct process_peer *peer = arg;
    struct error err;
    struct transfer_peer_options options = {
        .description = peer->description,
        .description_len = peer->description_len,
        .mode = (enum transfer_mode)peer->process->config->transfer,
        .timeout_us = WAY_TIMEOUT_US,
        .on_ready = on_way_ready,
        .on_lost = on_way_lost,
        .arg = peer,
    };
    if (!peer->up || !peer->description || peer->way)
        return;
    timer_cancel(loop_timers(daemon_loop(peer->process->daemon)), &peer->retry);
    if (transfer_connect(peer->process->transfer, &options, &peer->way, &err) != ST_OK) {
        log_warn("no way to the blocks of a worker", "peer=%s reason=\"%s\"", peer->peer.id, err.text);
        retry_way(peer);
    }
}

static void keep_description(struct process_peer *peer, const ProtobufCBinaryData *data)
{
    uint8_t *copy = data->len ? malloc(data->len) : NULL;
    free(peer->description);
    peer->description = copy;
    peer->description_len = copy ? data->len : 0;
    if (copy)
        memcpy(copy, data->data, data->len);
}

struct worker_peer *peers_find_prefill(void *ctx, const char *id)
{
    struct worker_process *p = ctx;
    struct process_peer *peer;
    TAILQ_FOREACH(peer, &p->peers, link)
    if (peer->own_link && peer->up && peer->way_ready && !strcmp(peer->peer.id, id))
        return &peer->peer;
    return NULL;
}

/* ---- links -------------------------------------------------------------------------- */

static struct process_peer *peer_create(struct worker_process *p, const char *id)
{
    struct process_peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return NULL;
    peer->process = p;
    snprintf(peer->peer.id, sizeof peer->peer.id, "%s", id);
    TAILQ_INSERT_TAIL(&p->peers, peer, link);
    return peer;
}

static void on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct worker_process *p = ctx;
    struct process_peer *peer = link_user(link);
    bool known = peer != NULL;
    if (!known) { /* it came to us */
        peer = peer_create(p, link_peer_id(link));
        if (!peer)
            return;
        link_set_user(link, peer);
    }
    peer->peer.link = link;
    peer->up = true;
    log_info("peer up", "peer=%s role=%s first=%d", peer->peer.id, link_peer_role(link), first);
    if (known && !first)
        worker_on_peer_again(p->worker, &peer->peer, hello->live, hello->n_live);
    if (peer->own_link && !peer->way) {
        keep_description(peer, &hello->transfer);
        open_way(peer);
    }
}

static void on_lost(void *ctx, struct link *link, const char *reason)
{
    struct worker_process *p = ctx;
    struct process_peer *peer = link_user(link);
    if (!peer)
        return;
    log_warn("peer lost", "peer=%s reason=%s", peer->peer.id, reason);
    peer->up = false;
    worker_on_peer_lost(p->worker, &peer->peer);
    drop_way(peer);
    if (!peer->own_link) {
        link_set_user(link, NULL);
        peer_free(peer);
    } else if (!peer->is_member) {
        link_close(&peer->own_link);
        peer_free(peer);
    }
}

static void on_message(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us)
{
    struct worker_process *p = ctx;
    struct process_peer *peer = link_user(link);
    if (peer && peer->up)
        worker_on_message(p->worker, &peer->peer, frame, deadline_us);
}

static size_t live(void *ctx, struct link *link, Baton__Live *out, size_t max)
{
    struct worker_process *p = ctx;
    struct process_peer *peer = link_user(link);
    return peer ? worker_live(p->worker, &peer->peer, out, max) : 0;
}

static void progress(void *ctx, uint64_t *counter, bool *busy)
{
    struct worker_process *p = ctx;
    *counter = engine_progress(p->engine);
    *busy = engine_thread_busy(p->thread);
}

static struct process_peer *find_own(struct worker_process *p, const char *id)
{
    struct process_peer *peer;
    TAILQ_FOREACH(peer, &p->peers, link)
    if (peer->own_link && !strcmp(peer->peer.id, id))
        return peer;
    return NULL;
}

static void peer_close(struct process_peer *peer)
{
    peer->up = false;
    worker_on_peer_lost(peer->process->worker, &peer->peer);
    link_close(&peer->own_link);
    peer_free(peer);
}

void peers_member(struct worker_process *p, const struct instance *instance)
{
    bool usable = p->role == WORKER_DECODE && !strcmp(instance->role, "prefill") &&
                  !strcmp(instance->kv_format, p->kv_format) && !strcmp(instance->model, p->model_name);
    struct process_peer *peer = find_own(p, instance->id);
    if (peer && usable && !strcmp(peer->address, instance->control)) {
        peer->is_member = true;
        return;
    }
    if (peer) /* the same name at another address, or with another model */
        peer_close(peer);
    peer = usable ? peer_create(p, instance->id) : NULL;
    if (!peer)
        return;
    peer->is_member = true;
    snprintf(peer->address, sizeof peer->address, "%s", instance->control);
    if (links_connect(p->links, instance->id, instance->control, &peer->own_link) != ST_OK) {
        log_error("cannot connect to a worker", "peer=%s address=%s", instance->id, instance->control);
        peer_free(peer);
        return;
    }
    peer->peer.link = peer->own_link;
    link_set_user(peer->own_link, peer);
}

/* A link that is up is kept: etcd may be wrong, the pings are not. */
void peers_member_gone(struct worker_process *p, const char *id)
{
    struct process_peer *peer = find_own(p, id);
    if (!peer)
        return;
    peer->is_member = false;
    if (!peer->up)
        peer_close(peer);
}

static status peers_start(struct daemon *d, struct error *err)
{
    struct worker_process *p = worker_process_of(d);
    const struct daemon_config *c = daemon_shared_config(d);
    char listen[CONFIG_TEXT_BYTES + 8], events[CONFIG_TEXT_BYTES + 8], host[CONFIG_TEXT_BYTES];
    uint16_t port;
    size_t transfer_len;
    const uint8_t *transfer = transfer_description(p->transfer, &transfer_len);
    if (config_split_address(c->listen, host, sizeof host, &port) != ST_OK)
        return error_set(err, ST_INVALID, "--listen %s is no address", c->listen);
    snprintf(listen, sizeof listen, "tcp://%s", c->listen);
    if (c->event_listen[0])
        snprintf(events, sizeof events, "tcp://%s", c->event_listen);
    else
        snprintf(events, sizeof events, strchr(host, ':') ? "tcp://[%.200s]:0" : "tcp://%.200s:0", host);
    struct links_options options;
    membership_link_options(d, &options);
    options.listen = listen;
    options.listen_events = events;
    options.model = p->model_name;
    options.kv_format = p->kv_format;
    options.transfer = transfer;
    options.transfer_len = transfer_len;
    options.progress = progress;
    options.on_up = on_up;
    options.on_lost = on_lost;
    options.on_message = on_message;
    options.live = live;
    options.ctx = p;
    return links_create(&options, &p->links, err);
}

static void peers_stop(struct daemon *d)
{
    struct worker_process *p = worker_process_of(d);
    struct process_peer *peer;
    while ((peer = TAILQ_FIRST(&p->peers))) {
        worker_on_peer_lost(p->worker, &peer->peer);
        if (peer->own_link)
            link_close(&peer->own_link);
        else
            link_set_user(peer->peer.link, NULL);
        peer_free(peer);
    }
    links_destroy(&p->links);
}

const struct part part_peers = { .name = "peers", .start = peers_start, .stop = peers_stop };
