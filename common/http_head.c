#include "common/http_head.h"

#include <string.h>

#define HTTP_LEADING_BYTES 4 /* empty lines before a request, RFC 9112 2.2 */

enum http_step http_faulty(struct http_fault *fault, int code, const char *reason)
{
    *fault = (struct http_fault){ code, reason };
    return HTTP_FAULTY;
}

bool http_is_token_char(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        return true;
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

size_t http_skip_empty_lines(const char *data, size_t len)
{
    size_t at = 0;
    while (at < HTTP_LEADING_BYTES && at + 1 < len && data[at] == '\r' && data[at + 1] == '\n')
        at += 2;
    return at;
}

static enum http_step check_line(const char *line, size_t len, bool first, struct http_fault *fault)
{
    if (len == 0 || line[len - 1] != '\r')
        return http_faulty(fault, 400, "a line of the head ends without a carriage return");
    if (memchr(line, '\r', len - 1))
        return http_faulty(fault, 400, "a carriage return stands inside a line of the head");
    if (first && len == 1)
        return http_faulty(fault, 400, "too many empty lines before the request line");
    if (line[0] == ' ' || line[0] == '\t')
        return http_faulty(fault, 400, "a line of the head begins with white space");
    return HTTP_MORE;
}

static enum http_step too_long(bool in_request_line, struct http_fault *fault)
{
    if (in_request_line)
        return http_faulty(fault, 414, "the request target is too long");
    return http_faulty(fault, 431, "the request header is too large");
}

enum http_step http_head_find(const char *data, size_t len, size_t max_header_bytes, size_t *scanned, size_t *head_len,
                              struct http_fault *fault)
{
    size_t first = http_skip_empty_lines(data, len);
    size_t at = *scanned > first ? *scanned : first;
    if (first < len && data[first] != '\r' && !http_is_token_char((unsigned char)data[first]))
        return http_faulty(fault, 400, "this is not an HTTP request");
    const char *end;
    while (at < len && (end = memchr(data + at, '\n', len - at))) {
        size_t line_len = (size_t)(end - (data + at));
        if (check_line(data + at, line_len, at == first, fault) == HTTP_FAULTY)
            return HTTP_FAULTY;
        bool in_request_line = at == first;
        at += line_len + 1;
        if (at > max_header_bytes)
            return too_long(in_request_line, fault);
        if (line_len == 1) {
            *head_len = at;
            return HTTP_DONE;
        }
    }
    *scanned = at;
    return len > max_header_bytes ? too_long(at == first, fault) : HTTP_MORE;
}
