#include "router/request_values.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/json_writer.h"
#include "common/utf8.h"
#include "engine/sampling.h"
#include "router/json_place.h"
#include "router/json_plain.h"

/* As tables of the .def see them. */
enum { CHAT = REQUEST_CHAT, TEXT = REQUEST_TEXT, TOKENS = REQUEST_TOKENS, IDS = REQUEST_IDS };
enum {
    JSON_IS_TEXT = 1 << JSON_STRING,
    JSON_IS_OBJECT = 1 << JSON_OBJECT,
    JSON_IS_BOOL = 1 << JSON_TRUE | 1 << JSON_FALSE
};

enum row_type { ROW_REAL, ROW_INT, ROW_BOOL, ROW_JSON, ROW_MEMBERS, ROW_IGNORED, ROW_REFUSED };

struct row {
    const char *name;
    size_t name_len;
    unsigned where;
    enum row_type type;
    size_t offset;
    double least, most;
    unsigned types;      /* IGNORED: 1 << json_type each */
    const char *neutral; /* REFUSED */
};

static const struct row rows[] = {
#define FIELD(name, where, TYPE, default_value, least, most, meaning)                                                  \
    { #name, sizeof #name - 1, where, ROW_##TYPE, offsetof(struct request_values, name), least, most, 0, NULL },
#define IGNORED(name, where, types)   { #name, sizeof #name - 1, where, ROW_IGNORED, 0, 0, 0, types, NULL },
#define REFUSED(name, where, neutral) { #name, sizeof #name - 1, where, ROW_REFUSED, 0, 0, 0, 0, neutral },
#include "router/request_fields.def"
#undef REFUSED
#undef IGNORED
#undef FIELD
};
#define N_ROWS       (sizeof rows / sizeof *rows)
#define SHOWN_DIGITS 64 /* of a number in an error */

static const struct request_values defaults = {
#define FIELD(name, where, TYPE, default_value, least, most, meaning) .name = default_value,
#define IGNORED(name, where, types)
#define REFUSED(name, where, neutral)
#include "router/request_fields.def"
#undef REFUSED
#undef IGNORED
#undef FIELD
};

static const struct row *find_row(const char *name, size_t len, unsigned kinds)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (rows[i].name_len == len && (rows[i].where & kinds) && !memcmp(rows[i].name, name, len))
            return &rows[i];
    return NULL;
}

/* ---- numbers that no type holds ------------------------------------------------------ */

static size_t number_length(const char *body, size_t end)
{
    size_t n = 0;
    while (n < end && body[end - n - 1] && strchr("+-.0123456789eE", body[end - n - 1]))
        n++;
    return n;
}

static double row_most(const struct row *row, const struct request_scope *scope)
{
    return isinf(row->most) ? (double)scope->max_choices : row->most;
}

/* What a number of this row may be, "" when only the type bounds it. */
static void print_range(const struct row *row, const struct request_scope *scope, char *out, size_t size)
{
    out[0] = '\0';
    if (row && row->least < row->most)
        snprintf(out, size, row->type == ROW_INT ? "%.0f and %.0f" : "%g and %g", row->least, row_most(row, scope));
}

/* The body is JSON as far as `end`, where a number ends that jansson cannot hold. */
static status refuse_number(const char *body, size_t end, const struct request_scope *scope, struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES], range[64];
    size_t len = number_length(body, end);
    const char *number = body + end - len;
    bool whole = !memchr(number, '.', len) && !memchr(number, 'e', len) && !memchr(number, 'E', len);
    char first = body[strspn(body, " \t\r\n")];
    if (first != '{')
        return api_error_set(err, API_WRONG_TYPE, NULL, "The request body must be a JSON object, not %s.",
                             first == '[' ? "an array" : "a number");
    json_place_find(body, end, path, sizeof path);
    print_range(find_row(path, strcspn(path, ".["), scope->kind), scope, range, sizeof range);
    if (!range[0] && whole)
        snprintf(range, sizeof range, "%" PRId64 " and %" PRId64, INT64_MIN, INT64_MAX);
    else if (!range[0])
        snprintf(range, sizeof range, "-1.797e308 and 1.797e308");
    return api_error_set(err, API_WRONG_VALUE, path, "Invalid value for '%s': %.*s%s is not between %s.", path,
                         (int)(len < SHOWN_DIGITS ? len : SHOWN_DIGITS), number, len > SHOWN_DIGITS ? "..." : "",
                         range);
}

