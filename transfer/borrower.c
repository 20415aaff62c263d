#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"
#include "transfer/mover.h"

static const unsigned next_states[] = {
#define X(name, next) [PEER_##name] = next,
    PEER_STATES(X)
#undef X
};

static void move_to(struct transfer_peer *peer, enum peer_state state)
{
    ASSERT(next_states[peer->state] & (1u << state));
    peer->state = state;
}

static void attempt(struct transfer_peer *peer);

/* Leaves nothing of the way that was taken or tried. */
static void close_way(struct mover *m, struct transfer_peer *peer)
{
    timer_cancel(&m->timers, &peer->timer);
    region_unmap(peer->mapped, pool_bytes(&peer->lender.pool));
    peer->mapped = NULL;
    rdma_leave(m, peer);
    bool broken = peer->broken;
    peer->broken = false;
    peer->hopeless = ST_OK;
    if (!peer->ep)
        return;
    struct wire_head bye = { .magic = WIRE_MAGIC, .kind = WIRE_BYE, .session = peer->session };
    /* A courtesy: the lender also notices that the connection is gone. */
    if (!broken && ucx_link_send(peer->link, peer->ep, &bye, NULL, 0, NULL, NULL))
        log_debug("transfer peer not told of the end", "session=%llx", (unsigned long long)peer->session);
    ucx_link_disconnect(peer->link, &peer->ep);
}

static void give_up(struct mover *m, struct transfer_peer *peer, status st)
{
    close_way(m, peer);
    move_to(peer, PEER_LOST);
    peer->ready_st = st;
    takes_end_all(m, &peer->jobs, ST_CLOSED);
    handoff_add(&m->events, EVENT_READY, peer);
}

/* The list ends with NONE at the latest, as there is one for each transport. */
static enum transfer_transport next_way(const struct transfer_peer *peer)
{
    return peer->ways[peer->way + 1];
}

static void begin_way(struct transfer_peer *peer)
{
    uint64_t now = clock_now_us();
    bool another = next_way(peer) != TRANSPORT_NONE;
    peer->attempt_until_us =
        another && now < peer->deadline_us ? now + (peer->deadline_us - now) / 2 : peer->deadline_us;
    attempt(peer);
}

/* This way does not work: on to the next, with a line in the log, as nobody asked for the slower one. */
static void way_failed(struct mover *m, struct transfer_peer *peer, status st)
{
    char quoted[600];
    if (next_way(peer) == TRANSPORT_NONE) {
        give_up(m, peer, st);
        return;
    }
    log_warn("a way of transfer does not work, trying another", "way=%s next=%s why=%s",
             transfer_transport_name(peer->ways[peer->way]), transfer_transport_name(next_way(peer)),
             log_quote(quoted, sizeof quoted, peer->why.text));
    close_way(m, peer);
    if (peer->state == PEER_TESTING)
        move_to(peer, PEER_WAITING);
    peer->way++;
    begin_way(peer);
}

static void on_timer(void *arg)
{
    struct transfer_peer *peer = arg;
    if (clock_now_us() < peer->attempt_until_us) {
        attempt(peer);
        return;
    }
    if (peer->state == PEER_TESTING || !peer->why.text[0])
        error_set(&peer->why, ST_TIMEOUT, "the self-test by %s got no answer in time (is its cluster key ours?)",
                  transfer_transport_name(peer->ways[peer->way]));
    way_failed(peer->mover, peer, ST_TIMEOUT);
}

/* The endpoint failed while it was tested, as it can right after a link comes up. */
static void try_again(struct mover *m, struct transfer_peer *peer)
{
    close_way(m, peer);
    if (peer->state == PEER_TESTING)
        move_to(peer, PEER_WAITING);
    uint64_t due = clock_now_us() + MOVER_RETRY_US;
    timer_set(&m->timers, &peer->timer, due < peer->attempt_until_us ? due : peer->attempt_until_us, on_timer, peer);
}

