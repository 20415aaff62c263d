#include "proto/kv_publisher.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#include "common/clock.h"
#include "common/log.h"
#include "proto/kv_ring.h"
#include "proto/link_socket.h"

#define ENDPOINT_BYTES 256
#define HIGH_WATER     4096 /* messages queued for one follower; what is beyond shows as a gap */
#define MAX_REQUEST    64   /* bytes */
#define HANDSHAKE_MS   2000
#define STEP_S         1e-6 /* times of batches differ at least by it */

/* All that exists, in batches; the numbers are given when it is sent. */
struct kv_dump {
    struct kv_publisher *publisher;
    struct kv_batch_writer writer;
    struct kv_batch **batches;
    uint32_t n_batches, capacity;
    size_t bytes;
    bool full;
    uint64_t as_of; /* the number of the last batch that it includes */
    uint64_t made_us;
    struct timer timer; /* set: its next piece is to be made */
};

struct asker {
    uint8_t id[255]; /* as ZeroMQ bounds it */
    uint8_t len;
};

struct kv_publisher {
    struct kv_publisher_options options;
    struct link_socket pub, router;
    char endpoint[ENDPOINT_BYTES], replay_endpoint[ENDPOINT_BYTES];
    struct kv_batch_writer writer;
    struct kv_ring ring;
    struct kv_dump dump;
    struct asker waiting[KV_PUBLISHER_MAX_WAITING]; /* for the dump that is being made */
    uint32_t n_waiting;
    double last_ts;
    struct kv_publisher_stats stats;
};

/* --- sending --- */

static void release(void *data, void *batch)
{
    (void)data;
    struct kv_batch *b = batch;
    kv_batch_release(&b);
}

