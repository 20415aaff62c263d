/* rdma_memory.h - registered memory of a link for gets: ours, its key, and reading out of another's. Transfer thread.
 *
 * Keys are packed and unpacked here only, by contexts that have no transport of shared memory: UCX 1.13 takes those
 * keys apart badly when their owner has died (region.h). */
#ifndef BATON_TRANSFER_RDMA_MEMORY_H
#define BATON_TRANSFER_RDMA_MEMORY_H

#include "transfer/ucx_link.h"

/* Pins the memory. remote: others shall read it, else gets of ours land in it. NO_MEMORY as often as not means
 * RLIMIT_MEMLOCK. */
MUST_CHECK status rdma_memory_register(const struct ucx_link *link, void *base, size_t bytes, bool remote,
                                       ucp_mem_h *out, struct error *err);
/* Nulls the handle; NULL: nothing. */
void rdma_memory_unregister(const struct ucx_link *link, ucp_mem_h *memory);

/* What others need to read it, besides its address. LIMIT: longer than size. */
MUST_CHECK status rdma_memory_key(const struct ucx_link *link, ucp_mem_h memory, uint8_t *out, size_t size, size_t *len,
                                  struct error *err);

/* Into registered memory. *under_way: done is called once, later, and frees its request; else the bytes are there. */
MUST_CHECK status rdma_memory_get(ucp_ep_h ep, ucp_rkey_h key, uint64_t from, void *to, size_t bytes,
                                  ucp_send_nbx_callback_t done, void *arg, bool *under_way);

#endif
