#include "router/json_plain.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/status.h"
#include "common/text_buffer.h"

#define MAX_DIGITS       18u /* any such number fits in 64 bits */
#define MAX_NUMBER_BYTES 48u

struct cursor {
    const char *at, *end;
    unsigned depth;
    struct text_buffer unescaped; /* scratch */
};

/* The bytes of a string, in the text or in the scratch. */
struct piece {
    const char *bytes;
    size_t len;
    bool ascii;
};

static json_t *read_value(struct cursor *c);

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r'))
        c->at++;
}

static bool take(struct cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

/* ---- strings ------------------------------------------------------------------ */

/* Over all that stands for itself. */
static void skip_bytes(struct cursor *c, bool *ascii)
{
    unsigned char seen = 0;
    for (; c->at < c->end && (unsigned char)*c->at >= 0x20 && *c->at != '"' && *c->at != '\\'; c->at++)
        seen |= (unsigned char)*c->at;
    *ascii = *ascii && seen < 0x80;
}

/* 0: not a plain escape. */
static char escaped(char letter)
{
    switch (letter) {
    case 'n':
        return '\n';
    case 't':
        return '\t';
    case 'r':
        return '\r';
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case '"':
    case '\\':
    case '/':
        return letter;
    default:
        return 0;
    }
}

/* From the first escape on; what is before it begins at start. */
static bool unescape(struct cursor *c, const char *start, struct piece *out)
{
    text_buffer_clear(&c->unescaped);
    for (;;) {
        text_buffer_append(&c->unescaped, start, (size_t)(c->at - start));
        if (take(c, '"'))
            break;
        if (!take(c, '\\') || c->at == c->end || !escaped(*c->at))
            return false;
        text_buffer_char(&c->unescaped, escaped(*c->at++));
        start = c->at;
        skip_bytes(c, &out->ascii);
    }
    out->bytes = text_buffer_text(&c->unescaped);
    out->len = c->unescaped.len;
    return c->unescaped.state == ST_OK;
}

static bool read_piece(struct cursor *c, struct piece *out)
{
    if (!take(c, '"'))
        return false;
    const char *start = c->at;
    *out = (struct piece){ .bytes = start, .ascii = true };
    skip_bytes(c, &out->ascii);
    out->len = (size_t)(c->at - start);
    return take(c, '"') || unescape(c, start, out);
}

static json_t *read_string(struct cursor *c)
{
    struct piece p;
    if (!read_piece(c, &p))
        return NULL;
    return p.ascii ? json_stringn_nocheck(p.bytes, p.len) : json_stringn(p.bytes, p.len);
}

/* ---- numbers and words --------------------------------------------------------------- */

static size_t skip_digits(struct cursor *c)
{
    const char *start = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9')
        c->at++;
    return (size_t)(c->at - start);
}

static json_t *make_real(const char *start, size_t len)
{
    char text[MAX_NUMBER_BYTES];
    if (len >= sizeof text)
        return NULL;
    memcpy(text, start, len);
    text[len] = '\0';
    double value = strtod(text, NULL);
    return isfinite(value) ? json_real(value) : NULL;
}

/* Digits and a fraction; exponents are rare. */
static json_t *read_number(struct cursor *c)
{
    const char *start = c->at;
    bool negative = take(c, '-');
    const char *digits = c->at;
    size_t n = skip_digits(c);
    if (n == 0 || n > MAX_DIGITS || (*digits == '0' && (n > 1 || negative)))
        return NULL;
    if (take(c, '.'))
        return skip_digits(c) && (c->at == c->end || (*c->at | 0x20) != 'e') ? make_real(start, (size_t)(c->at - start))
                                                                             : NULL;
    json_int_t value = 0;
    for (size_t i = 0; i < n; i++)
        value = value * 10 + (digits[i] - '0');
    return json_integer(negative ? -value : value);
}

static json_t *read_word(struct cursor *c)
{
    static const struct {
        const char *word;
        size_t len;
        json_t *(*make)(void);
    } words[] = { { "true", 4, json_true }, { "false", 5, json_false }, { "null", 4, json_null } };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if ((size_t)(c->end - c->at) >= words[i].len && !memcmp(c->at, words[i].word, words[i].len)) {
            c->at += words[i].len;
            return words[i].make();
        }
    return NULL;
}

/* ---- what holds others ------------------------------------------------------------------ */

static bool read_member(struct cursor *c, json_t *object)
{
    struct piece name;
    if (!read_piece(c, &name) || !name.ascii)
        return false;
    /* The scratch may be used again by the value. */
    char copy[64];
    if (name.len >= sizeof copy)
        return false;
    memcpy(copy, name.bytes, name.len);
    copy[name.len] = '\0';
    skip_space(c);
    if (!take(c, ':') || json_object_get(object, copy))
        return false;
    skip_space(c);
    return json_object_set_new_nocheck(object, copy, read_value(c)) == 0;
}

static bool read_item(struct cursor *c, json_t *array)
{
    return json_array_append_new(array, read_value(c)) == 0;
}

static json_t *read_members(struct cursor *c, json_t *holder, char close,
                            bool (*read)(struct cursor *c, json_t *holder))
{
    bool good = holder != NULL;
    skip_space(c);
    if (good && take(c, close))
        return holder;
    while (good) {
        skip_space(c);
        good = read(c, holder);
        skip_space(c);
        if (good && take(c, close))
            return holder;
        good = good && take(c, ',');
    }
    json_decref(holder);
    return NULL;
}

static json_t *read_value(struct cursor *c)
{
    json_t *value = NULL;
    if (c->at == c->end || c->depth == JSON_PLAIN_MAX_DEPTH)
        return NULL;
    c->depth++;
    if (*c->at == '"')
        value = read_string(c);
    else if (take(c, '{'))
        value = read_members(c, json_object(), '}', read_member);
    else if (take(c, '['))
        value = read_members(c, json_array(), ']', read_item);
    else if (*c->at == '-' || (*c->at >= '0' && *c->at <= '9'))
        value = read_number(c);
    else
        value = read_word(c);
    c->depth--;
    return value;
}

json_t *json_plain_read(const char *text, size_t len)
{
    struct cursor c = { .at = text, .end = text + len };
    text_buffer_init(&c.unescaped, len + 1);
    skip_space(&c);
    json_t *value = c.at < c.end && *c.at == '{' ? read_value(&c) : NULL;
    skip_space(&c);
    text_buffer_free(&c.unescaped);
    if (c.at == c.end)
        return value;
    json_decref(value);
    return NULL;
}
