/* A safetensors file from any bytes: refused, or its tensors cover the data. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void read_all(const struct safetensors *file, size_t size)
{
    const struct model_index *index = safetensors_index(file);
    size_t total = 0;
    for (size_t i = 0; i < index->n; i++) {
        const struct tensor *t = index->by_name[i];
        for (size_t j = 0; j < t->bytes; j++)
            sink = (uint8_t)(sink ^ ((const uint8_t *)t->data)[j]);
        ASSERT(model_index_find(index, t->name) == t);
        total += t->bytes;
    }
    ASSERT(total <= size - sizeof(uint64_t));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct safetensors *file = NULL;
    struct error err;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (safetensors_open(path, &file, &err) == ST_OK)
        read_all(file, size);
    safetensors_close(&file);
    close(fd);
    return 0;
}
