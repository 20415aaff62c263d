#include "transfer/transfer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "transfer/mover.h"

#define EVENTS_PER_TURN 1024 /* then the loop's other work has its turn */

LIST_HEAD(peers, transfer_peer);

struct transfer {
    struct mover mover;
    struct event *event; /* the transfer thread reports something */
    struct job *jobs, *free_jobs;
    struct peers peers;
    uint32_t n_peers;
    bool stopped; /* peers hear nothing any more */
};

const char *transfer_transport_name(enum transfer_transport transport)
{
    static const char *const names[TRANSPORT_COUNT] = { "none", "shm", "tcp", "rdma" };
    return names[transport];
}

static void deliver_done(struct transfer *t, struct job *job)
{
    struct transfer_take *take = job->take;
    job->next_free = t->free_jobs;
    t->free_jobs = job;
    take->internal[0] = NULL;
    take->done(take);
}

static void free_peer(struct transfer *t, struct transfer_peer *peer)
{
    LIST_REMOVE(peer, entry);
    t->n_peers--;
    free(peer);
}

static void deliver(struct transfer *t, const struct handoff_item *item)
{
    struct transfer_peer *peer = item->what;
    bool silent = item->kind != EVENT_DONE && (t->stopped || peer->disconnected);
    switch ((enum mover_event)item->kind) {
    case EVENT_DONE:
        deliver_done(t, item->what);
        break;
    case EVENT_READY:
        peer->transport = peer->ready_transport;
        if (!silent)
            peer->options.on_ready(peer->options.arg, peer->ready_st, peer->transport,
                                   peer->ready_st ? peer->why.text : "");
        break;
    case EVENT_LOST:
        if (!silent && peer->options.on_lost)
            peer->options.on_lost(peer->options.arg);
        break;
    case EVENT_GONE:
        free_peer(t, peer);
        break;
    }
}

static void on_events(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct transfer *t = arg;
    struct handoff_item item;
    handoff_woken(&t->mover.events);
    for (int n = 0; n < EVENTS_PER_TURN && handoff_pop(&t->mover.events, &item); n++)
        deliver(t, &item);
    if (!handoff_may_sleep(&t->mover.events))
        event_active(t->event, EV_READ, 0);
}

static bool watch_events(struct transfer *t, struct loop *loop)
{
    t->event = event_new(loop_base(loop), t->mover.events.fd, EV_READ | EV_PERSIST, on_events, t);
    if (!t->event || event_add(t->event, NULL))
        return false;
    /* What was pushed before the loop could sleep on the ring. */
    if (!handoff_may_sleep(&t->mover.events))
        event_active(t->event, EV_READ, 0);
    return true;
}

static status fill_mover(struct mover *m, const struct transfer_options *options, const struct rdma_over *over,
                         struct error *err)
{
    status st = pool_check_geometry(&options->geometry, options->n_blocks, err);
    if (st)
        return st;
    m->geometry = options->geometry;
    m->identity = (struct pool_identity){ .geometry = options->geometry,
                                          .n_blocks = options->n_blocks,
                                          .incarnation = options->incarnation };
    if (getrandom(&m->identity.nonce, sizeof m->identity.nonce, 0) != sizeof m->identity.nonce)
        return error_set(err, ST_IO, "the kernel gives no random numbers");
    m->mode = options->mode;
    m->busy_poll = options->busy_poll;
    st = cluster_key_read(options->cluster_key_file, &m->key, err);
    if (st)
        return st;
    if (!host_is_loopback(options->network_address) && options->mode != TRANSFER_SHM && !m->key.given)
        return error_set(err, ST_INVALID,
                         "KV faces other hosts (--advertise %s), which takes a key that all of the cluster have: "
                         "--cluster-key-file FILE (or --transfer shm)",
                         options->network_address);
    if (options->mode == TRANSFER_RDMA && !m->key.given)
        return error_set(err, ST_INVALID,
                         "--transfer rdma faces a network, which takes a key that all of the cluster have: "
                         "--cluster-key-file FILE");
    bool faces_network = options->mode == TRANSFER_RDMA || !host_is_loopback(options->network_address);
    if (over && m->key.given)
        m->rdma_over = *over;
    else if (faces_network && options->mode != TRANSFER_SHM && options->mode != TRANSFER_TCP)
        m->rdma_over = (struct rdma_over){ UCX_RDMA_TRANSPORTS, "all" };
    if (!host_is_loopback(options->network_address))
        return host_device_of(options->network_address, m->network_device, err);
    memcpy(m->network_device, "lo", sizeof "lo");
    return ST_OK;
}

