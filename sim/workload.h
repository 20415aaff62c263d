/* workload.h - the requests of a simulation: when each comes, how long its prompt and its answer are, and which blocks
 * its prompt is made of. A value; pure. */
#ifndef BATON_SIM_WORKLOAD_H
#define BATON_SIM_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

#include "common/distribution.h"
#include "common/status.h"
#include "sim/arrivals.h"

#define WORKLOAD_MAX_TOKENS (1u << 24) /* of a prompt, and of an answer */

struct workload_request {
    uint64_t arrival_us; /* rises */
    uint32_t n_input, n_output;
};

struct workload {
    struct workload_request *requests; /* [n_requests] */
    size_t n_requests;
    /* Equal ids are equal blocks of id_tokens tokens behind equal prefixes; the last one of a prompt may stand for
     * less. A prompt without ids has nothing in common with others. */
    uint32_t *ids; /* of all requests, one behind the other; NULL: there are none */
    size_t *ends;  /* [n_requests] */
    uint32_t id_tokens;
    uint32_t n_ids; /* all are below */
};

/* Requests without anything in common, each of 1 to WORKLOAD_MAX_TOKENS tokens. */
MUST_CHECK status workload_make(const struct arrivals_options *arrivals, const struct distribution *input,
                                const struct distribution *output, size_t n_requests, uint64_t seed,
                                struct workload *out);
void workload_free(struct workload *workload);

/* Ids of request i; *n: how many. */
const uint32_t *workload_ids(const struct workload *w, size_t i, size_t *n);

#endif
