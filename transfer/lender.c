#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "transfer/mover.h"

#define SESSION_MAX_ENDS 32u /* END messages on their way */
#define STALL_CHECK_US   1000000u
#define REQUEST_MAX_US   (600u * 1000000ull) /* whatever the borrower says */
#define CONNECTIONS_US   1000000u            /* between two looks at what UCX accepted */
#define STRANGER_LOG_US  10000000u           /* between two lines about strangers */

/* A request that is being answered, or waits for its turn. */
struct serve {
    struct wire_request request;
    struct run_cursor cursor;
    uint64_t number, deadline_us, sent;
    bool begun, cancelled;
};

/* A borrower, who is served once he is proven. It is freed when it is closed and nothing of it is on its way. */
struct session {
    uint64_t id;
    struct mover *mover;
    struct ucx_link *link;
    ucp_ep_h ep; /* NULL: closed */
    bool broken, proven;
    struct proof_terms terms;
    uint64_t since_us;
    uint32_t n_slots, n_ends; /* on their way */
    uint64_t moved_us;        /* when something was last sent off */
    uint64_t first, next;     /* of queue: [first, next) */
    struct serve queue[MOVER_WINDOW];
};

status lender_init(struct mover *m)
{
    size_t bytes = (size_t)MOVER_SLOTS * WIRE_DATA_BYTES;
    /* Pages come with use; few borrowers touch few of them, as the list is last in, first out. */
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return ST_NO_MEMORY;
    m->slot_bytes = memory;
    for (uint32_t i = 0; i < MOVER_SLOTS; i++) {
        m->slots[i] = (struct slot){ .bytes = m->slot_bytes + (size_t)i * WIRE_DATA_BYTES,
                                     .mover = m,
                                     .next_free = m->free_slots };
        m->free_slots = &m->slots[i];
    }
    return ST_OK;
}

void lender_free(struct mover *m)
{
    for (uint32_t i = 0; i < m->n_sessions; i++)
        free(m->sessions[i]);
    m->n_sessions = 0;
    if (m->slot_bytes)
        (void)munmap(m->slot_bytes, (size_t)MOVER_SLOTS * WIRE_DATA_BYTES);
    m->slot_bytes = NULL;
}

static struct session *find(struct mover *m, const struct ucx_link *link, uint64_t id)
{
    for (uint32_t i = 0; i < m->n_sessions; i++)
        if (m->sessions[i]->id == id && m->sessions[i]->link == link && !m->sessions[i]->broken)
            return m->sessions[i];
    return NULL;
}

static void on_endpoint_failed(void *arg, ucp_ep_h ep, ucs_status_t st)
{
    (void)ep, (void)st;
    ((struct session *)arg)->broken = true;
}

static void welcome(struct mover *m, struct session *session)
{
    struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_WELCOME, .session = session->id };
    if (ucx_link_send(session->link, session->ep, &head, m->pool.base, POOL_PAGE, NULL, NULL))
        session->broken = true;
}

/* Counted, and logged now and then: strangers may send as much as they like. */
static void stranger(struct mover *m, _Atomic uint64_t *counter, const char *what)
{
    uint64_t now = clock_now_us();
    mover_count(counter, 1);
    if (m->stranger_logged_us && now - m->stranger_logged_us < STRANGER_LOG_US)
        return;
    m->stranger_logged_us = now;
    log_warn("no proof of the cluster's key from who would borrow KV", "what=\"%s\"", what);
}

static void challenge(struct mover *m, struct session *session)
{
    struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_CHALLENGE, .session = session->id };
    struct wire_challenge challenge;
    proof_draw_nonce(session->terms.lender_nonce);
    memcpy(challenge.nonce, session->terms.lender_nonce, sizeof challenge.nonce);
    if (proof_make(&m->key, PROOF_LENDER, &session->terms, NULL, 0, challenge.proof) ||
        ucx_link_send(session->link, session->ep, &head, &challenge, sizeof challenge, NULL, NULL))
        session->broken = true;
}

static void unanswered(struct mover *m, struct session *session)
{
    stranger(m, &m->stats.unanswered, "a challenge was not answered");
    session->broken = true;
}

