/* mover.h - the transfer thread: owns the UCX links, the peers' endpoints, copies and checksums.
 * It talks to the loop thread through two bounded rings only. Its work is in
 * borrower.c (takes: fetch.c, rdma.c), lender.c (serving others) and copier.c (our own memory);
 * mover.c turns the wheel. Everything here belongs to the transfer thread
 * unless it says otherwise. */
#ifndef BATON_TRANSFER_MOVER_H
#define BATON_TRANSFER_MOVER_H

#include <pthread.h>
#include <semaphore.h>
#include <sys/queue.h>

#include "common/timers.h"
#include "transfer/connections.h"
#include "transfer/description.h"
#include "transfer/handoff.h"
#include "transfer/pool.h"
#include "transfer/proof.h"
#include "transfer/rdma_memory.h"
#include "transfer/rdma_over.h"
#include "transfer/region.h"
#include "transfer/runs.h"
#include "transfer/transfer.h"
#include "transfer/ucx_link.h"
#include "transfer/wire.h"

#define MOVER_MAX_SESSIONS  TRANSFER_MAX_PEERS /* borrowers that we serve at one time */
#define MOVER_WINDOW        8u                 /* requests in flight to one lender */
#define MOVER_BATCHES       8u                 /* groups of gets in flight to one lender */
#define MOVER_BATCH_BYTES   (128u << 10)
#define MOVER_BATCH_GETS    256u /* for bytes; as many more, at most, for generations */
#define MOVER_BATCH_SPANS   256u
#define MOVER_SLOTS         256u       /* DATA messages in flight to all borrowers */
#define MOVER_SESSION_SLOTS 8u         /* of them to one borrower */
#define MOVER_QUANTUM       (1u << 20) /* bytes copied before others have their turn */
#define MOVER_STALL_US      10000000u  /* a borrower that reads nothing for so long is cut off */
#define MOVER_MAX_UNPROVEN  64u        /* borrowers that were challenged and have not answered */
#define MOVER_PROVE_US      3000000u   /* one that has not answered for so long is cut off */
#define MOVER_RETRY_US      50000u     /* between two attempts to connect */

enum mover_command { COMMAND_TAKE, COMMAND_CANCEL, COMMAND_CONNECT, COMMAND_DISCONNECT, COMMAND_STOP };
enum mover_event { EVENT_DONE, EVENT_READY, EVENT_LOST, EVENT_GONE };

struct mover;
struct session;

/* A take under way. The loop thread hands it out and gets it back with EVENT_DONE. */
struct job {
    struct transfer_take *take;
    struct transfer_peer *peer; /* NULL: checksums of our own blocks */
    struct mover *mover;
    struct job *next_free; /* loop thread */
    TAILQ_ENTRY(job) queue;
    struct timer deadline;
    bool active;              /* between COMMAND_TAKE and EVENT_DONE */
    struct run_cursor cursor; /* mapped copies, gets, and our own blocks */
    uint32_t asked_spans;     /* tcp: of them requested so far */
    uint32_t open_requests;   /* tcp; rdma: batches */
    uint64_t started_us;      /* tcp, rdma: first request sent; 0: none */
    uint64_t bytes, busy_us;
};
TAILQ_HEAD(jobs, job);

/* tcp: a REQUEST that was sent and whose END has not come. */
struct request {
    struct job *job; /* NULL: the take ended without it; what still comes is dropped */
    uint64_t total, received;
    uint32_t first_span; /* of the take */
    struct run_cursor cursor;
};

/* rdma: gets for one take, first of its bytes, then of the generations of the blocks they are of. */
struct batch {
    struct reader *reader;
    struct job *job; /* NULL: the take ended without it; what still comes is dropped */
    size_t bytes;
    uint32_t first_span, n_spans; /* of the take, perhaps not all of the first and the last */
    uint32_t under_way;           /* gets */
    bool checking;                /* the generations were asked for */
    struct run_cursor cursor;     /* where the bytes begin */
};

/* rdma: what gets of one peer take, from the key on. A get cannot be called back, so its bytes land in here, and it
 * stays until the last of them has ended. */
struct reader {
    struct mover *mover;
    LIST_ENTRY(reader) left; /* of mover->left_readers, once its peer is done with it */
    ucp_ep_h ep;
    ucp_rkey_h key;
    uint64_t pool; /* where the lender has its header page */
    uint8_t *memory;
    ucp_mem_h registered;
    uint32_t under_way; /* gets of all batches */
    bool broken;
    uint64_t first, next; /* of window: [first, next) */
    struct batch window[MOVER_BATCHES];
};
LIST_HEAD(readers, reader);

