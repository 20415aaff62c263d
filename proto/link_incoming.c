#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/clock.h"
#include "proto/link_internal.h"

static struct link_bucket *bucket_of(struct links *links, const uint8_t *routing_id, size_t len)
{
    return &links->incoming[XXH3_64bits(routing_id, len) % LINKS_BUCKETS];
}

static struct link *find(struct links *links, const uint8_t *routing_id, size_t len)
{
    struct link *link;
    LIST_FOREACH(link, bucket_of(links, routing_id, len), same_bucket)
    {
        if (link->routing_id_len == len && !memcmp(link->routing_id, routing_id, len))
            return link;
    }
    return NULL;
}

status link_incoming_create(struct links *links, const uint8_t *routing_id, size_t len, struct link **out)
{
    if (links->n_incoming >= LINK_MAX_INCOMING)
        return ST_LIMIT;
    struct link *link = calloc(1, sizeof *link);
    if (!link)
        return ST_NO_MEMORY;
    link->links = links;
    link->connected = true;
    memcpy(link->routing_id, routing_id, len);
    link->routing_id_len = len;
    text_buffer_init(&link->corked, LINK_CORK_BYTES);
    pending_init(&link->pending, links->options.max_pending);
    TAILQ_INSERT_TAIL(&links->all, link, entry);
    LIST_INSERT_HEAD(bucket_of(links, routing_id, len), link, same_bucket);
    links->n_incoming++;
    *out = link;
    return ST_OK;
}

static void on_frame(struct links *links, const uint8_t *routing_id, size_t len, const struct frame *frame)
{
    struct link *link = find(links, routing_id, len);
    if (frame->type == FRAME_HELLO)
        links_on_hello(links, link, routing_id, len, frame);
    else if (link)
        link_receive(link, frame);
    else if (frame->type == FRAME_PING)
        links_invite(links, routing_id, len);
    else
        links->stats.dropped_unknown++;
}

/* A frame may end its link, and the next one finds another, or none. */
static void read_frames(struct links *links, zmq_msg_t parts[2])
{
    const uint8_t *at = zmq_msg_data(&parts[1]);
    struct frame frame;
    struct error err;
    size_t left = zmq_msg_size(&parts[1]), used;
    do {
        if (frame_read_first(at, left, &frame, &used, &err) != ST_OK) {
            links_hostile(links, err.text);
            return;
        }
        on_frame(links, zmq_msg_data(&parts[0]), zmq_msg_size(&parts[0]), &frame);
        at += used;
        left -= used;
    } while (left);
}

bool links_receive_incoming(void *arg)
{
    struct links *links = arg;
    zmq_msg_t parts[2]; /* routing id, frame */
    int n = link_socket_receive(&links->router, parts, 2);
    if (n < 0)
        return false;
    if (n != 2)
        links_hostile(links, "a message in other than two parts");
    else if (zmq_msg_size(&parts[0]) > LINK_ROUTING_ID_BYTES)
        links_hostile(links, "the routing id is too long");
    else
        read_frames(links, parts);
    for (int i = 0; i < n && i < 2; i++)
        zmq_msg_close(&parts[i]);
    return true;
}

/* The event does not say whose connection it was, but a ROUTER knows whom it cannot reach. */
bool links_receive_router_event(void *arg)
{
    struct links *links = arg;
    int event;
    if (!link_socket_monitored(&links->router_monitor, &event))
        return false;
    if (event == ZMQ_EVENT_DISCONNECTED)
        links_doubt_incoming(links);
    return true;
}
