/* The other daemons that a worker speaks with: routers and decode workers come
 * to us; a decode worker connects to every prefill worker whose KV it can use, every worker to the KV block manager of
 * its host, and to others that keep blocks of its format when a request names one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/kv_format.h"
#include "transfer/way.h"
#include "worker/process.h"

#define MAX_BY_REQUEST 64u   /* peers to whom a request's hint made us connect */
#define MAX_HOLDERS    4096u /* known; beyond, nothing is fetched from them */

/* A worker or manager whose blocks we could use. */
struct process_holder {
    TAILQ_ENTRY(process_holder) link;
    char id[64], address[128];
    bool same_host;
};

struct process_peer {
    struct worker_peer peer; /* first; what worker.h sees */
    TAILQ_ENTRY(process_peer) link;
    struct worker_process *process;
    struct link *own_link; /* we opened it and close it; NULL for a peer that came to us */
    char address[128];     /* that own_link was opened to */
    bool is_member;        /* etcd knows it */
    bool is_manager;       /* of this host's KV blocks */
    bool by_request;       /* connected because a request named it */
    bool up;
    struct transfer_way way; /* to its blocks: opened at once for who is connected to, else at need, from */
    uint8_t *description;    /* as it was greeted with */
    size_t description_len;
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
    free(peer->description);
    free(peer);
}

static struct process_holder *find_known(const struct worker_process *p, const char *id)
{
    struct process_holder *holder;
    TAILQ_FOREACH(holder, &p->holders, link)
    if (!strcmp(holder->id, id))
        return holder;
    return NULL;
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
    const struct process_holder *holder = find_known(p, id);
    peer->peer.same_host = holder && holder->same_host;
    peer->way = (struct transfer_way){ .transfer = p->transfer,
                                       .timers = loop_timers(daemon_loop(p->daemon)),
                                       .mode = (enum transfer_mode)p->config->transfer,
                                       .name = peer->peer.id,
                                       .changed = on_way_changed,
                                       .arg = peer };
    TAILQ_INSERT_TAIL(&p->peers, peer, link);
    return peer;
}

