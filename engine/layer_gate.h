/* layer_gate.h - how many layers of a sequence's earlier positions are in its blocks, while they are still on their way
 * from elsewhere: a step that names the gate (step_seq.gate) computes behind them, layer by layer.
 *
 * Threads. Any may open, close and look; one step at a time may name it. What was written to the blocks before
 * layer_gate_open is seen by the step that finds the gate open. The gate's owner keeps it until the step is over and
 * nobody will open or close it any more.
 *
 * A gate opens further or closes, never back: closed, it stays so, and what opens it later changes nothing. */
#ifndef BATON_ENGINE_LAYER_GATE_H
#define BATON_ENGINE_LAYER_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LAYER_GATE_CLOSED 0x80000000u /* above any number of layers */

struct layer_gate {
    _Atomic uint32_t word;    /* how many layers are open, and LAYER_GATE_CLOSED; futex of the waiting step */
    _Atomic uint32_t awaited; /* how many layers the step that sleeps waits for; 0: none sleeps */
    uint64_t deadline_us;     /* of clock_now_us() */
};

/* Shut for all layers. A step waits for it until deadline_us, and then closes it. */
void layer_gate_init(struct layer_gate *gate, uint64_t deadline_us);
/* Layers [0, layers) of all that the step's rows attend to before their own first position are in the blocks, also for
 * what a device is given from now on. Fewer than were said before: nothing changes. */
void layer_gate_open(struct layer_gate *gate, uint32_t layers);
/* What is missing will not come, or what came is not to be used: the rows are void as soon as the step looks. */
void layer_gate_close(struct layer_gate *gate);

/* Also after the deadline, where a step came to it. When on_layer tells of a layer that a sequence did not reach
 * because its gate failed, this is true already. */
static inline bool layer_gate_is_closed(const struct layer_gate *gate)
{
    return (atomic_load_explicit(&gate->word, memory_order_acquire) & LAYER_GATE_CLOSED) != 0;
}

static inline bool layer_gate_is_open(const struct layer_gate *gate, uint32_t layer)
{
    uint32_t word = atomic_load_explicit(&gate->word, memory_order_acquire);
    return (word & LAYER_GATE_CLOSED) == 0 && word > layer;
}

/* For the step: returns when the gate is open for the layer or closed, after at most wait_us, or for no reason. */
void layer_gate_wait(struct layer_gate *gate, uint32_t layer, uint64_t wait_us);

#endif
