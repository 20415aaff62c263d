#include "engine/forward_device.h"

#include <stdlib.h>

#include "common/clock.h"

#define DEADLINE_NS (60 * 1000000000ull) /* a device that takes longer for what it was given hangs */

status forward_device_open(struct device *device, uint32_t n_layers, struct forward_device *out, struct error *err)
{
    if (device == NULL)
        return ST_OK;
    out->device = device;
    out->n_layers = n_layers;
    out->events = calloc(n_layers, sizeof(struct device_event *));
    if (out->events == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the events of %u layers", n_layers);
    status st = device->ops->stream_create(device, &out->stream, err);
    for (uint32_t l = 0; st == ST_OK && l < n_layers; l++)
        st = device->ops->event_create(device, &out->events[l], err);
    return st;
}

void forward_device_close(struct forward_device *d)
{
    if (d->device == NULL)
        return;
    for (uint32_t l = 0; d->events != NULL && l < d->n_layers; l++)
        d->device->ops->event_destroy(&d->events[l]);
    d->device->ops->stream_destroy(&d->stream);
    free(d->events);
}

/* False when the device failed, now or before in this step. */
static bool check(struct forward_device *d, status st)
{
    if (d->failed == ST_OK)
        d->failed = st;
    return d->failed == ST_OK;
}

static bool await_stream(struct forward_device *d)
{
    return check(d, d->device->ops->stream_synchronise(d->stream, clock_now_ns() + DEADLINE_NS, &d->error));
}

void forward_device_begin(struct forward_device *d)
{
    if (d->stream == NULL)
        return;
    d->failed = ST_OK;
    d->n_recorded = d->n_announced = 0;
    d->device->ops->stream_enter(d->stream);
}

status forward_device_end(struct forward_device *d, struct step *step)
{
    if (d->stream == NULL)
        return ST_OK;
    if (d->failed == ST_OK && await_stream(d))
        forward_device_announce_reached(d, step);
    for (uint32_t s = 0; d->failed != ST_OK && s < step->n_seqs; s++)
        step->seqs[s].done = false;
    return d->failed;
}

void forward_device_put(struct forward_device *d, float *own, const float *host, size_t n)
{
    if (d->stream != NULL)
        check(d, d->device->ops->copy_in(d->stream, device_number(own), host, n * sizeof *own, &d->error));
}

bool forward_device_get(struct forward_device *d, float *host, const float *own, size_t n)
{
    if (d->stream == NULL)
        return true;
    return check(d, d->device->ops->copy_out(d->stream, host, device_number(own), n * sizeof *host, &d->error)) &&
           await_stream(d);
}

void forward_device_announce_reached(struct forward_device *d, const struct step *step)
{
    for (; d->failed == ST_OK && d->n_announced < d->n_recorded; d->n_announced++) {
        status st = d->device->ops->event_query(d->events[d->n_announced], &d->error);
        if (st == ST_AGAIN || !check(d, st))
            return;
        step->on_layer(step->ctx, d->n_announced);
    }
}

void forward_device_announce_layer(struct forward_device *d, const struct step *step, uint32_t layer)
{
    if (step->on_layer == NULL)
        return;
    if (d->stream == NULL) {
        step->on_layer(step->ctx, layer);
        return;
    }
    ASSERT(d->failed != ST_OK || layer == d->n_recorded);
    if (d->failed == ST_OK && check(d, d->device->ops->event_record(d->events[layer], d->stream, &d->error)))
        d->n_recorded++;
    forward_device_announce_reached(d, step);
}