/* Makes room for one more that has not answered, at the cost of whoever has had the longest time to. */
static void bound_unproven(struct mover *m)
{
    struct session *oldest = NULL;
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_sessions; i++) {
        struct session *session = m->sessions[i];
        if (session->proven || session->broken)
            continue;
        n++;
        if (!oldest || session->since_us < oldest->since_us)
            oldest = session;
    }
    if (n >= MOVER_MAX_UNPROVEN)
        unanswered(m, oldest);
}

static void open_session(struct mover *m, struct ucx_link *link, const struct proof_terms *terms,
                         const uint8_t *address)
{
    struct error err;
    bound_unproven(m);
    if (m->n_sessions == MOVER_MAX_SESSIONS) {
        log_warn("transfer borrower refused", "limit=%u", (unsigned)MOVER_MAX_SESSIONS);
        return;
    }
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        return;
    uint64_t now = clock_now_us();
    *session = (struct session){
        .id = terms->session, .mover = m, .link = link, .terms = *terms, .since_us = now, .moved_us = now
    };
    if (ucx_link_connect(link, address, on_endpoint_failed, session, &session->ep, &err)) {
        log_warn("no way back to a transfer borrower", "why=\"%s\"", err.text);
        free(session);
        return;
    }
    m->sessions[m->n_sessions++] = session;
    challenge(m, session);
}

/* The address is looked at, by UCX too, only when it comes from who has the key. */
static void on_hello(struct mover *m, struct ucx_link *link, const struct wire_head *head, const uint8_t *payload,
                     size_t len)
{
    struct wire_hello hello;
    const uint8_t *address;
    size_t address_len;
    if (head->request != m->identity.nonce || find(m, link, head->session))
        return; /* meant for a process that had our address before us, or a repeat */
    if (wire_hello_decode(payload, len, &hello, &address, &address_len))
        return;
    struct proof_terms terms = { .pool = m->identity.nonce,
                                 .lender = m->identity.incarnation,
                                 .borrower = hello.incarnation,
                                 .session = head->session,
                                 .mapped = link->mapped };
    memcpy(terms.borrower_nonce, hello.nonce, sizeof hello.nonce);
    if (!proof_holds(&m->key, PROOF_HELLO, &terms, address, address_len, hello.proof)) {
        stranger(m, &m->stats.unproven, "it is of another cluster key, or of none");
        return;
    }
    uint64_t copy[WIRE_MAX_ADDRESS / 8] = { 0 };
    memcpy(copy, address, address_len);
    open_session(m, link, &terms, (const uint8_t *)copy);
}

static void on_proof(struct mover *m, struct session *session, const uint8_t *payload)
{
    if (session->proven)
        return; /* a repeat */
    if (!proof_holds(&m->key, PROOF_BORROWER, &session->terms, NULL, 0, payload)) {
        stranger(m, &m->stats.unproven, "a challenge was answered wrong");
        session->broken = true;
        return;
    }
    session->proven = true;
    welcome(m, session);
}

static void malformed(struct mover *m, struct session *session)
{
    log_warn("malformed request of a transfer borrower", "session=%llx", (unsigned long long)session->id);
    mover_count(&m->stats.malformed, 1);
    session->broken = true;
}

static void on_request(struct mover *m, struct session *session, const struct wire_head *head, const uint8_t *payload,
                       size_t len)
{
    struct serve *serve = &session->queue[session->next % MOVER_WINDOW];
    /* On its own host a borrower maps the pool, for which it takes the kernel's permission; by rdma it asks for a key.
     */
    if (session->link->mapped || m->mode == TRANSFER_RDMA || session->next - session->first == MOVER_WINDOW ||
        wire_request_decode(payload, len, &m->geometry, (uint32_t)m->identity.n_blocks, &serve->request)) {
        malformed(m, session);
        return;
    }
    const struct wire_request *r = &serve->request;
    run_cursor_init(&serve->cursor, &m->geometry, r->spans, r->n_spans, r->first_layer, r->n_layers);
    serve->number = head->request;
    serve->deadline_us = clock_now_us() + (head->value < REQUEST_MAX_US ? head->value : REQUEST_MAX_US);
    serve->sent = 0;
    serve->begun = serve->cancelled = false;
    session->next++;
}

