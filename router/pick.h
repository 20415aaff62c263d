/* pick.h - which decode worker gets a request, whether it computes the prompt itself, and which prefill workers may do
 * it instead (DESIGN 6). Pure functions over a snapshot: no sockets, no clock, no allocation; the router, `baton
 * replay-decisions` and tests call the same. docs/ROUTING.md has the formula, its constants and how to read a decision.
 * Times are whole microseconds, so that equals are equal. */
#ifndef BATON_ROUTER_PICK_H
#define BATON_ROUTER_PICK_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kv_events.h"

/* In the order of the words of the router's option `policy`. */
#define PICK_POLICIES(X)                                                                                               \
    X(CACHE_AWARE, "cache-aware")   /* least predicted time to the first token */                                      \
    X(KV_OVERLAP, "kv-overlap")     /* Dynamo's published cost: blocks to compute, and blocks that decode */           \
    X(LEAST_LOADED, "least-loaded") /* prompt tokens that wait, a share for each request, KV in use */                 \
    X(ROUND_ROBIN, "round-robin")                                                                                      \
    X(RANDOM, "random")                                                                                                \
    X(POWER_OF_TWO, "power-of-two") /* the less loaded of two random ones */

enum pick_policy {
#define X(name, text) PICK_##name,
    PICK_POLICIES(X)
#undef X
        PICK_POLICY_COUNT
};

const char *pick_policy_name(enum pick_policy policy);
bool pick_policy_find(const char *name, enum pick_policy *out);

#define PICK_ROUTES(X)                                                                                                 \
    X(AUTO, "auto")   /* asked: as is best; chosen: the decode worker decides, by its threshold */                     \
    X(LOCAL, "local") /* the decode worker computes the prompt */                                                      \
    X(REMOTE, "remote")

enum pick_route {
#define X(name, text) PICK_ROUTE_##name,
    PICK_ROUTES(X)
#undef X
        PICK_ROUTE_COUNT
};

const char *pick_route_name(enum pick_route route);
bool pick_route_find(const char *name, enum pick_route *out);

/* Microseconds of a transfer: base + bytes * byte. */
struct pick_line {
    float base, byte;
};

/* What was measured of a worker, or is taken for it until then (fleet_rates.h). Microseconds. */
struct pick_rates {
    float prefill_base, prefill_token, prefill_pair; /* of a prompt: base, each token, each position attended to */
    float queue;                                     /* of a prompt, where none is before it */
    float step;                                      /* of a step that decodes */
    struct pick_line handoff[2]; /* decode: the exposed part of a prompt's KV coming in; [1]: from another host */
    struct pick_line pull[KV_TIER_COUNT]; /* its own tiers below the device; [KV_TIER_REMOTE]: from anybody else */
};

/* A worker as the router knows it now: what it published, and what was dispatched to it since. */
struct pick_candidate {
    bool usable;             /* up, right model, not draining, not tried in vain before */
    uint32_t place;          /* in its side's turn; its index unless the list was cut */
    uint64_t format, host;   /* equal numbers: KV can be exchanged, same host */
    uint64_t queued_tokens;  /* prompt tokens whose KV is not there yet, as it said */
    uint64_t age_us;         /* since it said so: its queue has run on */
    uint64_t later_tokens;   /* dispatched to it and not in what it said */
    uint64_t remote_tokens;  /* decode: of both, what prefill workers compute */
    uint64_t fault_tokens;   /* what losses in the last seconds weigh, as if so many tokens waited */
    uint64_t running_tokens; /* context of running sequences */
    uint32_t requests, running;
    uint32_t kv_blocks, kv_free;    /* 0 blocks: not known yet */
    uint32_t computes_all;          /* 1: it fetches nothing from others */
    uint32_t cached[KV_TIER_COUNT]; /* of the prompt's beginning: tokens in the device, in device or host, ... */
    float token_bytes;              /* KV of one token */
    struct pick_rates rates;
};

struct pick_request {
    uint32_t n_tokens;      /* prompt, and in a replay what was generated */
    uint32_t block_tokens;  /* of a KV block */
    uint32_t elsewhere;     /* the longest beginning of the prompt that anybody holds */
    enum pick_route asked;  /* by the client */
    uint64_t itl_target_us; /* 0: none */
    uint64_t turn;          /* a counter that the caller raises: round-robin, random numbers, order among equals */
};

struct pick_input {
    enum pick_policy policy;
    struct pick_request request;
    const struct pick_candidate *decodes, *prefills; /* borrowed */
    uint32_t n_decodes, n_prefills;
    uint32_t decode_places, prefill_places; /* of the whole lists */
};

#define PICK_NONE       UINT32_MAX
#define PICK_MAX_RANKED 8u

/* Predicted; the sum of the times is what is compared. */
struct pick_parts {
    uint64_t wait_us, prefill_us, pull_us, handoff_us, pressure_us;
    uint64_t itl_us;                          /* local: the decode worker's longest step meanwhile */
    uint32_t cached, pulled, computed, moved; /* tokens: used where they are, fetched, computed, handed to decode */
    enum kv_tier source;                      /* of what is pulled */
};

struct pick_choice {
    uint32_t decode;                                /* index; PICK_NONE: nobody is usable */
    uint32_t prefills[PICK_MAX_RANKED], n_prefills; /* indices, best first; none for PICK_ROUTE_LOCAL */
    enum pick_route route;
    struct pick_parts predicted; /* for any policy */
};

void pick(const struct pick_input *in, struct pick_choice *out);

/* How long a pair takes to the first token; prefill PICK_NONE: the decode worker computes the prompt. Both must be of
 * one format. parts may be NULL. */
uint64_t pick_predict(const struct pick_input *in, uint32_t decode, uint32_t prefill, struct pick_parts *parts);
/* Whether the decode worker may compute the prompt: its tokens keep coming in time. */
bool pick_local_holds(const struct pick_input *in, uint32_t decode);
/* What the candidates of cache-aware picking are chosen from: at most `max` indices of the best of one side, by time,
 * by cached beginning and by load, for what is to be kept of a long list. */
uint32_t pick_finalists(const struct pick_input *in, bool decodes, uint32_t *out, uint32_t max);

#endif
