#include "proto/link_pending.h"

#include <stdlib.h>

static struct pending_bucket *bucket_of(struct pending *p, uint64_t id)
{
    return &p->buckets[id % PENDING_BUCKETS];
}

void pending_init(struct pending *p, uint32_t max)
{
    *p = (struct pending){ .max = max };
    TAILQ_INIT(&p->in_order);
}

static void drop(struct pending *p, struct pending_message *m)
{
    TAILQ_REMOVE(&p->in_order, m, entry);
    LIST_REMOVE(m, same_bucket);
    p->n--;
    p->bytes -= m->payload_len;
    free(m);
}

void pending_clear(struct pending *p)
{
    while (!TAILQ_EMPTY(&p->in_order))
        drop(p, TAILQ_FIRST(&p->in_order));
}

bool link_may_refuse(enum frame_type type)
{
    return type == FRAME_GENERATE || type == FRAME_PREFILL || type == FRAME_FIND || type == FRAME_OFFER;
}

status pending_add(struct pending *p, uint64_t id, const struct message_head *head, const ProtobufCMessage *body,
                   uint64_t due_us, struct pending_message **out)
{
    size_t len = body ? protobuf_c_message_get_packed_size(body) : 0;
    size_t room = link_may_refuse(head->type) ? 1 : PENDING_SPARE;
    if (p->n >= room * p->max || len > FRAME_MAX_PAYLOAD || p->bytes + len > room * PENDING_MAX_BYTES)
        return ST_LIMIT;
    struct pending_message *m = malloc(sizeof *m + len);
    if (!m)
        return ST_NO_MEMORY;
    m->due_us = due_us;
    m->id = id;
    m->head = *head;
    if (head->trace) {
        m->trace = *head->trace;
        m->head.trace = &m->trace;
    }
    m->payload_len = (uint32_t)len;
    if (body)
        protobuf_c_message_pack(body, m->payload);
    TAILQ_INSERT_TAIL(&p->in_order, m, entry);
    LIST_INSERT_HEAD(bucket_of(p, id), m, same_bucket);
    p->n++;
    p->bytes += len;
    *out = m;
    return ST_OK;
}

void pending_acknowledge(struct pending *p, uint64_t id)
{
    struct pending_message *m;
    LIST_FOREACH(m, bucket_of(p, id), same_bucket)
    {
        if (m->id == id) {
            drop(p, m);
            return;
        }
    }
}

void pending_forget(struct pending *p, struct request_key key, uint32_t attempt)
{
    for (struct pending_message *m = TAILQ_FIRST(&p->in_order), *next; m; m = next) {
        next = TAILQ_NEXT(m, entry);
        if (m->head.key.router == key.router && m->head.key.seq == key.seq && m->head.attempt <= attempt)
            drop(p, m);
    }
}

void pending_hurry(struct pending *p, uint64_t now)
{
    struct pending_message *m;
    TAILQ_FOREACH(m, &p->in_order, entry)
    {
        m->due_us = now;
    }
}

uint64_t pending_due(const struct pending *p)
{
    const struct pending_message *m = TAILQ_FIRST(&p->in_order);
    return m ? m->due_us : TIMERS_NEVER;
}

struct pending_message *pending_next(struct pending *p, uint64_t now, uint64_t repeat_us)
{
    for (;;) {
        struct pending_message *m = TAILQ_FIRST(&p->in_order);
        if (!m || m->due_us > now)
            return NULL;
        if (m->head.deadline_us != FRAME_NO_DEADLINE && m->head.deadline_us <= now) {
            drop(p, m);
            continue;
        }
        TAILQ_REMOVE(&p->in_order, m, entry);
        TAILQ_INSERT_TAIL(&p->in_order, m, entry);
        m->due_us = now + repeat_us;
        return m;
    }
}
