/* A request read in one piece and in pieces of a length that the first byte names must come out the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/http_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    int status; /* 0: more is needed, 200: complete */
    size_t used;
    struct http_request *request;
};

static const struct http_limits limits = { .max_header_bytes = 1024, .max_body_bytes = 512 };

static void read_body(struct outcome *out, const char *text, size_t len, size_t step)
{
    struct http_fault fault;
    while (!out->request->complete && out->used < len) {
        size_t used = 0, piece = len - out->used < step ? len - out->used : step;
        enum http_step got = http_request_feed(out->request, text + out->used, piece, &used, &fault);
        if (got == HTTP_FAULTY) {
            out->status = fault.status;
            return;
        }
        ASSERT(used <= piece && (got == HTTP_DONE) == out->request->complete);
        out->used += used;
    }
    out->status = out->request->complete ? 200 : 0;
}

static struct outcome read_request(const char *text, size_t len, size_t step)
{
    struct outcome out = { 0 };
    struct http_fault fault = { 0 };
    size_t scanned = 0, head_len = 0, at = 0;
    enum http_step got = HTTP_MORE;
    while (got == HTTP_MORE && at < len) {
        at = len - at < step ? len : at + step;
        got = http_head_find(text, at, limits.max_header_bytes, &scanned, &head_len, &fault);
        ASSERT(scanned <= at);
    }
    if (got == HTTP_DONE)
        out.request = http_request_create(text, head_len, &limits, &fault);
    if (!out.request) {
        out.status = fault.status;
        return out;
    }
    ASSERT(head_len <= at && head_len <= limits.max_header_bytes);
    out.used = head_len;
    read_body(&out, text, len, step);
    return out;
}

static void check_fields(const struct http_request *r)
{
    ASSERT(r->n_fields <= HTTP_MAX_FIELDS && strlen(r->method) > 0);
    ASSERT(r->target.path[0] == '/' || !strcmp(r->target.path, "*"));
    ASSERT(!strchr(r->target.query, '#'));
    for (uint32_t i = 0; i < r->n_fields; i++) {
        ASSERT(strlen(r->fields[i].name) == r->fields[i].name_len && r->fields[i].name_len > 0);
        ASSERT(strlen(r->fields[i].value) == r->fields[i].value_len);
        ASSERT(!strpbrk(r->fields[i].value, "\r\n"));
    }
    ASSERT(r->body_len <= limits.max_body_bytes && r->body_len <= r->body_seen);
    ASSERT(!r->complete || r->chunked || r->body_seen == r->content_length);
    ASSERT(!r->chunked || !http_request_field(r, "content-length"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 1;
    size_t step = (size_t)data[0] % 32 + 1;
    struct outcome whole = read_request(text, size - 1, size), parts = read_request(text, size - 1, step);
    ASSERT((whole.request != NULL) == (parts.request != NULL));
    if (whole.request) {
        /* Of two faults pieces may show another one first. */
        ASSERT(whole.status == parts.status || (whole.status >= 400 && parts.status >= 400));
        check_fields(whole.request);
        check_fields(parts.request);
        if (whole.status == 200) {
            ASSERT(whole.used == parts.used && whole.request->body_len == parts.request->body_len);
            ASSERT(!whole.request->body_len ||
                   !memcmp(whole.request->body, parts.request->body, whole.request->body_len));
        }
    }
    http_request_destroy(&whole.request);
    http_request_destroy(&parts.request);
    return 0;
}
