#include "cli/option.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NEAREST_MAX_BYTES 48u

static unsigned least_of(unsigned a, unsigned b, unsigned c)
{
    unsigned least = a < b ? a : b;
    return least < c ? least : c;
}

static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[NEAREST_MAX_BYTES + 1];
    size_t n = strlen(b);
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 0; a[i]; i++) {
        unsigned diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            unsigned above = row[j + 1];
            row[j + 1] = least_of(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[n];
}

const char *nearest_name(const char *text, const char *const names[], size_t n)
{
    const char *nearest = NULL;
    size_t len = strlen(text);
    unsigned least = (unsigned)(len / 3 + 2); /* further away is another word, not a slip */
    for (size_t i = 0; i < n && len <= NEAREST_MAX_BYTES; i++) {
        if (strlen(names[i]) > NEAREST_MAX_BYTES)
            continue;
        unsigned distance = edit_distance(text, names[i]);
        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

static status unknown_option(const char *text, const struct option_row *rows, size_t n_rows, struct error *err)
{
    const char *names[128];
    size_t n = 0;
    for (; n < n_rows && n < sizeof names / sizeof names[0]; n++)
        names[n] = rows[n].name;
    char name[NEAREST_MAX_BYTES + 1];
    size_t len = strcspn(text + strspn(text, "-"), "=");
    if (len > NEAREST_MAX_BYTES)
        len = NEAREST_MAX_BYTES;
    memcpy(name, text + strspn(text, "-"), len);
    name[len] = '\0';
    const char *nearest = nearest_name(name, names, n);
    if (nearest)
        return error_set(err, ST_INVALID, "there is no option \"%.60s\"; did you mean --%s?", text, nearest);
    return error_set(err, ST_INVALID, "there is no option \"%.60s\"", text);
}

static const struct option_row *find_row(const char *text, const struct option_row *rows, size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i++) {
        size_t len = strlen(rows[i].name);
        if (text[1] == '-' && !strncmp(text + 2, rows[i].name, len) && (!text[2 + len] || text[2 + len] == '='))
            return &rows[i];
        if (rows[i].letter && text[1] == rows[i].letter && !text[2])
            return &rows[i];
    }
    return NULL;
}

static bool is_word_of(const char *text, const char *words)
{
    size_t len = strlen(text);
    for (const char *p = words; *p; p += strcspn(p, "|"), p += *p == '|')
        if (strcspn(p, "|") == len && !strncmp(p, text, len))
            return true;
    return false;
}

static status set_number(const struct option_row *row, const char *text, struct error *err)
{
    char *end;
    errno = 0;
    if (row->kind == OPTION_INT) {
        long long v = strtoll(text, &end, 10);
        if (end == text || *end || errno || (double)v < row->min || (double)v > row->max)
            return error_set(err, ST_INVALID,
                             "--%s: \"%.60s\" is not allowed; it takes a whole number from %.0f to %.0f", row->name,
                             text, row->min, row->max);
        *(int64_t *)row->value = v;
        return ST_OK;
    }
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < row->min || v > row->max)
        return error_set(err, ST_INVALID, "--%s: \"%.60s\" is not allowed; it takes a number from %g to %g", row->name,
                         text, row->min, row->max);
    *(double *)row->value = v;
    return ST_OK;
}

static status set_value(const struct option_row *row, const char *text, struct error *err)
{
    struct option_list *list = row->value;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)row->value = true;
        return ST_OK;
    case OPTION_TEXT:
        *(const char **)row->value = text;
        return ST_OK;
    case OPTION_WORD:
        if (!is_word_of(text, row->meta))
            return error_set(err, ST_INVALID, "--%s: \"%.60s\" is not allowed; it takes %s", row->name, text,
                             row->meta);
        *(const char **)row->value = text;
        return ST_OK;
    case OPTION_LIST:
        if (list->n == OPTION_LIST_MAX)
            return error_set(err, ST_LIMIT, "--%s may be given %d times at most", row->name, OPTION_LIST_MAX);
        list->items[list->n++] = text;
        return ST_OK;
    case OPTION_INT:
    case OPTION_REAL:
        break;
    }
    return set_number(row, text, err);
}

/* Takes one option and its value; *i stands behind them afterwards. */
static status take_option(int argc, char **argv, int *i, const struct option_row *rows, size_t n_rows,
                          struct error *err)
{
    const char *text = argv[(*i)++];
    const struct option_row *row = find_row(text, rows, n_rows);
    if (!row)
        return unknown_option(text, rows, n_rows, err);
    const char *value = text[1] == '-' ? strchr(text, '=') : NULL;
    if (row->kind == OPTION_FLAG && value)
        return error_set(err, ST_INVALID, "--%s takes no value", row->name);
    if (row->kind != OPTION_FLAG && !value) {
        if (*i >= argc)
            return error_set(err, ST_INVALID, "--%s needs a value: %s", row->name, row->meta);
        return set_value(row, argv[(*i)++], err);
    }
    return set_value(row, value ? value + 1 : NULL, err);
}

status option_parse(int argc, char **argv, const struct option_row *rows, size_t n_rows, struct arguments *arguments,
                    struct error *err)
{
    bool options_end = false;
    arguments->n = 0;
    for (int i = 1; i < argc;) {
        if (!options_end && !strcmp(argv[i], "--")) {
            options_end = true;
            i++;
        } else if (!options_end && argv[i][0] == '-' && argv[i][1]) {
            status st = take_option(argc, argv, &i, rows, n_rows, err);
            if (st != ST_OK)
                return st;
        } else if (arguments->n == ARGUMENTS_MAX) {
            return error_set(err, ST_LIMIT, "more than %d arguments", ARGUMENTS_MAX);
        } else {
            arguments->items[arguments->n++] = argv[i++];
        }
    }
    return ST_OK;
}

status option_distribution(const char *name, const char *text, struct distribution *out, struct error *err)
{
    struct error why;
    if (distribution_parse(text, out, &why) == ST_OK)
        return ST_OK;
    return error_set(err, ST_INVALID, "--%s: %s", name, why.text);
}

bool option_given_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return true;
    return false;
}

void option_write_help(const struct option_row *rows, size_t n_rows, struct text_buffer *out)
{
    for (size_t i = 0; i < n_rows; i++) {
        text_buffer_add(out, "  ");
        if (rows[i].letter)
            text_buffer_printf(out, "-%c, ", rows[i].letter);
        text_buffer_printf(out, "--%s", rows[i].name);
        if (rows[i].kind != OPTION_FLAG)
            text_buffer_printf(out, " %s", rows[i].meta);
        text_buffer_printf(out, "\n        %s\n", rows[i].help);
    }
}
