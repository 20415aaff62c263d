#include "common/config_value.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static status parse_bool(const char *text, bool *out)
{
    static const char *const words[2][4] = { { "false", "no", "off", "0" }, { "true", "yes", "on", "1" } };
    for (int value = 0; value < 2; value++)
        for (int i = 0; i < 4; i++)
            if (!strcasecmp(text, words[value][i])) {
                *out = value;
                return ST_OK;
            }
    return ST_INVALID;
}

static status parse_int(const struct config_field *field, const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || isspace((unsigned char)*text) || v < field->min.i || v > field->max.i)
        return ST_INVALID;
    *out = v;
    return ST_OK;
}

static status parse_real(const struct config_field *field, const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    /* The comparison also refuses NaN. */
    if (end == text || *end || isspace((unsigned char)*text) || !(v >= field->min.r && v <= field->max.r))
        return ST_INVALID;
    *out = v;
    return ST_OK;
}

static status parse_unsigned(const struct config_field *field, const char *text, uint64_t *out)
{
    uint64_t v;
    status st = field->type == CONFIG_SIZE ? quantity_parse_size(text, &v) : quantity_parse_time(text, &v);
    if (st != ST_OK || v < field->min.u || v > field->max.u)
        return ST_INVALID;
    *out = v;
    return ST_OK;
}

static status parse_choice(const struct config_field *field, const char *text, int *out)
{
    const char *word = field->min.choices;
    for (int i = 0; i < CONFIG_MAX_CHOICES; i++) {
        size_t len = strcspn(word, "|");
        if (strlen(text) == len && !strncasecmp(text, word, len)) {
            *out = i;
            return ST_OK;
        }
        if (!word[len])
            break;
        word += len + 1;
    }
    return ST_INVALID;
}

/* Control characters would break the lines of a file, a log and a page. */
static status parse_text(const struct config_field *field, const char *text, char *out)
{
    size_t len = strlen(text);
    if (len >= CONFIG_TEXT_BYTES || len < field->min.u)
        return ST_INVALID;
    for (size_t i = 0; i < len; i++)
        if (iscntrl((unsigned char)text[i]))
            return ST_INVALID;
    char host[CONFIG_TEXT_BYTES];
    uint16_t port;
    if (field->type == CONFIG_ADDRESS && len && config_split_address(text, host, sizeof host, &port) != ST_OK)
        return ST_INVALID;
    memcpy(out, text, len + 1);
    return ST_OK;
}

status config_value_parse(const struct config_field *field, const char *text, void *member)
{
    switch (field->type) {
    case CONFIG_BOOL:
        return parse_bool(text, member);
    case CONFIG_INT:
        return parse_int(field, text, member);
    case CONFIG_REAL:
        return parse_real(field, text, member);
    case CONFIG_SIZE:
    case CONFIG_TIME:
        return parse_unsigned(field, text, member);
    case CONFIG_CHOICE:
        return parse_choice(field, text, member);
    case CONFIG_TEXT:
    case CONFIG_ADDRESS:
        return parse_text(field, text, member);
    }
    return ST_INVALID;
}

static void format_choice(const struct config_field *field, int index, char buf[CONFIG_TEXT_BYTES])
{
    const char *word = field->min.choices;
    for (; index > 0; index--)
        word += strcspn(word, "|") + 1;
    snprintf(buf, CONFIG_TEXT_BYTES, "%.*s", (int)strcspn(word, "|"), word);
}

static void format_real(double v, char *buf, size_t size)
{
    for (int precision = 6; precision <= 17; precision++) {
        snprintf(buf, size, "%.*g", precision, v);
        if (strtod(buf, NULL) == v)
            return;
    }
}

