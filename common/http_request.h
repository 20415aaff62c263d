/* http_request.h - one HTTP/1.x request read from bytes: no sockets, no clock.
 * The head is collected by the caller until http_head_find sees its end; the
 * body is fed in pieces. Strict: what RFC 9112 lets a server refuse because
 * proxies may read it in another way is refused. */
#ifndef BATON_COMMON_HTTP_REQUEST_H
#define BATON_COMMON_HTTP_REQUEST_H

#include <llhttp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/http_head.h"
#include "common/http_target.h"
#include "common/status.h"

#define HTTP_MAX_FIELDS 100 /* header fields of a request, 431 beyond */

struct http_limits {
    size_t max_header_bytes; /* of the head, and again of trailers and chunk extensions */
    size_t max_body_bytes;
};

struct http_field {
    const char *name, *value;
    size_t name_len, value_len;
};

struct http_request {
    llhttp_t parser;
    struct http_limits limits;
    struct http_fault fault; /* set by the parser's callbacks */
    const char *method;
    struct http_target target;
    uint64_t content_length; /* as declared; 0 when chunked */
    bool is_head, http_1_0, keep_alive, chunked, expects_continue;
    bool head_complete, complete;
    bool discard_body; /* set by the owner: the rest is read and dropped */
    char *body;        /* NUL-terminated once there is any */
    size_t body_len, body_capacity;
    size_t body_seen; /* body bytes that came, dropped ones included */
    size_t extra_len; /* trailers and chunk extensions so far */
    char *url;
    size_t url_len;
    uint32_t n_fields, max_fields;
    struct http_field *fields;
    char text[]; /* the head, then the fields */
};

/* head is what http_head_find delimited; copied. NULL: *fault says why (503 when memory is out). When the
 * request has no body it is complete at once. */
struct http_request *http_request_create(const char *head, size_t len, const struct http_limits *limits,
                                         struct http_fault *fault);
void http_request_destroy(struct http_request **request);

/* Reads body bytes of an incomplete request. HTTP_DONE: complete after *used of them. */
enum http_step http_request_feed(struct http_request *r, const char *data, size_t len, size_t *used,
                                 struct http_fault *fault);

/* NULL when absent, the first of several. Names are compared without case. */
const char *http_request_field(const struct http_request *r, const char *name);

#endif
