#include "router/request_messages.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define SHOWN_BYTES 64 /* of a text that an error repeats */

/* Templates of open models know no "developer"; OpenAI gives it a system message's place. */
static const struct {
    const char *name, *rendered;
} roles[] = {
    { "system", "system" },       { "developer", "system" }, { "user", "user" },
    { "assistant", "assistant" }, { "tool", "tool" },
};

static const char *find_role(const json_t *role)
{
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strlen(roles[i].name) == json_string_length(role) && !strcmp(roles[i].name, json_string_value(role)))
            return roles[i].rendered;
    return NULL;
}

/* The text of one part, checked; path names the part. */
static status check_part(struct request_values *values, const json_t *part, const char *path, const json_t **text,
                         struct api_error *err)
{
    static const char *const known[] = { "type", "text", NULL };
    char field[API_ERROR_PARAM_BYTES], shown[SHOWN_BYTES];
    if (!json_is_object(part))
        return request_wrong_type(err, path, "an object", part);
    const json_t *type = json_object_get(part, "type");
    snprintf(field, sizeof field, "%.100s.type", path);
    if (!request_given(type))
        return api_error_set(err, API_MISSING, field, "Missing required parameter: '%s'.", field);
    if (!json_is_string(type))
        return request_wrong_type(err, field, "a string", type);
    if (json_string_length(type) != strlen("text") || memcmp(json_string_value(type), "text", strlen("text")) != 0)
        return api_error_set(err, API_UNSUPPORTED, field,
                             "Unsupported value for '%s': content parts of type '%s' are not supported, only 'text'.",
                             field, request_show(type, shown, sizeof shown));
    snprintf(field, sizeof field, "%.100s.text", path);
    *text = json_object_get(part, "text");
    if (!request_given(*text))
        return api_error_set(err, API_MISSING, field, "Missing required parameter: '%s'.", field);
    if (!json_is_string(*text))
        return request_wrong_type(err, field, "a string", *text);
    request_ignore_others(values, path, part, known);
    return ST_OK;
}

/* Parts become one text, a line break between them. */
static status join_parts(struct request_values *values, const json_t *parts, const char *path, json_t **out,
                         struct api_error *err)
{
    char part_path[API_ERROR_PARAM_BYTES];
    struct text_buffer joined;
    size_t i;
    json_t *part;
    status st = ST_OK;
    if (json_array_size(parts) == 0)
        return api_error_set(err, API_WRONG_VALUE, path, "Invalid value for '%s': the list of parts is empty.", path);
    text_buffer_init(&joined, (size_t)1 << 30);
    json_array_foreach((json_t *)(uintptr_t)parts, i, part)
    {
        const json_t *text = NULL;
        snprintf(part_path, sizeof part_path, "%.100s[%zu]", path, i);
        st = check_part(values, part, part_path, &text, err);
        if (st != ST_OK)
            break;
        if (i)
            text_buffer_char(&joined, '\n');
        text_buffer_append(&joined, json_string_value(text), json_string_length(text));
    }
    if (st == ST_OK) {
        *out = joined.state == ST_OK ? json_stringn(text_buffer_text(&joined), joined.len) : NULL;
        st = *out ? ST_OK : api_error_memory(err);
    }
    text_buffer_free(&joined);
    return st;
}

static status read_content(struct request_values *values, const json_t *message, size_t index, bool optional,
                           json_t **out, struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES];
    json_t *content = json_object_get(message, "content");
    if (content && json_is_string(content)) {
        *out = json_incref(content);
        return ST_OK;
    }
    snprintf(path, sizeof path, "messages[%zu].content", index);
    if (!request_given(content)) {
        if (!optional)
            return api_error_set(err, API_MISSING, path, "Missing required parameter: '%s'.", path);
        *out = json_string("");
        return *out ? ST_OK : api_error_memory(err);
    }
    if (json_is_array(content))
        return join_parts(values, content, path, out, err);
    return request_wrong_type(err, path, "a string or an array of text parts", content);
}

/* What templates look at: role, content and further texts; then what would change the answer and is not built. */
static const char *const members[] = { "role",       "content",       "name",  "tool_call_id", "reasoning_content",
                                       "tool_calls", "function_call", "audio", "refusal",      NULL };
enum { FIRST_FURTHER = 2, FIRST_REFUSED = 5 };

static status refuse_members(const json_t *message, size_t index, struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES];
    for (size_t i = FIRST_REFUSED; members[i]; i++) {
        const json_t *value = request_given(json_object_get(message, members[i]));
        if (!value || (json_is_array(value) && json_array_size(value) == 0))
            continue;
        snprintf(path, sizeof path, "messages[%zu].%s", index, members[i]);
        return api_error_set(err, API_UNSUPPORTED, path, "Unsupported parameter: '%s' is not supported by this server.",
                             path);
    }
    return ST_OK;
}

static status read_role(const json_t *message, size_t index, const char **out, struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES], shown[SHOWN_BYTES];
    const json_t *role = json_object_get(message, "role");
    *out = role && json_is_string(role) ? find_role(role) : NULL;
    if (*out)
        return ST_OK;
    snprintf(path, sizeof path, "messages[%zu].role", index);
    if (!request_given(role))
        return api_error_set(err, API_MISSING, path, "Missing required parameter: '%s'.", path);
    if (!json_is_string(role))
        return request_wrong_type(err, path, "a string", role);
    return api_error_set(err, API_WRONG_VALUE, path,
                         "Invalid value for '%s': '%s' is not one of 'system', 'developer', 'user', 'assistant' and "
                         "'tool'.",
                         path, request_show(role, shown, sizeof shown));
}

