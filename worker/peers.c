/* The other daemons that a worker speaks with: routers and decode workers come
 * to us; a decode worker connects to every prefill worker whose KV it can use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "transfer/way.h"
#include "worker/process.h"

struct process_peer {
    struct worker_peer peer; /* first; what worker.h sees */
    TAILQ_ENTRY(process_peer) link;
    struct worker_process *process;
    struct link *own_link; /* we opened it and close it; NULL for a peer that came to us */
    char address[128];     /* that own_link was opened to */
    bool is_member;        /* etcd knows it */
    bool up;
    struct transfer_way way; /* to the blocks of a prefill worker */
};

static void on_way_changed(void *arg)
{
    struct process_peer *peer = arg;
    peer->peer.transfer = peer->way.peer;
    peer->peer.transport = transfer_transport_name(peer->way.transport);
}

static void peer_free(struct process_peer *peer)
{
    transfer_way_close(&peer->way);
    TAILQ_REMOVE(&peer->process->peers, peer, link);
    free(peer);
}

struct worker_peer *peers_find_prefill(void *ctx, const char *id)
{
    struct worker_process *p = ctx;
    struct process_peer *peer;
    TAILQ_FOREACH(peer, &p->peers, link)
    if (peer->own_link && peer->up && peer->way.peer && !strcmp(peer->peer.id, id))
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
    peer->way = (struct transfer_way){ .transfer = p->transfer,
                                       .timers = loop_timers(daemon_loop(p->daemon)),
                                       .mode = (enum transfer_mode)p->config->transfer,
                                       .name = peer->peer.id,
                                       .changed = on_way_changed,
                                       .arg = peer };
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
    if (peer->own_link)
        transfer_way_open(&peer->way, hello->transfer.data, hello->transfer.len);
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
    transfer_way_close(&peer->way);
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
    struct membership_endpoints endpoints;
    size_t transfer_len;
    const uint8_t *transfer = transfer_description(p->transfer, &transfer_len);
    struct links_options options;
    status st = membership_endpoints(d, &endpoints, err);
    if (st != ST_OK)
        return st;
    membership_link_options(d, &options);
    options.listen = endpoints.control;
    options.listen_events = endpoints.events;
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