#define PEER_STATES(X)                                                                                                 \
    X(WAITING, PEER_TO(TESTING) | PEER_TO(LOST)) /* for the next attempt to connect    */                              \
    X(TESTING,                                                                                                         \
      PEER_TO(WAITING) | PEER_TO(READY) | PEER_TO(LOST)) /* for CHALLENGE, WELCOME, rdma: KEY and a first get */       \
    X(READY, PEER_TO(LOST))                                                                                            \
    X(LOST, 0) /* for the owner to disconnect        */

#define PEER_TO(name) (1u << PEER_##name)
enum peer_state {
#define X(name, next) PEER_##name,
    PEER_STATES(X)
#undef X
};

struct transfer_peer {
    /* Loop thread. */
    struct transfer *transfer;
    struct transfer_peer_options options; /* description: not valid after connect */
    enum transfer_transport transport;
    bool disconnected;
    LIST_ENTRY(transfer_peer) entry;

    /* Set before the transfer thread hears of it, then left alone. */
    struct description lender; /* its views point into bytes */
    uint8_t bytes[DESCRIPTION_MAX_BYTES];
    enum transfer_transport ways[TRANSPORT_COUNT]; /* to be tried in this order; NONE ends the list */
    uint64_t deadline_us;

    /* The answer, handed over with EVENT_READY. */
    status ready_st;
    enum transfer_transport ready_transport;
    struct error why;

    /* Transfer thread. */
    struct mover *mover;
    enum peer_state state;
    int way;
    uint64_t attempt_until_us;
    struct timer timer;
    struct ucx_link *link;
    ucp_ep_h ep;
    bool broken;     /* the endpoint failed; handled in the next turn */
    status hopeless; /* not OK: why this way is of no use; handled in the next turn */
    uint64_t session;
    uint32_t index;
    struct proof_terms terms;
    bool proven;           /* the lender has the cluster's key */
    const uint8_t *mapped; /* shm: the lender's region in our address space */
    size_t populated;      /* bytes of it whose pages have been mapped in */
    bool asked_key;        /* rdma */
    struct reader *reader; /* rdma; NULL: no key yet */
    uint64_t last_end_us;  /* tcp, rdma: when the take before ended */
    struct jobs jobs;
    struct request window[MOVER_WINDOW];
    uint64_t first_request, next_request; /* in the window: [first, next) */
};

/* A DATA message on its way to a borrower. */
struct slot {
    struct session *session;
    struct slot *next_free;
    struct mover *mover;
    uint8_t *bytes; /* [WIRE_DATA_BYTES] */
};

struct mover_stats {
    _Atomic uint64_t bytes_taken[TRANSPORT_COUNT], takes[TRANSPORT_COUNT], busy_us[TRANSPORT_COUNT];
    _Atomic uint64_t served_bytes, stale, timeouts, lost_peers, malformed, unproven, unanswered, cut;
};

struct mover {
    /* Set by the owner before mover_start. */
    struct transfer_geometry geometry;
    struct pool_identity identity;
    struct cluster_key key;
    enum transfer_mode mode;
    char network_device[HOST_DEVICE_BYTES];
    struct rdma_over rdma_over;
    bool busy_poll;

    struct handoff commands; /* to this thread */
    struct handoff events;   /* from it */

    /* Filled by mover_start, then left alone. */
    struct pool pool;
    struct host_identity host;
    uint8_t description[DESCRIPTION_MAX_BYTES];
    size_t description_len;

    struct mover_stats stats;

    pthread_t thread;
    sem_t started, ended, may_close;
    status start_st;
    struct error start_error;

