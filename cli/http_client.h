/* http_client.h - requests to a router or an admin port, with libcurl; blocking. */
#ifndef BATON_CLI_HTTP_CLIENT_H
#define BATON_CLI_HTTP_CLIENT_H

#include <signal.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

/* body NULL: GET, else POST of JSON. The answer's body is appended to out (bounded by it); *code is the HTTP
 * status. ST_TIMEOUT, or ST_IO when nobody answers. */
MUST_CHECK status http_fetch(const char *url, const char *body, uint64_t timeout_ms, long *code,
                             struct text_buffer *out, struct error *err);
/* POST whose answer is given to on_data as it comes. Once *stop is set the connection is closed: ST_CANCELLED. */
MUST_CHECK status http_stream(const char *url, const char *body,
                              void (*on_data)(void *arg, const char *data, size_t len), void *arg,
                              const volatile sig_atomic_t *stop, long *code, struct error *err);

#endif
