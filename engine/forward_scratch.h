/* forward_scratch.h - the buffers of a forward pass: their sizes, and the memory that they are carved from. */
#ifndef BATON_ENGINE_FORWARD_SCRATCH_H
#define BATON_ENGINE_FORWARD_SCRATCH_H

#include "engine/forward_impl.h"

/* For steps of up to max_rows rows; config, backend, n_threads and attention stand already. After a failure, too, it is
 * released. */
MUST_CHECK status forward_scratch_take(struct forward *f, uint32_t max_rows, struct error *err);
void forward_scratch_release(struct forward *f);

#endif
