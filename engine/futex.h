/* futex.h - how the engine's threads wait for one another: a short spin, then asleep in the kernel. */
#ifndef BATON_ENGINE_FUTEX_H
#define BATON_ENGINE_FUTEX_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"

/* Longer than the gap between two jobs of a step, shorter than what another process on the same core would miss.
 * Measured by the clock: a pause takes 10 cycles on one processor and 140 on another. */
#define SPIN_NS           30000u
#define SPIN_TURNS_A_LOOK 16u /* at the clock */

/* Returns when woken, for no reason, when the word is not what was seen, or at the timeout. NULL: none. */
static inline void futex_wait(_Atomic uint32_t *word, uint32_t seen, const struct timespec *timeout)
{
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, seen, timeout, NULL, 0);
}

static inline void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* A short, bounded wait, zeroed to begin with: false when it is over. */
struct spin {
    uint64_t end_ns;
    uint32_t turns;
};

static inline bool spin_on(struct spin *spin)
{
    __builtin_ia32_pause();
    if (++spin->turns % SPIN_TURNS_A_LOOK != 0)
        return true;
    uint64_t now = clock_now_ns();
    if (spin->end_ns == 0)
        spin->end_ns = now + SPIN_NS;
    return now < spin->end_ns;
}

#endif
