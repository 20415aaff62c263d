/* model_map.h - a model file mapped read-only into memory.
 * A file that is cut short while it is mapped ends the process with SIGBUS:
 * replace model files by renaming, never in place. */
#ifndef BATON_ENGINE_MODEL_MAP_H
#define BATON_ENGINE_MODEL_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct model_map {
    const uint8_t *data; /* page-aligned */
    size_t size;
    int fd; /* valid with data */
};

/* ST_NOT_FOUND when there is no such file, ST_INVALID for what is no regular
 * file or is empty. */
MUST_CHECK status model_map_open(const char *path, struct model_map *out, struct error *err);
void model_map_close(struct model_map *map);
/* Tells the kernel to read ahead: all of it will be needed. */
void model_map_will_need(const struct model_map *map);
/* Whole pages of these bytes, but for those of the first and last ends bytes, leave this process, and with cached the
 * page cache too. Nothing when they are not of the map. */
void model_map_drop(const struct model_map *map, const void *data, size_t bytes, size_t ends, bool cached);

#endif
