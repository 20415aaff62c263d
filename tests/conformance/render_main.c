/* render_main - renders chat templates for tests/conformance/template_render.py.
 * One JSON object a line in: template, messages, tools, variables, bos_token,
 * eos_token, add_generation_prompt, now. One out: {"text": ...}, or {"error":
 * ..., "status": ..., "stage": "compile" or "render"}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chat_template.h"

static json_t *failure(const char *stage, status st, const struct error *err)
{
    return json_pack("{s:s, s:s, s:s}", "stage", stage, "status", status_text(st), "error", err->text);
}

static json_t *render(const struct chat_template *tpl, const json_t *request)
{
    struct chat_template_input in = {
        .messages = json_object_get(request, "messages"),
        .tools = json_object_get(request, "tools"),
        .variables = json_object_get(request, "variables"),
        .bos_token = json_string_value(json_object_get(request, "bos_token")),
        .eos_token = json_string_value(json_object_get(request, "eos_token")),
        .add_generation_prompt = json_is_true(json_object_get(request, "add_generation_prompt")),
        .now = (time_t)json_integer_value(json_object_get(request, "now")),
    };
    char *text;
    size_t len;
    struct error err;
    status st = chat_template_render(tpl, &in, &text, &len, &err);
    if (st != ST_OK)
        return failure("render", st, &err);
    json_t *reply = json_pack("{s:s%}", "text", text, len);
    free(text);
    return reply;
}

static json_t *answer(const json_t *request)
{
    const json_t *source = json_object_get(request, "template");
    struct chat_template *tpl;
    struct error err;
    status st = chat_template_compile(json_string_value(source), json_string_length(source), &tpl, &err);
    if (st != ST_OK)
        return failure("compile", st, &err);
    json_t *reply = render(tpl, request);
    chat_template_destroy(&tpl);
    return reply;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        json_error_t where;
        json_t *request = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &where);
        if (!request) {
            fprintf(stderr, "render_main: not JSON: %s\n", where.text);
            return 1;
        }
        json_t *reply = answer(request);
        json_dumpf(reply, stdout, JSON_COMPACT);
        putchar('\n');
        fflush(stdout);
        json_decref(reply);
        json_decref(request);
    }
    free(line);
    return 0;
}
