#include "transfer/handoff.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

status handoff_init(struct handoff *ring, uint32_t capacity)
{
    ASSERT(capacity && (capacity & (capacity - 1)) == 0);
    ring->mask = capacity - 1;
    atomic_init(&ring->pushed, 0);
    atomic_init(&ring->popped, 0);
    atomic_init(&ring->asleep, false);
    ring->items = calloc(capacity, sizeof *ring->items);
    if (!ring->items)
        return ST_NO_MEMORY;
    ring->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ring->fd >= 0)
        return ST_OK;
    free(ring->items);
    ring->items = NULL;
    return ST_IO;
}

void handoff_free(struct handoff *ring)
{
    if (!ring->items)
        return;
    close(ring->fd);
    free(ring->items);
    ring->items = NULL;
}

/* The counters and the flag are sequentially consistent: a pusher that does not
 * see the flag has pushed before the popper looked a last time. */
void handoff_add(struct handoff *ring, int kind, void *what)
{
    uint32_t at = atomic_load_explicit(&ring->pushed, memory_order_relaxed);
    ASSERT(at - atomic_load(&ring->popped) <= ring->mask);
    ring->items[at & ring->mask] = (struct handoff_item){ kind, what };
    atomic_store(&ring->pushed, at + 1);
}

void handoff_wake(struct handoff *ring)
{
    if (!atomic_load(&ring->asleep))
        return;
    if (atomic_load(&ring->pushed) == atomic_load(&ring->popped) || !atomic_exchange(&ring->asleep, false))
        return;
    const uint64_t one = 1;
    while (write(ring->fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

void handoff_push(struct handoff *ring, int kind, void *what)
{
    handoff_add(ring, kind, what);
    handoff_wake(ring);
}

bool handoff_pop(struct handoff *ring, struct handoff_item *out)
{
    uint32_t at = atomic_load_explicit(&ring->popped, memory_order_relaxed);
    if (at == atomic_load(&ring->pushed))
        return false;
    *out = ring->items[at & ring->mask];
    atomic_store(&ring->popped, at + 1);
    return true;
}

bool handoff_may_sleep(struct handoff *ring)
{
    atomic_store(&ring->asleep, true);
    if (atomic_load(&ring->pushed) == atomic_load_explicit(&ring->popped, memory_order_relaxed))
        return true;
    atomic_store(&ring->asleep, false);
    return false;
}

void handoff_woken(struct handoff *ring)
{
    uint64_t count;
    atomic_store(&ring->asleep, false);
    while (read(ring->fd, &count, sizeof count) < 0 && errno == EINTR) {
    }
}
