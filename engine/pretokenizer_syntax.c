#include "engine/pretokenizer_syntax.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pretokenizer_unicode.h"

/* A class such as \p{L} grows by the newer ranges: at most 1 KiB each. */
#define TRANSLATED_MAX_BYTES (1u << 20)

struct translation {
    const char *at, *end; /* of the pattern */
    bool in_class;
    char *out;
    size_t n, capacity;
    struct error *err;
};

static status refuse(struct translation *t, const char *construct, size_t len)
{
    return error_set(t->err, ST_UNSUPPORTED, "the regular expression uses %.*s, which is not supported",
                     (int)(len < 40 ? len : 40), construct);
}

static status put(struct translation *t, const char *text, size_t len)
{
    size_t need = t->n + len + 1;
    if (need > TRANSLATED_MAX_BYTES)
        return error_set(t->err, ST_LIMIT, "the regular expression is too long");
    if (need > t->capacity) {
        char *out = realloc(t->out, need * 2);
        if (!out)
            return error_set(t->err, ST_NO_MEMORY, "no memory for a regular expression");
        t->out = out;
        t->capacity = need * 2;
    }
    memcpy(t->out + t->n, text, len);
    t->n += len;
    t->out[t->n] = '\0';
    return ST_OK;
}

static status put_text(struct translation *t, const char *text)
{
    return put(t, text, strlen(text));
}

static status put_code_point(struct translation *t, unsigned long cp)
{
    char text[24];
    snprintf(text, sizeof text, "\\x{%lX}", cp);
    return put_text(t, text);
}

/* The newer characters of a category, as the inside of a class. */
static status put_newer(struct translation *t, const char *category, size_t len, bool *any)
{
    size_t n;
    const struct unicode_range *newer = unicode_newer(&n);
    *any = false;
    for (size_t i = 0; i < n; i++) {
        if (strncmp(newer[i].category, category, len) != 0)
            continue;
        char text[48];
        snprintf(text, sizeof text, "\\x{%X}-\\x{%X}", (unsigned)newer[i].first, (unsigned)newer[i].last);
        status st = put_text(t, text);
        if (st != ST_OK)
            return st;
        *any = true;
    }
    return ST_OK;
}

static bool known_category(const char *name, size_t len)
{
    static const char *const known[] = { "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N",  "Nd", "Nl", "No",
                                         "P", "S",  "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp" };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i]) == len && memcmp(known[i], name, len) == 0)
            return true;
    return false;
}

/* A general category: \p{L} outside a class becomes [\p{L}newer]. */
static status put_category(struct translation *t, const char *name, size_t len, bool negated)
{
    char property[8];
    bool any = false;
    snprintf(property, sizeof property, "\\p{%.*s}", (int)len, name);
    status st = t->in_class ? ST_OK : put_text(t, negated ? "[^" : "[");
    if (st == ST_OK)
        st = put_text(t, property);
    if (st == ST_OK)
        st = put_newer(t, name, len, &any);
    if (st == ST_OK && !t->in_class)
        st = put_text(t, "]");
    return st;
}

/* t->at is behind \p or \P. */
static status property(struct translation *t, bool negated)
{
    const char *start = t->at - 2, *close = memchr(t->at, '}', (size_t)(t->end - t->at));
    if (t->at == t->end || *t->at != '{' || !close)
        return refuse(t, start, 2);
    const char *name = t->at + 1;
    size_t len = (size_t)(close - name);
    t->at = close + 1;
    if (!known_category(name, len))
        return refuse(t, start, (size_t)(t->at - start));
    /* A negated property cannot be widened inside a class. */
    if (negated && t->in_class)
        return refuse(t, start, (size_t)(t->at - start));
    return put_category(t, name, len, negated);
}

/* \xHH, \x{H...} and \uHHHH; t->at is behind the letter. */
static status numbered(struct translation *t, char letter)
{
    const char *start = t->at - 2;
    bool braces = letter == 'x' && t->at < t->end && *t->at == '{';
    size_t most = braces ? 6 : letter == 'u' ? 4 : 2, n = 0;
    char digits[8] = "";
    t->at += braces;
    while (n < most && t->at < t->end && isxdigit((unsigned char)*t->at))
        digits[n++] = *t->at++;
    unsigned long cp = strtoul(digits, NULL, 16);
    bool closed = braces ? n > 0 && t->at < t->end && *t->at++ == '}' : n == most;
    /* Two digits mean a byte to Oniguruma, which is a character only in ASCII. */
    if (!closed || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000) || (!braces && letter == 'x' && cp > 0x7F))
        return refuse(t, start, (size_t)(t->at - start));
    return put_code_point(t, cp);
}

