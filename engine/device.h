/* device.h - what an engine needs of a processor with memory of its own: memory, copies, streams, events.
 * A backend whose table computes on such a device names it (backend.h); CPU tables name none, and the functions at the
 * end take NULL for "the host".
 *
 * Addresses. Memory that both sides touch (weights, the KV pool, logits) is a struct device_memory, with an address for
 * each side that has one. What only the operations of a table touch is passed as a plain pointer, which is then an
 * address of the table's own: a host address for CPU tables, and for the others one that nobody may follow but the
 * device. Numbers (uint64_t) are always device addresses.
 *
 * Order. A stream does what is queued to it one after the other; nothing else is ordered but by events. Calls that
 * queue return at once, and host memory that they name stands still until the stream has passed them.
 *
 * Threads. A device and its memory: any thread. A stream or an event: one thread at a time, and enter() binds a stream
 * to the calling thread, whose calls of the table's operations are queued there from then on.
 *
 * Errors. ST_NO_MEMORY: the device has too little, nothing else changed. ST_TIMEOUT: the deadline passed, what was
 * waited for goes on. ST_AGAIN: not yet (event_query alone). ST_IO: the device or the stream is lost. Errors of queued
 * work stay with the stream: whatever is asked of it later returns the first one, so that a caller may pass over the
 * status of what only queues and look where it waits. The text says what to do. */
#ifndef BATON_ENGINE_DEVICE_H
#define BATON_ENGINE_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* Bytes that the host can address, the device can, or both. */
struct device_memory {
    uint8_t *host;   /* NULL: not by the host   */
    uint64_t device; /* 0: not by the device    */
};

enum device_place {
    DEVICE_LOCAL,  /* the device's own: no host address                                          */
    DEVICE_PINNED, /* the host's, which copies reach without a detour and the device may address */
};

/* Implementations embed these as their first members. */
struct device {
    const struct device_ops *ops;
    const char *name; /* for people: "cuda:0 NVIDIA H200" */
};
struct device_stream {
    struct device *device; /* borrowed: outlives the stream */
};
struct device_event {
    struct device *device; /* borrowed */
};

/* Deadlines are times of clock_now_ns(). err may be NULL. Destroying takes NULL, waits for nothing and nulls. */
struct device_ops {
    /* Aligned to 256 bytes at least; whoever allocates releases, after everything queued that names it is done. */
    status (*allocate)(struct device *d, enum device_place place, size_t bytes, struct device_memory *out,
                       struct error *err);
    void (*release)(struct device *d, struct device_memory *memory);

    status (*copy_in)(struct device_stream *s, uint64_t to, const void *from, size_t bytes, struct error *err);
    status (*copy_out)(struct device_stream *s, void *to, uint64_t from, size_t bytes, struct error *err);
    /* Within the device; the two must not overlap. */
    status (*copy)(struct device_stream *s, uint64_t to, uint64_t from, size_t bytes, struct error *err);

    status (*stream_create)(struct device *d, struct device_stream **out, struct error *err);
    void (*stream_destroy)(struct device_stream **stream);
    void (*stream_enter)(struct device_stream *s);
    /* Until all that was queued is done. */
    status (*stream_synchronise)(struct device_stream *s, uint64_t deadline_ns, struct error *err);

    status (*event_create)(struct device *d, struct device_event **out, struct error *err);
    void (*event_destroy)(struct device_event **event);
    /* The event stands for all that the stream was given so far; recording it again moves it. */
    status (*event_record)(struct device_event *e, struct device_stream *s, struct error *err);
    /* What the stream is given from now on follows the event, whichever stream that was recorded in. */
    status (*event_order)(struct device_event *e, struct device_stream *s, struct error *err);
    /* ST_OK when it was reached (or never recorded), ST_AGAIN when not yet. */
    status (*event_query)(struct device_event *e, struct error *err);
    status (*event_wait)(struct device_event *e, uint64_t deadline_ns, struct error *err);
};

/* ---- for code that serves both: d or s NULL is the host ----------------------------------- */

/* On the host place does not matter, and the alignment is 64 bytes. */
MUST_CHECK status device_allocate(struct device *d, enum device_place place, size_t bytes, struct device_memory *out,
                                  struct error *err);
/* NULL-safe in what it holds; zeros it. */
void device_release(struct device *d, struct device_memory *memory);
/* bytes from a higher own address to a lower one, which may overlap. */
void device_move_down(struct device_stream *s, void *to, const void *from, size_t bytes);

/* The address of the table's own. */
static inline void *device_address(const struct device *d, struct device_memory m)
{
    return d == NULL ? (void *)m.host : (void *)(uintptr_t)m.device;
}

/* An own address as a number, for copies. */
static inline uint64_t device_number(const void *own)
{
    return (uint64_t)(uintptr_t)own;
}

#endif
