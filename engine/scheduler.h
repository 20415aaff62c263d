/* scheduler.h - which rows the next step computes. Pure: the daemon, the tests
 * and the simulator call the same function.
 * Continuous batching with chunked prefill (Orca, OSDI'22; Sarathi-Serve,
 * OSDI'24): sequences that decode go first with one row each, what is left of
 * the token budget goes to prefills in the order of their arrival, at most
 * chunk_tokens rows each. */
#ifndef BATON_ENGINE_SCHEDULER_H
#define BATON_ENGINE_SCHEDULER_H

#include <stdint.h>

struct scheduler_limits {
    uint32_t budget_rows;  /* rows of one step */
    uint32_t max_seqs;     /* sequences of one step */
    uint32_t chunk_tokens; /* rows of one prefill in one step */
};

/* wanted[i]: rows that sequence i, in order of arrival, still has to compute (1: it
 * decodes, or it is at its last prompt token). Fills rows[i] with how many it gets, 0 for none; returns their sum. */
uint32_t scheduler_form(const struct scheduler_limits *limits, const uint32_t *wanted, uint32_t n, uint32_t *rows);

#endif
