#include "common/quantity.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct unit {
    const char *name;
    uint64_t factor;
};

/* Smallest first, as the formatters expect. */
static const struct unit size_units[] = {
    { "", 1 }, { "K", KIB(1) }, { "M", MIB(1) }, { "G", GIB(1) }, { "T", TIB(1) }
};
static const struct unit time_units[] = {
    { "us", 1 }, { "ms", MS(1) }, { "s", SECONDS(1) }, { "m", MINUTES(1) }, { "h", HOURS(1) },
};
#define N_UNITS 5
_Static_assert(sizeof size_units / sizeof size_units[0] == N_UNITS, "units of sizes");
_Static_assert(sizeof time_units / sizeof time_units[0] == N_UNITS, "units of times");

/* number * factor; whole numbers exactly, fractions to the nearest unit. */
static status scaled(const char *text, size_t digits, uint64_t factor, uint64_t *out)
{
    char number[64];
    if (digits == 0 || digits >= sizeof number)
        return ST_INVALID;
    memcpy(number, text, digits);
    number[digits] = '\0';
    if (!strchr(number, '.')) {
        errno = 0;
        uint64_t n = strtoull(number, NULL, 10);
        return errno || __builtin_mul_overflow(n, factor, out) ? ST_INVALID : ST_OK;
    }
    char *end;
    double v = strtod(number, &end) * (double)factor;
    if (*end || strspn(number, "0123456789.") != digits || !isdigit((unsigned char)number[digits - 1]) || v > 0x1p62)
        return ST_INVALID;
    *out = (uint64_t)llround(v);
    return ST_OK;
}

status quantity_parse_size(const char *text, uint64_t *bytes)
{
    size_t digits = strspn(text, "0123456789.");
    const char *suffix = text + digits;
    uint64_t factor = 0;
    if (!*suffix || !strcasecmp(suffix, "B"))
        factor = 1;
    for (int i = 1; i < N_UNITS; i++)
        if (tolower((unsigned char)*suffix) == tolower((unsigned char)*size_units[i].name) &&
            (!suffix[1] || !strcasecmp(suffix + 1, "B") || !strcasecmp(suffix + 1, "iB")))
            factor = size_units[i].factor;
    return factor ? scaled(text, digits, factor, bytes) : ST_INVALID;
}

status quantity_parse_time(const char *text, uint64_t *us)
{
    size_t digits = strspn(text, "0123456789.");
    if (!strcmp(text, "0")) {
        *us = 0;
        return ST_OK;
    }
    for (int i = 0; i < N_UNITS; i++)
        if (!strcasecmp(text + digits, time_units[i].name))
            return scaled(text, digits, time_units[i].factor, us);
    return ST_INVALID;
}

static const char *format(char *buf, size_t size, uint64_t n, const struct unit units[N_UNITS])
{
    int i = N_UNITS - 1;
    while (i > 0 && n % units[i].factor)
        i--;
    snprintf(buf, size, "%" PRIu64 "%s", n / units[i].factor, units[i].name);
    return buf;
}

const char *quantity_format_size(char *buf, size_t size, uint64_t bytes)
{
    return bytes ? format(buf, size, bytes, size_units) : "0";
}

const char *quantity_format_time(char *buf, size_t size, uint64_t us)
{
    return us ? format(buf, size, us, time_units) : "0";
}