/* Maps the lender's region and looks whether it is the one that was described. */
static status map_region(struct transfer_peer *peer)
{
    const struct description *d = &peer->lender;
    status st = region_map(d->pid, d->fd, pool_bytes(&d->pool), &peer->mapped, &peer->why);
    if (st)
        return st;
    if (!pool_header_matches(peer->mapped, &d->pool))
        return error_set(&peer->why, ST_STALE, "the mapped pool is not the one that was described");
    peer->populated = 0;
    return ST_OK;
}

static void on_endpoint_failed(void *arg, ucp_ep_h ep, ucs_status_t st)
{
    (void)ep;
    struct transfer_peer *peer = arg;
    peer->broken = true;
    if (peer->state == PEER_TESTING)
        error_set(&peer->why, ST_CLOSED, "the connection to the lender failed: %s", ucs_status_string(st));
}

static status say_hello(struct transfer_peer *peer)
{
    uint8_t address[WIRE_MAX_ADDRESS], payload[WIRE_HELLO_BYTES];
    size_t len;
    status st = ucx_link_address(peer->link, address, sizeof address, &len, &peer->why);
    if (st)
        return st;
    const struct mover *m = peer->mover;
    struct wire_hello hello = { .incarnation = m->identity.incarnation };
    memcpy(hello.nonce, peer->terms.borrower_nonce, sizeof hello.nonce);
    st = proof_make(&m->key, PROOF_HELLO, &peer->terms, address, len, hello.proof);
    if (st)
        return error_set(&peer->why, st, "no memory to prove the cluster's key");
    len = wire_hello_encode(&hello, address, len, payload);
    struct wire_head head = {
        .magic = WIRE_MAGIC, .kind = WIRE_HELLO, .session = peer->session, .request = peer->lender.pool.nonce
    };
    st = ucx_link_send(peer->link, peer->ep, &head, payload, len, NULL, NULL);
    return st ? error_set(&peer->why, st, "the connection to the lender failed at once") : ST_OK;
}

static uint64_t new_session(uint32_t index)
{
    uint64_t random;
    ASSERT(getrandom(&random, sizeof random, 0) == sizeof random);
    return random << 16 | index;
}

static struct proof_terms new_terms(const struct transfer_peer *peer)
{
    struct proof_terms terms = { .pool = peer->lender.pool.nonce,
                                 .lender = peer->lender.pool.incarnation,
                                 .borrower = peer->mover->identity.incarnation,
                                 .session = peer->session,
                                 .mapped = peer->link->mapped };
    proof_draw_nonce(terms.borrower_nonce);
    return terms;
}

static void attempt(struct transfer_peer *peer)
{
    struct mover *m = peer->mover;
    bool mapping = peer->ways[peer->way] == TRANSPORT_SHM;
    peer->link = mapping ? &m->to_same_host : &m->to_network;
    peer->session = new_session(peer->index);
    peer->terms = new_terms(peer);
    peer->proven = peer->asked_key = false;
    peer->first_request = peer->next_request = 0;
    const uint8_t *address = mapping ? peer->lender.same_address.data : peer->lender.net_address.data;
    status st = ucx_link_connect(peer->link, address, on_endpoint_failed, peer, &peer->ep, &peer->why);
    if (st == ST_OK && mapping)
        st = map_region(peer);
    if (st == ST_LIMIT || st == ST_UNSUPPORTED || st == ST_STALE) {
        way_failed(m, peer, st);
        return;
    }
    if (st || say_hello(peer)) {
        try_again(m, peer);
        return;
    }
    move_to(peer, PEER_TESTING);
    timer_set(&m->timers, &peer->timer, peer->attempt_until_us, on_timer, peer);
}

