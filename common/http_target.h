/* http_target.h - the request target (RFC 9112, 3.2) and the Host field, read strictly. */
#ifndef BATON_COMMON_HTTP_TARGET_H
#define BATON_COMMON_HTTP_TARGET_H

#include <stdbool.h>

struct http_target {
    const char *path;  /* percent-decoded UTF-8 without control characters; "*" for OPTIONS * */
    const char *query; /* as sent, "" when absent */
};

/* Splits and decodes text in place; out points into it. Origin form, absolute form with http or
 * https, and "*" for OPTIONS. NULL when well-formed, else what is wrong with it. */
const char *http_target_parse(char *text, bool is_options, struct http_target *out);

/* host[:port] without user information; empty is refused. */
bool http_authority_ok(const char *text);

#endif