/* ---- the text -------------------------------------------------------------------- */

status request_json_parse(const char *body, size_t len, const struct request_scope *scope, json_t **out,
                          struct api_error *err)
{
    json_error_t where;
    if (len == 0)
        return api_error_set(err, API_MALFORMED, NULL, "The request body is empty; a JSON object is expected.");
    *out = json_plain_read(body, len);
    if (*out)
        return ST_OK;
    *out = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &where);
    if (!*out && json_error_code(&where) == json_error_numeric_overflow)
        return refuse_number(body, (size_t)where.position, scope, err);
    if (!*out)
        return api_error_set(err, API_MALFORMED, NULL,
                             "The request body is not valid JSON: %s (line %d, column %d, byte %d).", where.text,
                             where.line, where.column, where.position);
    if (json_is_object(*out))
        return ST_OK;
    (void)api_error_set(err, API_WRONG_TYPE, NULL, "The request body must be a JSON object, not %s.",
                        request_json_type(*out));
    json_decref(*out);
    *out = NULL;
    return ST_INVALID;
}

const char *request_json_type(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",
        [JSON_ARRAY] = "an array",
        [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer",
        [JSON_REAL] = "a number with a fraction or exponent",
        [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean",
        [JSON_NULL] = "null",
    };
    return names[json_typeof(value)];
}

const char *request_show(const json_t *text, char *out, size_t size)
{
    static const char more[] = "...";
    const char *at = json_string_value(text), *end = at + json_string_length(text);
    size_t used = 0;
    while (at < end) {
        char piece[8];
        size_t n = utf8_sequence(at, (size_t)(end - at)), len = n;
        ASSERT(n > 0); /* jansson takes nothing else */
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            len = (size_t)snprintf(piece, sizeof piece, "\\u%04x", (unsigned)*at);
        else
            memcpy(piece, at, n);
        if (used + len + sizeof more > size) {
            memcpy(out + used, more, sizeof more);
            return out;
        }
        memcpy(out + used, piece, len);
        used += len;
        at += n;
    }
    out[used] = '\0';
    return out;
}

status request_wrong_type(struct api_error *err, const char *path, const char *wanted, const json_t *got)
{
    return api_error_set(err, API_WRONG_TYPE, path, "Invalid type for '%s': expected %s, got %s.", path, wanted,
                         request_json_type(got));
}

/* ---- values ---------------------------------------------------------------------------- */

static status read_real(const struct row *row, const json_t *value, void *member, struct api_error *err)
{
    if (!json_is_number(value))
        return request_wrong_type(err, row->name, "a number", value);
    double v = json_number_value(value);
    char shown[JSON_REAL_BYTES];
    if (v < row->least || v > row->most)
        return api_error_set(err, API_WRONG_VALUE, row->name, "Invalid value for '%s': %s is not between %g and %g.",
                             row->name, json_real_text(v, shown), row->least, row->most);
    memcpy(member, &v, sizeof v);
    return ST_OK;
}

static status read_int(const struct row *row, const struct request_scope *scope, const json_t *value, void *member,
                       struct api_error *err)
{
    if (!json_is_integer(value))
        return request_wrong_type(err, row->name, "an integer", value);
    int64_t v = json_integer_value(value);
    if ((double)v < row->least || (double)v > row_most(row, scope))
        return api_error_set(err, API_WRONG_VALUE, row->name,
                             "Invalid value for '%s': %lld is not between %.0f and %.0f.", row->name, (long long)v,
                             row->least, row_most(row, scope));
    memcpy(member, &v, sizeof v);
    return ST_OK;
}

static status read_bool(const struct row *row, const json_t *value, void *member, struct api_error *err)
{
    if (!json_is_boolean(value))
        return request_wrong_type(err, row->name, "a boolean", value);
    *(bool *)member = json_is_true(value);
    return ST_OK;
}

static bool is_neutral(const struct row *row, const json_t *value)
{
    char text[64];
    size_t len = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY | JSON_COMPACT);
    const char *next = row->neutral;
    if (len == 0 || len > sizeof text)
        return false;
    for (;;) {
        size_t n = strcspn(next, "|");
        if (n == len && !memcmp(next, text, n))
            return true;
        if (!next[n])
            return false;
        next += n + 1;
    }
}

