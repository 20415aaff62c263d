/* transfer.h - moves KV blocks between workers, always by the receiver's hand.
 *
 * Each worker owns one pool of blocks, which it lends for reading. A take copies
 * slots of one layer of a peer's blocks into blocks of our own, by one of
 *   shm: a copy through a mapping of the peer's pool (region.h), same host
 *   rdma: a get out of the peer's registered pool (rdma.c), where both have a device
 *   tcp: a request as active message; the lender answers with the bytes
 * Nobody writes into another's memory: what faces strangers has no
 * UCP_FEATURE_RMA, and where the context is that has it, and the key to the
 * pool, is told only to who has proved the cluster's key.
 *
 * A remote block is named by (block, generation). The lender raises the
 * generation (release) before it rewrites a block; after its copy the receiver
 * reads it again (acquire): a take of a block that changed ends ST_STALE.
 * What the generation cannot tell (tcp) the caller's checksum comparison does.
 *
 * Nothing is lent, and nothing taken, before both ends have proved to each other that they have the cluster's key
 * (proof.h), once for each way. UCX over TCP is not encrypted: that keeps strangers out who connect, not those who can
 * read or change what is on the wire.
 *
 * Threads: one transfer thread owns the UCX workers, copies and checksums. All
 * functions are called on the loop thread and never block (create and destroy
 * may); callbacks come on the loop thread. Every take ends exactly once, by its deadline at the latest. */
#ifndef BATON_TRANSFER_TRANSFER_H
#define BATON_TRANSFER_TRANSFER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/loop.h"
#include "common/status.h"

/* [layer][segment][token][slot_bytes]: what transfer knows of the KV layout;
 * a segment is one (k|v, head). */
struct transfer_geometry {
    uint32_t n_layers;
    uint32_t n_segments; /* of a layer: 2 * kv heads */
    uint32_t block_tokens;
    uint32_t slot_bytes; /* one token of one segment */
};

static inline size_t transfer_layer_bytes(const struct transfer_geometry *g)
{
    return (size_t)g->n_segments * g->block_tokens * g->slot_bytes;
}

static inline size_t transfer_block_bytes(const struct transfer_geometry *g)
{
    return g->n_layers * transfer_layer_bytes(g);
}

/* XXH3-64 over slots [first, first + n) of one layer of a block, segments
 * ascending, tokens ascending. */
uint64_t transfer_layer_checksum(const struct transfer_geometry *g, const uint8_t *block, uint32_t layer,
                                 uint32_t first, uint32_t n);
/* XXH3-64 over the per-layer values as little-endian u64: the checksum of a chunk's slots in a block. */
uint64_t transfer_block_checksum(const uint64_t *layer_sums, uint32_t n_layers);

enum transfer_mode { TRANSFER_AUTO, TRANSFER_SHM, TRANSFER_TCP, TRANSFER_RDMA }; /* what is allowed */
enum transfer_transport { TRANSPORT_NONE, TRANSPORT_SHM, TRANSPORT_TCP, TRANSPORT_RDMA, TRANSPORT_COUNT };
const char *transfer_transport_name(enum transfer_transport transport);

struct transfer;
struct transfer_peer;

struct transfer_options {
    struct loop *loop;
    struct transfer_geometry geometry;
    uint32_t n_blocks;
    enum transfer_mode mode;
    const char *network_address;  /* IP whose device faces other hosts; NULL or loopback: this host only, nothing
                                     listens elsewhere */
    const char *cluster_key_file; /* as cluster_key_read wants it; borrowed during create. Required with a network
                                     address, and for rdma; without, whoever reaches the loopback device may borrow */
    uint64_t incarnation;         /* of this process: the self-test compares it */
    bool busy_poll;               /* for dedicated cores */
};

/* UNSUPPORTED: TRANSFER_RDMA without a device. With TRANSFER_AUTO rdma is opened where there is a device, a key and a
 * network address. */
MUST_CHECK status transfer_create(const struct transfer_options *options, struct transfer **out, struct error *err);
/* Takes under way end CLOSED (their done is called in here), peers are freed; not from a callback. Nothing but
 * transfer_destroy may follow; the pool's memory stays until then. */
void transfer_stop(struct transfer *transfer);
void transfer_destroy(struct transfer **transfer);

