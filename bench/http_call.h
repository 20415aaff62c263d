/* http_call.h - one HTTP request after the other over a connection that is kept, blocking: for figures of single
 * requests. One thread. */
#ifndef BATON_BENCH_HTTP_CALL_H
#define BATON_BENCH_HTTP_CALL_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

struct http_caller;

struct http_call {
    const char *url;
    const char *body; /* NULL: GET, else POST of JSON */
    uint64_t timeout_us;
    /* The answer's body as it comes. May be NULL. */
    void (*on_data)(void *ctx, const char *data, size_t len);
    void *ctx;
};

MUST_CHECK status http_caller_create(struct http_caller **out);
void http_caller_destroy(struct http_caller **caller);
/* ST_OK: there was an answer, whatever its status; ST_TIMEOUT, ST_IO. */
MUST_CHECK status http_call(struct http_caller *caller, const struct http_call *call, long *code, struct error *err);

#endif