/* To who has proved the cluster's key, and over the network's link, of which rdma is the faster form. */
static void give_key(struct mover *m, struct session *session)
{
    uint8_t payload[WIRE_KEY_BYTES];
    if (session->link->mapped || !m->rdma.context) {
        malformed(m, session);
        return;
    }
    size_t len = m->rdma_offer_len;
    memcpy(payload, m->rdma_offer, len);
    struct wire_head head = { .magic = WIRE_MAGIC, .kind = WIRE_KEY, .session = session->id };
    status st =
        proof_make(&m->key, PROOF_RDMA, &session->terms, payload + WIRE_PROOF_BYTES, len - WIRE_PROOF_BYTES, payload);
    enum failpoint_action action = FAILPOINT("transfer.serve.key");
    if (action == FAILPOINT_DROP)
        return;
    if (action == FAILPOINT_FLIP)
        payload[len - 1] ^= 1;
    if (st || ucx_link_send(session->link, session->ep, &head, payload, len, NULL, NULL))
        session->broken = true;
}

static void on_cancel(struct session *session, uint64_t number)
{
    for (uint64_t i = session->first; i < session->next; i++)
        if (session->queue[i % MOVER_WINDOW].number == number)
            session->queue[i % MOVER_WINDOW].cancelled = true;
}

static void refuse(struct mover *m, struct session *session)
{
    stranger(m, &m->stats.unproven, "it asks before it answers its challenge");
    session->broken = true;
}

void lender_receive(struct mover *m, struct ucx_link *link, const struct wire_head *head, const uint8_t *payload,
                    size_t len)
{
    if (head->kind == WIRE_HELLO) {
        on_hello(m, link, head, payload, len);
        return;
    }
    struct session *session = find(m, link, head->session);
    if (!session) { /* closed already, or never open */
        if (head->kind == WIRE_REQUEST || head->kind == WIRE_KEY_ASK)
            stranger(m, &m->stats.unproven, "it asks without a session");
        return;
    }
    if (head->kind == WIRE_PROOF)
        on_proof(m, session, payload);
    else if (head->kind == WIRE_BYE)
        session->broken = true;
    else if (!session->proven)
        refuse(m, session);
    else if (head->kind == WIRE_REQUEST)
        on_request(m, session, head, payload, len);
    else if (head->kind == WIRE_KEY_ASK)
        give_key(m, session);
    else
        on_cancel(session, head->request);
}

static bool still_as_asked(struct mover *m, const struct wire_request *r)
{
    const _Atomic uint64_t *generations = pool_generations(&m->pool);
    for (uint32_t i = 0; i < r->n_spans; i++)
        if (pool_generation_after(&generations[r->spans[i].local_block]) != r->spans[i].remote_generation)
            return false;
    return true;
}

static void on_slot_sent(void *arg, bool ok)
{
    struct slot *slot = arg;
    struct session *session = slot->session;
    session->n_slots--;
    session->moved_us = clock_now_us();
    session->broken |= !ok;
    slot->next_free = slot->mover->free_slots;
    slot->mover->free_slots = slot;
}

/* Gathers the next pieces into the slot. A copy of our own, and not the blocks
 * themselves, is given to UCX: what is sent is what the generations were read behind. */
static size_t gather(struct mover *m, struct serve *serve, uint8_t *bytes)
{
    size_t len = 0;
    struct run run;
    while (len < WIRE_DATA_BYTES && run_cursor_next(&serve->cursor, WIRE_DATA_BYTES - len, &run)) {
        const uint8_t *block = pool_block(&m->pool, serve->request.spans[run.span].local_block);
        pool_read(bytes + len, block + run.offset, run.bytes);
        len += run.bytes;
    }
    return len;
}

static void send_data(struct mover *m, struct session *session, struct serve *serve)
{
    struct slot *slot = m->free_slots;
    size_t len = gather(m, serve, slot->bytes);
    struct wire_head head = {
        .magic = WIRE_MAGIC, .kind = WIRE_DATA, .session = session->id, .request = serve->number, .value = serve->sent
    };
    serve->sent += len;
    enum failpoint_action action = FAILPOINT("transfer.serve.sending");
    if (action == FAILPOINT_DROP)
        return;
    if (action == FAILPOINT_FLIP)
        slot->bytes[0] ^= 1;
    m->free_slots = slot->next_free;
    slot->session = session;
    session->n_slots++;
    mover_count(&m->stats.served_bytes, len);
    if (ucx_link_send(session->link, session->ep, &head, slot->bytes, len, on_slot_sent, slot))
        on_slot_sent(slot, false);
}