status transfer_create_over(const struct transfer_options *options, const struct rdma_over *over, struct transfer **out,
                            struct error *err)
{
    struct transfer *t = calloc(1, sizeof *t);
    struct job *jobs = calloc(TRANSFER_MAX_TAKES, sizeof *jobs);
    status st =
        t && jobs ? fill_mover(&t->mover, options, over, err) : error_set(err, ST_NO_MEMORY, "no memory for transfer");
    if (st == ST_OK)
        st = mover_start(&t->mover, err);
    if (st) {
        free(jobs);
        free(t);
        return st;
    }
    ASSERT(t && jobs);
    t->jobs = jobs;
    for (uint32_t i = TRANSFER_MAX_TAKES; i-- > 0;) {
        jobs[i].next_free = t->free_jobs;
        t->free_jobs = &jobs[i];
    }
    LIST_INIT(&t->peers);
    if (!watch_events(t, options->loop)) {
        transfer_destroy(&t);
        return error_set(err, ST_NO_MEMORY, "the event loop takes no more events");
    }
    *out = t;
    return ST_OK;
}

status transfer_create(const struct transfer_options *options, struct transfer **out, struct error *err)
{
    return transfer_create_over(options, NULL, out, err);
}

void transfer_stop(struct transfer *t)
{
    struct handoff_item item;
    if (t->stopped)
        return;
    t->stopped = true;
    mover_stop(&t->mover);
    while (handoff_pop(&t->mover.events, &item))
        deliver(t, &item);
    ASSERT(LIST_EMPTY(&t->peers));
    if (t->event)
        event_free(t->event);
}

void transfer_destroy(struct transfer **p)
{
    struct transfer *t = *p;
    if (!t)
        return;
    *p = NULL;
    transfer_stop(t);
    mover_end(&t->mover);
    free(t->jobs);
    free(t);
}

uint8_t *transfer_blocks(struct transfer *t)
{
    return pool_block(&t->mover.pool, 0);
}

_Atomic uint64_t *transfer_generations(struct transfer *t)
{
    return pool_generations(&t->mover.pool);
}

const uint8_t *transfer_description(const struct transfer *t, size_t *len)
{
    *len = t->mover.description_len;
    return t->mover.description;
}

static bool allows(enum transfer_mode mode, enum transfer_transport transport)
{
    _Static_assert((int)TRANSFER_SHM == (int)TRANSPORT_SHM && (int)TRANSFER_TCP == (int)TRANSPORT_TCP &&
                       (int)TRANSFER_RDMA == (int)TRANSPORT_RDMA,
                   "modes are named after their transport");
    return mode == TRANSFER_AUTO || (int)mode == (int)transport;
}

static bool both_allow(const struct transfer_peer *peer, enum transfer_mode mode, enum transfer_transport transport)
{
    return allows(peer->transfer->mover.mode, transport) && allows(mode, transport);
}

/* NULL, or what forbids it. */
static const char *against_shm(const struct transfer_peer *peer, enum transfer_mode mode)
{
    const struct mover *m = &peer->transfer->mover;
    if (!both_allow(peer, mode, TRANSPORT_SHM))
        return "shm is not allowed";
    if (!m->region.base || !peer->lender.same_address.len)
        return "shm has no pool that can be mapped on both sides";
    if (!host_identity_equal(&m->host, &peer->lender.host))
        return "shm needs one host, one IPC and one network name space";
    return NULL;
}

static const char *against_rdma(const struct transfer_peer *peer, enum transfer_mode mode)
{
    const struct mover *m = &peer->transfer->mover;
    if (!both_allow(peer, mode, TRANSPORT_RDMA))
        return "rdma is not allowed";
    if (!m->rdma.context || !peer->lender.net_address.len || peer->lender.rdma == DESCRIPTION_NO_RDMA)
        return "rdma is not open on both sides, as it takes a device, a network address and a cluster key";
    return NULL;
}

static const char *against_tcp(const struct transfer_peer *peer, enum transfer_mode mode)
{
    const struct mover *m = &peer->transfer->mover;
    if (!both_allow(peer, mode, TRANSPORT_TCP))
        return "tcp is not allowed";
    if (!m->network.context || !peer->lender.net_address.len || peer->lender.rdma == DESCRIPTION_RDMA_ONLY)
        return "tcp is not open on both sides";
    return NULL;
}

/* Which ways to try, the faster one first; why says what forbids those that are left out. */
static void choose_ways(struct transfer_peer *peer, enum transfer_mode mode)
{
    const char *shm = against_shm(peer, mode), *rdma = against_rdma(peer, mode), *tcp = against_tcp(peer, mode);
    int n = 0;
    if (!shm)
        peer->ways[n++] = TRANSPORT_SHM;
    if (!rdma)
        peer->ways[n++] = TRANSPORT_RDMA;
    if (!tcp)
        peer->ways[n++] = TRANSPORT_TCP;
    if (!n)
        error_set(&peer->why, ST_UNSUPPORTED, "no way to the lender: %s; %s; %s", shm, rdma, tcp);
}

