/* fake_device.h - a device in plain memory, for tests: as lazy as one can be, and of no use to who is careless.
 * Its own memory has addresses that nothing may follow (the real bytes are elsewhere, and begin as NaNs), pinned memory
 * has none for the device, and what is queued is done only when somebody waits for it, or one by one when somebody
 * asks whether an event was reached. */
#ifndef BATON_TEST_FAKE_DEVICE_H
#define BATON_TEST_FAKE_DEVICE_H

#include "engine/backend.h"

struct fake_device {
    struct device base;
    uint32_t fail_at; /* the queued call that fails, counted from 1; 0: none */
    bool stuck;       /* nothing is done any more, and waits end at their deadlines */
    uint32_t n_queued, n_done;
};

struct device *fake_device_open(void);
/* Fails the test when memory, streams or events are left. */
void fake_device_close(struct device **device);
/* The bytes behind an address of the device's own, n of which must be of one allocation; for looking on. */
void *fake_device_bytes(uint64_t address, size_t n);
/* The reference operations, queued. */
struct backend fake_backend(struct device *device);

#endif
