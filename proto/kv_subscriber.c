#include "proto/kv_subscriber.h"

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "common/log.h"
#include "proto/link_socket.h"

#define HIGH_WATER       16384 /* messages that wait for the loop; what is beyond shows as a gap */
#define HANDSHAKE_MS     2000
#define RECONNECT_MIN_MS 50
#define RECONNECT_MAX_MS 1000
#define ENDPOINT_BYTES   256
#define LIVE_BATCH       32 /* batches taken in one turn of the loop */
#define ANSWER_BATCH     4  /* of a dump, perhaps, with thousands of blocks each */

struct kv_subscriber {
    struct kv_subscriber_options options;
    char endpoint[ENDPOINT_BYTES], replay[ENDPOINT_BYTES];
    struct link_socket sub, dealer;
    struct kv_follow follow;
    struct timer timer;
    uint64_t hostile;
};

struct kv_follow_rules kv_subscriber_rules(void)
{
    return (struct kv_follow_rules){ .dumps = true,
                                     .probe_us = 1000000,
                                     .answer_us = 2000000,
                                     .retry_us = 500000,
                                     .silence_us = 5000000,
                                     .max_held = 1024,
                                     .max_held_bytes = 32u << 20 };
}

static void bound_socket(struct link_socket *s, const char *endpoint)
{
    int64_t max_size = KV_EVENTS_MAX_BATCH;
    ASSERT(zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &max_size, sizeof max_size) == 0);
    link_socket_set(s, ZMQ_RCVHWM, HIGH_WATER);
    link_socket_set(s, ZMQ_LINGER, 0);
    link_socket_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    link_socket_set(s, ZMQ_RECONNECT_IVL, RECONNECT_MIN_MS);
    link_socket_set(s, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    link_socket_set(s, ZMQ_TCP_KEEPALIVE, 1);
    link_socket_set(s, ZMQ_IPV6, strchr(endpoint, '[') != NULL);
}

static uint64_t now_us(const struct kv_subscriber *s)
{
    return timers_now(loop_timers(s->options.loop));
}

static void on_time(void *arg);

/* After every call of kv_follow. Requests go out from the timer only: they may need a new socket, and the old one may
 * be in its callback here. */
static void settle(struct kv_subscriber *s)
{
    struct timers *timers = loop_timers(s->options.loop);
    uint64_t now = timers_now(timers), due = kv_follow_step(&s->follow, now);
    if (s->follow.send)
        due = now;
    if (due == TIMERS_NEVER)
        timer_cancel(timers, &s->timer);
    else
        timer_set(timers, &s->timer, due, on_time, s);
}

static bool is_number(zmq_msg_t *part)
{
    return zmq_msg_size(part) == KV_SEQUENCE_BYTES;
}

static bool receive_live(void *arg)
{
    struct kv_subscriber *s = arg;
    zmq_msg_t parts[3]; /* topic, number, batch */
    int n = link_socket_receive(&s->sub, parts, 3);
    if (n < 0)
        return false;
    if (n == 3 && is_number(&parts[1]))
        kv_follow_live(&s->follow, kv_sequence_read(zmq_msg_data(&parts[1])), zmq_msg_data(&parts[2]),
                       zmq_msg_size(&parts[2]), now_us(s));
    else
        s->hostile++;
    for (int i = 0; i < n && i < 3; i++)
        zmq_msg_close(&parts[i]);
    settle(s);
    return true;
}

static bool receive_answer(void *arg)
{
    struct kv_subscriber *s = arg;
    zmq_msg_t parts[3]; /* empty, number, batch */
    int n = link_socket_receive(&s->dealer, parts, 3);
    if (n < 0)
        return false;
    if (n == 3 && !zmq_msg_size(&parts[0]) && is_number(&parts[1]))
        kv_follow_answer(&s->follow, kv_sequence_read(zmq_msg_data(&parts[1])), zmq_msg_data(&parts[2]),
                         zmq_msg_size(&parts[2]), now_us(s));
    else
        s->hostile++;
    for (int i = 0; i < n && i < 3; i++)
        zmq_msg_close(&parts[i]);
    settle(s);
    return true;
}

/* A new connection brings nothing of what an older request was answered. */
static status open_dealer(struct kv_subscriber *s, struct error *err)
{
    link_socket_close(&s->dealer);
    status st = link_socket_open_alone(&s->dealer, s->options.zmq, s->options.loop, ZMQ_DEALER, receive_answer, s, err);
    if (st != ST_OK)
        return st;
    s->dealer.batch = ANSWER_BATCH;
    bound_socket(&s->dealer, s->replay);
    if (!zmq_connect(s->dealer.zmq, s->replay))
        return ST_OK;
    link_socket_close(&s->dealer);
    return error_set(err, ST_INVALID, "cannot ask for KV events at %s: %s", s->replay, zmq_strerror(zmq_errno()));
}

