/* The two forms of CSV. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/trace_reader.h"

struct named_column {
    const char *name;
    enum trace_column column;
};

static const struct named_column azure[] = {
    { "TIMESTAMP", TRACE_ARRIVAL },
    { "ContextTokens", TRACE_INPUT },
    { "GeneratedTokens", TRACE_OUTPUT },
};
static const struct named_column own[] = {
    { "arrival_s", TRACE_ARRIVAL },
    { "input_tokens", TRACE_INPUT },
    { "output_tokens", TRACE_OUTPUT },
    { "blocks", TRACE_BLOCK_IDS },
};

/* The next field of *rest, without blanks around it; NULL behind the last. */
static char *next_field(char **rest)
{
    char *field = *rest;
    if (!field)
        return NULL;
    char *comma = strchr(field, ',');
    *rest = comma ? comma + 1 : NULL;
    if (comma)
        *comma = '\0';
    field += strspn(field, " \t");
    size_t len = strlen(field);
    while (len > 0 && (field[len - 1] == ' ' || field[len - 1] == '\t'))
        field[--len] = '\0';
    return field;
}

static const struct named_column *find(const struct named_column *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i].name, name))
            return &list[i];
    return NULL;
}

status trace_csv_header(struct trace_reader *r, char *text)
{
    char *rest = text, *field;
    unsigned found = 0;
    while ((field = next_field(&rest))) {
        const struct named_column *column = find(azure, sizeof azure / sizeof *azure, field);
        if (r->n_columns == 0)
            r->is_azure = column != NULL;
        if (!r->is_azure)
            column = find(own, sizeof own / sizeof *own, field);
        if (!column)
            return error_set(r->err, ST_INVALID,
                             "%s, line %zu: \"%.60s\" is neither a JSON object nor a column; columns are arrival_s, "
                             "input_tokens, output_tokens and blocks, or TIMESTAMP, ContextTokens and GeneratedTokens",
                             r->name, r->line, field);
        if (found & 1u << column->column)
            return error_set(r->err, ST_INVALID, "%s, line %zu: column %s stands there twice", r->name, r->line, field);
        found |= 1u << column->column;
        r->columns[r->n_columns++] = column->column;
    }
    const struct named_column *needed = r->is_azure ? azure : own;
    for (int i = 0; i < 3; i++)
        if (!(found & 1u << needed[i].column))
            return error_set(r->err, ST_INVALID, "%s, line %zu: column %s is missing", r->name, r->line,
                             needed[i].name);
    return ST_OK;
}

/* ---- lines ------------------------------------------------------------------------------------ */

/* Two digits at text, or four; -1: there are others. */
static int digits(const char *text, int n)
{
    int value = 0;
    for (int i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = 10 * value + (text[i] - '0');
    }
    return value;
}

/* Of "1970-01-01 00:00:00": each digit is one, and all else is as it is here. */
static bool is_time(const char *text)
{
    static const char form[] = "0000-00-00 00:00:00";
    for (int i = 0; form[i]; i++)
        if (form[i] == '0' ? text[i] < '0' || text[i] > '9' : text[i] != form[i])
            return false;
    return true;
}

bool trace_csv_time(const char *text, double *seconds)
{
    if (!is_time(text))
        return false;
    struct tm tm = { .tm_year = digits(text, 4) - 1900,
                     .tm_mon = digits(text + 5, 2) - 1,
                     .tm_mday = digits(text + 8, 2),
                     .tm_hour = digits(text + 11, 2),
                     .tm_min = digits(text + 14, 2),
                     .tm_sec = digits(text + 17, 2) };
    if (tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 ||
        tm.tm_sec > 60)
        return false;
    double fraction = 0, unit = 0.1;
    const char *p = text + 19;
    if (*p == '.' && p[1] >= '0' && p[1] <= '9')
        for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
            fraction += unit * (*p - '0');
    if (*p && strcmp(p, "Z") != 0 && strcmp(p, "+00:00") != 0)
        return false;
    *seconds = (double)timegm(&tm) + fraction;
    return true;
}

/* -1: it is no whole number. */
static int64_t whole(const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno ? value : -1;
}

static status read_arrival(const struct trace_reader *r, const char *text, double *seconds)
{
    char *end;
    if (r->is_azure) {
        if (trace_csv_time(text, seconds))
            return ST_OK;
        return error_set(r->err, ST_INVALID, "%s, line %zu: \"%.40s\" is no time like 2023-11-16 18:17:03.97", r->name,
                         r->line, text);
    }
    *seconds = strtod(text, &end);
    if (end != text && !*end && isfinite(*seconds) && *seconds >= 0)
        return ST_OK;
    return error_set(r->err, ST_INVALID, "%s, line %zu: arrival_s \"%.40s\" is no number of seconds", r->name, r->line,
                     text);
}

static status read_blocks(struct trace_reader *r, char *text)
{
    char *place = NULL;
    for (char *id = strtok_r(text, " \t", &place); id; id = strtok_r(NULL, " \t", &place)) {
        status st = trace_reader_add_block(r, whole(id));
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

status trace_csv_line(struct trace_reader *r, char *text)
{
    char nothing[] = "", *fields[TRACE_COLUMNS] = { nothing, nothing, nothing, nothing }, *rest = text, *field;
    double arrival_s = 0;
    uint32_t n = 0;
    while ((field = next_field(&rest)) && n < r->n_columns)
        fields[r->columns[n++]] = field;
    if (field || n < r->n_columns)
        return error_set(r->err, ST_INVALID, "%s, line %zu: it does not have %u fields as the first line", r->name,
                         r->line, r->n_columns);
    status st = read_arrival(r, fields[TRACE_ARRIVAL], &arrival_s);
    if (st == ST_OK)
        st = read_blocks(r, fields[TRACE_BLOCK_IDS]);
    return st == ST_OK ? trace_reader_add_request(r, arrival_s, whole(fields[TRACE_INPUT]), whole(fields[TRACE_OUTPUT]))
                       : st;
}
