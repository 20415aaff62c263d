#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proto/link_internal.h"

#define TOPIC_BYTES 64 /* with the NUL */

struct subscription {
    LIST_ENTRY(subscription) entry;
    struct links *links;
    bool dead;
    struct link_socket socket;
    char topic[TOPIC_BYTES];
    void (*on_event)(void *arg, const uint8_t *payload, size_t len);
    void *arg;
};

status links_open_publisher(struct links *links, struct error *err)
{
    struct link_socket *s = &links->publisher;
    status st = link_socket_open(s, links, ZMQ_PUB, NULL, NULL, err);
    if (st != ST_OK)
        return st;
    links_bound_socket(s);
    link_socket_set(s, ZMQ_IPV6, strchr(links->options.listen_events, '[') != NULL);
    if (zmq_bind(s->zmq, links->options.listen_events))
        return error_set(err, ST_IO, "cannot publish on %s: %s", links->options.listen_events,
                         zmq_strerror(zmq_errno()));
    size_t len = sizeof links->events_endpoint;
    zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, links->events_endpoint, &len);
    return ST_OK;
}

void links_publish(struct links *links, const char *topic, const ProtobufCMessage *body)
{
    struct link_socket *s = &links->publisher;
    size_t len = protobuf_c_message_get_packed_size(body);
    ASSERT(s->zmq && len <= FRAME_MAX_PAYLOAD);
    zmq_msg_t message;
    if (zmq_msg_init_size(&message, FRAME_HEADER_BYTES + len))
        return;
    uint8_t *buf = zmq_msg_data(&message);
    protobuf_c_message_pack(body, buf + FRAME_HEADER_BYTES);
    struct frame frame = {
        .type = FRAME_EVENT,
        .incarnation = links->options.incarnation,
        .message_id = ++links->next_event,
        .deadline_left_us = FRAME_NO_DEADLINE,
        .payload = buf + FRAME_HEADER_BYTES,
        .payload_len = (uint32_t)len,
    };
    frame_write(&frame, buf);
    if (zmq_send(s->zmq, topic, strlen(topic), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_msg_send(&message, s->zmq, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&message);
        links->stats.send_failures++;
    }
}

static bool is_topic(const struct subscription *sub, zmq_msg_t *part)
{
    /* A SUB socket compares the beginning only. */
    size_t len = strlen(sub->topic);
    return zmq_msg_size(part) == len && !memcmp(zmq_msg_data(part), sub->topic, len);
}

static bool receive(void *arg)
{
    struct subscription *sub = arg;
    if (sub->dead)
        return false;
    zmq_msg_t parts[2]; /* topic, frame */
    int n = link_socket_receive(&sub->socket, parts, 2);
    if (n < 0)
        return false;
    struct frame frame;
    struct error err;
    if (n != 2)
        links_hostile(sub->links, "an event in other than two parts");
    else if (frame_read(zmq_msg_data(&parts[1]), zmq_msg_size(&parts[1]), &frame, &err) != ST_OK)
        links_hostile(sub->links, err.text);
    else if (frame.type != FRAME_EVENT)
        sub->links->stats.dropped_unknown++;
    else if (is_topic(sub, &parts[0]))
        sub->on_event(sub->arg, frame.payload, frame.payload_len);
    for (int i = 0; i < n && i < 2; i++)
        zmq_msg_close(&parts[i]);
    return true;
}

static status open_subscriber(struct subscription *sub, const char *endpoint)
{
    struct link_socket *s = &sub->socket;
    status st = link_socket_open(s, sub->links, ZMQ_SUB, receive, sub, NULL);
    if (st != ST_OK)
        return st;
    links_bound_socket(s);
    links_reconnect_soon(s);
    link_socket_set(s, ZMQ_LINGER, 0);
    link_socket_set(s, ZMQ_IPV6, strchr(endpoint, '[') != NULL);
    if (zmq_setsockopt(s->zmq, ZMQ_SUBSCRIBE, sub->topic, strlen(sub->topic)))
        return ST_IO;
    return zmq_connect(s->zmq, endpoint) ? ST_INVALID : ST_OK;
}

status links_subscribe(struct links *links, const char *endpoint, const char *topic,
                       void (*on_event)(void *arg, const uint8_t *payload, size_t len), void *arg,
                       struct subscription **out)
{
    struct subscription *sub = calloc(1, sizeof *sub);
    if (!sub)
        return ST_NO_MEMORY;
    sub->links = links;
    sub->on_event = on_event;
    sub->arg = arg;
    status st = link_copy_text(sub->topic, sizeof sub->topic, topic) ? open_subscriber(sub, endpoint) : ST_INVALID;
    if (st != ST_OK) {
        log_error("cannot subscribe", "endpoint=%s topic=%s reason=\"%s\"", endpoint, topic, status_text(st));
        link_socket_close(&sub->socket);
        free(sub);
        return st;
    }
    LIST_INSERT_HEAD(&links->subscriptions, sub, entry);
    *out = sub;
    return ST_OK;
}

void subscription_close(struct subscription **p)
{
    struct subscription *sub = *p;
    if (!sub)
        return;
    *p = NULL;
    struct links *links = sub->links;
    links_enter(links);
    sub->dead = true;
    link_socket_mute(&sub->socket);
    LIST_REMOVE(sub, entry);
    LIST_INSERT_HEAD(&links->closed_subscriptions, sub, entry);
    links_leave(links);
}

void subscription_free(struct subscription *sub)
{
    LIST_REMOVE(sub, entry);
    link_socket_close(&sub->socket);
    free(sub);
}