/* One that cannot be sent is not answered, and tried again like that. */
static void send_request(struct kv_subscriber *s, uint64_t from)
{
    uint8_t number[KV_SEQUENCE_BYTES];
    kv_sequence_write(from, number);
    if (zmq_send(s->dealer.zmq, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        zmq_send(s->dealer.zmq, number, sizeof number, ZMQ_DONTWAIT);
    link_socket_sent(&s->dealer);
}

static void on_time(void *arg)
{
    struct kv_subscriber *s = arg;
    struct error err;
    uint64_t from;
    bool fresh;
    kv_follow_step(&s->follow, now_us(s));
    if (kv_follow_take_request(&s->follow, &from, &fresh)) {
        if ((fresh || !s->dealer.zmq) && open_dealer(s, &err) != ST_OK)
            log_warn("KV events", "reason=\"%s\"", err.text);
        else
            send_request(s, from);
    }
    settle(s);
}

static status open_sub(struct kv_subscriber *s, struct error *err)
{
    status st = link_socket_open_alone(&s->sub, s->options.zmq, s->options.loop, ZMQ_SUB, receive_live, s, err);
    if (st != ST_OK)
        return st;
    s->sub.batch = LIVE_BATCH;
    bound_socket(&s->sub, s->endpoint);
    const char *topic = s->options.topic;
    if (zmq_setsockopt(s->sub.zmq, ZMQ_SUBSCRIBE, topic, strlen(topic)) || zmq_connect(s->sub.zmq, s->endpoint))
        return error_set(err, ST_INVALID, "cannot follow KV events at %s: %s", s->endpoint, zmq_strerror(zmq_errno()));
    return ST_OK;
}

static status open_all(struct kv_subscriber *s, struct error *err)
{
    struct kv_follow_rules rules = s->options.rules;
    rules.can_ask = s->options.replay != NULL;
    status st = kv_follow_init(&s->follow, &rules, now_us(s));
    if (st != ST_OK)
        return error_set(err, st, "no memory for a subscriber of KV events");
    s->follow.apply = s->options.apply;
    s->follow.clear = s->options.clear;
    s->follow.ctx = s->options.ctx;
    st = open_sub(s, err);
    return st == ST_OK && rules.can_ask ? open_dealer(s, err) : st;
}

static bool copy_endpoint(char *out, const char *endpoint)
{
    size_t len = strlen(endpoint);
    if (len >= ENDPOINT_BYTES)
        return false;
    memcpy(out, endpoint, len + 1);
    return true;
}

status kv_subscriber_create(const struct kv_subscriber_options *options, struct kv_subscriber **out, struct error *err)
{
    ASSERT(options->loop && options->zmq && options->apply && options->clear && options->rules.max_held);
    struct kv_subscriber *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ST_NO_MEMORY, "no memory for a subscriber of KV events");
    s->options = *options;
    status st = ST_OK;
    if (!copy_endpoint(s->endpoint, options->endpoint) ||
        (options->replay && !copy_endpoint(s->replay, options->replay)))
        st = error_set(err, ST_INVALID, "an address of KV events has at most %d bytes", ENDPOINT_BYTES - 1);
    if (st == ST_OK)
        st = open_all(s, err);
    if (st != ST_OK) {
        kv_subscriber_destroy(&s);
        return st;
    }
    settle(s);
    *out = s;
    return ST_OK;
}

void kv_subscriber_destroy(struct kv_subscriber **subscriber)
{
    struct kv_subscriber *s = *subscriber;
    *subscriber = NULL;
    if (!s)
        return;
    timer_cancel(loop_timers(s->options.loop), &s->timer);
    link_socket_close(&s->dealer);
    link_socket_close(&s->sub);
    kv_follow_free(&s->follow);
    free(s);
}

bool kv_subscriber_is_silent(const struct kv_subscriber *s)
{
    return s->follow.silent;
}

bool kv_subscriber_is_complete(const struct kv_subscriber *s)
{
    return s->follow.known && s->follow.complete && !s->follow.n_held;
}

void kv_subscriber_stats(const struct kv_subscriber *s, struct kv_follow_stats *out)
{
    *out = s->follow.stats;
}

uint64_t kv_subscriber_hostile(const struct kv_subscriber *s)
{
    return s->hostile;
}
