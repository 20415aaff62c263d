/* pick.h - which decode worker gets a request, and which prefill workers may
 * help. Pure functions over a snapshot: no sockets, no clock, no allocation. */
#ifndef BATON_ROUTER_PICK_H
#define BATON_ROUTER_PICK_H

#include <stdbool.h>
#include <stdint.h>

enum pick_policy { PICK_LEAST_LOADED, PICK_ROUND_ROBIN, PICK_RANDOM, PICK_POWER_OF_TWO };

/* A worker as the router knows it now: what it published, and what was dispatched to it since. */
struct pick_candidate {
    uint64_t queued_tokens;  /* prompt tokens whose KV is not there yet */
    uint64_t running_tokens; /* context of running sequences */
    uint32_t requests;
    uint32_t kv_blocks, kv_free;
    bool usable; /* up, right model, not draining, not tried in vain before */
};

#define PICK_NONE UINT32_MAX

/* Work ahead of a request at this worker, in prompt tokens: what waits, a share
 * for each running sequence, and a charge that rises steeply as KV fills (DESIGN 6: lambda * k / (1 - k)). */
double pick_cost(const struct pick_candidate *c);
/* The index of the choice; PICK_NONE when none is usable. turn: a counter
 * that the caller raises (round-robin, and the random numbers of the others). Ties go to the lowest
 * index at or after turn, so that equals share. */
uint32_t pick_worker(enum pick_policy policy, const struct pick_candidate *candidates, uint32_t n, uint64_t turn);
/* Usable candidates from the cheapest on, at most max; returns how many. */
uint32_t pick_rank(const struct pick_candidate *candidates, uint32_t n, uint64_t turn, uint32_t *out, uint32_t max);

#endif
