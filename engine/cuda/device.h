/* device.h - a CUDA device as engine/device.h wants one. Built by the preset cuda; other builds have none and say so.
 */
#ifndef BATON_ENGINE_CUDA_DEVICE_H
#define BATON_ENGINE_CUDA_DEVICE_H

#include <stdint.h>

#include "engine/device.h"

/* index as nvidia-smi counts, within CUDA_VISIBLE_DEVICES. ST_UNSUPPORTED: this build has no CUDA, or the driver is too
 * old for it. ST_NOT_FOUND: there is no such device. Whoever opens closes, after all memory, streams and events. */
MUST_CHECK status cuda_device_open(uint32_t index, struct device **out, struct error *err);
void cuda_device_close(struct device **device);

#endif
