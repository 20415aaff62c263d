/* kv_follow.h - follows the numbered batches of one publisher: what kv_subscriber does, without sockets and clock.
 * Batches come live, in any order, some twice and some never; and as answers to requests, in order. Each is applied
 * once and in its place. A gap, and quiet (the last batch may be lost, and nothing follows that would show it), lead to
 * a request for what is missing. Where that is not to be had, everything known of the publisher is forgotten, so that
 * what is known is never more than what is true: first `clear`, then whatever can still be learnt. One thread. */
#ifndef BATON_PROTO_KV_FOLLOW_H
#define BATON_PROTO_KV_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "proto/kv_events.h"
#include "proto/kv_ring.h"

#define KV_FOLLOW_MAX_FAILURES 3u /* requests for one gap, after which it is given up */
#define KV_FOLLOW_MAX_REPEATS                                                                                          \
    64u /* old numbers in a row; more are a publisher that began anew with a clock set back                            \
         */

struct kv_follow_rules {
    bool can_ask;        /* the publisher answers requests */
    bool dumps;          /* with a dump where its ring does not reach, as ours do */
    uint64_t probe_us;   /* after so long a quiet it is asked whether anything was missed */
    uint64_t answer_us;  /* a request on which so long nothing came has failed */
    uint64_t retry_us;   /* pause after the first failure; doubles up to eight times as much */
    uint64_t silence_us; /* neither a batch nor an answer for so long: silent */
    uint32_t max_held;   /* batches kept while what comes before them is missing */
    size_t max_held_bytes;
};

enum kv_follow_state {
    KV_FOLLOW_IDLE,
    KV_FOLLOW_ASKED,   /* the answer is on its way */
    KV_FOLLOW_SKIPPING /* the answer has a hole; its rest is passed over */
};

struct kv_held {
    uint64_t sequence;
    struct kv_batch *batch;
};

#define KV_FOLLOW_COUNTERS(X)                                                                                          \
    X(applied, "batches applied")                                                                                      \
    X(repeated, "batches that had been applied before")                                                                \
    X(gaps, "times that batches were missing before one that came")                                                    \
    X(asked, "requests for what may be missing, also after quiet")                                                     \
    X(unanswered, "requests that nobody answered in time")                                                             \
    X(dumps, "answers that tell all that exists")                                                                      \
    X(restarts, "publishers that began anew")                                                                          \
    X(forgotten, "times that everything was forgotten, for whatever reason")                                           \
    X(corrupt, "batches that could not be read")

struct kv_follow_stats {
#define X(name, help) uint64_t name;
    KV_FOLLOW_COUNTERS(X)
#undef X
};

struct kv_follow {
    struct kv_follow_rules rules;
    /* Passes on a batch; ST_CORRUPT and the like count as a damaged batch. Neither callback may call kv_follow_*. */
    status (*apply)(void *ctx, struct kv_batch_reader *batch);
    void (*clear)(void *ctx);
    void *ctx;

    enum kv_follow_state state;
    bool known;    /* next is right */
    bool complete; /* nothing is missing before next, as far as the publisher could say */
    bool dumping;  /* the answer is a dump, whose numbers may also have been those of live batches */
    bool answered; /* a batch of the answer came */
    bool silent;
    bool send;  /* a request is to be sent */
    bool fresh; /* on a new connection: an old one may still bring an answer that was given up */
    uint64_t next, asked_from, asked_next;
    uint64_t heard_us, progress_us, retry_at_us;
    uint32_t failures, repeats;
    double newest_ts;
    struct kv_held *held; /* [max_held], ascending */
    uint32_t n_held;
    size_t held_bytes;
    struct kv_batch_reader reader;
    struct kv_follow_stats stats;
};

/* The callbacks are set by the caller afterwards, before anything else. */
MUST_CHECK status kv_follow_init(struct kv_follow *f, const struct kv_follow_rules *rules, uint64_t now);
void kv_follow_free(struct kv_follow *f);
void kv_follow_live(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len, uint64_t now);
/* Of the request sent last; KV_SEQUENCE_END ends it. */
void kv_follow_answer(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len, uint64_t now);
/* What is due. Returns when to call again; so do after each of the other calls. */
uint64_t kv_follow_step(struct kv_follow *f, uint64_t now);
/* True once for each request that is to be sent: for all batches from *from on. fresh: what an earlier request may
 * still bring must not come to kv_follow_answer any more. */
bool kv_follow_take_request(struct kv_follow *f, uint64_t *from, bool *fresh);

#endif