static void on_end_sent(void *arg, bool ok)
{
    struct session *session = arg;
    session->n_ends--;
    session->moved_us = clock_now_us();
    session->broken |= !ok;
}

static void send_end(struct session *session, struct serve *serve, status st)
{
    struct wire_head head = { .magic = WIRE_MAGIC,
                              .kind = WIRE_END,
                              .st = (uint8_t)st,
                              .session = session->id,
                              .request = serve->number,
                              .value = serve->sent };
    session->first++;
    session->n_ends++;
    if (ucx_link_send(session->link, session->ep, &head, NULL, 0, on_end_sent, session))
        on_end_sent(session, false);
}

/* One message of the request at the head; false when nothing can be sent now. */
static bool serve_one(struct mover *m, struct session *session)
{
    struct serve *serve = &session->queue[session->first % MOVER_WINDOW];
    if (session->first == session->next || session->n_ends >= SESSION_MAX_ENDS)
        return false;
    if (serve->cancelled || clock_now_us() >= serve->deadline_us) {
        send_end(session, serve, serve->cancelled ? ST_CANCELLED : ST_TIMEOUT);
        return true;
    }
    if (!serve->begun && !still_as_asked(m, &serve->request)) {
        send_end(session, serve, ST_STALE);
        return true;
    }
    serve->begun = true;
    if (serve->cursor.span < serve->cursor.n_spans) {
        if (!m->free_slots || session->n_slots >= MOVER_SESSION_SLOTS)
            return false;
        send_data(m, session, serve);
        return true;
    }
    send_end(session, serve, still_as_asked(m, &serve->request) ? ST_OK : ST_STALE);
    return true;
}

/* True: gone, and the last of the list stands in its place. */
static bool buried(struct mover *m, uint32_t at)
{
    struct session *session = m->sessions[at];
    if (session->ep)
        ucx_link_disconnect(session->link, &session->ep);
    if (session->n_slots || session->n_ends)
        return false;
    free(session);
    m->sessions[at] = m->sessions[--m->n_sessions];
    return true;
}

static void check_stalls(void *arg)
{
    struct mover *m = arg;
    uint64_t now = clock_now_us();
    for (uint32_t i = 0; i < m->n_sessions; i++) {
        struct session *session = m->sessions[i];
        if (!session->broken && !session->proven && now - session->since_us >= MOVER_PROVE_US)
            unanswered(m, session);
        if (session->broken || !(session->n_slots + session->n_ends) || now - session->moved_us < MOVER_STALL_US)
            continue;
        log_warn("transfer borrower reads nothing and is cut off", "session=%llx", (unsigned long long)session->id);
        session->broken = true;
    }
}

/* A borrower on such a connection has got the header page. */
void lender_bound_connections(void *mover)
{
    struct mover *m = mover;
    uint32_t n = connections_bound(&m->ports, POOL_PAGE);
    mover_count(&m->stats.cut, n);
    if (n)
        log_warn("connections that ask for no KV are cut", "n=%u", n);
    timer_set(&m->timers, &m->connections_timer, clock_now_us() + CONNECTIONS_US, lender_bound_connections, m);
}

bool lender_work(struct mover *m)
{
    bool more = false, waits = false;
    for (uint32_t i = 0; i < m->n_sessions;) {
        struct session *session = m->sessions[i];
        for (uint32_t n = 0; !session->broken && n < MOVER_SESSION_SLOTS && serve_one(m, session); n++)
            more = true;
        if (session->broken && buried(m, i)) {
            more = true;
            continue;
        }
        waits |= !session->proven || session->n_slots + session->n_ends > 0;
        i++;
    }
    if (waits && !timer_is_set(&m->stall_timer))
        timer_set(&m->timers, &m->stall_timer, clock_now_us() + STALL_CHECK_US, check_stalls, m);
    return more;
}

void lender_close_all(struct mover *m)
{
    for (uint32_t i = 0; i < m->n_sessions; i++) {
        m->sessions[i]->broken = true;
        if (m->sessions[i]->ep)
            ucx_link_disconnect(m->sessions[i]->link, &m->sessions[i]->ep);
    }
}
