/* The other daemons that the manager speaks with: workers and managers of other hosts come to it; and it opens links of
 * its own to those whom it asks for blocks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/daemon/process.h"

static void peer_free(struct kvbm_peer *peer)
{
    struct kvbm_process *p = peer->process;
    lender_on_peer_lost(p->lender, peer);
    acceptor_on_peer_lost(p->acceptor, peer);
    borrower_on_peer_lost(p->borrower, peer);
    transfer_way_close(&peer->way);
    link_set_user(peer->channel, NULL);
    if (peer->own_link)
        link_close(&peer->own_link);
    TAILQ_REMOVE(&p->peers, peer, link);
    free(peer);
    tiers_soon(p);
}

static struct kvbm_peer *peer_create(struct kvbm_process *p, struct link *channel, const char *id)
{
    struct kvbm_peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return NULL;
    peer->process = p;
    peer->channel = channel;
    snprintf(peer->id, sizeof peer->id, "%s", id);
    peer->way = (struct transfer_way){ .transfer = p->transfer,
                                       .timers = loop_timers(daemon_loop(p->daemon)),
                                       .mode = (enum transfer_mode)p->config->transfer,
                                       .name = peer->id,
                                       .arg = peer };
    link_set_user(channel, peer);
    TAILQ_INSERT_TAIL(&p->peers, peer, link);
    return peer;
}

static void on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct kvbm_process *p = ctx;
    struct kvbm_peer *peer = link_user(link);
    if (!peer)
        peer = peer_create(p, link, link_peer_id(link));
    if (!peer)
        return;
    log_info("peer up", "peer=%s role=%s first=%d", peer->id, link_peer_role(link), first);
    /* A manager that came to us takes from us, and offers nothing. */
    if (peer->own_link || strcmp(link_peer_role(link), "kvbm") != 0)
        transfer_way_open(&peer->way, hello->transfer.data, hello->transfer.len);
}

static void on_lost(void *ctx, struct link *link, const char *reason)
{
    struct kvbm_peer *peer = link_user(link);
    (void)ctx;
    if (!peer)
        return;
    log_warn("peer lost", "peer=%s reason=%s", peer->id, reason);
    if (!peer->own_link) {
        peer_free(peer);
        return;
    }
    borrower_on_peer_lost(peer->process->borrower, peer);
    transfer_way_close(&peer->way);
}

static void on_message(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us)
{
    struct kvbm_process *p = ctx;
    struct kvbm_peer *peer = link_user(link);
    if (!peer)
        return;
    if (!lender_on_message(p->lender, peer, frame, deadline_us) &&
        !acceptor_on_message(p->acceptor, peer, frame, deadline_us) && !borrower_on_message(p->borrower, peer, frame))
        log_debug("message not understood", "peer=%s type=%s", peer->id, frame_type_name(frame->type));
    tiers_soon(p);
}

/* Whatever is shared with a peer is found again by its hash: nothing has to be told after an interruption. */
static size_t live(void *ctx, struct link *link, Baton__Live *out, size_t max)
{
    (void)ctx;
    (void)link;
    (void)out;
    (void)max;
    return 0;
}

struct kvbm_peer *peers_connect(struct kvbm_process *p, const char *id, const char *endpoint)
{
    struct link *link;
    if (links_connect(p->links, id, endpoint, &link) != ST_OK)
        return NULL;
    struct kvbm_peer *peer = peer_create(p, link, id);
    if (peer)
        peer->own_link = link;
    else
        link_close(&link);
    return peer;
}

void peers_disconnect(struct kvbm_peer *peer)
{
    peer_free(peer);
}

status peers_open(struct kvbm_process *p, struct error *err)
{
    struct membership_endpoints endpoints;
    struct links_options options;
    status st = membership_endpoints(p->daemon, &endpoints, err);
    if (st != ST_OK)
        return st;
    membership_link_options(p->daemon, &options);
    options.listen = endpoints.control;
    options.model = "";
    options.kv_format = p->kv_format;
    options.transfer = transfer_description(p->transfer, &options.transfer_len);
    options.on_up = on_up;
    options.on_lost = on_lost;
    options.on_message = on_message;
    options.live = live;
    options.ctx = p;
    return links_create(&options, &p->links, err);
}

void peers_close(struct kvbm_process *p)
{
    while (!TAILQ_EMPTY(&p->peers))
        peer_free(TAILQ_FIRST(&p->peers));
    links_destroy(&p->links);
}
