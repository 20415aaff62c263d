/* decision_replay.h - decides again what a decision log holds, and sums up how that compares. */
#ifndef BATON_CLI_DECISION_REPLAY_H
#define BATON_CLI_DECISION_REPLAY_H

#include <stdio.h>

#include "common/status.h"
#include "router/decision.h"

#define REPLAY_MAX_WORKERS 8192u /* of a side, in one file */

struct replay_options {
    bool by_policy; /* decide by policy; else by the logged one, and compare */
    enum pick_policy policy;
    /* A decision that comes out otherwise, as a sentence with its line; not called by_policy. */
    void (*differs)(void *ctx, const char *text);
    void *ctx;
};

struct replay_worker {
    char id[DECISION_ID_BYTES];
    uint64_t logged, policy; /* requests */
};

struct replay_side {
    struct replay_worker *at;
    uint32_t n, capacity;
};

struct replay {
    uint64_t decisions, outcomes;
    uint64_t cut;                  /* decisions of which only the likeliest candidates were logged */
    uint64_t compared, same;       /* of those that can be decided again */
    uint64_t logged_us, policy_us; /* predicted, of those compared */
    struct replay_side decodes, prefills;
    struct {
        double *at; /* ascending once all were read */
        size_t n, capacity;
    } errors[DECISION_PART_COUNT];
};

/* ST_INVALID names the first line that is no decision and no outcome. A last line without an end is passed over. */
MUST_CHECK status replay_run(FILE *file, const struct replay_options *options, struct replay **out, struct error *err);
void replay_free(struct replay **replay);

/* The error of a part below which this share of the requests is. */
double replay_error_at(const struct replay *r, int part, double share);
double replay_mean_ms(const struct replay *r, uint64_t sum_us);

#endif