/* The pool: allocated so that it can be mapped by others, pre-faulted. */
uint8_t *transfer_blocks(struct transfer *transfer);               /* [n_blocks][block_bytes], 4096-aligned */
_Atomic uint64_t *transfer_generations(struct transfer *transfer); /* [n_blocks], in the mapped memory */

/* What a peer needs to connect (addresses, packed key, host identity, geometry); sent in the link's HELLO. */
const uint8_t *transfer_description(const struct transfer *transfer, size_t *len);

/* Connects to a lender and tests the way (reads the lender's incarnation and a
 * pattern through it, within timeout_us). auto prefers shm where both are on one host, then rdma where
 * both have it, then tcp, as their self-tests pass. on_ready is called once: ST_OK and the transport, or why not.
 * on_lost (may be NULL) is called at most once, later, when the way broke; takes under way end ST_CLOSED. */
struct transfer_peer_options {
    const uint8_t *description; /* borrowed during the call */
    size_t description_len;
    enum transfer_mode mode;
    uint64_t timeout_us;
    void (*on_ready)(void *arg, status st, enum transfer_transport transport, const char *why);
    void (*on_lost)(void *arg);
    void *arg;
};
#define TRANSFER_MAX_PEERS 1024
/* CORRUPT: the description is damaged; INVALID: its geometry is not ours; LIMIT: TRANSFER_MAX_PEERS. */
MUST_CHECK status transfer_connect(struct transfer *transfer, const struct transfer_peer_options *options,
                                   struct transfer_peer **out, struct error *err);
/* Takes under way end ST_CLOSED (their done is still called); no callback of this peer after that. */
void transfer_disconnect(struct transfer_peer **peer);
enum transfer_transport transfer_peer_transport(const struct transfer_peer *peer);

/* Slots [first, first + n) of one block; local and remote use the same slots. */
struct transfer_span {
    uint32_t local_block;
    uint32_t remote_block;
    uint64_t remote_generation;
    uint16_t first, n;
};

/* One layer of a run of spans. Owned by the caller and left alone until done. */
struct transfer_take {
    struct transfer_peer *peer;     /* NULL: no copy, only the checksums of our own blocks (remote fields unused) */
    uint32_t first_layer, n_layers; /* consecutive layers */
    uint32_t n_spans;
    const struct transfer_span *spans; /* borrowed until done */
    uint64_t *checksums;               /* out [n_layers][n_spans], or NULL: not wanted */
    uint64_t deadline_us;              /* on clock_now_us */
    void (*done)(struct transfer_take *take);
    void *arg;
    /* results */
    status st; /* OK, STALE, CLOSED, TIMEOUT, CANCELLED, CORRUPT (malformed answer) */
    uint64_t bytes;
    uint64_t busy_us; /* spent copying or waiting for the peer */
    /* internal */
    atomic_bool cancelled;
    void *internal[8];
};

#define TRANSFER_MAX_TAKES 4096
#define TRANSFER_MAX_SPANS 65536 /* of a take */
/* LIMIT: TRANSFER_MAX_TAKES are under way, or too many spans; CLOSED: stopped; INVALID: layers, local blocks or slots
 * outside the geometry. Takes to one peer are worked on in order; those of a peer that is not ready wait for it. */
MUST_CHECK status transfer_take(struct transfer *transfer, struct transfer_take *take);
/* done comes soon with ST_CANCELLED (or with what it had become by then); after it
 * nothing writes into the local blocks any more. */
void transfer_cancel(struct transfer *transfer, struct transfer_take *take);

struct transfer_stats {
    uint64_t bytes_taken[TRANSPORT_COUNT], takes[TRANSPORT_COUNT], busy_us[TRANSPORT_COUNT];
    uint64_t served_bytes, stale, timeouts, lost_peers, malformed;
    uint64_t unproven;   /* messages of who did not prove the cluster's key */
    uint64_t unanswered; /* challenges that nobody answered in time */
    uint64_t cut;        /* connections that came to nothing, beyond those that may stay */
};
void transfer_stats(const struct transfer *transfer, struct transfer_stats *out);

/* What went wrong, for metrics: label, member of struct transfer_stats. */
#define TRANSFER_FAULTS(X)                                                                                             \
    X(stale, stale)                                                                                                    \
    X(timeout, timeouts)                                                                                               \
    X(lost_peer, lost_peers)                                                                                           \
    X(malformed, malformed)                                                                                            \
    X(unproven, unproven)                                                                                              \
    X(unanswered, unanswered)                                                                                          \
    X(cut, cut)

#endif
