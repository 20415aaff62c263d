#include "common/http_target.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "common/utf8.h"

/* RFC 3986: what may stand raw in a path; '%' is handled by the decoder. */
static bool is_path_char(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        return true;
    return c != '\0' && strchr("/-._~!$&'()*+,;=:@", c) != NULL;
}

/* Wider than RFC 3986: browsers send some of "[]{}|^`<>" raw in a query. */
static bool is_query_char(unsigned char c)
{
    return c > 0x20 && c < 0x7f && c != '#';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static const char *decode_path(char *path)
{
    char *to = path;
    for (const char *from = path; *from; from++) {
        unsigned char c = (unsigned char)*from;
        if (c == '%') {
            int high = hex_digit(from[1]);
            int low = high < 0 ? -1 : hex_digit(from[2]);
            if (low < 0)
                return "a percent sign in the path is not followed by two hexadecimal digits";
            c = (unsigned char)(high * 16 + low);
            if (c < 0x20 || c == 0x7f)
                return "the path holds a control character";
            from += 2;
        } else if (!is_path_char(c)) {
            return "the path holds a character that must be percent-encoded";
        }
        *to++ = (char)c;
    }
    *to = '\0';
    size_t len = (size_t)(to - path);
    return utf8_valid_prefix(path, len) == len ? NULL : "the path is not UTF-8";
}

bool http_authority_ok(const char *text)
{
    if (!*text || *text == ':')
        return false;
    for (const char *s = text; *s; s++)
        if (!((*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z') ||
              strchr("-._~%!$&'()*+;=:[]", *s)))
            return false;
    const char *bracket = strrchr(text, ']');
    const char *colon = strrchr(bracket ? bracket : text, ':');
    if (bracket && text[0] != '[')
        return false;
    return !colon || strspn(colon + 1, "0123456789") == strlen(colon + 1);
}

/* The origin part of an absolute-form target; the authority is cut off and checked. */
static const char *skip_authority(char *text, size_t scheme, char **rest)
{
    char *authority = text + scheme;
    char *end = authority + strcspn(authority, "/?");
    size_t len = (size_t)(end - authority);
    /* Moved to the front over the scheme, so that it gets a terminator of its own. */
    memmove(text, authority, len);
    text[len] = '\0';
    *rest = end;
    return http_authority_ok(text) ? NULL : "the authority of the target is malformed";
}

const char *http_target_parse(char *text, bool is_options, struct http_target *out)
{
    if (!strcmp(text, "*") && is_options) {
        *out = (struct http_target){ .path = text, .query = "" };
        return NULL;
    }
    char *path = text;
    size_t scheme = !strncasecmp(text, "http://", 7) ? 7 : !strncasecmp(text, "https://", 8) ? 8 : 0;
    const char *fault = scheme ? skip_authority(text, scheme, &path) : NULL;
    if (fault)
        return fault;
    const char *query = "";
    char *mark = strchr(path, '?');
    if (mark) {
        *mark = '\0';
        query = mark + 1;
        for (const char *s = query; *s; s++)
            if (!is_query_char((unsigned char)*s))
                return "the query holds a character that must be percent-encoded";
    }
    if (scheme && !*path) {
        *out = (struct http_target){ .path = "/", .query = query };
        return NULL;
    }
    if (*path != '/')
        return "the target does not begin with a slash";
    fault = decode_path(path);
    if (!fault)
        *out = (struct http_target){ .path = path, .query = query };
    return fault;
}
