/* virtual_internal.h - what the files of the virtual cluster share; nobody else includes it.
 *   virtual_cluster.c   the whole: made, run event by event, asked
 *   virtual_world.c     chance, and events in the order of time
 *   virtual_node.c      processes: started, killed, frozen
 *   virtual_network.c   messages: sent, lost, repeated, refused
 *   virtual_link.c      who is up, who hears what; deliveries and published figures
 *   virtual_engine.c    steps, on KV that is a hash chain over the tokens
 *   virtual_transfer.c  copies of blocks
 *   virtual_blocks.c    what workers say of their blocks
 *   virtual_manager.c   the manager of the host's KV blocks
 *   virtual_client.c    the router's clients, who compare with the naive model */
#ifndef BATON_TESTS_VIRTUAL_INTERNAL_H
#define BATON_TESTS_VIRTUAL_INTERNAL_H

#include "router/fleet.h"
#include "transfer/transfer.h"
#include "virtual_cluster.h"

#define LAYERS       3u
#define HEADS        2u
#define HEAD_DIM     8u
#define BLOCK_TOKENS 4u
#define MAX_REQUESTS 2048u
#define REPEAT_US    250000u
#define LOAD_US      50000u

enum event_kind {
    EV_DELIVER,
    EV_REPEAT,
    EV_LAYER,
    EV_STEP,
    EV_TAKE,
    EV_LOST,
    EV_AGAIN,
    EV_OVERRUN,
    EV_FAULT,
    EV_RESTART,
    EV_DRAIN,
    EV_SUBMIT,
    EV_CANCEL,
    EV_LOAD
};

struct node;
struct virtual_manager;

struct known_block {
    struct block_hash hash, parent;
    bool has_parent;
};

struct message {
    struct message *next; /* pending list of the sender */
    struct node *from;
    uint32_t to;
    uint64_t id, to_life;
    bool acked_kind, pending;
    uint32_t uses; /* events that hold it */
    struct frame frame;
    uint8_t *payload;
    uint64_t deadline_us;
};

struct event {
    uint64_t at_us, order;
    enum event_kind kind;
    uint32_t node; /* where it happens */
    uint64_t life; /* of that node: an event of an earlier life is dropped */
    uint32_t a;
    struct message *message;
    struct transfer_take *take;
};

struct node {
    struct vc *vc;
    uint32_t index;
    char id[64];
    bool is_router, is_prefill, is_manager, alive;
    struct virtual_manager *manager;
    uint64_t life; /* incarnation */
    uint64_t frozen_until;
    bool doomed;
    struct timers timers;
    struct worker_io io;
    struct worker *worker;
    uint8_t *memory;
    _Atomic uint64_t *generations;
    struct worker_peer peers[VC_MAX_NODES];
    bool link_up[VC_MAX_NODES];
    uint64_t next_free_us[VC_MAX_NODES]; /* keeps messages of a pair in order */
    struct step *step;
    struct known_block *known; /* [n_blocks], what it said of its blocks */
    uint32_t n_known;
    struct message *pending;
    struct fleet *fleet; /* router */
    struct flows *flows;
};

/* What a client's callbacks get. */
struct client {
    struct vc *vc;
    struct vc_request *request;
};

struct retired {
    struct retired *next;
    uint8_t *memory;
    void *generations;
};

struct vc {
    struct vc_options options;
    struct kv_layout layout;
    struct transfer_geometry geometry;
    uint64_t now, random, next_id, next_order, next_life;
    struct event *events; /* binary heap */
    size_t n_events, capacity;
    struct node nodes[VC_MAX_NODES];
    uint32_t n_nodes;
    struct vc_request requests[MAX_REQUESTS];
    struct client clients[MAX_REQUESTS];
    uint32_t n_requests;
    uint32_t state_hits;
    bool fault_happened;
    uint32_t overruns, refusals, flips;
    struct retired *retired;
};

/* virtual_world.c */
static inline uint64_t vc_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t vc_draw(struct vc *vc);
bool vc_chance(struct vc *vc, double p);
void event_push(struct vc *vc, struct event e);
/* The earliest; there must be one. */
struct event event_pop(struct vc *vc);

/* virtual_node.c */
/* Now, or when a frozen node thaws. */
uint64_t node_time(const struct node *n);
uint64_t node_now(void *node);
void node_start_router(struct node *n);
void node_start_worker(struct node *n);
void node_free_worker(struct node *n);
/* Its memory is kept until the end: somebody may still copy from it. */
void node_retire(struct node *n);
void node_kill(struct node *n);
/* Freezes it now, or kills it when the event that runs is over. */
void node_strike(struct node *n, enum fault fault);

/* virtual_network.c */
/* Frees it unless an event or the sender's pending list holds it. */
void message_release(struct message *m);
void message_unpend(struct node *from, struct message *m);
void message_transmit(struct message *m);
/* What is pending for a node; all with to < 0. */
void network_drop(struct node *from, int to);
status network_worker_send(void *node, struct worker_peer *to, const struct message_head *head,
                           const ProtobufCMessage *body, bool acked);
void network_worker_forget(void *node, struct worker_peer *to, struct request_key key, uint32_t attempt);
struct worker_peer *network_find_prefill(void *node, const char *id);
bool network_is_alive(void *node, struct worker_peer *peer);
struct worker_peer *network_find_holder(void *node, const char *id);
status network_router_send(void *node, struct fleet_worker *worker, const struct message_head *head,
                           const ProtobufCMessage *body, bool acked);
void network_router_forget(void *node, struct fleet_worker *worker, struct request_key key, uint32_t attempt);

/* virtual_link.c; other: index of the node at the other end */
void virtual_link_up(struct node *n, uint32_t other);
/* Both ways with every node that is alive. */
void virtual_link_all(struct node *n);
void virtual_link_lost(struct node *n, uint32_t other);
/* A thawed node and its peer meet again: both say what they hold. */
void virtual_link_again(struct node *n, uint32_t other);
void virtual_link_overrun(struct node *n, uint32_t other);
void virtual_deliver(struct node *n, struct message *m);
/* Published figures may be lost, and nobody asks for them again. */
void virtual_load(struct node *n);

/* virtual_engine.c */
void virtual_run(void *node, struct step *step, struct drafts *drafts);
void virtual_layer_done(struct node *n, uint32_t layer);
void virtual_step_done(struct node *n);

/* virtual_transfer.c */
status virtual_take(void *node, struct transfer_take *take);
void virtual_cancel_take(void *node, struct transfer_take *take);
void virtual_take_done(struct node *n, struct transfer_take *take);

/* virtual_blocks.c */
void virtual_blocks_stored(void *node, const struct block_stored *what);
void virtual_blocks_removed(void *node, const struct block_hash *hashes, uint32_t n);
/* That all it said is what its worker has. */
void virtual_blocks_check(struct node *n);

/* virtual_manager.c */
void node_start_manager(struct node *n);
void virtual_manager_free(struct node *n);
void virtual_manager_deliver(struct node *n, struct worker_peer *from, const struct frame *frame, uint64_t deadline_us);
void virtual_manager_lost(struct node *n, struct worker_peer *peer);
bool virtual_manager_is_idle(const struct node *n);
/* Blocks that it holds, and one more unless it is idle. */
uint32_t virtual_manager_held(const struct node *n);

/* virtual_client.c */
void client_submit(struct vc *vc, struct vc_request *r);
void client_cancel(struct vc_request *r);

#endif