static status read_description(const struct transfer *t, struct transfer_peer *peer,
                               const struct transfer_peer_options *options, struct error *err)
{
    if (options->description_len > sizeof peer->bytes)
        return error_set(err, ST_CORRUPT, "a transfer description of %zu bytes cannot be", options->description_len);
    memcpy(peer->bytes, options->description, options->description_len);
    status st = description_decode(peer->bytes, options->description_len, &peer->lender, err);
    if (st)
        return st;
    const struct transfer_geometry *a = &t->mover.geometry, *b = &peer->lender.pool.geometry;
    if (!pool_geometry_equal(a, b))
        return error_set(err, ST_INVALID, "lender's blocks are %u x %u x %u x %u, ours %u x %u x %u x %u", b->n_layers,
                         b->n_segments, b->block_tokens, b->slot_bytes, a->n_layers, a->n_segments, a->block_tokens,
                         a->slot_bytes);
    return ST_OK;
}

status transfer_connect(struct transfer *t, const struct transfer_peer_options *options, struct transfer_peer **out,
                        struct error *err)
{
    if (t->n_peers == TRANSFER_MAX_PEERS)
        return error_set(err, ST_LIMIT, "%u transfer peers are connected already", t->n_peers);
    struct transfer_peer *peer = calloc(1, sizeof *peer);
    if (!peer)
        return error_set(err, ST_NO_MEMORY, "no memory for a transfer peer");
    status st = read_description(t, peer, options, err);
    if (st) {
        free(peer);
        return st;
    }
    peer->transfer = t;
    peer->options = *options;
    peer->options.description = NULL;
    peer->deadline_us = clock_now_us() + options->timeout_us;
    choose_ways(peer, options->mode);
    LIST_INSERT_HEAD(&t->peers, peer, entry);
    t->n_peers++;
    handoff_push(&t->mover.commands, COMMAND_CONNECT, peer);
    *out = peer;
    return ST_OK;
}

void transfer_disconnect(struct transfer_peer **p)
{
    struct transfer_peer *peer = *p;
    if (!peer)
        return;
    *p = NULL;
    peer->disconnected = true;
    handoff_push(&peer->transfer->mover.commands, COMMAND_DISCONNECT, peer);
}

enum transfer_transport transfer_peer_transport(const struct transfer_peer *peer)
{
    return peer->transport;
}

static bool take_is_sound(const struct transfer *t, const struct transfer_take *take)
{
    const struct transfer_geometry *g = &t->mover.geometry;
    if (!take->n_layers || take->n_layers > g->n_layers || take->first_layer > g->n_layers - take->n_layers)
        return false;
    for (uint32_t i = 0; i < take->n_spans; i++) {
        const struct transfer_span *s = &take->spans[i];
        if (s->local_block >= t->mover.identity.n_blocks || !s->n || (uint32_t)s->first + s->n > g->block_tokens)
            return false;
    }
    return true;
}

status transfer_take(struct transfer *t, struct transfer_take *take)
{
    ASSERT(!take->peer || !take->peer->disconnected);
    if (t->stopped)
        return ST_CLOSED;
    if (take->n_spans > TRANSFER_MAX_SPANS)
        return ST_LIMIT;
    if (!take_is_sound(t, take))
        return ST_INVALID;
    struct job *job = t->free_jobs;
    if (!job)
        return ST_LIMIT;
    t->free_jobs = job->next_free;
    job->take = take;
    job->peer = take->peer;
    take->internal[0] = job;
    atomic_store(&take->cancelled, false);
    handoff_push(&t->mover.commands, COMMAND_TAKE, job);
    return ST_OK;
}

void transfer_cancel(struct transfer *t, struct transfer_take *take)
{
    struct job *job = take->internal[0];
    if (job && !atomic_exchange(&take->cancelled, true))
        handoff_push(&t->mover.commands, COMMAND_CANCEL, job);
}

static uint64_t read_counter(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void transfer_stats(const struct transfer *t, struct transfer_stats *out)
{
    const struct mover_stats *s = &t->mover.stats;
    *out = (struct transfer_stats){ .served_bytes = read_counter(&s->served_bytes),
                                    .stale = read_counter(&s->stale),
                                    .timeouts = read_counter(&s->timeouts),
                                    .lost_peers = read_counter(&s->lost_peers),
                                    .malformed = read_counter(&s->malformed),
                                    .unproven = read_counter(&s->unproven),
                                    .unanswered = read_counter(&s->unanswered),
                                    .cut = read_counter(&s->cut) };
    for (int i = 0; i < TRANSPORT_COUNT; i++) {
        out->bytes_taken[i] = read_counter(&s->bytes_taken[i]);
        out->takes[i] = read_counter(&s->takes[i]);
        out->busy_us[i] = read_counter(&s->busy_us[i]);
    }
}
