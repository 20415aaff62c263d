/* report.h - what a simulation came to, for people and for scripts. docs/SIMULATOR.md has the members. Pure. */
#ifndef BATON_SIM_REPORT_H
#define BATON_SIM_REPORT_H

#include "common/text_buffer.h"
#include "sim/sim.h"

#define REPORT_MAX_BYTES 65536u

void report_write_json(const struct sim_options *options, const struct sim_result *result, struct text_buffer *out);
void report_write_table(const struct sim_options *options, const struct sim_result *result, struct text_buffer *out);

#endif
