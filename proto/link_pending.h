/* link_pending.h - the messages of one link that are repeated until acknowledged.
 * Pure: the caller says what time it is, sends, and hands acknowledgements in. */
#ifndef BATON_PROTO_LINK_PENDING_H
#define BATON_PROTO_LINK_PENDING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "proto/link.h"

#define PENDING_BUCKETS   256
#define PENDING_MAX_BYTES (64u << 20) /* of payload, in one link */
#define PENDING_SPARE     4           /* times as many, and as many bytes, for what must not be refused */

struct pending_message {
    TAILQ_ENTRY(pending_message) entry;
    LIST_ENTRY(pending_message) same_bucket;
    uint64_t due_us; /* next repeat */
    uint64_t id;
    struct message_head head; /* its trace points to the next field, or is NULL */
    struct trace_context trace;
    uint32_t payload_len;
    uint8_t payload[];
};

struct pending {
    TAILQ_HEAD(pending_list, pending_message) in_order; /* of due_us */
    LIST_HEAD(pending_bucket, pending_message) buckets[PENDING_BUCKETS];
    uint32_t n, max;
    size_t bytes;
};

void pending_init(struct pending *p, uint32_t max);
void pending_clear(struct pending *p);
/* Keeps a copy, first due for repetition at due_us, which must not lie before that of an earlier one.
 * ST_LIMIT: max messages, or PENDING_MAX_BYTES; PENDING_SPARE times that where link_may_refuse says no. */
MUST_CHECK status pending_add(struct pending *p, uint64_t id, const struct message_head *head,
                              const ProtobufCMessage *body, uint64_t due_us, struct pending_message **out);
/* An unknown id is no error: acknowledgements come repeatedly, too. */
void pending_acknowledge(struct pending *p, uint64_t id);
void pending_forget(struct pending *p, struct request_key key, uint32_t attempt);
/* Everything is due at now: the link came up. */
void pending_hurry(struct pending *p, uint64_t now);
/* TIMERS_NEVER when empty. */
uint64_t pending_due(const struct pending *p);
/* The next message that is due, now put off by repeat_us; NULL when none is. Messages whose deadline has
 * passed are dropped on the way. */
struct pending_message *pending_next(struct pending *p, uint64_t now, uint64_t repeat_us);

#endif
