#include "router/api_error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/json_writer.h"

static const struct {
    int status;
    const char *type, *code;
} rows[] = {
#define X(name, status, type, code) { status, type, code },
    API_ERRORS(X)
#undef X
};

status api_error_set(struct api_error *err, enum api_error_kind kind, const char *param, const char *fmt, ...)
{
    va_list args;
    err->kind = kind;
    snprintf(err->param, sizeof err->param, "%s", param ? param : "");
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return ST_INVALID;
}

status api_error_sentence(struct api_error *err, enum api_error_kind kind, const char *reason)
{
    const char *text = *reason ? reason : "no reason was given";
    bool ended = strchr(".!?", text[strlen(text) - 1]) != NULL;
    return api_error_set(err, kind, NULL, "%c%s%s", toupper((unsigned char)text[0]), text + 1, ended ? "" : ".");
}

status api_error_memory(struct api_error *err)
{
    return api_error_set(err, API_INTERNAL, NULL, "There is not enough memory for this request.");
}

int api_error_status(const struct api_error *err)
{
    return rows[err->kind].status;
}

void api_error_write(const struct api_error *err, struct text_buffer *out)
{
    struct json_writer w;
    json_writer_init(&w, out);
    json_write_object(&w);
    json_write_key(&w, "error");
    json_write_object(&w);
    json_field_string(&w, "message", err->text);
    json_field_string(&w, "type", rows[err->kind].type);
    json_write_key(&w, "param");
    if (err->param[0])
        json_write_string(&w, err->param);
    else
        json_write_null(&w);
    json_field_string(&w, "code", rows[err->kind].code);
    json_write_end(&w);
    json_write_end(&w);
}

enum api_error_kind api_error_of_status(int code)
{
    for (int kind = 0; kind < API_ERROR_COUNT; kind++)
        if (rows[kind].status == code && kind != API_MALFORMED)
            return code == 400 ? API_REFUSED : (enum api_error_kind)kind;
    return code >= 500 ? API_INTERNAL : API_REFUSED;
}

const char *api_error_retry_after(const struct api_error *err)
{
    return rows[err->kind].status == 429 || rows[err->kind].status == 503 ? "1" : NULL;
}
