/* http_server.h - HTTP/1.1 on llhttp and libevent, for the router's API and every admin port.
 * Keep-alive, pipelining (answers in order), chunked bodies, Expect: 100-continue,
 * HEAD, and limits on everything. All calls on the loop thread.
 *
 * An exchange is one request and its answer. The handler gets it when the body
 * is complete and answers now or later, exactly once: http_respond, or
 * http_stream_begin .. http_stream_end. When the client goes away first,
 * on_gone is called once (end of input after a complete request counts as
 * gone) and the exchange must not be touched after that callback. It comes from
 * the loop, never from inside a call made here, and also when admit has seen
 * the exchange but its body never comes. */
#ifndef BATON_COMMON_HTTP_SERVER_H
#define BATON_COMMON_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/loop.h"
#include "common/status.h"

struct http_server;
struct http_exchange;

struct http_server_options {
    struct loop *loop;
    const char *listen;          /* "127.0.0.1:8000", "[::1]:0"; port 0 picks one */
    size_t max_header_bytes;     /* 431 */
    size_t max_body_bytes;       /* 413 */
    uint32_t max_connections;    /* beyond: 503 and close */
    uint64_t request_timeout_us; /* first byte to complete request: 408 */
    uint64_t idle_timeout_us;    /* between requests */
    uint64_t write_timeout_us;   /* no progress in sending for this long: closed */
    size_t max_backlog_bytes;    /* unsent answer bytes a connection, beside 64 KiB in the kernel: http_stream_write */
    /* Called when the head is complete and before any body is read. May answer
     * at once (then the body is discarded and handle is not called). May be NULL. */
    void (*admit)(void *ctx, struct http_exchange *x);
    void (*handle)(void *ctx, struct http_exchange *x);
    /* Bodies for errors that the server itself finds (400, 408, 413, 431, 503 ...): writes
     * JSON or text into buf and returns its length; sets *content_type. NULL: plain text. */
    size_t (*error_body)(void *ctx, int status, const char *reason, char *buf, size_t size, const char **content_type);
    /* A further header of those errors, its value (no control characters) into buf; NULL: none. */
    const char *error_field;
    void (*error_field_value)(void *ctx, int status, char *buf, size_t size);
    uint32_t retry_after_s; /* Retry-After of those that are 503; 0: none */
    void *ctx;
};

struct http_server_stats {
    uint64_t connections, requests, refused, timeouts, parse_errors, gone, bytes_in, bytes_out;
    uint32_t open_connections;
};

MUST_CHECK status http_server_create(const struct http_server_options *options, struct http_server **out,
                                     struct error *err);
/* on_gone is called for each open exchange. Not from inside a callback of the server. */
void http_server_destroy(struct http_server **server);
uint16_t http_server_port(const struct http_server *server);
void http_server_stats(const struct http_server *server, struct http_server_stats *out);
/* Stops accepting; idle connections are closed, others after their answer. */
void http_server_drain(struct http_server *server);

/* Request. Strings are NUL-terminated and live as long as the exchange. */
const char *http_method(const struct http_exchange *x);
const char *http_path(const struct http_exchange *x);                     /* percent-decoded, without the query */
const char *http_query(const struct http_exchange *x);                    /* raw, "" when absent */
const char *http_header(const struct http_exchange *x, const char *name); /* NULL when absent; first of several */
uint64_t http_content_length(const struct http_exchange *x);              /* as declared; 0 when chunked */
const char *http_body(const struct http_exchange *x, size_t *len);
const char *http_peer(const struct http_exchange *x); /* "127.0.0.1:4242" */
void http_set_user(struct http_exchange *x, void *user);
void *http_user(const struct http_exchange *x);
void http_on_gone(struct http_exchange *x, void (*fn)(void *arg), void *arg); /* NULL fn: nobody wants to know */

/* Answer. Header values with control characters are refused by assertion. */
void http_header_add(struct http_exchange *x, const char *name, const char *value);
void http_respond(struct http_exchange *x, int status, const char *content_type, const void *body, size_t len);
void http_stream_begin(struct http_exchange *x, int status, const char *content_type);
/* Queues data and sends what the socket takes at once. ST_AGAIN (data was taken all the same): the
 * backlog is above max_backlog_bytes; write no more until on_writable. Who writes on to four times that
 * loses the client. ST_CLOSED: the client is lost, on_gone follows. */
MUST_CHECK status http_stream_write(struct http_exchange *x, const void *data, size_t len);
void http_on_writable(struct http_exchange *x, void (*fn)(void *arg), void *arg);
void http_stream_end(struct http_exchange *x);
/* Ends a begun stream without its terminator, so that the client sees an error. */
void http_stream_abort(struct http_exchange *x);

#endif
