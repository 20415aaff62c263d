/* scheduler.h - which rows the next step computes, who gets blocks first and who
 * gives them back. Pure: the daemon, the tests and the simulator call the same
 * functions.
 * Continuous batching with chunked prefill (Orca, OSDI'22; Sarathi-Serve,
 * OSDI'24). A step is shared out like this:
 *  1. one row to every sequence that decodes, and to every one that waits longer
 *     than `patience`;
 *  2. drafts of the decoding ones, at most half of what is left when prompts wait;
 *  3. chunks of prompts, by priority and then by arrival.
 * In a step with decoding rows, 2 and 3 stop where the step would take longer
 * than target_us by the cost model, and 3 where beside_rows are reached; the
 * first prompt gets SCHEDULER_LEAST_CHUNK rows all the same, as a prompt that
 * never ends helps nobody. A prefill worker sets neither: it takes whole budgets.
 * Nobody starves: a sequence that wants rows gets some after at most `patience`
 * and one step for each other sequence that waits as long. */
#ifndef BATON_ENGINE_SCHEDULER_H
#define BATON_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/step_cost.h"

#define SCHEDULER_LEAST_CHUNK 16u

struct scheduler_limits {
    uint32_t budget_rows;  /* rows of one step */
    uint32_t max_seqs;     /* sequences of one step */
    uint32_t chunk_tokens; /* rows of one prompt in one step */
    uint32_t beside_rows;  /* prompt rows of a step that decodes; 0: what the budget leaves */
    uint64_t target_us;    /* of a step that decodes; 0: off */
    uint64_t patience;     /* in the unit of `waited`: beyond it priorities count no more */
};

/* What one sequence wants; sequences stand in order of arrival. */
struct scheduler_want {
    uint32_t rows;      /* still to compute; 1: it decodes, or is at its last prompt token */
    uint32_t drafts;    /* rows that may follow; only with rows == 1 */
    uint32_t first_pos; /* of its first row */
    int32_t priority;   /* lower is sooner */
    uint64_t waited;    /* since it last got rows, or began to want some */
};

/* Fills rows[i] with how many rows sequence i gets, 0 for none; returns their sum. order [n] is scratch. */
uint32_t scheduler_form(const struct scheduler_limits *limits, const struct step_cost *cost,
                        const struct scheduler_want *wants, uint32_t n, uint32_t *order, uint32_t *rows);

/* A request that waits for blocks, or that could give its own back. */
struct scheduler_claim {
    int32_t priority;
    bool preempted;   /* it had blocks before */
    bool sheltered;   /* it came back after more than `patience`, and has sampled nothing since */
    uint64_t arrival; /* rises */
    uint64_t waited;
};

/* True when a gets blocks before b. */
bool scheduler_goes_before(const struct scheduler_limits *limits, const struct scheduler_claim *a,
                           const struct scheduler_claim *b);
/* True when a gives its blocks back rather than b: the later in priority, then in arrival. */
bool scheduler_yields_before(const struct scheduler_claim *a, const struct scheduler_claim *b);

#endif
