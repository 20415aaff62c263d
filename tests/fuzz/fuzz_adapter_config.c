/* An adapter_config.json from any bytes: refused with a sentence, or a rank and a scale that can be computed with. */
#include <math.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/adapter_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct adapter_config config = { .rank = 0 };
    struct error err = { "" };
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (adapter_config_read(path, &config, &err) == ST_OK)
        ASSERT(config.rank >= 1 && config.rank <= ADAPTER_MAX_RANK && isfinite(config.scale));
    else
        ASSERT(config.rank == 0 && err.text[0] != '\0');
    close(fd);
    return 0;
}
