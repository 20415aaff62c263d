/* overlap.h - when a prompt may be in a step although the end of its pull is still on its way. Pure. */
#ifndef BATON_WORKER_OVERLAP_H
#define BATON_WORKER_OVERLAP_H

#include <stdbool.h>
#include <stdint.h>

/* elapsed_us: since the pull began; arrived: which part of its bytes is here, 0 to 1; step_us: what computing the rest
 * of the prompt will take, 0 where that is not known. True when at its pace so far the pull ends before the
 * computation does: the layers come as fast as they are needed. To begin earlier would not end earlier, and would hold
 * up everybody else in the step. */
bool overlap_begins(uint64_t elapsed_us, double arrived, double step_us);
/* For how long a step that was predicted to take step_us waits at gates, however slow the pull becomes. */
uint64_t overlap_patience_us(double step_us);

#endif
