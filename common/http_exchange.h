/* http_exchange.h - one request and its answer, as the server's own files see it. */
#ifndef BATON_COMMON_HTTP_EXCHANGE_H
#define BATON_COMMON_HTTP_EXCHANGE_H

#include "common/http_connection.h"

#define HTTP_MAX_ANSWER_FIELD_BYTES 16384u
#define HTTP_EARLY_DISCARD_BYTES    262144u /* a body left over by an early answer is read up to this, else: close */
#define HTTP_BACKLOG_HARD_FACTOR    4u      /* times max_backlog_bytes: who writes on after ST_AGAIN loses the client */

enum http_answer { HTTP_UNANSWERED, HTTP_STREAMING, HTTP_ANSWERED };

struct http_exchange {
    struct http_connection *connection;
    struct http_request *request;
    enum http_answer answer;
    bool keep_alive, chunked, without_body, wants_writable;
    void *user;
    void (*on_gone)(void *arg);
    void *gone_arg;
    void (*on_writable)(void *arg);
    void *writable_arg;
    char *fields; /* answer header lines */
    size_t fields_len, fields_capacity;
    char peer[64];
};

/* Takes the request over. NULL: no memory, the request is still the caller's. */
struct http_exchange *http_exchange_create(struct http_connection *c, struct http_request *request);
void http_exchange_free(struct http_exchange *x);
/* Tells the handler, unless the answer was complete, and frees. */
void http_exchange_abandon(struct http_exchange *x);
/* The backlog has gone down. Loop level only. */
void http_exchange_drained(struct http_exchange *x);

/* An answer by the server itself, after which the connection ends. */
void http_exchange_fault(struct http_connection *c, const struct http_fault *fault);

#endif
