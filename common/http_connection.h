/* http_connection.h - one accepted socket: what has come, what waits to be sent, and where the
 * current request stands. Internal to the HTTP server; loop thread only.
 *
 * The socket is watched edge-triggered with one event for its whole life, so a request costs no
 * epoll_ctl. Calls that users make never close a connection or call back: what they find out
 * is noted and acted upon in the next turn of the loop. */
#ifndef BATON_COMMON_HTTP_CONNECTION_H
#define BATON_COMMON_HTTP_CONNECTION_H

#include <event2/event.h>
#include <event2/event_struct.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "common/http_buffer.h"
#include "common/http_request.h"
#include "common/http_server.h"
#include "common/timers.h"

#define HTTP_READ_BYTES       65536u        /* one recv, and the most input kept for later requests */
#define HTTP_READ_BUDGET      (4u * 65536u) /* bytes read from one connection in one turn */
#define HTTP_LINGER_US        2000000u      /* input is dropped this long after the last answer, so that it arrives */
#define HTTP_LINGER_BYTES     (64u << 20)   /* and at most this much */
#define HTTP_MAX_REFUSED      64u           /* connections over the limit that get a 503; more are just closed */
#define HTTP_DOUBT_US         50000u        /* until a connection that awaits its answer is looked at once more */
#define HTTP_ACCEPT_PAUSE_US  100000u       /* when descriptors or memory have run out */
#define HTTP_ACCEPTS_PER_TURN 64
#define HTTP_SEND_PARTS       5
#define HTTP_UNSENT_BYTES     65536 /* of one connection in the kernel, beyond what its client's window takes */

/* Any state may also go to CLOSED. */
#define HTTP_CONNECTION_STATES(X)                                                                                      \
    X(IDLE, TO(HEAD) | TO(FLUSHING))                 /* waits for a request                */                          \
    X(HEAD, TO(BODY) | TO(ANSWERING) | TO(FLUSHING)) /* waits for the rest of a head       */                          \
    X(BODY, TO(ANSWERING) | TO(IDLE) | TO(FLUSHING)) /* waits for the rest of a body       */                          \
    X(ANSWERING, TO(IDLE) | TO(FLUSHING))            /* waits for the handler              */                          \
    X(FLUSHING, TO(LINGERING))                       /* last answer made, not yet sent     */                          \
    X(LINGERING, 0)                                  /* our side is shut, input is dropped */                          \
    X(CLOSED, 0)                                     /* waits to be freed                  */

enum http_connection_state {
#define X(name, next) CONNECTION_##name,
    HTTP_CONNECTION_STATES(X)
#undef X
};

struct http_connection {
    struct http_server *server;
    TAILQ_ENTRY(http_connection) all, waiting, doubted;
    int fd;
    enum http_connection_state state;
    bool refused;     /* over the limit, only gets its 503 */
    bool is_waiting;  /* in server->waiting */
    bool is_doubted;  /* in server->doubted */
    bool running;     /* a loop-level function is at work on it and will settle it */
    bool broken;      /* the socket failed, or the reader is hopeless */
    bool blocked;     /* the socket takes no more for now */
    bool peer_closed; /* the kernel said that the input has an end; there may be bytes before it */
    bool input_done;  /* the end was read */
    bool reset;       /* close with a reset, so that the client sees an error */
    struct event event;
    struct timer timer;
    uint64_t read_deadline_us, write_deadline_us; /* 0: none */
    struct http_buffer in, out;
    size_t head_scanned, dropped;
    struct http_exchange *exchange;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } peer;
};

TAILQ_HEAD(http_connections, http_connection);

struct http_server {
    struct http_server_options options;
    struct http_limits limits;
    struct event_base *base;
    struct timers *timers;
    int listen_fd;
    uint16_t port;
    bool draining, accept_failed;
    struct event *listener;
    struct event *resume; /* runs the waiting connections in the next turn */
    struct timer accept_timer, doubt_timer;
    struct http_connections connections, waiting, doubted;
    uint32_t n_waiting, n_doubted, n_refused;
    struct http_server_stats stats;
    char scratch[HTTP_READ_BYTES];
};

/* Takes fd over, also when it fails. refused: answer 503 and close. */
void http_connection_open(struct http_server *server, int fd, const struct sockaddr *peer, size_t peer_len,
                          bool refused);
/* Loop level only: calls on_gone for an unfinished exchange, closes and frees. */
void http_connection_drop(struct http_connection *c);
/* As far as the loop is concerned: reads, parses, answers, sends. Frees when it is over. */
void http_connection_run(struct http_connection *c);
/* Runs in the next turn. */
void http_connection_schedule(struct http_connection *c);

/* Sends what the socket takes and keeps the rest; n <= HTTP_SEND_PARTS. later: only keep it, more follows
 * in this turn. Failures show in c->broken. */
void http_connection_send(struct http_connection *c, const struct iovec *parts, int n, bool later);
/* The exchange's answer is complete; frees it unless its body is still coming. */
void http_connection_answered(struct http_connection *c, bool keep_alive);
/* Ends the connection, in the next turn when called by a user. */
void http_connection_break(struct http_connection *c);

#endif
