/* forward_gates.h - has a pass wait for KV that is still on its way (layer_gate.h). Used by forward.c on the engine
 * thread, for steps in which some sequence has a gate. */
#ifndef BATON_ENGINE_FORWARD_GATES_H
#define BATON_ENGINE_FORWARD_GATES_H

#include "engine/forward_impl.h"

/* Waits for the gates of all sequences that have rows left. True when some failed (step_seq.gate_failed), or were
 * cancelled meanwhile: their rows have to leave. */
MUST_CHECK bool forward_gates_await(struct forward *f, uint32_t layer);

#endif
