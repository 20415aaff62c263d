/* decision.h - a decision of the router as one line of JSON, and back: all that pick() was given, what it chose, and
 * what it predicted; and a second line of what came of it. docs/ROUTING.md describes the members. Any thread. */
#ifndef BATON_ROUTER_DECISION_H
#define BATON_ROUTER_DECISION_H

#include "common/status.h"
#include "common/text_buffer.h"
#include "proto/frame.h"
#include "router/pick.h"

#define DECISION_VERSION        1
#define DECISION_LINE_BYTES     ((size_t)4 << 20) /* longer lines are neither written nor read */
#define DECISION_WHOLE          256u  /* of a side, workers that are written; of more only those that could be chosen */
#define DECISION_MAX_CANDIDATES 4096u /* of a side */
#define DECISION_ID_BYTES       64u
#define DECISION_REQUEST_BYTES  40u

/* What a worker's timing tells of a prompt; microseconds. */
#define DECISION_PARTS(X) X(QUEUE, "queue") X(PREFILL, "prefill") X(PULL, "pull") X(HANDOFF, "handoff")

enum decision_part {
#define X(name, text) DECISION_##name,
    DECISION_PARTS(X)
#undef X
        DECISION_PART_COUNT
};

const char *decision_part_name(enum decision_part part);

struct decision {
    uint64_t time_us; /* since 1970 */
    struct request_key key;
    uint32_t attempt;
    const struct pick_input *input;
    const struct pick_choice *choice;
    const char *(*id)(const void *ctx, bool decode, uint32_t index); /* of a candidate */
    const void *ctx;
};

/* Without the newline. Too long a line leaves out in the state ST_LIMIT. */
void decision_write(const struct decision *d, struct text_buffer *out);

struct decision_outcome {
    uint64_t time_us;
    struct request_key key;
    uint32_t attempt;
    const char *route, *prefill_worker, *decode_worker;
    uint32_t computed;
    uint32_t cached[KV_TIER_COUNT]; /* tokens that nobody computed, by tier */
    /* A part that this route does not have: has is false. */
    bool has[DECISION_PART_COUNT];
    uint64_t predicted_us[DECISION_PART_COUNT], us[DECISION_PART_COUNT];
    double error[DECISION_PART_COUNT]; /* decision_error */
};

void decision_write_outcome(const struct decision_outcome *o, struct text_buffer *out);

#define DECISION_LEAST_US 1000u
/* How far the prediction was off, as a share of what came, or of DECISION_LEAST_US where that is more. */
double decision_error(uint64_t predicted_us, uint64_t us);

/* A line that was read. */
struct decision_line {
    bool is_outcome;
    char request[DECISION_REQUEST_BYTES]; /* "ROUTER.SEQUENCE", hexadecimal, as in the log */
    uint32_t attempt;
    /* Of a decision. */
    bool is_whole; /* every candidate is there */
    struct pick_input input;
    struct pick_choice choice;
    struct pick_candidate *decodes, *prefills;
    char (*decode_ids)[DECISION_ID_BYTES], (*prefill_ids)[DECISION_ID_BYTES];
    /* Of an outcome. */
    bool has[DECISION_PART_COUNT];
    double error[DECISION_PART_COUNT];
};

/* ST_INVALID with a sentence that names the member. What comes out can be given to pick(). */
MUST_CHECK status decision_read(const char *line, size_t len, struct decision_line **out, struct error *err);
void decision_line_free(struct decision_line **line);

#endif
