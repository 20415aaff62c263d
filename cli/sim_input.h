/* sim_input.h - what a simulation is given on a command line: traces, topologies, deaths. */
#ifndef BATON_CLI_SIM_INPUT_H
#define BATON_CLI_SIM_INPUT_H

#include "cli/option.h"
#include "sim/sim.h"

#define SIM_MAX_FAILURES OPTION_LIST_MAX

struct sim_trace {
    const char *path;
    double speed;     /* its time runs so many times faster */
    uint64_t most;    /* requests; 0: all */
    uint32_t repeats; /* one after the other, each with blocks of its own */
};

/* A trace of bench/trace.h. Requests longer than profiles can be are refused by the simulation, not here. */
MUST_CHECK status sim_read_trace(const struct sim_trace *trace, struct workload *out, struct error *err);
/* "4P:8D", prefill and decode workers, or "8", decode workers that compute prompts, too. */
MUST_CHECK status sim_read_workers(const char *text, struct sim_options *options, struct error *err);
/* "decode-3@120" or "decode-3@120+60": it dies after 120 s, and is back 60 s later. */
MUST_CHECK status sim_read_failure(const char *text, struct sim_failure *out, struct error *err);

#endif
