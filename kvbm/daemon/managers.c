/* Managers of other hosts: those whose blocks have our format are followed (their KV events fill the index of
 * remote_tier.h) and connected to, so that they can be asked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "kvbm/daemon/process.h"
#include "proto/kv_subscriber.h"

struct other_manager {
    TAILQ_ENTRY(other_manager) link;
    struct kvbm_process *process;
    struct instance record;
    struct kvbm_peer *peer; /* NULL: not followed, as are: */
    struct kv_subscriber *subscriber;
    uint32_t number; /* in the index */
};

/* ---- events ------------------------------------------------------------------------ */

static void take(struct other_manager *m, const struct kv_event *event)
{
    struct peer_index *index = remote_tier_index(m->process->remote);
    if (event->kind == KV_ALL_CLEARED)
        peer_index_clear(index, m->number);
    if (event->kind == KV_ALL_CLEARED || (event->tier != KV_TIER_HOST && event->tier != KV_TIER_DISK))
        return; /* a manager tells of no other tier */
    bool is_on_disk = event->tier == KV_TIER_DISK;
    for (uint32_t i = 0; i < event->n_hashes; i++) {
        const struct block_hash hash = { event->hashes[i].low, event->hashes[i].high };
        if (event->kind == KV_BLOCK_STORED)
            peer_index_add(index, m->number, is_on_disk, hash);
        else
            peer_index_remove(index, m->number, is_on_disk, hash);
    }
}

static status apply(void *ctx, struct kv_batch_reader *batch)
{
    struct kv_event event;
    status st;
    while ((st = kv_batch_next(batch, &event, NULL)) == ST_OK)
        take(ctx, &event);
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static void forget_blocks(void *ctx)
{
    const struct other_manager *m = ctx;
    peer_index_clear(remote_tier_index(m->process->remote), m->number);
}

static status subscribe(struct other_manager *m, struct error *err)
{
    const struct kv_subscriber_options options = { .loop = daemon_loop(m->process->daemon),
                                                   .zmq = links_context(m->process->links),
                                                   .endpoint = m->record.kv_events,
                                                   .replay = m->record.kv_replay[0] ? m->record.kv_replay : NULL,
                                                   .topic = KV_EVENTS_TOPIC,
                                                   .rules = kv_subscriber_rules(),
                                                   .apply = apply,
                                                   .clear = forget_blocks,
                                                   .ctx = m };
    return kv_subscriber_create(&options, &m->subscriber, err);
}

/* ---- who is followed ----------------------------------------------------------------- */

static void unfollow(struct other_manager *m)
{
    if (!m->peer)
        return;
    kv_subscriber_destroy(&m->subscriber);
    peers_disconnect(m->peer);
    m->peer = NULL;
    remote_tier_leave(m->process->remote, m->number);
}

/* One whose format is another, or who tells nothing, is of no use. */
static void follow(struct other_manager *m)
{
    struct kvbm_process *p = m->process;
    struct error err = { "it cannot be connected to" };
    if (!p->remote || m->peer || !m->record.kv_events[0] || strcmp(m->record.kv_format, p->kv_format) != 0)
        return;
    m->peer = peers_connect(p, m->record.id, m->record.control);
    status st = m->peer ? ST_OK : ST_INVALID;
    if (st == ST_OK && (st = remote_tier_join(p->remote, m->peer, m->record.incarnation, &m->number)) != ST_OK)
        st = error_set(&err, st, "as many are followed as may be (%u)", PEER_INDEX_PEERS);
    else if (st == ST_OK && (st = subscribe(m, &err)) != ST_OK)
        remote_tier_leave(p->remote, m->number);
    if (st == ST_OK) {
        log_info("manager of another host followed", "id=%s host=%s address=%s", m->record.id, m->record.host,
                 m->record.control);
        return;
    }
    log_error("a manager of another host is not asked for blocks", "id=%s address=%s reason=\"%s\"", m->record.id,
              m->record.control, err.text);
    if (m->peer)
        peers_disconnect(m->peer);
    m->peer = NULL;
}

static struct other_manager *find(const struct kvbm_process *p, const char *id)
{
    struct other_manager *m;
    TAILQ_FOREACH(m, &p->managers, link)
    if (!strcmp(m->record.id, id))
        return m;
    return NULL;
}

static void forget(struct other_manager *m)
{
    unfollow(m);
    TAILQ_REMOVE(&m->process->managers, m, link);
    m->process->n_managers--;
    free(m);
}

static bool is_same(const struct instance *a, const struct instance *b)
{
    return a->incarnation == b->incarnation && !strcmp(a->control, b->control) && !strcmp(a->kv_events, b->kv_events) &&
           !strcmp(a->kv_replay, b->kv_replay) && !strcmp(a->kv_format, b->kv_format);
}

void managers_member(struct kvbm_process *p, const struct instance *instance)
{
    struct other_manager *m = find(p, instance->id);
    if (!strcmp(instance->id, daemon_id(p->daemon)) || (m && is_same(&m->record, instance)))
        return;
    if (m)
        forget(m);
    /* On one host blocks would be copied twice. One that is not open yet has no address. */
    if (!strcmp(instance->host, daemon_host(p->daemon)) || !instance->control[0])
        return;
    m = p->n_managers < KVBM_MAX_MANAGERS ? calloc(1, sizeof *m) : NULL;
    if (!m)
        return;
    m->process = p;
    m->record = *instance;
    TAILQ_INSERT_TAIL(&p->managers, m, link);
    p->n_managers++;
    if (p->links)
        follow(m);
}

void managers_gone(struct kvbm_process *p, const char *id)
{
    struct other_manager *m = find(p, id);
    if (m)
        forget(m);
}

void managers_open(struct kvbm_process *p)
{
    struct other_manager *m;
    TAILQ_FOREACH(m, &p->managers, link)
    follow(m);
}

void managers_close(struct kvbm_process *p)
{
    while (!TAILQ_EMPTY(&p->managers))
        forget(TAILQ_FIRST(&p->managers));
}

void managers_stats(const struct kvbm_process *p, struct managers_stats *out)
{
    const struct other_manager *m;
    *out = (struct managers_stats){ 0, 0, 0 };
    TAILQ_FOREACH(m, &p->managers, link)
    {
        if (!m->peer)
            continue;
        out->followed++;
        out->up += link_is_up(m->peer->own_link);
        out->silent += kv_subscriber_is_silent(m->subscriber);
    }
}
