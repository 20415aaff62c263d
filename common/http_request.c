#include "common/http_request.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HTTP_BODY_FIRST_BYTES 16384u /* taken before the sender has shown any */

/* Callbacks of llhttp */

static struct http_request *request_of(llhttp_t *parser)
{
    return parser->data;
}

static int refuse(struct http_request *r, int code, const char *reason)
{
    r->fault = (struct http_fault){ code, reason };
    return HPE_USER;
}

static int count_extra(struct http_request *r, size_t len)
{
    r->extra_len += len;
    if (r->extra_len > r->limits.max_header_bytes)
        return refuse(r, 431, "trailers and chunk extensions are too large");
    return 0;
}

static int on_url(llhttp_t *parser, const char *at, size_t len)
{
    struct http_request *r = request_of(parser);
    if (!r->url)
        r->url = r->text + (at - r->text);
    r->url_len = (size_t)(at - r->url) + len;
    return 0;
}

static int on_field(llhttp_t *parser, const char *at, size_t len)
{
    struct http_request *r = request_of(parser);
    if (r->head_complete)
        return count_extra(r, len);
    if (r->n_fields > 0 && !r->fields[r->n_fields - 1].value) { /* the name goes on */
        struct http_field *last = &r->fields[r->n_fields - 1];
        last->name_len = (size_t)(at - last->name) + len;
        return 0;
    }
    if (r->n_fields == HTTP_MAX_FIELDS)
        return refuse(r, 431, "the request has too many header fields");
    ASSERT(r->n_fields < r->max_fields);
    r->fields[r->n_fields++] = (struct http_field){ .name = at, .name_len = len };
    return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t len)
{
    struct http_request *r = request_of(parser);
    if (r->head_complete)
        return count_extra(r, len);
    ASSERT(r->n_fields > 0);
    struct http_field *last = &r->fields[r->n_fields - 1];
    if (!last->value)
        last->value = at;
    last->value_len = (size_t)(at - last->value) + len;
    return 0;
}

static int on_value_complete(llhttp_t *parser)
{
    struct http_request *r = request_of(parser);
    if (!r->head_complete && r->n_fields && !r->fields[r->n_fields - 1].value)
        r->fields[r->n_fields - 1].value = "";
    return 0;
}

static int on_head_complete(llhttp_t *parser)
{
    struct http_request *r = request_of(parser);
    r->head_complete = true;
    r->keep_alive = llhttp_should_keep_alive(parser);
    return 0;
}

static int on_extension(llhttp_t *parser, const char *at, size_t len)
{
    (void)at;
    return count_extra(request_of(parser), len);
}

static int on_chunk_header(llhttp_t *parser)
{
    struct http_request *r = request_of(parser);
    if (parser->content_length > r->limits.max_body_bytes - r->body_seen)
        return refuse(r, 413, "the request body is too large");
    return 0;
}

/* Grows with what has come, so that a declared length alone takes no memory. */
static bool body_room(struct http_request *r, size_t len)
{
    size_t need = r->body_len + len + 1;
    if (need <= r->body_capacity)
        return true;
    size_t capacity = r->body_capacity ? 2 * r->body_capacity : HTTP_BODY_FIRST_BYTES;
    size_t known = r->chunked ? r->limits.max_body_bytes : (size_t)r->content_length;
    if (capacity > known + 1)
        capacity = known + 1;
    if (capacity < need)
        capacity = need;
    char *body = realloc(r->body, capacity);
    if (!body)
        return false;
    r->body = body;
    r->body_capacity = capacity;
    return true;
}

static int on_body(llhttp_t *parser, const char *at, size_t len)
{
    struct http_request *r = request_of(parser);
    if (len > r->limits.max_body_bytes - r->body_seen)
        return refuse(r, 413, "the request body is too large");
    r->body_seen += len;
    if (r->discard_body)
        return 0;
    if (!body_room(r, len))
        return refuse(r, 503, "there is no memory for the request body");
    memcpy(r->body + r->body_len, at, len);
    r->body_len += len;
    r->body[r->body_len] = '\0';
    return 0;
}

