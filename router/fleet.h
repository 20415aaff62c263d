/* fleet.h - the workers a router knows: from etcd, their links and their
 * published load. Decode workers are linked to; of prefill workers load
 * and life are followed through their published figures and their record. Loop thread only. */
#ifndef BATON_ROUTER_FLEET_H
#define BATON_ROUTER_FLEET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "proto/instance.h"
#include "proto/link.h"
#include "router/fleet_rates.h"
#include "router/known_adapters.h"
#include "router/pick.h"

#define FLEET_MAX_WORKERS 4096

/* A request of ours as it is counted at one worker. Owned by whoever sends it. */
struct fleet_dispatch {
    TAILQ_ENTRY(fleet_dispatch) entry, held_entry;
    struct fleet_worker *worker; /* NULL: not counted, or the worker is gone */
    uint64_t number;             /* in Generate */
    uint64_t at_us;
    uint32_t n_tokens;    /* that wait for it, as was predicted; 0: its prompt is done */
    uint32_t most_tokens; /* so many may wait, where the prediction was wrong */
    bool is_later;        /* in later_list */
    bool is_remote;       /* at a decode worker: a prefill worker computes its prompt */
};
TAILQ_HEAD(fleet_dispatches, fleet_dispatch);

struct fleet_worker {
    TAILQ_ENTRY(fleet_worker) entry;
    LIST_ENTRY(fleet_worker) host_entry;
    struct fleet *fleet;
    struct instance instance;
    bool is_member; /* etcd knows it */
    bool is_decode;
    struct link *link; /* NULL in tests */
    bool up;           /* link up */
    struct subscription *loads;
    uint64_t load_us; /* when load was heard; 0: never */
    bool draining;
    uint64_t running_tokens;
    /* What it said of prompt tokens that wait: others', and ours; and with ours as they can be now. */
    uint64_t others_tokens, own_tokens, queued_tokens;
    uint32_t requests, running, kv_blocks, kv_free;
    /* dispatched by us and not over; and the later ones of them, which its figures do not hold yet: these are
     * counted at once, so that bursts spread */
    uint32_t ours, later;
    uint64_t later_tokens, remote_tokens; /* remote_tokens: of all of ours */
    uint64_t heard_tokens;                /* most_tokens of those that are not later */
    struct fleet_dispatches held_list;    /* all of ours */
    struct fleet_dispatches later_list;   /* numbers rise */
    struct fleet_rates rates;
    uint64_t learned_us; /* when they changed last; 0: never */
    uint64_t missed_us;  /* since when it computes what it should fetch; 0: it fetches, or was not seen to miss */
    uint32_t place;      /* among the candidates of its role */
    uint64_t model;      /* a number for instance.model */
    uint64_t blocks;     /* one for the form of its blocks, instance.kv_format without what it serves */
    uint32_t holder;     /* its number in the last holding that named it */
    uint32_t faults;     /* consecutive losses: a worker that keeps failing is chosen late, for a while */
    uint64_t fault_us;   /* the last one */
};
TAILQ_HEAD(fleet_list, fleet_worker);
LIST_HEAD(fleet_host, fleet_worker);

struct fleet;

/* What the fleet tells its owner. */
struct fleet_callbacks {
    void (*on_message)(void *ctx, struct fleet_worker *worker, const struct frame *frame);
    void (*on_ready)(void *ctx, struct fleet_worker *worker);
    /* The same process is back on its link; live is what it still holds of ours. */
    void (*on_again)(void *ctx, struct fleet_worker *worker, Baton__Live *const *live, size_t n_live);
    void (*on_lost)(void *ctx, struct fleet_worker *worker);
    size_t (*live)(void *ctx, struct fleet_worker *worker, Baton__Live *out, size_t max);
    void *ctx;
};

struct fleet_options {
    struct links *links; /* set later by fleet_set_links, as links call back into the fleet */
    enum pick_policy policy;
    uint64_t itl_target_us; /* of decode workers that compute prompts; 0: none */
    uint64_t incarnation;   /* the router's: names its mark in loads */
    uint64_t (*now)(void *ctx);
    void *now_ctx;
    uint64_t silent_us; /* a prefill worker that published nothing for so long is taken for dead */
    /* Sends through the worker's link; replaced in tests. */
    status (*send)(void *ctx, struct fleet_worker *worker, const struct message_head *head,
                   const ProtobufCMessage *body, bool acked);
    void (*forget)(void *ctx, struct fleet_worker *worker, struct request_key key, uint32_t attempt);
    void *io_ctx;
    struct fleet_callbacks callbacks;
};

MUST_CHECK status fleet_create(const struct fleet_options *options, struct fleet **out);
void fleet_destroy(struct fleet **fleet);
void fleet_set_links(struct fleet *fleet, struct links *links);
void fleet_set_callbacks(struct fleet *fleet, const struct fleet_callbacks *callbacks);

/* From etcd. */
void fleet_member(struct fleet *fleet, const struct instance *instance);
void fleet_member_gone(struct fleet *fleet, const char *id);
/* From the links; ctx of links_options is the fleet. */
void fleet_on_up(void *fleet, struct link *link, const Baton__Hello *hello, bool first);
void fleet_on_lost(void *fleet, struct link *link, const char *reason);
void fleet_on_message(void *fleet, struct link *link, const struct frame *frame, uint64_t deadline_us);
size_t fleet_live(void *fleet, struct link *link, Baton__Live *out, size_t max);
void fleet_on_load(struct fleet *fleet, const Baton__Load *load);
/* Both halves of it, for who has the worker: its figures; and its rates, as they were learned by now. */
void fleet_hear(struct fleet_worker *worker, const Baton__Load *load);
void fleet_refresh_rates(struct fleet_worker *worker, double step_us);

