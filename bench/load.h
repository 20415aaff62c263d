/* load.h - an HTTP load client: n connections, each of which asks for its next request when its answer is complete,
 * and waits where there is none yet (an open loop wakes it). Answers are whole bodies or streams of server-sent events.
 * It tells when each event arrived, and whether it was itself what held things up.
 * Loop thread only; callbacks must not destroy the load. */
#ifndef BATON_BENCH_LOAD_H
#define BATON_BENCH_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/loop.h"
#include "common/status.h"
#include "common/text_buffer.h"

#define LOAD_MAX_CONNECTIONS 16384u
#define LOAD_MAX_REQUEST     (16u << 20) /* bytes of a body */
#define LOAD_MAX_BODY        (4u << 20)  /* bytes of an answer that is no stream; longer ones are errors */
#define LOAD_MAX_FAILURES    8u          /* in a row, after which a connection is given up, if it is */

struct load;

/* How an answer broke off. */
enum load_failure {
    LOAD_COMPLETE,
    LOAD_NOT_CONNECTED, /* refused, unreachable, or no connection in time */
    LOAD_CLOSED,        /* by the server, inside an answer or before it */
    LOAD_TIMED_OUT,
    LOAD_NOT_HTTP, /* what came is neither HTTP nor server-sent events */
};

/* Times are clock_now_us(). */
struct load_answer {
    uint64_t number;
    int status; /* HTTP; 0: none arrived */
    bool is_stream;
    uint64_t sent_us;
    uint64_t first_us; /* first event that on_event took for a token, or first byte of the body; 0: none */
    uint64_t done_us;
    uint32_t n_events;
    const char *body; /* of an answer that is no stream; borrowed, NUL-terminated */
    size_t len;
    enum load_failure failure;
    const char *error; /* NULL: the answer is complete (whatever its status) */
};

enum load_next { LOAD_REQUEST, LOAD_NOTHING_YET, LOAD_NO_MORE };

struct load_options {
    struct loop *loop;
    const char *host; /* a numeric address: "127.0.0.1", "::1"; copied */
    uint16_t port;
    uint32_t n_connections;
    uint64_t first_number; /* requests are numbered from here */
    uint64_t timeout_us;   /* of a request, its connection included; 0: none */
    bool keeps_trying;     /* connections are not given up after LOAD_MAX_FAILURES */
    /* Writes the next request: *path is borrowed until the next call, an empty body makes a GET, any other a POST
     * of JSON. Asked again after LOAD_NOTHING_YET by load_wake. A number counts once a request was written. */
    enum load_next (*next)(void *ctx, uint64_t number, const char **path, struct text_buffer *body);
    /* Every event, with the time at which the bytes that end it were read. True: it carries a token. May be NULL. */
    bool (*on_event)(void *ctx, uint64_t number, const char *data, size_t len, uint64_t received_us);
    void (*on_answer)(void *ctx, const struct load_answer *answer);
    void (*on_done)(void *ctx); /* once, when next() has said no and all answers are there */
    void *ctx;
};

MUST_CHECK status load_create(const struct load_options *options, struct load **out, struct error *err);
void load_destroy(struct load **load);
/* Once. */
void load_start(struct load *load);
/* Connections that wait ask next() again, until it has nothing. */
void load_wake(struct load *load);
/* Connections that wait. */
uint32_t load_idle(const struct load *load);
/* No further requests; on_done follows when the open ones are answered. */
void load_stop(struct load *load);

struct load_stats {
    uint64_t requests, answers; /* sent; complete with status 200 */
    uint64_t errors;            /* any other end */
    uint64_t events, bytes_in, bytes_out, connects;
    uint64_t elapsed_us; /* load_start to the last answer */
    /* Share of that time in which this thread ran or waited for a processor; the figures above are the client's
     * limit and not the server's when it is near 1. */
    double busy;
};
void load_stats(const struct load *load, struct load_stats *out);

#define LOAD_BOTTLENECK 0.9
static inline bool load_is_bottleneck(const struct load_stats *stats)
{
    return stats->busy >= LOAD_BOTTLENECK;
}

#endif