static int on_complete(llhttp_t *parser)
{
    request_of(parser)->complete = true;
    return HPE_PAUSED; /* what follows is the next request's */
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_header_value_complete = on_value_complete,
    .on_headers_complete = on_head_complete,
    .on_chunk_extension_name = on_extension,
    .on_chunk_extension_value = on_extension,
    .on_chunk_header = on_chunk_header,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

/* Errors of llhttp as answers */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* METHOD SP TARGET SP HTTP/d.d and no more white space than that; llhttp skips some. */
static enum http_step check_request_line(const char *line, struct http_fault *fault)
{
    size_t method = 0, target = 0;
    while (http_is_token_char((unsigned char)line[method]))
        method++;
    if (method == 0 || line[method] != ' ')
        return http_faulty(fault, 400, "the request method is malformed");
    const char *rest = line + method + 1;
    target = strcspn(rest, " \r");
    const char *version = rest + target;
    if (target == 0 || strncmp(version, " HTTP/", 6) != 0 || !is_digit(version[6]) || version[7] != '.' ||
        !is_digit(version[8]) || version[9] != '\r')
        return http_faulty(fault, 400, "the request line is not METHOD TARGET HTTP/VERSION");
    return HTTP_MORE;
}

static void fault_of_parser(const struct http_request *r, llhttp_errno_t error, struct http_fault *fault)
{
    if (r->fault.status)
        *fault = r->fault;
    else if (error == HPE_INVALID_METHOD)
        http_faulty(fault, 501, "the request method is not known here");
    else if (error == HPE_INVALID_VERSION)
        http_faulty(fault, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    else if (error == HPE_INVALID_HEADER_TOKEN)
        http_faulty(fault, 400, "a header field holds a character that is not allowed");
    else if (error == HPE_INVALID_URL)
        http_faulty(fault, 400, "the request target holds a character that must be percent-encoded");
    else if (error == HPE_INVALID_CONTENT_LENGTH)
        http_faulty(fault, 400, "Content-Length is not a number");
    else if (error == HPE_UNEXPECTED_CONTENT_LENGTH)
        http_faulty(fault, 400, "Content-Length stands twice or beside Transfer-Encoding");
    else if (error == HPE_INVALID_TRANSFER_ENCODING)
        http_faulty(fault, 400, "the last transfer coding is not chunked");
    else if (error == HPE_INVALID_CHUNK_SIZE)
        http_faulty(fault, 400, "a chunk size is malformed");
    else
        http_faulty(fault, 400, r->head_complete ? "the request body is malformed" : "the request head is malformed");
}

/* What the fields together mean */

static bool field_is(const struct http_field *f, const char *name, size_t name_len)
{
    return f->name_len == name_len && !strncasecmp(f->name, name, name_len);
}
#define FIELD_IS(f, name) field_is(f, name, sizeof(name) - 1)

struct framing {
    uint32_t hosts, lengths, codings;
    const char *host, *length, *coding, *expect;
};

static void note_field(struct framing *seen, const struct http_field *f)
{
    if (FIELD_IS(f, "Host")) {
        seen->hosts++;
        seen->host = f->value;
    } else if (FIELD_IS(f, "Content-Length")) {
        seen->lengths++;
        seen->length = f->value;
    } else if (FIELD_IS(f, "Transfer-Encoding")) {
        seen->codings++;
        seen->coding = f->value;
    } else if (FIELD_IS(f, "Expect")) {
        seen->expect = f->value;
    }
}

static enum http_step check_coding(struct http_request *r, const struct framing *seen, struct http_fault *fault)
{
    if (!seen->codings)
        return HTTP_MORE;
    if (seen->lengths)
        return http_faulty(fault, 400, "Content-Length and Transfer-Encoding exclude each other");
    if (r->http_1_0)
        return http_faulty(fault, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (seen->codings > 1)
        return http_faulty(fault, 400, "Transfer-Encoding stands more than once");
    if (!*seen->coding)
        return http_faulty(fault, 400, "Transfer-Encoding is empty");
    if (strcasecmp(seen->coding, "chunked") != 0)
        return http_faulty(fault, 501, "chunked is the only transfer coding understood here");
    r->chunked = true;
    return HTTP_MORE;
}

static enum http_step check_length(struct http_request *r, const struct framing *seen, struct http_fault *fault)
{
    if (!seen->lengths)
        return HTTP_MORE;
    size_t digits = strspn(seen->length, "0123456789");
    if (seen->lengths > 1 || digits == 0 || seen->length[digits])
        return http_faulty(fault, 400, "Content-Length is not one plain number");
    r->content_length = strtoull(seen->length, NULL, 10); /* llhttp refused what overflows */
    if (r->content_length > r->limits.max_body_bytes)
        return http_faulty(fault, 413, "the request body is too large");
    return HTTP_MORE;
}

static enum http_step check_meaning(struct http_request *r, struct http_fault *fault)
{
    if (r->parser.http_major != 1 || r->parser.http_minor > 1)
        return http_faulty(fault, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    r->http_1_0 = r->parser.http_minor == 0;
    if (r->parser.method == HTTP_CONNECT)
        return http_faulty(fault, 501, "this is not a proxy");
    struct framing seen = { 0 };
    for (uint32_t i = 0; i < r->n_fields; i++)
        note_field(&seen, &r->fields[i]);
    if (check_coding(r, &seen, fault) == HTTP_FAULTY || check_length(r, &seen, fault) == HTTP_FAULTY)
        return HTTP_FAULTY;
    if (seen.hosts > 1 || (!seen.hosts && !r->http_1_0))
        return http_faulty(fault, 400, "exactly one Host field is required");
    if (seen.hosts && !http_authority_ok(seen.host))
        return http_faulty(fault, 400, "the Host field is malformed");
    if (seen.expect && !r->http_1_0) {
        if (strcasecmp(seen.expect, "100-continue") != 0)
            return http_faulty(fault, 417, "the only expectation understood here is 100-continue");
        r->expects_continue = !r->complete;
    }
    const char *target = http_target_parse(r->url, r->parser.method == HTTP_OPTIONS, &r->target);
    return target ? http_faulty(fault, 400, target) : HTTP_MORE;
}

static bool is_token(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!http_is_token_char((unsigned char)text[i]))
            return false;
    return len > 0;
}

/* The spans that llhttp reported become strings once it is done with the text. false: a name that llhttp let
 * through, as it takes spaces in it. */
static bool terminate_spans(struct http_request *r)
{
    r->url[r->url_len] = '\0';
    for (uint32_t i = 0; i < r->n_fields; i++) {
        struct http_field *f = &r->fields[i];
        if (!is_token(f->name, f->name_len))
            return false;
        r->text[f->name - r->text + (ptrdiff_t)f->name_len] = '\0';
        if (!f->value || f->value_len == 0) {
            f->value = "";
            continue;
        }
        while (f->value_len && (f->value[f->value_len - 1] == ' ' || f->value[f->value_len - 1] == '\t'))
            f->value_len--;
        r->text[f->value - r->text + (ptrdiff_t)f->value_len] = '\0';
    }
    return true;
}

static uint32_t count_lines(const char *head, size_t len)
{
    uint32_t n = 0;
    for (const char *at = head, *end = head + len; (at = memchr(at, '\n', (size_t)(end - at))); at++)
        n++;
    return n;
}

static struct http_request *allocate(const char *head, size_t len, const struct http_limits *limits)
{
    uint32_t max_fields = count_lines(head, len);
    if (max_fields > HTTP_MAX_FIELDS)
        max_fields = HTTP_MAX_FIELDS;
    size_t fields_at = sizeof(struct http_request) + len + 1;
    fields_at = (fields_at + alignof(struct http_field) - 1) & ~(alignof(struct http_field) - 1);
    struct http_request *r = malloc(fields_at + max_fields * sizeof(struct http_field));
    if (!r)
        return NULL;
    memset(r, 0, sizeof *r);
    memcpy(r->text, head, len);
    r->text[len] = '\0';
    r->fields = (struct http_field *)(void *)((char *)r + fields_at);
    r->max_fields = max_fields;
    r->limits = *limits;
    return r;
}

static enum http_step read_head(struct http_request *r, size_t len, struct http_fault *fault)
{
    if (check_request_line(r->text + http_skip_empty_lines(r->text, len), fault) == HTTP_FAULTY)
        return HTTP_FAULTY;
    llhttp_init(&r->parser, HTTP_REQUEST, &settings);
    r->parser.data = r;
    llhttp_errno_t error = llhttp_execute(&r->parser, r->text, len);
    if (error != HPE_OK && error != HPE_PAUSED && error != HPE_PAUSED_UPGRADE) {
        fault_of_parser(r, error, fault);
        return HTTP_FAULTY;
    }
    if (!r->head_complete || !r->url)
        return http_faulty(fault, 400, "the request head is malformed");
    if (!terminate_spans(r))
        return http_faulty(fault, 400, "the name of a header field is malformed");
    r->method = llhttp_method_name((llhttp_method_t)r->parser.method);
    r->is_head = r->parser.method == HTTP_HEAD;
    return check_meaning(r, fault);
}

struct http_request *http_request_create(const char *head, size_t len, const struct http_limits *limits,
                                         struct http_fault *fault)
{
    if (memchr(head, '\0', len)) {
        http_faulty(fault, 400, "the request head holds a NUL byte");
        return NULL;
    }
    struct http_request *r = allocate(head, len, limits);
    if (!r) {
        http_faulty(fault, 503, "there is no memory for the request");
        return NULL;
    }
    if (read_head(r, len, fault) == HTTP_FAULTY)
        http_request_destroy(&r);
    return r;
}

void http_request_destroy(struct http_request **request)
{
    if (!*request)
        return;
    free((*request)->body);
    free(*request);
    *request = NULL;
}

enum http_step http_request_feed(struct http_request *r, const char *data, size_t len, size_t *used,
                                 struct http_fault *fault)
{
    ASSERT(!r->complete);
    llhttp_errno_t error = llhttp_execute(&r->parser, data, len);
    if (r->complete) {
        *used = (size_t)(llhttp_get_error_pos(&r->parser) - data);
        return HTTP_DONE;
    }
    if (error != HPE_OK) {
        fault_of_parser(r, error, fault);
        return HTTP_FAULTY;
    }
    *used = len;
    return HTTP_MORE;
}

const char *http_request_field(const struct http_request *r, const char *name)
{
    size_t len = strlen(name);
    for (uint32_t i = 0; i < r->n_fields; i++)
        if (field_is(&r->fields[i], name, len))
            return r->fields[i].value;
    return NULL;
}