static status check_ignored(const struct row *row, const json_t *value, struct api_error *err)
{
    if (row->types & 1u << json_typeof(value))
        return ST_OK;
    return request_wrong_type(err, row->name,
                              row->types == JSON_IS_TEXT     ? "a string"
                              : row->types == JSON_IS_OBJECT ? "an object"
                                                             : "a boolean",
                              value);
}

static status read_row(const struct row *row, const struct request_scope *scope, const json_t *value,
                       struct request_values *out, struct api_error *err)
{
    void *member = (char *)out + row->offset;
    if (json_is_null(value))
        return ST_OK;
    switch (row->type) {
    case ROW_REAL:
        return read_real(row, value, member, err);
    case ROW_INT:
        return read_int(row, scope, value, member, err);
    case ROW_BOOL:
        return read_bool(row, value, member, err);
    case ROW_MEMBERS:
        if (!json_is_object(value))
            return request_wrong_type(err, row->name, "an object", value);
        memcpy(member, &value, sizeof value);
        return ST_OK;
    case ROW_JSON:
        memcpy(member, &value, sizeof value);
        return ST_OK;
    case ROW_IGNORED:
        return check_ignored(row, value, err);
    case ROW_REFUSED:
        if (!is_neutral(row, value))
            return api_error_set(err, API_UNSUPPORTED, row->name,
                                 "Unsupported parameter: '%s' is not supported by this server.", row->name);
        return ST_OK;
    }
    return ST_OK;
}

void request_ignore(struct request_values *values, const char *name, size_t len)
{
    static const char more[] = ", ...";
    size_t used = strlen(values->ignored), n = len < REQUEST_IGNORED_NAME_BYTES ? len : REQUEST_IGNORED_NAME_BYTES;
    if (used >= sizeof more && !strcmp(values->ignored + used - (sizeof more - 1), more))
        return;
    if (used + 2 + n + sizeof more > sizeof values->ignored) {
        memcpy(values->ignored + used, more, sizeof more);
        return;
    }
    if (used) {
        memcpy(values->ignored + used, ", ", 2);
        used += 2;
    }
    for (size_t i = 0; i < n; i++) /* it goes into a header */
        values->ignored[used++] = name[i] > 0x20 && name[i] < 0x7f && name[i] != ',' ? name[i] : '?';
    values->ignored[used] = '\0';
}

void request_ignore_others(struct request_values *values, const char *path, const json_t *object,
                           const char *const known[])
{
    char inner[2 * REQUEST_IGNORED_NAME_BYTES];
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        bool found = false;
        for (size_t i = 0; known[i] && !found; i++)
            found = !strcmp(known[i], name);
        if (found)
            continue;
        snprintf(inner, sizeof inner, "%.63s.%.63s", path, name);
        request_ignore(values, inner, strlen(inner));
    }
}

status request_values_read(const json_t *object, const struct request_scope *scope, struct request_values *out,
                           struct api_error *err)
{
    const char *name;
    json_t *value;
    *out = defaults;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        size_t len = strlen(name);
        const struct row *row = find_row(name, len, scope->kind);
        status st = ST_OK;
        if (row)
            st = read_row(row, scope, value, out, err);
        else
            request_ignore(out, name, len);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}
