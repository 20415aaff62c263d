/* pick_time.h - the terms of the predicted time of a request (docs/ROUTING.md). Pure functions. */
#ifndef BATON_ROUTER_PICK_TIME_H
#define BATON_ROUTER_PICK_TIME_H

#include "router/pick.h"

#define PICK_LAMBDA_US         20000.0 /* lambda: what a decode worker costs whose KV is half used */
#define PICK_MOST_USED         0.99    /* KV use beyond this counts as this */
#define PICK_CHUNK_TOKENS      512u    /* rows of a prompt in one step */
#define PICK_DEFAULT_KV_BLOCKS 1024u   /* of a worker that has not said */

/* How a worker would get the KV of the prompt: what it uses, what it fetches, and what it computes. */
struct pick_plan {
    uint64_t prefill_us, pull_us;
    uint32_t cached, pulled, computed;
    enum kv_tier source;
};

/* Computing n tokens behind `context` others. */
double pick_time_compute(const struct pick_candidate *c, uint32_t context, uint32_t n);
/* The cheapest of computing all that is not in its device, and of fetching what one tier or anybody else holds. */
void pick_time_plan(const struct pick_request *request, const struct pick_candidate *c, struct pick_plan *out);
/* Until its queue is computed. local: only what the decode worker computes itself. */
uint64_t pick_time_wait(const struct pick_candidate *c, bool local);
/* lambda * k / (1 - k), k with all that waits there, and with this request. */
uint64_t pick_time_pressure(const struct pick_request *request, const struct pick_candidate *decode);
/* Tokens of KV that come in from a prefill worker, and the exposed part of that time. */
uint32_t pick_time_moved(const struct pick_request *request, const struct pick_candidate *decode);
uint64_t pick_time_handoff(const struct pick_candidate *decode, uint32_t moved, bool other_host);
/* What steps of running sequences add to a prompt that is computed between them. */
uint64_t pick_time_beside(const struct pick_candidate *decode, uint32_t computed);
/* The longest step while the prompt is computed here. */
uint64_t pick_time_itl(const struct pick_request *request, const struct pick_candidate *decode,
                       const struct pick_plan *plan);

#endif