void config_value_format(const struct config_field *field, const void *member, char buf[CONFIG_TEXT_BYTES])
{
    char digits[32];
    switch (field->type) {
    case CONFIG_BOOL:
        snprintf(buf, CONFIG_TEXT_BYTES, "%s", *(const bool *)member ? "true" : "false");
        break;
    case CONFIG_INT:
        snprintf(buf, CONFIG_TEXT_BYTES, "%" PRId64, *(const int64_t *)member);
        break;
    case CONFIG_REAL:
        format_real(*(const double *)member, buf, CONFIG_TEXT_BYTES);
        break;
    case CONFIG_SIZE:
        snprintf(buf, CONFIG_TEXT_BYTES, "%s", quantity_format_size(digits, sizeof digits, *(const uint64_t *)member));
        break;
    case CONFIG_TIME:
        snprintf(buf, CONFIG_TEXT_BYTES, "%s", quantity_format_time(digits, sizeof digits, *(const uint64_t *)member));
        break;
    case CONFIG_CHOICE:
        format_choice(field, *(const int *)member, buf);
        break;
    case CONFIG_TEXT:
    case CONFIG_ADDRESS:
        snprintf(buf, CONFIG_TEXT_BYTES, "%s", (const char *)member);
        break;
    }
}

static void allowed_choices(const struct config_field *field, char buf[CONFIG_ALLOWED_BYTES])
{
    size_t n = (size_t)snprintf(buf, CONFIG_ALLOWED_BYTES, "one of ");
    for (const char *p = field->min.choices; *p && n + 3 < CONFIG_ALLOWED_BYTES; p++) {
        buf[n++] = *p == '|' ? ',' : *p;
        if (*p == '|')
            buf[n++] = ' ';
    }
    buf[n] = '\0';
}

static void allowed_range(const struct config_field *field, char buf[CONFIG_ALLOWED_BYTES])
{
    char low[32], high[32];
    if (field->type == CONFIG_SIZE)
        snprintf(buf, CONFIG_ALLOWED_BYTES, "a size from %s to %s, as 512M or 4GiB",
                 quantity_format_size(low, sizeof low, field->min.u),
                 quantity_format_size(high, sizeof high, field->max.u));
    else
        snprintf(buf, CONFIG_ALLOWED_BYTES, "a time from %s to %s with its unit, as 250ms, 3s or 5m",
                 quantity_format_time(low, sizeof low, field->min.u),
                 quantity_format_time(high, sizeof high, field->max.u));
}

void config_value_allowed(const struct config_field *field, char buf[CONFIG_ALLOWED_BYTES])
{
    switch (field->type) {
    case CONFIG_BOOL:
        snprintf(buf, CONFIG_ALLOWED_BYTES, "true or false");
        break;
    case CONFIG_INT:
        snprintf(buf, CONFIG_ALLOWED_BYTES, "a whole number from %" PRId64 " to %" PRId64, field->min.i, field->max.i);
        break;
    case CONFIG_REAL:
        snprintf(buf, CONFIG_ALLOWED_BYTES, "a number from %g to %g", field->min.r, field->max.r);
        break;
    case CONFIG_SIZE:
    case CONFIG_TIME:
        allowed_range(field, buf);
        break;
    case CONFIG_CHOICE:
        allowed_choices(field, buf);
        break;
    case CONFIG_TEXT:
        snprintf(buf, CONFIG_ALLOWED_BYTES, "%stext up to %d bytes", field->min.u ? "non-empty " : "",
                 CONFIG_TEXT_BYTES - 1);
        break;
    case CONFIG_ADDRESS:
        snprintf(buf, CONFIG_ALLOWED_BYTES, "an address, as 127.0.0.1:8000 or [::1]:0%s",
                 field->min.u ? "" : ", or empty");
        break;
    }
}

static bool host_is_valid(const char *host, size_t len, bool bracketed)
{
    if (len == 0)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr(bracketed ? ":.%" : ".-_", host[i]))
            return false;
    return true;
}

status config_split_address(const char *text, char *host, size_t size, uint16_t *port)
{
    bool bracketed = text[0] == '[';
    const char *begin = text + bracketed;
    size_t len = strcspn(begin, bracketed ? "]" : ":");
    const char *rest = begin + len;
    if (bracketed && *rest == ']')
        rest++;
    size_t digits = *rest == ':' ? strspn(rest + 1, "0123456789") : 0;
    if (!host_is_valid(begin, len, bracketed) || len >= size || digits == 0 || digits > 5 || rest[1 + digits])
        return ST_INVALID;
    long n = strtol(rest + 1, NULL, 10);
    if (n > UINT16_MAX)
        return ST_INVALID;
    memcpy(host, begin, len);
    host[len] = '\0';
    *port = (uint16_t)n;
    return ST_OK;
}