void borrower_connect(struct mover *m, struct transfer_peer *peer)
{
    uint32_t i = 0;
    while (i < TRANSFER_MAX_PEERS && m->peers[i])
        i++;
    ASSERT(i < TRANSFER_MAX_PEERS);
    m->peers[i] = peer;
    if (i >= m->n_peers)
        m->n_peers = i + 1;
    peer->mover = m;
    peer->index = i;
    peer->state = PEER_WAITING;
    TAILQ_INIT(&peer->jobs);
    if (peer->ways[0] == TRANSPORT_NONE)
        give_up(m, peer, ST_UNSUPPORTED); /* why says so already */
    else
        begin_way(peer);
}

void borrower_disconnect(struct mover *m, struct transfer_peer *peer)
{
    takes_end_all(m, &peer->jobs, ST_CLOSED);
    close_way(m, peer);
    m->peers[peer->index] = NULL;
    while (m->n_peers && !m->peers[m->n_peers - 1])
        m->n_peers--;
    handoff_add(&m->events, EVENT_GONE, peer);
}

static void lose(struct mover *m, struct transfer_peer *peer)
{
    log_info("transfer peer lost", "transport=%s incarnation=%llx", transfer_transport_name(peer->ready_transport),
             (unsigned long long)peer->lender.pool.incarnation);
    mover_count(&m->stats.lost_peers, 1);
    move_to(peer, PEER_LOST);
    takes_end_all(m, &peer->jobs, ST_CLOSED);
    close_way(m, peer);
    handoff_add(&m->events, EVENT_LOST, peer);
}

static void on_challenge(struct mover *m, struct transfer_peer *peer, const uint8_t *payload)
{
    struct wire_challenge challenge;
    uint8_t proof[WIRE_PROOF_BYTES];
    if (peer->state != PEER_TESTING || peer->proven)
        return;
    memcpy(&challenge, payload, sizeof challenge);
    memcpy(peer->terms.lender_nonce, challenge.nonce, sizeof challenge.nonce);
    if (!proof_holds(&m->key, PROOF_LENDER, &peer->terms, NULL, 0, challenge.proof)) {
        error_set(&peer->why, ST_CORRUPT, "the lender does not prove that it has the cluster's key");
        mover_count(&m->stats.unproven, 1);
        peer->broken = true;
        return;
    }
    peer->proven = true;
    struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_PROOF, .session = peer->session };
    if (proof_make(&m->key, PROOF_BORROWER, &peer->terms, NULL, 0, proof) ||
        ucx_link_send(peer->link, peer->ep, &head, proof, sizeof proof, NULL, NULL))
        peer->broken = true;
}

static void way_works(struct mover *m, struct transfer_peer *peer)
{
    timer_cancel(&m->timers, &peer->timer);
    move_to(peer, PEER_READY);
    peer->ready_st = ST_OK;
    peer->ready_transport = peer->ways[peer->way];
    handoff_add(&m->events, EVENT_READY, peer);
}

static void ask_key(struct transfer_peer *peer)
{
    struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_KEY_ASK, .session = peer->session };
    if (peer->asked_key)
        return;
    peer->asked_key = true;
    if (ucx_link_send(peer->link, peer->ep, &head, NULL, 0, NULL, NULL))
        peer->broken = true;
}

static void on_welcome(struct mover *m, struct transfer_peer *peer, const uint8_t *page)
{
    if (peer->state != PEER_TESTING)
        return;
    if (!peer->proven) {
        mover_count(&m->stats.unproven, 1);
        return;
    }
    if (!pool_header_matches(page, &peer->lender.pool)) {
        error_set(&peer->why, ST_STALE, "the lender answered for another pool than was described");
        mover_count(&m->stats.malformed, 1);
        peer->broken = true;
        return;
    }
    if (peer->ways[peer->way] == TRANSPORT_RDMA)
        ask_key(peer);
    else
        way_works(m, peer);
}

static void on_key(struct mover *m, struct transfer_peer *peer, const uint8_t *payload, size_t len)
{
    if (peer->state == PEER_TESTING && peer->asked_key && !peer->reader && !peer->hopeless)
        rdma_open(m, peer, payload, len);
}

