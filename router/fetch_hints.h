/* fetch_hints.h - which holders of a prompt's beginning a request names to its workers, so that these may fetch the KV
 * instead of computing it. Pure: from what the index says, and whom the request goes to. */
#ifndef BATON_ROUTER_FETCH_HINTS_H
#define BATON_ROUTER_FETCH_HINTS_H

#include <stdint.h>

#include "proto/instance.h"
#include "router/kv_view.h"

#define FETCH_HINTS_MAX 4u

struct fetch_hint {
    const struct kv_match *holder;
    uint32_t tokens;
    enum kv_tier tier; /* the slowest in which some of them lie */
};

struct fetch_ask {
    const struct kv_match *matches;
    uint32_t n_matches;
    uint32_t n_tokens;              /* of the prompt; its last one is computed by whoever has the others */
    const struct instance *decode;  /* gets the request */
    const struct instance *prefill; /* is named first to it; NULL: none is */
};

/* The best holders of more than both have in their devices: by tokens, then by tier, then those on the host of the one
 * that computes. Their blocks are such as that one takes. Returns how many. */
uint32_t fetch_hints_choose(const struct fetch_ask *ask, struct fetch_hint out[FETCH_HINTS_MAX]);

#endif
