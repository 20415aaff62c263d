/* api_error.h - what a client is told when a request fails, in OpenAI's form:
 *   {"error":{"message":..., "type":..., "param":..., "code":...}}
 * Plain data; any thread. */
#ifndef BATON_ROUTER_API_ERROR_H
#define BATON_ROUTER_API_ERROR_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

/* clang-format off */
#define API_ERRORS(X) /* name, status, type, code */                                      \
    X(MALFORMED,     400, "invalid_request_error", "malformed_json")                      \
    X(WRONG_TYPE,    400, "invalid_request_error", "invalid_type")                        \
    X(WRONG_VALUE,   400, "invalid_request_error", "invalid_value")                       \
    X(MISSING,       400, "invalid_request_error", "missing_required_parameter")          \
    X(UNSUPPORTED,   400, "invalid_request_error", "unsupported_parameter")               \
    X(TOO_LONG,      400, "invalid_request_error", "context_length_exceeded")             \
    X(REFUSED,       400, "invalid_request_error", "invalid_request")                     \
    X(NO_MODEL,      404, "invalid_request_error", "model_not_found")                     \
    X(NO_PAGE,       404, "invalid_request_error", "unknown_url")                         \
    X(WRONG_METHOD,  405, "invalid_request_error", "method_not_allowed")                  \
    X(TOO_SLOW,      408, "invalid_request_error", "request_timeout")                     \
    X(BODY_TOO_LARGE,413, "invalid_request_error", "request_too_large")                   \
    X(WRONG_MEDIA,   415, "invalid_request_error", "unsupported_media_type")              \
    X(QUEUE_FULL,    429, "rate_limit_error",      "queue_full")                          \
    X(HEAD_TOO_LARGE,431, "invalid_request_error", "request_header_fields_too_large")     \
    X(INTERNAL,      500, "server_error",          "internal_error")                      \
    X(OVERLOADED,    503, "service_unavailable",   "overloaded")                          \
    X(NO_WORKER,     503, "service_unavailable",   "no_worker")                           \
    X(DRAINING,      503, "service_unavailable",   "draining")                            \
    X(DEADLINE,      504, "server_error",          "deadline_exceeded")
/* clang-format on */

enum api_error_kind {
#define X(name, status, type, code) API_##name,
    API_ERRORS(X)
#undef X
        API_ERROR_COUNT
};

#define API_ERROR_PARAM_BYTES 128

struct api_error {
    enum api_error_kind kind;
    char param[API_ERROR_PARAM_BYTES]; /* "": null */
    char text[512];
};

/* Returns ST_INVALID, so that `return api_error_set(...)` reads well. param may be NULL. */
status api_error_set(struct api_error *err, enum api_error_kind kind, const char *param, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* The same for a reason that is no sentence yet: it gets a capital and a full stop. */
status api_error_sentence(struct api_error *err, enum api_error_kind kind, const char *reason);
/* There is none left for this request. Returns ST_INVALID. */
status api_error_memory(struct api_error *err);
int api_error_status(const struct api_error *err);
/* Appends the body. */
void api_error_write(const struct api_error *err, struct text_buffer *out);
/* The kind for a status that the HTTP server found itself. */
enum api_error_kind api_error_of_status(int status);
#define API_RETRY_AFTER_S 1
/* API_RETRY_AFTER_S as text for what is worth another try soon, NULL otherwise. */
const char *api_error_retry_after(const struct api_error *err);

#endif
