/* attention_step.h - one layer's attention of a step, divided over the team: by KV heads and rows, and where that
 * leaves threads idle also by splits, whose results stand in memory until the last part of an item merges them.
 * Owned by a forward pass: one layer of one step runs at a time. */
#ifndef BATON_ENGINE_ATTENTION_STEP_H
#define BATON_ENGINE_ATTENTION_STEP_H

#include "engine/backend.h"
#include "engine/model.h"
#include "engine/rows.h"
#include "engine/team.h"

struct attention_step;

/* For steps of up to max_rows rows of max_seqs sequences. */
MUST_CHECK status attention_step_create(const struct model_config *config, const struct backend *backend,
                                        struct team *team, uint32_t max_rows, uint32_t max_seqs,
                                        struct attention_step **out);
/* Scratch of the backend's attend_scratch_bytes() for one of the team's threads: borrowed, in the backend's memory. A
 * backend that is whole needs the first thread's only. */
void attention_step_lend(struct attention_step *step, uint32_t thread, void *scratch);
void attention_step_destroy(struct attention_step **step);
/* What attention_step_create takes, on the host. */
size_t attention_step_bytes(const struct model_config *config, const struct backend *backend, uint32_t n_threads,
                            uint32_t max_rows, uint32_t max_seqs);

/* Where the backend is whole it gets all items at once, on the calling thread. */
void attention_step_run(struct attention_step *step, const struct attention *a, const struct rows *rows);

#endif
