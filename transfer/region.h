/* region.h - memory that other processes of this host and user map for reading, by way of the kernel alone.
 * The owner says which descriptor of which process it is; whoever maps it opens that through /proc, for which he needs
 * the kernel's permission, and only for reading. UCX could do both (ucp_rkey_ptr), but its 1.13 releases keys that it
 * never unpacked when the owner has just died: it then walks through all addresses, or unmaps somebody else's. */
#ifndef BATON_TRANSFER_REGION_H
#define BATON_TRANSFER_REGION_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* All zeros: none. */
struct region {
    uint8_t *base;
    size_t bytes;
    uint32_t pid, fd; /* what others need; fd is open as long as the region is there */
};

/* Zeroed, of a size that never changes, for this user only. NO_MEMORY. */
MUST_CHECK status region_create(size_t bytes, struct region *out, struct error *err);
void region_destroy(struct region *region);

/* The region of a living process. UNSUPPORTED: it cannot be opened, or is none of this size. Numbers of processes are
 * given again: look at what is in it. */
MUST_CHECK status region_map(uint32_t pid, uint32_t fd, size_t bytes, const uint8_t **out, struct error *err);
/* NULL: nothing. */
void region_unmap(const uint8_t *mapped, size_t bytes);

#endif