/* rdma, behind the key. */
static void test_by_get(struct mover *m, struct transfer_peer *peer)
{
    status st = rdma_read_header(peer);
    if (st == ST_OK)
        way_works(m, peer);
    else if (st == ST_STALE)
        peer->hopeless = st;
    else if (st != ST_AGAIN)
        peer->broken = true;
}

/* A malformed answer ends the takes as CORRUPT and the peer as lost: what follows it cannot be trusted either. */
static void distrust(struct mover *m, struct transfer_peer *peer)
{
    log_warn("malformed answer of a transfer peer", "incarnation=%llx",
             (unsigned long long)peer->lender.pool.incarnation);
    mover_count(&m->stats.malformed, 1);
    takes_end_all(m, &peer->jobs, ST_CORRUPT);
    peer->broken = true;
}

void borrower_receive(struct mover *m, struct ucx_link *link, const struct wire_head *head, const uint8_t *payload,
                      size_t len)
{
    uint32_t index = head->session & 0xffff;
    struct transfer_peer *peer = index < m->n_peers ? m->peers[index] : NULL;
    if (!peer || peer->session != head->session || peer->link != link || peer->broken || !peer->ep)
        return; /* of an attempt that is over */
    if (head->kind == WIRE_CHALLENGE) {
        on_challenge(m, peer, payload);
        return;
    }
    if (head->kind == WIRE_WELCOME) {
        on_welcome(m, peer, payload);
        return;
    }
    if (head->kind == WIRE_KEY) {
        on_key(m, peer, payload, len);
        return;
    }
    status st = ST_CORRUPT;
    if (peer->state == PEER_READY && peer->ready_transport == TRANSPORT_TCP)
        st = head->kind == WIRE_DATA ? fetch_data(m, peer, head, payload, len) : fetch_end(m, peer, head);
    if (st)
        distrust(m, peer);
}

#define POPULATE_BYTES (4u << 20)
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Maps pages in ahead of the first take: a page fault costs more than copying the page. */
static bool populate_some(struct transfer_peer *peer)
{
    size_t bytes = pool_bytes(&peer->lender.pool);
    if (peer->populated >= bytes)
        return false;
    size_t n = bytes - peer->populated < POPULATE_BYTES ? bytes - peer->populated : POPULATE_BYTES;
    int rc = madvise((void *)(uintptr_t)(peer->mapped + peer->populated), n, MADV_POPULATE_READ);
    peer->populated = rc ? bytes : peer->populated + n; /* an older kernel maps at first touch */
    return true;
}

static bool work_on_peer(struct mover *m, struct transfer_peer *peer)
{
    peer->broken |= peer->reader && peer->reader->broken;
    if (peer->state == PEER_TESTING && peer->reader && !peer->broken)
        test_by_get(m, peer);
    if (peer->state == PEER_TESTING && peer->hopeless)
        way_failed(m, peer, peer->hopeless);
    if (peer->broken && peer->state == PEER_READY)
        lose(m, peer);
    else if (peer->broken && peer->state == PEER_TESTING)
        try_again(m, peer);
    if (peer->state != PEER_READY)
        return false;
    if (peer->ready_transport == TRANSPORT_TCP) {
        fetch_ask(m, peer);
        return peer->broken;
    }
    if (peer->ready_transport == TRANSPORT_RDMA)
        return rdma_work(m, peer);
    if (TAILQ_EMPTY(&peer->jobs))
        return populate_some(peer);
    return copier_work(m, &peer->jobs);
}

bool borrower_work(struct mover *m)
{
    bool more = false;
    for (uint32_t i = 0; i < m->n_peers; i++)
        if (m->peers[i] && work_on_peer(m, m->peers[i]))
            more = true;
    rdma_bury(m);
    return copier_work(m, &m->own_jobs) || more;
}
