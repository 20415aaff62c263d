/* virtual_cluster.h - a router, decode workers and prefill workers in one process,
 * on one virtual clock: the real protocol code of router/flow, router/fleet and
 * worker/, around a network that delays, loses and repeats, an engine whose KV
 * is a hash chain over the tokens, and blocks that are copied as transfer/ does.
 * A token depends on every slot of KV before it, so whatever goes wrong with a
 * block, a chunk or a replay shows as a wrong token. */
#ifndef BATON_TESTS_VIRTUAL_CLUSTER_H
#define BATON_TESTS_VIRTUAL_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "router/flow.h"
#include "router/pick.h"
#include "worker/prefix_cache.h"
#include "worker/pulling.h"
#include "worker/sharing.h"
#include "worker/worker.h"

#define VC_VOCAB     1000
#define VC_MAX_NODES 8
#define SLOW_TAKE_US 60000u

enum fault { FAULT_NONE, FAULT_KILL, FAULT_FREEZE };

struct vc_options {
    uint64_t seed;
    uint32_t n_decodes, n_prefills;
    uint32_t n_blocks;       /* of each worker */
    uint32_t manager_blocks; /* of the manager of the host; 0: there is none */
    uint32_t chunk_tokens;
    uint32_t vocab;           /* the model answers with ids below; 0: VC_VOCAB */
    uint32_t guesses;         /* that decode workers make for a sequence in one step; 0: none */
    uint32_t texts;           /* prompts begin, for a random length, as one of so many texts; 0: each is its own */
    bool no_cache;            /* workers keep nothing */
    enum pick_policy policy;  /* the router's */
    uint32_t pull_take_bytes; /* as worker_options say */
    uint64_t target_us;       /* of a step that decodes; 0: none */
    double drop, repeat;      /* probability for each message */
    double flip;              /* probability that a copied layer has one wrong bit */
    double slow;              /* probability that a copy takes up to SLOW_TAKE_US */
    uint32_t max_pending;     /* of a link, as in links_options; 0: without bound */
    /* What happens to the first worker that enters this state ("generation.RECEIVING", "block.FILLING") for the nth
     * time; "" for nothing. */
    const char *fault_at;
    bool fault_always; /* and whenever a worker does so again */
    uint32_t fault_nth;
    enum fault fault;
    bool fault_of_manager; /* it happens to the manager instead */
    bool restart;          /* what was killed comes back after two seconds */
};

struct vc_request {
    uint32_t n_prompt, max_tokens;
    uint32_t text, n_text; /* not 0: its first n_text tokens are those of that text */
    bool no_cache;
    int32_t priority;
    Baton__Route route;
    uint64_t at_us;        /* submitted */
    uint64_t cancel_at_us; /* 0: never */
    uint64_t deadline_us;  /* from its submission; 0: ten minutes */
    uint32_t choices_of;   /* not 0: the first failure of this client's choices cancels the others */
    /* results */
    struct flow *flow;
    uint32_t *tokens; /* prompt, then what came */
    uint32_t n_tokens;
    bool ended, failed, cancelled;
    bool timed; /* the worker told how it went */
    uint32_t by_tier[KV_TIER_COUNT], pull_us;
    uint32_t cached, computed; /* tokens of the prompt, as the worker told at last */
    bool remote;
    uint32_t wrong;       /* tokens that differ from the naive model, came at a wrong position, or without a timing */
    enum flow_error code; /* when failed; of a router that died FLOW_INTERNAL */
    char error[256];
};

struct vc;
struct vc *vc_create(const struct vc_options *options);
void vc_destroy(struct vc *vc);
/* Adds a request; prompt ids come from the seed. Returns its index. */
uint32_t vc_submit(struct vc *vc, const struct vc_request *request);
struct vc_request *vc_request(struct vc *vc, uint32_t i);
/* Runs until every request has ended and the workers are idle, or virtual time reaches until_us. */
void vc_run(struct vc *vc, uint64_t until_us);
/* Node 0 is the router, then come decode workers, then prefill workers, then the manager. A killed router takes its
 * clients' requests with it and does not come back. */
void vc_fault(struct vc *vc, uint32_t node, enum fault fault, uint64_t at_us);
void vc_drain(struct vc *vc, uint32_t worker, uint64_t at_us);
bool vc_fault_happened(const struct vc *vc);
/* Links that were lost because they could keep no more messages, and messages that were refused for that reason. */
uint32_t vc_overruns(const struct vc *vc);
uint32_t vc_refusals(const struct vc *vc);
uint64_t vc_now(const struct vc *vc);
/* Blocks that are not free on live workers, load still counted at the router, requests left anywhere: all zero when
 * nothing leaks. */
uint32_t vc_leaks(struct vc *vc, char *what, size_t size);
/* Blocks that this worker holds, and one more unless it is idle. */
uint32_t vc_held(struct vc *vc, uint32_t worker);
const struct worker_counters *vc_counters(struct vc *vc, uint32_t worker);
/* NULL: the worker is dead. */
const struct pull_counters *vc_pulls(struct vc *vc, uint32_t worker);
const struct worker_counters *vc_worker_counters(struct vc *vc, uint32_t worker); /* NULL: it is dead */
const struct sharing *vc_sharing(struct vc *vc, uint32_t worker);
/* Copies in which a bit was wrong. */
uint32_t vc_flips(const struct vc *vc);
struct prefix_cache_counters vc_prefix_cache(struct vc *vc, uint32_t worker);
const struct flow_counters *vc_flow_counters(struct vc *vc);
/* The naive model: the token after these. */
uint32_t vc_next_token(const struct vc *vc, const uint32_t *tokens, uint32_t n);

#endif