/* What a request asks of a decode worker. */
struct fleet_want {
    const char *model;
    const char *adapter; /* by id; "": none */
    const char *class;   /* of instance.h; "": any */
};

/* What somebody is known to hold of a prompt's beginning: tokens in its device, in device or host, ... */
struct fleet_holding {
    const char *id;  /* of a worker, or of another holder of KV */
    uint32_t number; /* the same for one id until that is gone; FLEET_NO_NUMBER: it has none */
    uint32_t tokens[KV_TIER_COUNT];
    /* Of a manager of KV blocks: its host, kv_format_text and fingerprint. To workers there that take such blocks it is
     * host and disk. host NULL: it is none. */
    const char *host, *format;
    uint64_t weights;
};
#define FLEET_NO_NUMBER UINT32_MAX

struct fleet_ask {
    struct fleet_want want;
    const char (*avoid)[64]; /* ids that are taken only where nobody else is there */
    uint32_t n_avoid;
    uint32_t n_tokens;
    enum pick_route route;
    const struct fleet_holding *holdings;
    uint32_t n_holdings;
};

struct fleet_picked {
    struct fleet_worker *decode;
    struct fleet_worker *prefills[PICK_MAX_RANKED]; /* whose KV decode can use, best first */
    uint32_t n_prefills;
    enum pick_route route;
    struct pick_parts predicted;
};

/* Workers that have all that is asked for. False: no decode worker is up. */
bool fleet_pick(struct fleet *fleet, const struct fleet_ask *ask, struct fleet_picked *out);
/* What the last fleet_pick decided from, until a worker's figures change. */
const struct pick_input *fleet_last_input(const struct fleet *fleet);
const struct pick_choice *fleet_last_choice(const struct fleet *fleet);
const char *fleet_candidate_id(const struct fleet *fleet, bool decode, uint32_t index);

/* It answered, so earlier losses weigh nothing. */
void fleet_forgive(struct fleet_worker *worker);
/* Its link came up or went down. */
void fleet_set_up(struct fleet_worker *worker, bool up);

/* The number of the next Generate; each is higher than the last. */
uint64_t fleet_next_number(struct fleet *fleet);
/* Load is counted at dispatch, under a number that no other had, and given back on every exit path. A load whose mark
 * has reached the number holds it already. At a prefill worker n_tokens are those it is to compute; it hears of them
 * through the decode worker, without a number, so its loads hold them a moment later (FLEET_HEARD_US). */
void fleet_count(struct fleet_worker *worker, struct fleet_dispatch *dispatch, uint64_t number, uint32_t n_tokens);
void fleet_uncount(struct fleet_worker *worker, struct fleet_dispatch *dispatch);
/* What it has to compute was only predicted, and may be as much as this. */
void fleet_count_most(struct fleet_dispatch *dispatch, uint32_t most_tokens);
/* At the decode worker: a prefill worker computes the prompt; and: its KV is there, whatever the worker's last figures,
 * which may be older, say. n_tokens is 0 from then on. */
void fleet_count_remote(struct fleet_dispatch *dispatch);
void fleet_prompt_done(struct fleet_dispatch *dispatch);

#define FLEET_HEARD_US 20000u

/* What was measured of requests that ran alone in their part: the worker's rates, and those of its like. */
void fleet_learn_prefill(struct fleet_worker *worker, uint32_t n_tokens, uint32_t computed, uint64_t us);
/* Learned where no queue was predicted. */
void fleet_learn_queue(struct fleet_worker *worker, uint64_t predicted_us, uint64_t us);
void fleet_learn_handoff(struct fleet_worker *decode, bool other_host, uint64_t bytes, uint64_t us);
void fleet_learn_pull(struct fleet_worker *worker, enum kv_tier tier, uint64_t bytes, uint64_t us);
/* It computes what it should fetch, which costs so much: fetching is not predicted again until it is seen to happen. */
void fleet_learn_missed(struct fleet_worker *worker, enum kv_tier tier, uint64_t bytes, uint64_t us);
/* What so many tokens of KV are. */
uint64_t fleet_kv_bytes(const struct fleet_worker *worker, uint32_t n_tokens);
/* NULL: there is none. */
struct fleet_worker *fleet_find(struct fleet *fleet, const char *id);

status fleet_send(struct fleet_worker *worker, const struct message_head *head, const ProtobufCMessage *body,
                  bool acked);
void fleet_forget(struct fleet_worker *worker, struct request_key key, uint32_t attempt);

/* True when a decode worker for the model is up (any model: NULL). */
bool fleet_has_decode(const struct fleet *fleet, const char *model);
/* The longest prompt and answer that a decode worker of the model takes; 0: none is known. */
uint32_t fleet_max_model_len(const struct fleet *fleet, const char *model);
const struct known_adapters *fleet_adapters(const struct fleet *fleet);
const struct fleet_list *fleet_workers(const struct fleet *fleet);
uint32_t fleet_ours(const struct fleet *fleet); /* dispatched and not over, of all workers */

/* What is counted at the workers of a role; all zero when nothing is under way. */
struct fleet_counted {
    uint64_t dispatches, tokens; /* tokens: that loads do not hold yet */
};
struct fleet_counted fleet_counted(const struct fleet *fleet, bool decode);

#endif
