/* kv_ring.h - the last batches that were published, and what to answer to a request for them. Pure; loop thread only.
 * Batches are shared with the sockets that send them, so an answer copies nothing. */
#ifndef BATON_PROTO_KV_RING_H
#define BATON_PROTO_KV_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct kv_batch; /* bytes that count their users; any thread may release them */

/* A copy of the bytes, with one user. NULL: no memory. */
struct kv_batch *kv_batch_create(const uint8_t *data, size_t len);
struct kv_batch *kv_batch_share(struct kv_batch *batch);
void kv_batch_release(struct kv_batch **batch);
const uint8_t *kv_batch_data(const struct kv_batch *batch);
size_t kv_batch_len(const struct kv_batch *batch);

/* Numbers [first, next) are held. */
struct kv_ring {
    struct kv_batch **slots; /* [max_batches], by number modulo max_batches */
    uint32_t max_batches;
    size_t max_bytes, bytes;
    uint64_t first, next;
};

MUST_CHECK status kv_ring_init(struct kv_ring *ring, uint32_t max_batches, size_t max_bytes, uint64_t first);
void kv_ring_free(struct kv_ring *ring);
/* Takes over the caller's use and gives the batch the number ring->next; the oldest go while there are too many or
 * too many bytes, so that of a batch longer than all of max_bytes nothing is kept. */
void kv_ring_add(struct kv_ring *ring, struct kv_batch *batch);
/* A batch that could not be made: its number is passed over and nothing before it is held any more, so that every
 * follower finds a gap which only a dump can close. */
void kv_ring_skip(struct kv_ring *ring);
/* Borrowed. NULL: not held. */
struct kv_batch *kv_ring_get(const struct kv_ring *ring, uint64_t sequence);

/* What somebody gets who asks for everything from a number on: batches from `from`, or all that exists (a dump), when
 * what is missing is no longer held or was never ours (a follower of an earlier incarnation). */
enum kv_answer { KV_ANSWER_REPLAY, KV_ANSWER_DUMP };
enum kv_answer kv_ring_answer(const struct kv_ring *ring, uint64_t from);

#endif
