/* For builds without CUDA. */
#include "engine/cuda/device.h"

status cuda_device_open(uint32_t index, struct device **out, struct error *err)
{
    (void)out;
    return error_set(err, ST_UNSUPPORTED, "CUDA device %u: this build has no CUDA, the preset cuda makes one that has",
                     index);
}

void cuda_device_close(struct device **device)
{
    *device = NULL;
}
