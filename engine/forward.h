/* forward.h - one pass of the model over the rows of a step.
 * forward.c is the pass in reading order, forward_scratch.c has its buffers and forward_device.c what it needs where a
 * device computes; weights.c brings the weights into the backend's layout. Used by engine.c only. */
#ifndef BATON_ENGINE_FORWARD_H
#define BATON_ENGINE_FORWARD_H

#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/team.h"
#include "engine/weights.h"

struct forward;

/* config, weights and team are borrowed; all scratch is taken here. */
MUST_CHECK status forward_create(const struct model_config *config, const struct weights *weights,
                                 const struct backend *backend, struct team *team, const struct engine_options *options,
                                 struct forward **out, struct error *err);
void forward_destroy(struct forward **forward);
/* Fails where a device does, with its words: then no sequence is done, and on_layer told only of layers that are in the
 * pool. On the host it cannot. */
MUST_CHECK status forward_run(struct forward *forward, struct step *step, struct error *err);
/* What forward_create would take as scratch. */
size_t forward_scratch_bytes(const struct model_config *config, const struct backend *backend, uint32_t n_threads,
                             uint32_t max_rows, uint32_t max_seqs);
struct engine_times forward_times(const struct forward *forward);

#endif
