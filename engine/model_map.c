#include "engine/model_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static status map_descriptor(int fd, const char *path, struct model_map *out, struct error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return error_set(err, ST_INVALID, "%s: not a regular file", path);
    if (info.st_size == 0)
        return error_set(err, ST_INVALID, "%s: the file is empty", path);
    size_t size = (size_t)info.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return error_set(err, errno == ENOMEM ? ST_NO_MEMORY : ST_IO, "%s: cannot map: %s", path, strerror(errno));
    *out = (struct model_map){ data, size, fd };
    return ST_OK;
}

status model_map_open(const char *path, struct model_map *out, struct error *err)
{
    /* O_NONBLOCK: a named pipe must be refused, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    status st = map_descriptor(fd, path, out, err);
    if (st != ST_OK)
        close(fd);
    return st;
}

void model_map_close(struct model_map *map)
{
    if (map->data) {
        munmap((void *)(uintptr_t)map->data, map->size);
        close(map->fd);
    }
    *map = (struct model_map){ NULL, 0, -1 };
}

void model_map_will_need(const struct model_map *map)
{
    /* Advice only: a kernel that cannot follow it reads on demand. */
    (void)madvise((void *)(uintptr_t)map->data, map->size, MADV_WILLNEED);
}

void model_map_drop(const struct model_map *map, const void *data, size_t bytes, size_t ends, bool cached)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if ((uintptr_t)data < (uintptr_t)map->data || (uintptr_t)data >= (uintptr_t)map->data + map->size ||
        bytes <= 2 * ends)
        return;
    size_t at = (size_t)((const uint8_t *)data - map->data);
    size_t begin = (at + ends + page - 1) / page * page, end = (at + bytes - ends) / page * page;
    if (begin >= end)
        return;
    (void)madvise((void *)(uintptr_t)(map->data + begin), end - begin, MADV_DONTNEED);
    if (cached)
        (void)posix_fadvise(map->fd, (off_t)begin, (off_t)(end - begin), POSIX_FADV_DONTNEED);
}
