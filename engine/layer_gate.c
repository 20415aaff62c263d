#include "engine/layer_gate.h"

#include "common/status.h"
#include "engine/futex.h"

void layer_gate_init(struct layer_gate *gate, uint64_t deadline_us)
{
    atomic_init(&gate->word, 0);
    atomic_init(&gate->awaited, 0);
    gate->deadline_us = deadline_us;
}

void layer_gate_open(struct layer_gate *gate, uint32_t layers)
{
    ASSERT(layers < LAYER_GATE_CLOSED);
    uint32_t word = atomic_load(&gate->word);
    do {
        if (word >= layers) /* closed, too */
            return;
    } while (!atomic_compare_exchange_weak(&gate->word, &word, layers));
    /* The word is stored before this looks who sleeps, who says so before looking at the word: one sees the other. */
    uint32_t awaited = atomic_load(&gate->awaited);
    if (awaited != 0 && layers >= awaited)
        futex_wake(&gate->word, 1);
}

void layer_gate_close(struct layer_gate *gate)
{
    atomic_fetch_or(&gate->word, LAYER_GATE_CLOSED);
    if (atomic_load(&gate->awaited) != 0)
        futex_wake(&gate->word, 1);
}

void layer_gate_wait(struct layer_gate *gate, uint32_t layer, uint64_t wait_us)
{
    const struct timespec timeout = { (time_t)(wait_us / 1000000), (long)(wait_us % 1000000) * 1000 };
    struct spin spin = { 0, 0 };
    do {
        if (atomic_load(&gate->word) > layer) /* closed, too */
            return;
    } while (spin_on(&spin));
    atomic_store(&gate->awaited, layer + 1);
    uint32_t seen = atomic_load(&gate->word);
    if (seen <= layer)
        futex_wait(&gate->word, seen, &timeout);
    atomic_store(&gate->awaited, 0);
}