/* Who came to us is seldom taken from: the way is opened when it is. */
static void keep_description(struct process_peer *peer, const ProtobufCBinaryData *data)
{
    uint8_t *copy = data->len ? malloc(data->len) : NULL;
    free(peer->description);
    peer->description = copy;
    peer->description_len = copy ? data->len : 0;
    if (copy)
        memcpy(copy, data->data, data->len);
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
    peer->peer.incarnation = link_peer_incarnation(link);
    peer->up = true;
    log_info("peer up", "peer=%s role=%s first=%d", peer->peer.id, link_peer_role(link), first);
    if (known && !first)
        worker_on_peer_again(p->worker, &peer->peer, hello->live, hello->n_live);
    if (peer->own_link)
        transfer_way_open(&peer->way, hello->transfer.data, hello->transfer.len);
    else
        keep_description(peer, &hello->transfer);
    if (peer->is_manager)
        worker_set_manager(p->worker, &peer->peer);
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

static struct process_peer *peer_connect(struct worker_process *p, const char *id, const char *address)
{
    struct process_peer *peer = peer_create(p, id);
    if (!peer)
        return NULL;
    peer->is_member = true;
    snprintf(peer->address, sizeof peer->address, "%s", address);
    if (links_connect(p->links, id, address, &peer->own_link) != ST_OK) {
        log_error("cannot connect to a worker", "peer=%s address=%s", id, address);
        peer_free(peer);
        return NULL;
    }
    peer->peer.link = peer->own_link;
    link_set_user(peer->own_link, peer);
    return peer;
}

/* ---- who is there ---------------------------------------------------------------------- */

static bool is_worker_like_us(const struct worker_process *p, const struct instance *instance)
{
    bool is_worker = !strcmp(instance->role, "prefill") || !strcmp(instance->role, "decode");
    return is_worker && !strcmp(instance->kv_format, p->kv_format) && !strcmp(instance->model, p->model_name) &&
           strcmp(instance->id, daemon_id(p->daemon)) != 0;
}

/* It has no address until it knows the format of its blocks. */
static bool is_manager_of_our_format(const struct worker_process *p, const struct instance *instance)
{
    const char *format = kv_format_of_worker(p->kv_format);
    return !strcmp(instance->role, "kvbm") && instance->control[0] && format && !strcmp(instance->kv_format, format) &&
           p->config->kvbm == KVBM_AUTO;
}

static void forget_known(struct worker_process *p, const char *id)
{
    struct process_holder *holder = find_known(p, id);
    if (!holder)
        return;
    TAILQ_REMOVE(&p->holders, holder, link);
    p->n_holders--;
    free(holder);
}

static void note_known(struct worker_process *p, const struct instance *instance)
{
    struct process_peer *peer;
    struct process_holder *holder = find_known(p, instance->id);
    if (!holder) {
        holder = p->n_holders < MAX_HOLDERS ? calloc(1, sizeof *holder) : NULL;
        if (!holder)
            return;
        TAILQ_INSERT_TAIL(&p->holders, holder, link);
        p->n_holders++;
    }
    snprintf(holder->id, sizeof holder->id, "%s", instance->id);
    snprintf(holder->address, sizeof holder->address, "%s", instance->control);
    holder->same_host = !strcmp(instance->host, daemon_host(p->daemon));
    TAILQ_FOREACH(peer, &p->peers, link)
    if (!strcmp(peer->peer.id, instance->id))
        peer->peer.same_host = holder->same_host;
}

static bool has_manager(const struct worker_process *p)
{
    const struct process_peer *peer;
    TAILQ_FOREACH(peer, &p->peers, link)
    if (peer->is_manager)
        return true;
    return false;
}

void peers_member(struct worker_process *p, const struct instance *instance)
{
    bool is_worker = is_worker_like_us(p, instance), is_manager = is_manager_of_our_format(p, instance);
    struct process_peer *peer = find_own(p, instance->id);
    if (is_worker || is_manager)
        note_known(p, instance);
    else
        forget_known(p, instance->id);
    if (peer && (is_worker || is_manager) && !strcmp(peer->address, instance->control)) {
        peer->is_member = true;
        return;
    }
    if (peer) /* the same name at another address, or with another model */
        peer_close(peer);
    bool of_host = is_manager && !strcmp(instance->host, daemon_host(p->daemon)) && !has_manager(p);
    if (!of_host && !(is_worker && p->role == WORKER_DECODE && !strcmp(instance->role, "prefill")))
        return;
    peer = peer_connect(p, instance->id, instance->control);
    if (peer)
        peer->is_manager = of_host;
}

/* A link that is up is kept: etcd may be wrong, the pings are not. */
void peers_member_gone(struct worker_process *p, const char *id)
{
    struct process_peer *peer = find_own(p, id);
    forget_known(p, id);
    if (!peer)
        return;
    peer->is_member = false;
    if (!peer->up)
        peer_close(peer);
}

/* ---- holders that requests name --------------------------------------------------------- */

bool peers_is_alive(void *ctx, struct worker_peer *peer)
{
    (void)ctx;
    return link_is_up(peer->link);
}

static struct process_peer *find_peer(struct worker_process *p, const char *id)
{
    struct process_peer *peer, *found = NULL;
    TAILQ_FOREACH(peer, &p->peers, link)
    if (!strcmp(peer->peer.id, id) && (!found || peer->up))
        found = peer;
    return found;
}

static void connect_by_request(struct worker_process *p, const struct process_holder *holder)
{
    uint32_t n = 0;
    struct process_peer *peer;
    TAILQ_FOREACH(peer, &p->peers, link)
    n += peer->by_request;
    peer = n < MAX_BY_REQUEST ? peer_connect(p, holder->id, holder->address) : NULL;
    if (peer)
        peer->by_request = true;
}

/* A request that comes before the way is there computes instead; the next one finds it. */
struct worker_peer *peers_find_holder(void *ctx, const char *id)
{
    struct worker_process *p = ctx;
    const struct process_holder *holder = find_known(p, id);
    struct process_peer *peer = find_peer(p, id);
    if (peer && peer->up && peer->way.peer)
        return &peer->peer;
    if (peer && peer->up && holder && peer->description)
        transfer_way_open(&peer->way, peer->description, peer->description_len);
    else if (!peer && holder)
        connect_by_request(p, holder);
    return NULL;
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
    while (!TAILQ_EMPTY(&p->holders))
        forget_known(p, TAILQ_FIRST(&p->holders)->id);
    links_destroy(&p->links);
}

const struct part part_peers = { .name = "peers", .start = peers_start, .stop = peers_stop };
