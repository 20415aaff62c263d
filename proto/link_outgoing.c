#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/link_internal.h"

#define OWN_ROUTING_ID_BYTES 17 /* a letter, as ZeroMQ keeps a leading zero for itself, and 16 random bytes */

static void on_frame(struct link *link, const struct frame *frame)
{
    if (frame->type == FRAME_HELLO)
        link_on_hello(link, frame);
    else
        link_receive(link, frame);
}

static void read_frames(struct link *link, zmq_msg_t *part)
{
    const uint8_t *at = zmq_msg_data(part);
    struct frame frame;
    struct error err;
    size_t left = zmq_msg_size(part), used;
    do {
        if (frame_read_first(at, left, &frame, &used, &err) != ST_OK) {
            links_hostile(link->links, err.text);
            return;
        }
        on_frame(link, &frame);
        at += used;
        left -= used;
    } while (left && !link->dead);
}

static bool receive(void *arg)
{
    struct link *link = arg;
    if (link->dead)
        return false;
    zmq_msg_t part;
    int n = link_socket_receive(&link->dealer, &part, 1);
    if (n < 0)
        return false;
    if (n > 1)
        links_hostile(link->links, "a message in more parts than one");
    else
        read_frames(link, &part);
    zmq_msg_close(&part);
    return true;
}

static void on_disconnected(struct link *link)
{
    link->connected = link->awaiting = false;
    liveness_closed(&link->liveness, &link->links->rules, clock_now_us());
    link_rearm(link);
}

static bool receive_event(void *arg)
{
    struct link *link = arg;
    int event;
    if (link->dead || !link_socket_monitored(&link->monitor, &event))
        return false;
    if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
        link->connected = true;
        link_greet(link);
    } else if (event == ZMQ_EVENT_DISCONNECTED) {
        on_disconnected(link);
    }
    return true;
}

static status draw_routing_id(struct link *link)
{
    link->routing_id[0] = 'B';
    link->routing_id_len = OWN_ROUTING_ID_BYTES;
    ssize_t n = getrandom(link->routing_id + 1, OWN_ROUTING_ID_BYTES - 1, 0);
    return n == OWN_ROUTING_ID_BYTES - 1 ? ST_OK : ST_IO;
}

static status open_dealer(struct link *link)
{
    struct link_socket *s = &link->dealer;
    status st = draw_routing_id(link);
    if (st == ST_OK)
        st = link_socket_open(s, link->links, ZMQ_DEALER, receive, link, NULL);
    if (st != ST_OK)
        return st;
    links_bound_socket(s);
    link_socket_set(s, ZMQ_IMMEDIATE, 1);
    links_reconnect_soon(s);
    link_socket_set(s, ZMQ_IPV6, strchr(link->endpoint, '[') != NULL);
    if (zmq_setsockopt(s->zmq, ZMQ_ROUTING_ID, link->routing_id, link->routing_id_len))
        return ST_IO;
    st = link_socket_monitor(s, &link->monitor, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED, receive_event,
                             link, NULL);
    if (st != ST_OK)
        return st;
    return zmq_connect(s->zmq, link->endpoint) ? ST_INVALID : ST_OK;
}

static bool is_connected_to(const struct links *links, const char *id)
{
    const struct link *link;
    TAILQ_FOREACH(link, &links->all, entry)
    {
        if (link->outgoing && !strcmp(link->id, id))
            return true;
    }
    return false;
}

status links_connect(struct links *links, const char *id, const char *endpoint, struct link **out)
{
    struct link *link = calloc(1, sizeof *link);
    if (!link)
        return ST_NO_MEMORY;
    if (is_connected_to(links, id) || !link_copy_text(link->id, sizeof link->id, id) ||
        !link_copy_text(link->endpoint, sizeof link->endpoint, endpoint)) {
        free(link);
        return ST_INVALID;
    }
    link->links = links;
    link->outgoing = true;
    text_buffer_init(&link->corked, LINK_CORK_BYTES);
    pending_init(&link->pending, links->options.max_pending);
    liveness_start(&link->liveness, &links->rules, true, clock_now_us());
    status st = open_dealer(link);
    if (st != ST_OK) {
        log_error("cannot connect", "peer=%s endpoint=%s reason=\"%s\"", id, endpoint, status_text(st));
        link_socket_close(&link->monitor);
        link_socket_close(&link->dealer);
        free(link);
        return st;
    }
    TAILQ_INSERT_TAIL(&links->all, link, entry);
    *out = link;
    return ST_OK;
}
