/* forward_device.h - what a forward pass needs only where a device computes: its stream, and what the host knows of how
 * far that is. The host runs ahead and learns of failures late; where the host computes there is no stream, and
 * everything here is over at once. Used by forward.c on the engine thread. */
#ifndef BATON_ENGINE_FORWARD_DEVICE_H
#define BATON_ENGINE_FORWARD_DEVICE_H

#include <stdbool.h>

#include "engine/device.h"
#include "engine/engine.h"

struct forward_device {
    struct device *device;        /* borrowed; NULL: the host */
    struct device_stream *stream; /* NULL: the host */
    struct device_event **events; /* [n_layers]: the layer's K and V are in the pool */
    uint32_t n_layers;
    uint32_t n_recorded, n_announced; /* layers of this step */
    status failed;                    /* of this step: nothing is asked of the device any more */
    struct error error;
};

/* After a failure, too, it is closed. out is zeroed before. */
MUST_CHECK status forward_device_open(struct device *device, uint32_t n_layers, struct forward_device *out,
                                      struct error *err);
void forward_device_close(struct forward_device *d);

/* For the thread that queues the step. */
void forward_device_begin(struct forward_device *d);
/* The step is over when the device is done with it. What failed is in error, and then no sequence is done. */
MUST_CHECK status forward_device_end(struct forward_device *d, struct step *step);

/* What the host made for rows of a buffer. */
void forward_device_put(struct forward_device *d, float *own, const float *host, size_t n);
/* Has the host see a buffer; false when it cannot. */
MUST_CHECK bool forward_device_get(struct forward_device *d, float *host, const float *own, size_t n);

/* Tells of the layers that the device has reached, in order. */
void forward_device_announce_reached(struct forward_device *d, const struct step *step);
/* Tells that a layer's K and V are in the pool: now, or when the device says so. */
void forward_device_announce_layer(struct forward_device *d, const struct step *step, uint32_t layer);

#endif
