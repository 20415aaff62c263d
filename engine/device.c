#include "engine/device.h"

#include <stdlib.h>
#include <string.h>

#define HOST_ALIGN 64u

status device_allocate(struct device *d, enum device_place place, size_t bytes, struct device_memory *out,
                       struct error *err)
{
    if (d != NULL)
        return d->ops->allocate(d, place, bytes, out, err);
    uint8_t *p = aligned_alloc(HOST_ALIGN, (bytes + HOST_ALIGN - 1) / HOST_ALIGN * HOST_ALIGN);
    if (p == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for %zu bytes", bytes);
    *out = (struct device_memory){ .host = p };
    return ST_OK;
}

void device_release(struct device *d, struct device_memory *memory)
{
    if (d == NULL)
        free(memory->host);
    else if (memory->host != NULL || memory->device != 0)
        d->ops->release(d, memory);
    *memory = (struct device_memory){ 0 };
}

/* A device's copies must not overlap: pieces as long as the distance do not. */
void device_move_down(struct device_stream *s, void *to, const void *from, size_t bytes)
{
    if (s == NULL) {
        memmove(to, from, bytes);
        return;
    }
    const uint64_t target = device_number(to), source = device_number(from);
    const size_t distance = source - target;
    ASSERT(source > target);
    for (size_t at = 0; at < bytes; at += distance)
        (void)s->device->ops->copy(s, target + at, source + at, bytes - at < distance ? bytes - at : distance, NULL);
}
