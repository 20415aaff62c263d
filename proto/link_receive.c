#include <string.h>

#include "common/clock.h"
#include "proto/link_internal.h"

#define RTT_SHARE 8 /* one measurement moves the mean by an eighth */

static void measure(struct link *link, uint64_t sent_us, uint64_t now)
{
    if (sent_us > now || now - sent_us > 2 * link->links->rules.frozen_us)
        return;
    uint64_t rtt = now - sent_us;
    link->rtt_us = link->rtt_us ? (link->rtt_us * (RTT_SHARE - 1) + rtt) / RTT_SHARE : rtt;
    if (!link->rtt_us)
        link->rtt_us = 1;
}

static void on_ping(struct link *link, const struct frame *frame, uint64_t now)
{
    Baton__Ping *ping = NULL;
    if (frame->payload_len <= LINK_MAX_CONTROL)
        ping = baton__ping__unpack(NULL, frame->payload_len, frame->payload);
    if (!ping) {
        links_hostile(link->links, "a PING that makes no sense");
        return;
    }
    liveness_engine(&link->liveness, ping->progress, ping->busy, now);
    if (ping->answer)
        measure(link, ping->turn, now);
    else
        link_answer_ping(link, ping);
    baton__ping__free_unpacked(ping, NULL);
}

static void on_ack(struct link *link, const struct frame *frame)
{
    Baton__Ack *ack = NULL;
    if (frame->payload_len <= LINK_MAX_CONTROL)
        ack = baton__ack__unpack(NULL, frame->payload_len, frame->payload);
    if (!ack) {
        links_hostile(link->links, "an ACK that makes no sense");
        return;
    }
    pending_acknowledge(&link->pending, ack->message);
    baton__ack__free_unpacked(ack, NULL);
}

/* Only the side that connects measures, so it alone takes the way into account, in both directions. */
static uint64_t deadline_of(const struct link *link, const struct frame *frame, uint64_t now)
{
    uint64_t left = frame->deadline_left_us;
    if (left >= FRAME_NO_DEADLINE - now)
        return FRAME_NO_DEADLINE;
    uint64_t way = link->outgoing ? link->rtt_us / 2 : 0;
    return now + (left > way ? left - way : 0);
}

static void deliver(struct link *link, const struct frame *frame, uint64_t now)
{
    struct links *links = link->links;
    if (frame->type == FRAME_EVENT || frame_type_name(frame->type)[0] == '?') {
        links->stats.dropped_unknown++;
        return;
    }
    if (link->state != LINK_UP) {
        links->stats.dropped_stale++;
        return;
    }
    links->options.on_message(links->options.ctx, link, frame, deadline_of(link, frame, now));
    if (frame->message_id && !link->dead)
        link_acknowledge(link, frame->message_id);
}

/* A frozen peer that speaks, and whose engine does not stand still, is greeted anew. */
static void revive(struct link *link, uint64_t now)
{
    if (liveness_is_frozen(&link->liveness, &link->links->rules, now))
        return;
    if (!link->outgoing)
        link_bury(link); /* its next ping is a stranger's, and is answered by an invitation */
    else if (!link->awaiting)
        link_greet(link);
}

void link_receive(struct link *link, const struct frame *frame)
{
    struct links *links = link->links;
    if (!link->incarnation || frame->incarnation != link->incarnation) {
        links->stats.dropped_stale++;
        return;
    }
    links->stats.received++;
    uint64_t now = clock_now_us();
    liveness_heard(&link->liveness, now);
    if (frame->type == FRAME_PING)
        on_ping(link, frame, now);
    else if (frame->type == FRAME_ACK)
        on_ack(link, frame);
    else
        deliver(link, frame, now);
    if (!link->dead && link->state == LINK_FROZEN)
        revive(link, now);
}
