#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/link_internal.h"

/* Only the HELLO of the side that connected starts a greeting. It carries a
 * number in the message id, which the answer repeats: so neither side takes a
 * late answer, or a repeated question, for a new connection. A HELLO of the
 * other side that is no answer invites to greet. */

static size_t list_live(struct link *link, Baton__Live **items, Baton__Live ***pointers)
{
    *items = calloc(LINK_MAX_LIVE, sizeof **items);
    *pointers = calloc(LINK_MAX_LIVE, sizeof **pointers);
    ASSERT(*items && *pointers);
    for (size_t i = 0; i < LINK_MAX_LIVE; i++) {
        baton__live__init(*items + i);
        (*pointers)[i] = *items + i;
    }
    const struct links_options *o = &link->links->options;
    size_t n = o->live(o->ctx, link, *items, LINK_MAX_LIVE);
    ASSERT(n <= LINK_MAX_LIVE);
    return n;
}

/* link is NULL where no requests can be shared. */
static void send_hello(const struct link_address *to, struct link *link, uint64_t greeting, bool answer)
{
    const struct links_options *o = &to->links->options;
    Baton__Hello hello = BATON__HELLO__INIT;
    hello.id = (char *)o->id;
    hello.role = (char *)o->role;
    hello.cluster = (char *)o->cluster;
    hello.model = (char *)o->model;
    hello.kv_format = (char *)o->kv_format;
    hello.incarnation = o->incarnation;
    hello.answer = answer;
    hello.transfer.data = (uint8_t *)o->transfer;
    hello.transfer.len = o->transfer_len;
    Baton__Live *items = NULL;
    if (link)
        hello.n_live = list_live(link, &items, &hello.live);
    struct frame frame = { .type = FRAME_HELLO, .message_id = greeting, .deadline_left_us = FRAME_NO_DEADLINE };
    /* Nothing is lost when it cannot be sent: it is asked for again. */
    (void)link_send_frame(to, &frame, &hello.base);
    free(items);
    free(hello.live);
}

void link_send_hello(struct link *link)
{
    uint64_t before = link->links->stats.send_failures;
    struct link_address to = link_address(link);
    send_hello(&to, link, link->greeting, false);
    bool sent = link->links->stats.send_failures == before;
    link->hello_due_us = clock_now_us() + (sent ? link->links->rules.ping_interval_us : LINK_HELLO_SOON_US);
}

void link_greet(struct link *link)
{
    link->greeting = ++link->links->next_id;
    link->awaiting = true;
    link_send_hello(link);
    link_rearm(link);
}

void links_invite(struct links *links, const uint8_t *routing_id, size_t len)
{
    struct link_address to = { links, NULL, routing_id, len };
    send_hello(&to, NULL, ++links->next_id, false);
}

static Baton__Hello *unpack(struct links *links, const struct frame *frame)
{
    Baton__Hello *hello = NULL;
    if (frame->payload_len <= LINK_MAX_HELLO)
        hello = baton__hello__unpack(NULL, frame->payload_len, frame->payload);
    bool valid = hello && hello->incarnation && hello->incarnation == frame->incarnation && hello->id[0] &&
                 strlen(hello->id) < LINK_ID_BYTES && hello->role[0] && strlen(hello->role) < LINK_ID_BYTES;
    if (valid)
        return hello;
    links_hostile(links, "a HELLO that makes no sense");
    if (hello)
        baton__hello__free_unpacked(hello, NULL);
    return NULL;
}

/* True: refused, and told so once for each incarnation. */
static bool refuse(struct links *links, const Baton__Hello *hello, const char *expected_id)
{
    bool other_cluster = strcmp(hello->cluster, links->options.cluster) != 0;
    if (!other_cluster && (!expected_id || !strcmp(hello->id, expected_id)))
        return false;
    links->stats.dropped_hostile++;
    if (!incarnation_ring_has(&links->refused, hello->incarnation)) {
        char id[128], cluster[128];
        log_warn("hello refused", "peer=%s cluster=%s reason=%s expected=%s", log_quote(id, sizeof id, hello->id),
                 log_quote(cluster, sizeof cluster, hello->cluster), other_cluster ? "cluster" : "id",
                 other_cluster ? links->options.cluster : expected_id);
        incarnation_ring_add(&links->refused, hello->incarnation);
    }
    return true;
}

static void introduce(struct link *link, const Baton__Hello *hello)
{
    /* unpack() has seen to the lengths. */
    (void)link_copy_text(link->id, sizeof link->id, hello->id);
    (void)link_copy_text(link->role, sizeof link->role, hello->role);
    link->incarnation = hello->incarnation;
}

static void up(struct link *link, const Baton__Hello *hello, bool first)
{
    struct links *links = link->links;
    uint64_t now = clock_now_us();
    link->state = LINK_UP;
    liveness_start(&link->liveness, &links->rules, link->outgoing, now);
    incarnation_ring_add(&links->known, link->incarnation);
    pending_hurry(&link->pending, now);
    link_rearm(link);
    log_info("link up", "peer=%s role=%s incarnation=%llx first=%d live=%zu", link->id, link->role,
             (unsigned long long)link->incarnation, first, hello->n_live);
    links->options.on_up(links->options.ctx, link, hello, first);
}