static status copy_further(const json_t *message, const char *path, json_t *copy, struct api_error *err)
{
    char field[API_ERROR_PARAM_BYTES];
    for (size_t i = FIRST_FURTHER; i < FIRST_REFUSED; i++) {
        json_t *value = json_object_get(message, members[i]);
        if (!request_given(value))
            continue;
        snprintf(field, sizeof field, "%.90s.%s", path, members[i]);
        if (!json_is_string(value))
            return request_wrong_type(err, field, "a string", value);
        if (json_object_set(copy, members[i], value) != 0)
            return api_error_memory(err);
    }
    return ST_OK;
}

/* One message as templates want it, all of it texts. */
static status read_message(struct request_values *values, const json_t *message, size_t index, json_t *list,
                           struct api_error *err)
{
    char path[API_ERROR_PARAM_BYTES];
    const char *role = NULL;
    json_t *content = NULL;
    snprintf(path, sizeof path, "messages[%zu]", index);
    if (!json_is_object(message))
        return request_wrong_type(err, path, "an object", message);
    status st = read_role(message, index, &role, err);
    if (st == ST_OK)
        st = refuse_members(message, index, err);
    if (st == ST_OK) {
        ASSERT(role);
        st = read_content(values, message, index, !strcmp(role, "assistant"), &content, err);
    }
    if (st != ST_OK)
        return st;
    json_t *copy = json_object();
    bool good = copy && json_object_set_new(copy, "role", json_string(role)) == 0;
    good = good && json_object_set(copy, "content", content) == 0 && json_array_append(list, copy) == 0;
    st = good ? copy_further(message, path, copy, err) : api_error_memory(err);
    json_decref(content);
    json_decref(copy);
    request_ignore_others(values, path, message, members);
    return st;
}

static status read_messages(struct request_values *values, json_t *list, struct api_error *err)
{
    const json_t *messages = values->messages;
    size_t i;
    json_t *message;
    if (!json_is_array(messages))
        return request_wrong_type(err, "messages", "an array", messages);
    if (json_array_size(messages) == 0)
        return api_error_set(err, API_WRONG_VALUE, "messages", "Invalid value for 'messages': the list is empty.");
    if (json_array_size(messages) > REQUEST_MAX_MESSAGES)
        return api_error_set(err, API_WRONG_VALUE, "messages",
                             "Invalid value for 'messages': %zu messages, at most %d are allowed.",
                             json_array_size(messages), REQUEST_MAX_MESSAGES);
    json_array_foreach((json_t *)(uintptr_t)messages, i, message)
    {
        status st = read_message(values, message, i, list, err);
        if (st != ST_OK)
            return st;
    }
    return ST_OK;
}

/* They win over what the router gives a template, so none of that may be among them: a conversation or an end of
 * answer that no check has seen. The latter three are arguments of apply_chat_template, not variables. */
static status check_variables(const json_t *variables, struct api_error *err)
{
    static const char *const arguments[] = { "chat_template", "continue_final_message", "tokenize" };
    char path[API_ERROR_PARAM_BYTES];
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)variables, name, value)
    {
        bool refused = chat_template_sets(name);
        for (size_t i = 0; i < sizeof arguments / sizeof *arguments; i++)
            refused = refused || !strcmp(arguments[i], name);
        if (!refused)
            continue;
        snprintf(path, sizeof path, "chat_template_kwargs.%s", name);
        return api_error_set(err, API_UNSUPPORTED, path,
                             "Unsupported parameter: '%s' is set by this server and cannot be replaced.", path);
    }
    return ST_OK;
}

static status render(const struct served_model *model, const struct request_values *values, const json_t *list,
                     char **text, size_t *len, struct api_error *err)
{
    struct error why;
    struct chat_template_input in = {
        .messages = list,
        .variables = values->chat_template_kwargs,
        .bos_token = tokenizer_bos_text(model->tokenizer),
        .eos_token = tokenizer_eos_text(model->tokenizer),
        .add_generation_prompt = values->add_generation_prompt,
        .now = time(NULL),
    };
    status st = chat_template_render(model->chat_template, &in, text, len, &why);
    if (st == ST_NO_MEMORY)
        return api_error_memory(err);
    if (st != ST_OK)
        return api_error_set(err, API_WRONG_VALUE, "messages",
                             "The model's chat template refuses these messages: %.400s", why.text);
    return ST_OK;
}

status request_render(const struct served_model *model, struct request_values *values, char **text, size_t *len,
                      struct api_error *err)
{
    if (!model->chat_template)
        return api_error_set(err, API_UNSUPPORTED, "messages",
                             "The model '%s' has no chat template; use /v1/completions.", model->name);
    status st = check_variables(values->chat_template_kwargs, err);
    if (st != ST_OK)
        return st;
    json_t *list = json_array();
    st = list ? read_messages(values, list, err) : api_error_memory(err);
    if (st == ST_OK)
        st = render(model, values, list, text, len, err);
    json_decref(list);
    return st;
}
