/* overlap.h - how a pull comes so that what is missing of a prompt can be computed behind it, and from when on. Pure.
 */
#ifndef BATON_WORKER_OVERLAP_H
#define BATON_WORKER_OVERLAP_H

#include <stdbool.h>
#include <stdint.h>

/* How many blocks at the end of a pull are to come by layer. Those before them come block by block: they count as soon
 * as they are verified, also where the pull is cut later, and can be handed over meanwhile. pull_us: what all n_blocks
 * are predicted to take; step_us: what the first step behind them is, 0 where that is not known. Where the sequence's
 * KV stays here, as many as take half as long again as the step, so that a pull that is faster than predicted is
 * covered as well; where it is handed over next, which is another copy and begins with the checksums, as many as take
 * half the step: then both end together. */
uint32_t overlap_blocks(uint32_t n_blocks, double pull_us, double step_us, bool is_handed_over);
/* elapsed_us: since the pull began; arrived: which part of its bytes is here, 0 to 1; step_us: what the first step
 * of the rest of the prompt will take, 0 where that is not known. True when at its pace so far the pull ends before the
 * computation does: the layers come as fast as they are needed. To begin earlier would not end earlier, and would hold
 * up everybody else in the step. */
bool overlap_begins(uint64_t elapsed_us, double arrived, double step_us);
/* For how long a step that was predicted to take step_us waits at gates, however slow the pull becomes. */
uint64_t overlap_patience_us(double step_us);

#endif
