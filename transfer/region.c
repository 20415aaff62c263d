#include "transfer/region.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static bool make(int fd, size_t bytes)
{
    return fchmod(fd, S_IRUSR | S_IWUSR) == 0 && ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0;
}

status region_create(size_t bytes, struct region *out, struct error *err)
{
    int fd = memfd_create("baton-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *base = MAP_FAILED;
    if (fd >= 0 && make(fd, bytes))
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        error_set(err, ST_NO_MEMORY, "no shared memory of %zu MiB: %s", bytes >> 20, strerror(errno));
        if (fd >= 0)
            close(fd);
        return ST_NO_MEMORY;
    }
    *out = (struct region){ base, bytes, (uint32_t)getpid(), (uint32_t)fd };
    return ST_OK;
}

void region_destroy(struct region *region)
{
    if (region->base) {
        (void)munmap(region->base, region->bytes);
        close((int)region->fd);
    }
    *region = (struct region){ .base = NULL };
}

/* Of another size, or of one that may change, reading it could end the process. */
static bool is_region(int fd, size_t bytes)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    return fstat(fd, &st) == 0 && (size_t)st.st_size == bytes && seals >= 0 && (seals & F_SEAL_SHRINK);
}

status region_map(uint32_t pid, uint32_t fd, size_t bytes, const uint8_t **out, struct error *err)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/proc/%u/fd/%u", pid, fd);
    int own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return error_set(err, ST_UNSUPPORTED, "cannot open %s: %s", path, strerror(errno));
    if (!is_region(own, bytes)) {
        close(own);
        return error_set(err, ST_UNSUPPORTED, "%s is not a pool of %zu bytes", path, bytes);
    }
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED, own, 0);
    close(own);
    if (mapped == MAP_FAILED)
        return error_set(err, ST_UNSUPPORTED, "cannot map %s: %s", path, strerror(errno));
    *out = mapped;
    return ST_OK;
}

void region_unmap(const uint8_t *mapped, size_t bytes)
{
    if (mapped)
        (void)munmap((void *)(uintptr_t)mapped, bytes);
}