static bool send_batch(struct link_socket *s, uint64_t sequence, struct kv_batch *batch)
{
    uint8_t number[KV_SEQUENCE_BYTES];
    kv_sequence_write(sequence, number);
    if (zmq_send(s->zmq, number, sizeof number, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return false;
    zmq_msg_t message;
    uint8_t *data = (uint8_t *)kv_batch_data(batch); /* ZeroMQ only reads it */
    if (zmq_msg_init_data(&message, data, kv_batch_len(batch), release, kv_batch_share(batch))) {
        kv_batch_release(&(struct kv_batch *){ batch });
        zmq_msg_init(&message);
    }
    if (zmq_msg_send(&message, s->zmq, ZMQ_DONTWAIT) >= 0)
        return true;
    zmq_msg_close(&message);
    return false;
}

static double now_s(struct kv_publisher *p)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double ts = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    if (ts < p->last_ts + STEP_S)
        ts = p->last_ts + STEP_S;
    p->last_ts = ts;
    return ts;
}

/* A number without its batch: followers notice, ask, and get a dump. */
static void leave_gap(struct kv_publisher *p, uint32_t n_events)
{
    p->stats.lost += n_events;
    kv_ring_skip(&p->ring);
    log_error("KV events lost", "events=%u next=%llu", n_events, (unsigned long long)p->ring.next);
}

static struct kv_batch *finish(struct kv_batch_writer *w, double ts, int64_t rank)
{
    const uint8_t *data;
    size_t len;
    return kv_batch_finish(w, ts, rank, &data, &len) == ST_OK ? kv_batch_create(data, len) : NULL;
}

void kv_publisher_flush(struct kv_publisher *p)
{
    uint32_t n_events = p->writer.n_events;
    if (!n_events)
        return;
    struct kv_batch *batch = finish(&p->writer, now_s(p), p->options.rank);
    if (!batch) {
        leave_gap(p, n_events);
        return;
    }
    p->stats.batches++;
    p->stats.events += n_events;
    p->stats.bytes += kv_batch_len(batch);
    if (zmq_send(p->pub.zmq, KV_EVENTS_TOPIC, strlen(KV_EVENTS_TOPIC), ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        send_batch(&p->pub, p->ring.next, batch);
    kv_ring_add(&p->ring, batch);
}

static struct kv_event without_tokens(const struct kv_event *event)
{
    struct kv_event copy = *event;
    copy.n_tokens = 0;
    return copy;
}

void kv_publisher_add(struct kv_publisher *p, const struct kv_event *event)
{
    struct kv_event out = p->options.tokens ? *event : without_tokens(event);
    status st = kv_batch_add(&p->writer, &out);
    if (st == ST_LIMIT && p->writer.n_events) {
        kv_publisher_flush(p);
        st = kv_batch_add(&p->writer, &out);
    }
    if (st == ST_OK)
        return;
    kv_publisher_flush(p);
    leave_gap(p, 1);
}

/* --- dumps --- */

static void dump_drop(struct kv_dump *d)
{
    for (uint32_t i = 0; i < d->n_batches; i++)
        kv_batch_release(&d->batches[i]);
    free(d->batches);
    d->batches = NULL;
    d->n_batches = d->capacity = 0;
    d->bytes = 0;
    d->full = false;
}

static bool dump_grow(struct kv_dump *d)
{
    if (d->n_batches < d->capacity)
        return true;
    uint32_t capacity = d->capacity ? 2 * d->capacity : 16;
    struct kv_batch **batches = realloc(d->batches, capacity * sizeof(struct kv_batch *));
    if (!batches)
        return false;
    d->batches = batches;
    d->capacity = capacity;
    return true;
}

static void dump_flush(struct kv_dump *d)
{
    struct kv_publisher *p = d->publisher;
    uint32_t n_events = d->writer.n_events;
    if (!n_events)
        return;
    struct kv_batch *batch = finish(&d->writer, p->last_ts, p->options.rank);
    if (batch && dump_grow(d)) {
        d->bytes += kv_batch_len(batch);
        d->batches[d->n_batches++] = batch;
        d->full = d->bytes > KV_PUBLISHER_MAX_DUMP - KV_PUBLISHER_MAX_BATCH;
        return;
    }
    kv_batch_release(&batch);
    d->full = true;
    p->stats.dump_events_left_out += n_events;
}

void kv_dump_add(struct kv_dump *d, const struct kv_event *event)
{
    struct kv_event out = d->publisher->options.tokens ? *event : without_tokens(event);
    if (!d->full && kv_batch_add(&d->writer, &out) == ST_OK)
        return;
    dump_flush(d);
    if (d->full || kv_batch_add(&d->writer, &out) != ST_OK)
        d->publisher->stats.dump_events_left_out++;
}

/* The ring has what came after it. */
static bool dump_is_joined(const struct kv_publisher *p)
{
    return p->dump.as_of + 1 >= p->ring.first;
}

/* One that was just made will do. */
static bool dump_is_fresh(const struct kv_publisher *p)
{
    const struct kv_dump *d = &p->dump;
    return d->n_batches && !timer_is_set(&d->timer) && clock_now_us() - d->made_us < p->options.dump_fresh_us &&
           dump_is_joined(p);
}

/* --- answers --- */

static bool answer(struct kv_publisher *p, const struct asker *to, uint64_t sequence, struct kv_batch *batch)
{
    struct link_socket *s = &p->router;
    if (zmq_send(s->zmq, to->id, to->len, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return false;
    if (zmq_send(s->zmq, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return false;
    if (batch)
        return send_batch(s, sequence, batch);
    uint8_t number[KV_SEQUENCE_BYTES];
    kv_sequence_write(sequence, number);
    return zmq_send(s->zmq, number, sizeof number, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
           zmq_send(s->zmq, "", 0, ZMQ_DONTWAIT) >= 0;
}

/* An answer that is cut short has no end, and the follower asks again. */
static void answer_from(struct kv_publisher *p, const struct asker *to, uint64_t next)
{
    bool sent = true;
    for (; sent && next < p->ring.next; next++) {
        sent = answer(p, to, next, kv_ring_get(&p->ring, next));
        p->stats.replayed += sent;
    }
    if (!sent || !answer(p, to, KV_SEQUENCE_END, NULL))
        p->stats.unsent++;
}

static void answer_dump(struct kv_publisher *p, const struct asker *to)
{
    const struct kv_dump *d = &p->dump;
    bool sent = dump_is_joined(p);
    for (uint32_t i = 0; sent && i < d->n_batches; i++)
        sent = answer(p, to, d->as_of + 1 - d->n_batches + i, d->batches[i]);
    if (sent)
        answer_from(p, to, d->as_of + 1);
    else
        p->stats.unsent++;
}

static void dump_done(struct kv_publisher *p)
{
    struct kv_dump *d = &p->dump;
    dump_flush(d);
    d->made_us = clock_now_us();
    if (d->full)
        log_warn("KV dump cut short", "bytes=%zu left_out=%llu", d->bytes,
                 (unsigned long long)p->stats.dump_events_left_out);
    for (uint32_t i = 0; i < p->n_waiting; i++)
        answer_dump(p, &p->waiting[i]);
    p->n_waiting = 0;
}

static void dump_more(struct kv_publisher *p, bool is_new);

static void on_dump_turn(void *arg)
{
    struct kv_publisher *p = arg;
    dump_more(p, false);
    link_socket_sent(&p->router);
}

static void dump_more(struct kv_publisher *p, bool is_new)
{
    struct timers *timers = loop_timers(p->options.loop);
    if (p->options.dump(p->options.ctx, &p->dump, is_new))
        timer_set(timers, &p->dump.timer, timers_now(timers), on_dump_turn, p);
    else
        dump_done(p);
}

static void dump_begin(struct kv_publisher *p)
{
    struct kv_dump *d = &p->dump;
    dump_drop(d);
    kv_publisher_flush(p);
    p->stats.dumps++;
    d->as_of = p->ring.next - 1;
    now_s(p);
    kv_dump_add(d, &(struct kv_event){ .kind = KV_ALL_CLEARED });
    dump_more(p, true);
}

static void await_dump(struct kv_publisher *p, const struct asker *to)
{
    if (p->n_waiting == KV_PUBLISHER_MAX_WAITING) {
        p->stats.unsent++;
        return;
    }
    p->waiting[p->n_waiting++] = *to;
    if (!timer_is_set(&p->dump.timer))
        dump_begin(p);
}

static void answer_request(struct kv_publisher *p, const struct asker *to, uint64_t from)
{
    if (kv_ring_answer(&p->ring, from) != KV_ANSWER_DUMP)
        answer_from(p, to, from);
    else if (!p->options.dump)
        answer_from(p, to, p->ring.first);
    else if (dump_is_fresh(p))
        answer_dump(p, to);
    else
        await_dump(p, to);
}

static bool receive(void *arg)
{
    struct kv_publisher *p = arg;
    zmq_msg_t parts[3]; /* who, empty, number */
    int n = link_socket_receive(&p->router, parts, 3);
    if (n < 0)
        return false;
    if (n == 3 && !zmq_msg_size(&parts[1]) && zmq_msg_size(&parts[2]) == KV_SEQUENCE_BYTES) {
        p->stats.requests++;
        struct asker to = { .len = (uint8_t)zmq_msg_size(&parts[0]) };
        memcpy(to.id, zmq_msg_data(&parts[0]), to.len);
        answer_request(p, &to, kv_sequence_read(zmq_msg_data(&parts[2])));
        link_socket_sent(&p->router);
    } else {
        p->stats.hostile++;
    }
    for (int i = 0; i < n && i < 3; i++)
        zmq_msg_close(&parts[i]);
    return true;
}

/* --- life --- */

static status bind_socket(struct kv_publisher *p, struct link_socket *s, int type, const char *listen, char *endpoint,
                          struct error *err)
{
    bool asks = type == ZMQ_ROUTER;
    status st = link_socket_open_alone(s, p->options.zmq, p->options.loop, type, asks ? receive : NULL, p, err);
    if (st != ST_OK)
        return st;
    int64_t max_size = MAX_REQUEST;
    ASSERT(zmq_setsockopt(s->zmq, ZMQ_MAXMSGSIZE, &max_size, sizeof max_size) == 0);
    link_socket_set(s, ZMQ_SNDHWM, HIGH_WATER);
    link_socket_set(s, ZMQ_RCVHWM, HIGH_WATER);
    link_socket_set(s, ZMQ_LINGER, 0);
    link_socket_set(s, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS);
    link_socket_set(s, ZMQ_IPV6, strchr(listen, '[') != NULL);
    if (asks)
        link_socket_set(s, ZMQ_ROUTER_MANDATORY, 1);
    if (zmq_bind(s->zmq, listen))
        return error_set(err, ST_IO, "cannot publish KV events on %s: %s", listen, zmq_strerror(zmq_errno()));
    size_t len = ENDPOINT_BYTES;
    zmq_getsockopt(s->zmq, ZMQ_LAST_ENDPOINT, endpoint, &len);
    return ST_OK;
}

static uint64_t first_number(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

status kv_publisher_create(const struct kv_publisher_options *options, struct kv_publisher **out, struct error *err)
{
    ASSERT(options->loop && options->zmq && options->max_batches);
    struct kv_publisher *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ST_NO_MEMORY, "no memory for a publisher of KV events");
    p->options = *options;
    kv_batch_writer_init(&p->writer, options->form, KV_PUBLISHER_MAX_BATCH);
    kv_batch_writer_init(&p->dump.writer, options->form, KV_PUBLISHER_DUMP_BATCH);
    p->dump.publisher = p;
    status st = kv_ring_init(&p->ring, options->max_batches, options->max_bytes, first_number());
    if (st != ST_OK)
        error_set(err, st, "no memory for a ring of %u KV event batches", options->max_batches);
    if (st == ST_OK)
        st = bind_socket(p, &p->pub, ZMQ_PUB, options->listen, p->endpoint, err);
    if (st == ST_OK)
        st = bind_socket(p, &p->router, ZMQ_ROUTER, options->listen_replay, p->replay_endpoint, err);
    if (st == ST_OK)
        *out = p;
    else
        kv_publisher_destroy(&p);
    return st;
}

void kv_publisher_destroy(struct kv_publisher **publisher)
{
    struct kv_publisher *p = *publisher;
    *publisher = NULL;
    if (!p)
        return;
    timer_cancel(loop_timers(p->options.loop), &p->dump.timer);
    link_socket_close(&p->router);
    link_socket_close(&p->pub);
    kv_ring_free(&p->ring);
    dump_drop(&p->dump);
    kv_batch_writer_free(&p->dump.writer);
    kv_batch_writer_free(&p->writer);
    free(p);
}

const char *kv_publisher_endpoint(const struct kv_publisher *p)
{
    return p->endpoint;
}

const char *kv_publisher_replay_endpoint(const struct kv_publisher *p)
{
    return p->replay_endpoint;
}

void kv_publisher_stats(const struct kv_publisher *p, struct kv_publisher_stats *out)
{
    *out = p->stats;
}
