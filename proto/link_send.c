#include <string.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "proto/link_internal.h"

struct link_address link_address(struct link *link)
{
    return (struct link_address){ link->links, link, link->routing_id, link->routing_id_len };
}

static int send_part(zmq_msg_t *part, struct link_socket *s, int flags)
{
    int rc;
    do
        rc = zmq_msg_send(part, s->zmq, flags | ZMQ_DONTWAIT);
    while (rc < 0 && zmq_errno() == EINTR);
    return rc;
}

static int send_routing_id(const struct link_address *to, struct link_socket *s)
{
    zmq_msg_t part;
    if (zmq_msg_init_size(&part, to->routing_id_len))
        return -1;
    memcpy(zmq_msg_data(&part), to->routing_id, to->routing_id_len);
    int rc = send_part(&part, s, ZMQ_SNDMORE);
    if (rc < 0)
        zmq_msg_close(&part);
    return rc;
}

static status explain(const struct link_address *to, int error)
{
    to->links->stats.send_failures++;
    struct link *link = to->link;
    if (error == EHOSTUNREACH && link) {
        liveness_closed(&link->liveness, &link->links->rules, clock_now_us());
        link_rearm(link);
    }
    if (error == EHOSTUNREACH)
        return ST_CLOSED;
    return error == EAGAIN ? ST_LIMIT : ST_IO;
}

/* Takes the message. */
static status transmit(const struct link_address *to, zmq_msg_t *message)
{
    bool outgoing = to->link && to->link->outgoing;
    struct link_socket *s = outgoing ? &to->link->dealer : &to->links->router;
    int rc = outgoing ? 0 : send_routing_id(to, s);
    if (rc >= 0)
        rc = send_part(message, s, 0);
    int error = rc < 0 ? zmq_errno() : 0;
    if (rc < 0)
        zmq_msg_close(message);
    link_socket_sent(s);
    return rc < 0 ? explain(to, error) : ST_OK;
}