/* t->at is behind the backslash. */
static status escape(struct translation *t)
{
    const char *start = t->at - 1;
    if (t->at == t->end)
        return refuse(t, "a trailing backslash", 20);
    char c = *t->at++;
    switch (c) {
    case 's':
        return put_text(t, "\\p{White_Space}");
    case 'S':
        return put_text(t, "\\P{White_Space}");
    case 'd':
        return put_category(t, "Nd", 2, false);
    case 'D':
        return t->in_class ? refuse(t, start, 2) : put_category(t, "Nd", 2, true);
    case 'p':
    case 'P':
        return property(t, c == 'P');
    case 'x':
    case 'u':
        return numbered(t, c);
    case 'v':
        return put_code_point(t, '\v');
    case 'r':
    case 'n':
    case 't':
    case 'f':
        return put(t, start, 2);
    default:
        return ispunct((unsigned char)c) ? put(t, start, 2) : refuse(t, start, 2);
    }
}

/* {n}, {n,}, {n,m} or {,m}; a brace that opens none of them stands for itself. */
static status interval(struct translation *t)
{
    const char *p = t->at, *low = p;
    while (p < t->end && isdigit((unsigned char)*p))
        p++;
    size_t n_low = (size_t)(p - low), n_high = 0;
    bool comma = p < t->end && *p == ',';
    const char *high = p += comma;
    while (p < t->end && isdigit((unsigned char)*p))
        p++;
    n_high = (size_t)(p - high);
    if (p == t->end || *p != '}' || n_low + n_high == 0)
        return put_text(t, "\\{");
    const char *start = t->at - 1;
    t->at = p + 1;
    char next = '\0';
    if (t->at < t->end)
        next = *t->at;
    /* These two suffixes mean possessive and lazy to PCRE2 only. */
    if (next == '+' || (next == '?' && !comma))
        return refuse(t, start, (size_t)(t->at + 1 - start));
    status st = put_text(t, n_low == 0 ? "{0" : "{");
    return st == ST_OK ? put(t, low, (size_t)(t->at - low)) : st;
}

static status group(struct translation *t)
{
    static const char *const kinds[] = { "?:", "?=", "?!", "?<=", "?<!", "?>", "?i:" };
    size_t left = (size_t)(t->end - t->at);
    if (left == 0 || (*t->at != '?' && *t->at != '*'))
        return put_text(t, "(");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t len = strlen(kinds[i]);
        if (left < len || memcmp(t->at, kinds[i], len) != 0)
            continue;
        t->at += len;
        return put(t, t->at - len - 1, len + 1);
    }
    return refuse(t, t->at - 1, left < 3 ? left + 1 : 4);
}

static status class_open(struct translation *t)
{
    t->in_class = true;
    bool negated = t->at < t->end && *t->at == '^';
    t->at += negated;
    if (t->at < t->end && *t->at == ']')
        return refuse(t, "an empty class", 14);
    return put_text(t, negated ? "[^" : "[");
}

static status class_item(struct translation *t, char c)
{
    if (c == ']') {
        t->in_class = false;
        return put_text(t, "]");
    }
    if (c == '[')
        return refuse(t, "a class inside a class", 22);
    if (c == '&' && t->at < t->end && *t->at == '&')
        return refuse(t, "an intersection (&&)", 20);
    return put(t, &c, 1);
}

static status item(struct translation *t)
{
    char c = *t->at++;
    if (c == '\\')
        return escape(t);
    if (t->in_class)
        return class_item(t, c);
    switch (c) {
    case '[':
        return class_open(t);
    case '(':
        return group(t);
    case '{':
        return interval(t);
    case '}':
        return put_text(t, "\\}");
    case '.':
        return put_text(t, "[^\\n]");
    case '^':
    case '$':
        return refuse(t, t->at - 1, 1);
    default:
        return put(t, &c, 1);
    }
}

static status begin(struct translation *t, const char *pattern, size_t len, struct error *err)
{
    if (len > PATTERN_MAX_BYTES)
        return error_set(err, ST_LIMIT, "a pattern has %zu bytes, more than %d", len, PATTERN_MAX_BYTES);
    *t = (struct translation){ .at = pattern, .end = pattern + len, .err = err };
    return put_text(t, "");
}

status pattern_translate(const char *pattern, size_t len, char **out, struct error *err)
{
    struct translation t = { 0 };
    status st = begin(&t, pattern, len, err);
    if (st != ST_OK)
        return st;
    while (st == ST_OK && t.at < t.end)
        st = item(&t);
    if (st == ST_OK && t.in_class)
        st = refuse(&t, "a class without its end", 23);
    if (st != ST_OK) {
        free(t.out);
        return st;
    }
    *out = t.out;
    return ST_OK;
}

status pattern_quote(const char *text, size_t len, char **out, struct error *err)
{
    struct translation t = { 0 };
    status st = begin(&t, text, len, err);
    if (st != ST_OK)
        return st;
    for (; st == ST_OK && t.at < t.end; t.at++) {
        if (ispunct((unsigned char)*t.at))
            st = put_text(&t, "\\");
        if (st == ST_OK)
            st = put(&t, t.at, 1);
    }
    if (st != ST_OK) {
        free(t.out);
        return st;
    }
    *out = t.out;
    return ST_OK;
}