    /* Context is NULL: not opened. To whoever borrows here they answer from the first two, to whom they borrow from
     * they go by the others: two processes that borrow from one another would otherwise connect the same two workers
     * from both ends at once, which UCX takes for one connection and can make nothing of. */
    struct ucx_link same_host, network, to_same_host, to_network;
    /* For gets alone: of others out of our pool, and of ours. Where the first is, and the key to the pool, is told in
     * sessions of the network link that have proved the cluster's key. */
    struct ucx_link rdma, to_rdma;
    ucp_mem_h registered;               /* the pool */
    uint8_t rdma_offer[WIRE_KEY_BYTES]; /* payload of KEY, without its proof */
    size_t rdma_offer_len;
    struct readers left_readers; /* with gets under way */
    struct region region;        /* base is NULL: the pool is private memory */
    int epoll_fd;
    bool stopping;
    struct timers timers;
    struct transfer_peer *peers[TRANSFER_MAX_PEERS];
    uint32_t n_peers; /* highest index in use, plus one */
    struct jobs own_jobs;
    struct session *sessions[MOVER_MAX_SESSIONS];
    uint32_t n_sessions;
    struct timer stall_timer;
    struct ports ports; /* on which UCX listens */
    struct timer connections_timer;
    uint64_t stranger_logged_us;
    struct slot slots[MOVER_SLOTS];
    struct slot *free_slots;
    uint8_t *slot_bytes;
};

/* Loop thread. start waits until the thread has opened its links and the pool is there. */
MUST_CHECK status mover_start(struct mover *m, struct error *err);
/* Ends all takes, closes all endpoints; what is left in events is for the caller. The pool stays. */
void mover_stop(struct mover *m);
/* After mover_stop: gives the pool back and joins. */
void mover_end(struct mover *m);

/* Counters are written by the transfer thread alone. */
static inline void mover_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* mover_open.c: opens contexts, pool and description; closes them. */
MUST_CHECK status mover_open(struct mover *m, struct error *err);
void mover_close(struct mover *m);

/* takes.c */
void takes_begin(struct mover *m, struct job *job);
void takes_cancel(struct mover *m, struct job *job);
/* Reports the take and forgets it. */
void takes_end(struct mover *m, struct job *job, status st);
void takes_end_all(struct mover *m, struct jobs *jobs, status st);

/* copier.c: works one quantum off the takes of a queue, in order, by copying through the mapping, or off the
 * checksums of our own blocks. False: the queue is empty. */
MUST_CHECK bool copier_work(struct mover *m, struct jobs *jobs);
/* Puts bytes that came in the order of runs into our own blocks. spans of the cursor begin at first_span of the take.
 */
void copier_scatter(struct mover *m, struct job *job, struct run_cursor *cursor, uint32_t first_span,
                    const uint8_t *bytes, size_t len);
/* After a layer of a span lies in our own block. */
void copier_layer_done(struct mover *m, struct job *job, uint32_t span, uint32_t layer);

/* borrower.c */
void borrower_connect(struct mover *m, struct transfer_peer *peer);
void borrower_disconnect(struct mover *m, struct transfer_peer *peer);
bool borrower_work(struct mover *m); /* true: there is more to do at once */
void borrower_receive(struct mover *m, struct ucx_link *link, const struct wire_head *head, const uint8_t *payload,
                      size_t len);

/* fetch.c: takes over active messages. */
void fetch_ask(struct mover *m, struct transfer_peer *peer);
MUST_CHECK status fetch_data(struct mover *m, struct transfer_peer *peer, const struct wire_head *head,
                             const uint8_t *payload, size_t len);
MUST_CHECK status fetch_end(struct mover *m, struct transfer_peer *peer, const struct wire_head *head);
void fetch_forget(struct transfer_peer *peer, struct job *job); /* the take ends; nothing is copied for it any more */

/* rdma.c: takes by get. */
void rdma_open(struct mover *m, struct transfer_peer *peer, const uint8_t *payload, size_t len);
MUST_CHECK status rdma_read_header(struct transfer_peer *peer); /* the self-test: OK, AGAIN: it has not come */
bool rdma_work(struct mover *m, struct transfer_peer *peer);    /* true: there is more to do at once */
void rdma_forget(struct transfer_peer *peer, struct job *job);  /* the take ends; nothing is copied for it any more */
void rdma_leave(struct mover *m, struct transfer_peer *peer);
void rdma_bury(struct mover *m);  /* readers that were left and whose gets have ended */
void rdma_close(struct mover *m); /* the links; also when they are not open, or only some of it is */

/* lender.c */
MUST_CHECK status lender_init(struct mover *m);
/* Looks at the connections that UCX accepted, from now on. */
void lender_bound_connections(void *mover);
void lender_free(struct mover *m);
bool lender_work(struct mover *m);
void lender_receive(struct mover *m, struct ucx_link *link, const struct wire_head *head, const uint8_t *payload,
                    size_t len);
void lender_close_all(struct mover *m);

#endif