#ifdef BATON_FAILPOINTS
static bool is_dropped(unsigned type)
{
    switch (type) {
#define X(name, value)                                                                                                 \
    case value:                                                                                                        \
        return FAILPOINT("link.send." #name) == FAILPOINT_DROP;
        FRAME_TYPES(X)
#undef X
    default:
        return false;
    }
}
#else
static bool is_dropped(unsigned type)
{
    (void)type;
    return false;
}
#endif

/* With body NULL the frame's own payload is sent. */
static void write_frame(const struct link_address *to, struct frame *frame, const ProtobufCMessage *body, size_t len,
                        uint8_t *buf)
{
    if (body) {
        protobuf_c_message_pack(body, buf + FRAME_HEADER_BYTES);
        frame->payload = buf + FRAME_HEADER_BYTES;
        frame->payload_len = (uint32_t)len;
    }
    frame->incarnation = to->links->options.incarnation;
    frame_write(frame, buf);
    to->links->stats.sent++;
}

static status send_at_once(const struct link_address *to, struct frame *frame, const ProtobufCMessage *body, size_t len)
{
    zmq_msg_t message;
    if (zmq_msg_init_size(&message, FRAME_HEADER_BYTES + len))
        return ST_NO_MEMORY;
    write_frame(to, frame, body, len, zmq_msg_data(&message));
    return transmit(to, &message);
}

void link_uncork(struct link *link)
{
    struct text_buffer *corked = &link->corked;
    const struct link_address to = link_address(link);
    zmq_msg_t message;
    if (!corked->len)
        return;
    TAILQ_REMOVE(&link->links->corked, link, same_turn);
    if (zmq_msg_init_size(&message, corked->len)) {
        link->links->stats.send_failures++;
    } else {
        memcpy(zmq_msg_data(&message), corked->data, corked->len);
        (void)transmit(&to, &message);
    }
    text_buffer_clear(corked);
}

static void uncork_all(void *arg)
{
    struct links *links = arg;
    struct link *link;
    while ((link = TAILQ_FIRST(&links->corked)))
        link_uncork(link);
}

/* False: it goes alone. */
static bool cork(struct link *link, struct frame *frame, const ProtobufCMessage *body, size_t len)
{
    struct links *links = link->links;
    const struct link_address to = link_address(link);
    size_t bytes = FRAME_HEADER_BYTES + len;
    if (frame->type == FRAME_HELLO || link->corked.len + bytes > LINK_CORK_BYTES)
        link_uncork(link); /* before it, as it was sent before it */
    if (frame->type == FRAME_HELLO || bytes > LINK_CORK_BYTES)
        return false;
    bool first = link->corked.len == 0;
    char *room = text_buffer_reserve(&link->corked, bytes);
    if (!room)
        return false;
    write_frame(&to, frame, body, len, (uint8_t *)room);
    text_buffer_advance(&link->corked, bytes);
    if (first)
        TAILQ_INSERT_TAIL(&links->corked, link, same_turn);
    loop_at_turn_end(links->options.loop, &links->uncork, uncork_all, links);
    return true;
}

status link_send_frame(const struct link_address *to, struct frame *frame, const ProtobufCMessage *body)
{
    size_t len = body ? protobuf_c_message_get_packed_size(body) : frame->payload_len;
    if (len > FRAME_MAX_PAYLOAD)
        return ST_LIMIT;
    if (is_dropped(frame->type) || (to->link && cork(to->link, frame, body, len)))
        return ST_OK;
    return send_at_once(to, frame, body, len);
}

static uint64_t time_left(const struct link *link, uint64_t deadline_us)
{
    if (deadline_us == FRAME_NO_DEADLINE)
        return FRAME_NO_DEADLINE;
    uint64_t reached = clock_now_us() + (link->outgoing ? link->rtt_us / 2 : 0);
    return deadline_us > reached ? deadline_us - reached : 0;
}

static struct frame frame_of(const struct link *link, const struct message_head *head, uint64_t message_id)
{
    struct frame frame = {
        .type = head->type,
        .key = head->key,
        .attempt = head->attempt,
        .leg = head->leg,
        .message_id = message_id,
        .deadline_left_us = time_left(link, head->deadline_us),
    };
    if (head->trace)
        frame.trace = *head->trace;
    return frame;
}

static bool can_send(const struct link *link)
{
    return link->state == LINK_UP && link->connected;
}

status link_send(struct link *link, const struct message_head *head, const ProtobufCMessage *body)
{
    if (!can_send(link))
        return ST_CLOSED;
    struct frame frame = frame_of(link, head, 0);
    struct link_address to = link_address(link);
    return link_send_frame(&to, &frame, body);
}

static void send_pending(struct link *link, const struct pending_message *m)
{
    struct frame frame = frame_of(link, &m->head, m->id);
    frame.payload = m->payload;
    frame.payload_len = m->payload_len;
    struct link_address to = link_address(link);
    /* Whatever became of it, it is repeated. */
    (void)link_send_frame(&to, &frame, NULL);
}

/* Not lost from inside the call: its caller is in the midst of its work. */
static void give_up(struct link *link, const struct message_head *head)
{
    if (link_may_refuse(head->type) || link->state != LINK_UP)
        return;
    link->overrun = true;
    link_rearm(link);
}

status link_send_acked(struct link *link, const struct message_head *head, const ProtobufCMessage *body)
{
    if (link->dead)
        return ST_CLOSED;
    struct links *links = link->links;
    struct pending_message *m;
    uint64_t due = clock_now_us() + links->options.repeat_us;
    status st = pending_add(&link->pending, ++links->next_id, head, body, due, &m);
    if (st != ST_OK) {
        give_up(link, head);
        return st;
    }
    if (can_send(link))
        send_pending(link, m);
    link_rearm(link);
    return ST_OK;
}

void link_forget(struct link *link, struct request_key key, uint32_t attempt)
{
    pending_forget(&link->pending, key, attempt);
}

void link_repeat(struct link *link, uint64_t now)
{
    struct pending_message *m;
    while ((m = pending_next(&link->pending, now, link->links->options.repeat_us))) {
        if (!can_send(link))
            continue;
        send_pending(link, m);
        link->links->stats.repeated++;
    }
}

static void send_ping(struct link *link, Baton__Ping *ping)
{
    const struct links_options *o = &link->links->options;
    if (o->progress) {
        bool busy = false;
        o->progress(o->ctx, &ping->progress, &busy);
        ping->busy = busy;
    }
    struct frame frame = { .type = FRAME_PING, .deadline_left_us = FRAME_NO_DEADLINE };
    struct link_address to = link_address(link);
    (void)link_send_frame(&to, &frame, &ping->base);
}

void link_ping(struct link *link)
{
    Baton__Ping ping = BATON__PING__INIT;
    ping.turn = clock_now_us();
    send_ping(link, &ping);
}

void link_answer_ping(struct link *link, const Baton__Ping *question)
{
    Baton__Ping ping = BATON__PING__INIT;
    ping.turn = question->turn;
    ping.answer = true;
    ping.queued_us = clock_now_us() - link->links->woke_us;
    send_ping(link, &ping);
}

void link_acknowledge(struct link *link, uint64_t message_id)
{
    Baton__Ack ack = BATON__ACK__INIT;
    ack.message = message_id;
    struct frame frame = { .type = FRAME_ACK, .deadline_left_us = FRAME_NO_DEADLINE };
    struct link_address to = link_address(link);
    (void)link_send_frame(&to, &frame, &ack.base);
}

const char *link_peer_id(const struct link *link)
{
    return link->id;
}

const char *link_peer_role(const struct link *link)
{
    return link->role;
}

uint64_t link_peer_incarnation(const struct link *link)
{
    return link->incarnation;
}

bool link_is_up(const struct link *link)
{
    return link->state == LINK_UP;
}

uint64_t link_rtt_us(const struct link *link)
{
    return link->rtt_us;
}

void link_set_user(struct link *link, void *user)
{
    link->user = user;
}

void *link_user(const struct link *link)
{
    return link->user;
}