void link_lost(struct link *link, enum link_loss loss)
{
    static const char *const reasons[] = { "closed", "frozen", "restarted", "dropped", "overrun" };
    struct links *links = link->links;
    struct links_stats *stats = &links->stats;
    bool was_up = link->state == LINK_UP;
    bool waits = loss == LINK_LOST_FROZEN || loss == LINK_LOST_OVERRUN; /* until the peer speaks again */
    link->state = waits ? LINK_FROZEN : LINK_GREETING;
    link->overrun = false;
    pending_clear(&link->pending);
    if (was_up) {
        stats->lost_closed += loss == LINK_LOST_CLOSED;
        stats->lost_frozen += loss == LINK_LOST_FROZEN;
        stats->lost_restarted += loss == LINK_LOST_RESTARTED;
        stats->lost_overrun += loss == LINK_LOST_OVERRUN;
        log_warn("link lost", "peer=%s incarnation=%llx reason=%s", link->id, (unsigned long long)link->incarnation,
                 reasons[loss]);
        links->options.on_lost(links->options.ctx, link, reasons[loss]);
    }
    if (link->dead)
        return;
    if (!link->outgoing)
        link->user = NULL;
    if (!link->outgoing && !waits)
        link_bury(link);
    else
        link_rearm(link);
}

static void on_answer(struct link *link, const Baton__Hello *hello)
{
    link->awaiting = false;
    if (refuse(link->links, hello, link->id))
        return; /* not the daemon that we looked for: nothing is said until it connects anew */
    bool first = link->incarnation != hello->incarnation;
    if (first && link->state == LINK_UP)
        link_lost(link, LINK_LOST_RESTARTED);
    if (link->dead)
        return;
    introduce(link, hello);
    up(link, hello, first);
}

void link_on_hello(struct link *link, const struct frame *frame)
{
    Baton__Hello *hello = unpack(link->links, frame);
    if (!hello)
        return;
    link->links->stats.received++;
    if (hello->answer && link->awaiting && frame->message_id == link->greeting)
        on_answer(link, hello);
    else if (!hello->answer && !link->awaiting && link->connected)
        link_greet(link);
    baton__hello__free_unpacked(hello, NULL);
}

/* The peer has a new routing id, so what is left of its former link is over. */
static void replace_former(struct links *links, const Baton__Hello *hello)
{
    struct link *link = TAILQ_FIRST(&links->all);
    while (link) {
        if (link->outgoing || strcmp(link->id, hello->id) != 0) {
            link = TAILQ_NEXT(link, entry);
            continue;
        }
        link_lost(link, link->incarnation == hello->incarnation ? LINK_LOST_DROPPED : LINK_LOST_RESTARTED);
        link = TAILQ_FIRST(&links->all); /* the callback may have closed others */
    }
}

static void welcome(struct links *links, struct link *link, const uint8_t *routing_id, size_t len,
                    const struct frame *frame, const Baton__Hello *hello)
{
    bool repeated = link && link->greeting == frame->message_id && link->incarnation == hello->incarnation;
    if (link && link->incarnation != hello->incarnation) {
        link_lost(link, LINK_LOST_RESTARTED);
        link = NULL;
    }
    if (!link) {
        replace_former(links, hello);
        if (link_incoming_create(links, routing_id, len, &link) != ST_OK) {
            links_hostile(links, "too many links");
            return;
        }
    }
    bool first = !incarnation_ring_has(&links->known, hello->incarnation);
    introduce(link, hello);
    link->greeting = frame->message_id;
    /* Before on_up, so that what its handler sends arrives at a link that is up. */
    struct link_address to = link_address(link);
    send_hello(&to, link, frame->message_id, true);
    if (!repeated && !link->dead)
        up(link, hello, first);
}

/* False: the link still stands as frozen. */
static bool thawed(struct link *link)
{
    uint64_t now = clock_now_us();
    liveness_heard(&link->liveness, now);
    return !liveness_is_frozen(&link->liveness, &link->links->rules, now);
}

void links_on_hello(struct links *links, struct link *link, const uint8_t *routing_id, size_t len,
                    const struct frame *frame)
{
    Baton__Hello *hello = unpack(links, frame);
    if (!hello)
        return;
    links->stats.received++;
    if (hello->answer) {
        links_hostile(links, "an answer that nobody asked for");
    } else if (refuse(links, hello, NULL)) {
        /* The answer lets the other side see why. */
        struct link_address to = { links, NULL, routing_id, len };
        send_hello(&to, NULL, frame->message_id, true);
    } else if (!link || link->state == LINK_UP) {
        welcome(links, link, routing_id, len, frame, hello);
    } else if (thawed(link)) {
        link_bury(link);
        welcome(links, NULL, routing_id, len, frame, hello);
    }
    baton__hello__free_unpacked(hello, NULL);
}
