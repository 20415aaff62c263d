/* fleet_internal.h - what the files of the fleet share; nobody else includes it.
 *   fleet.c        who is there: membership, links, published load
 *   fleet_count.c  what we dispatched, and what was learned from it
 *   fleet_pick.c   choosing: candidates, kept up to date as figures change */
#ifndef BATON_ROUTER_FLEET_INTERNAL_H
#define BATON_ROUTER_FLEET_INTERNAL_H

#include "router/fleet.h"

#define FLEET_MAX_KINDS    128u /* of (model, role), with typical rates of their own; more share the last one */
#define FLEET_MAX_HOLDINGS 32u  /* of one prompt */
#define FLEET_HOSTS        256u /* lists of workers by host; more hosts share them */

/* Whether a worker may be chosen, but for what a request asks of it. */
struct fleet_state {
    uint64_t model;
    uint64_t load_us; /* 0: never heard */
    bool fits, faulty;
};

/* The workers of a role, side by side, so that choosing among thousands reads memory in order. */
struct fleet_side {
    struct pick_candidate at[FLEET_MAX_WORKERS];
    struct fleet_state states[FLEET_MAX_WORKERS];
    struct fleet_worker *workers[FLEET_MAX_WORKERS];
    uint32_t n;
};

/* What workers of a kind are like. */
struct fleet_kind {
    uint64_t model;
    bool is_decode;
    struct fleet_rates rates;
};

struct fleet {
    struct fleet_options options;
    struct links *links;
    struct fleet_list workers;
    uint32_t n_workers;
    uint64_t turn, last_number;
    struct known_adapters adapters;
    struct fleet_kind kinds[FLEET_MAX_KINDS];
    uint32_t n_kinds;
    struct fleet_side decodes, prefills;
    struct fleet_worker *holders[FLEET_MAX_WORKERS]; /* by the number of a holding; checked before use */
    struct fleet_worker *held[FLEET_MAX_HOLDINGS];   /* whose candidates have cached tokens of the last prompt */
    uint32_t n_held;
    struct fleet_host hosts[FLEET_HOSTS];
    struct fleet_host *held_hosts[FLEET_MAX_HOLDINGS]; /* and all in these, which a manager's blocks may be for */
    uint32_t n_held_hosts;
    struct pick_input input;
    struct pick_choice choice;
};

/* fleet_count.c */
uint64_t fleet_now(const struct fleet *fleet);
struct fleet_kind *fleet_kind(struct fleet *fleet, uint64_t model, bool is_decode);
/* The worker's figures of now hold what we dispatched up to our mark; at a prefill worker: what was sent before. */
void fleet_on_mark(struct fleet_worker *worker, uint64_t number);
void fleet_on_prefill_load(struct fleet_worker *worker);
/* And so many prompt tokens wait there, of which so many are ours. */
void fleet_on_queue(struct fleet_worker *worker, uint64_t tokens, uint64_t own_tokens);
/* The worker is to be freed: nothing of ours is counted there any more. */
void fleet_drop_counts(struct fleet_worker *worker);

/* fleet_pick.c */
void fleet_enter_candidate(struct fleet_worker *worker);
void fleet_leave_candidate(struct fleet_worker *worker);
/* Its figures changed. */
void fleet_refresh(struct fleet_worker *worker);
/* False: what was learned of the worker alone is forgotten. */
bool fleet_knows_rates(const struct fleet_worker *worker);
/* What was just learned counts for the next request: of what is learned rarely, as fetching is, all of it; else the
 * wait, and the rest with its next load. */
void fleet_refresh_learned(struct fleet_worker *worker);
void fleet_refresh_wait(struct fleet_worker *worker, float us);

#endif
