#include "router/request_prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/request_messages.h"

static status encode(const struct request *r, const char *text, size_t len, unsigned flags, const char *path,
                     struct request_prompt *out, struct api_error *err)
{
    status st = tokenizer_encode(r->model->tokenizer, text, len, flags, 0, &out->tokens);
    if (st == ST_NO_MEMORY)
        return api_error_memory(err);
    if (st != ST_OK)
        return api_error_set(err, API_WRONG_VALUE, path,
                             "Invalid value for '%s': its %zu bytes cannot be tokenised (%s).", path, len,
                             status_text(st));
    return ST_OK;
}

static status keep_text(struct request_prompt *prompt, const char *text, size_t len, struct api_error *err)
{
    prompt->text = malloc(len + 1);
    if (!prompt->text)
        return api_error_memory(err);
    memcpy(prompt->text, text, len);
    prompt->text[len] = '\0';
    prompt->text_len = len;
    return ST_OK;
}

void request_detokenize(const struct served_model *model, const uint32_t *ids, size_t n, bool keep_special,
                        struct text_buffer *out)
{
    struct detokenizer d;
    char piece[DETOKENIZER_MAX_BYTES(TOKENIZER_MAX_TOKEN_BYTES)];
    detokenizer_init(&d, model->tokenizer, keep_special);
    detokenizer_at_start(&d);
    for (size_t i = 0; i < n; i++)
        text_buffer_append(out, piece, detokenizer_push(&d, ids[i], piece));
    text_buffer_append(out, piece, detokenizer_finish(&d, piece));
}

status request_read_ids(const struct served_model *model, const json_t *list, const char *path, struct token_list *out,
                        struct api_error *err)
{
    char item_path[API_ERROR_PARAM_BYTES];
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)(uintptr_t)list, i, item)
    {
        bool good = json_is_integer(item) && json_integer_value(item) >= 0 &&
                    json_integer_value(item) < (json_int_t)model->n_vocab;
        if (good) {
            if (token_list_push(out, (uint32_t)json_integer_value(item)) != ST_OK)
                return api_error_memory(err);
            continue;
        }
        snprintf(item_path, sizeof item_path, "%.90s[%zu]", path, i);
        if (!json_is_integer(item))
            return request_wrong_type(err, item_path, "an integer", item);
        return api_error_set(err, API_WRONG_VALUE, item_path,
                             "Invalid value for '%s': token id %lld is not between 0 and %u.", item_path,
                             (long long)json_integer_value(item), model->n_vocab - 1);
    }
    return ST_OK;
}

static status read_text(const struct request *r, const struct request_values *values, const json_t *text,
                        const char *path, struct request_prompt *out, struct api_error *err)
{
    unsigned flags = TOKENIZE_SPECIAL | (values->add_special_tokens ? TOKENIZE_ADD_BOS : 0);
    status st = encode(r, json_string_value(text), json_string_length(text), flags, path, out, err);
    if (st == ST_OK && r->echo)
        st = keep_text(out, json_string_value(text), json_string_length(text), err);
    return st;
}

static status read_id_list(const struct request *r, const json_t *list, const char *path, struct request_prompt *out,
                           struct api_error *err)
{
    struct text_buffer text;
    status st = request_read_ids(r->model, list, path, &out->tokens, err);
    if (st != ST_OK || !r->echo)
        return st;
    text_buffer_init(&text, (size_t)1 << 30);
    request_detokenize(r->model, out->tokens.ids, out->tokens.n, r->keep_special, &text);
    st = text.state == ST_OK ? keep_text(out, text_buffer_text(&text), text.len, err) : api_error_memory(err);
    text_buffer_free(&text);
    return st;
}

static status take_prompts(struct request *r, size_t n, struct api_error *err)
{
    if (n * r->n > REQUEST_MAX_CHOICES)
        return api_error_set(
            err, API_WRONG_VALUE, "prompt",
            "Invalid value for 'prompt': %zu prompts with n = %u are %zu choices, at most %d are allowed.", n, r->n,
            n * r->n, REQUEST_MAX_CHOICES);
    r->prompts = arena_take(r->arena, n * sizeof *r->prompts);
    if (!r->prompts)
        return api_error_memory(err);
    r->n_prompts = (uint32_t)n;
    return ST_OK;
}

static status read_one(const struct request *r, const struct request_values *values, const json_t *item,
                       const char *path, struct request_prompt *out, struct api_error *err)
{
    if (json_is_string(item))
        return read_text(r, values, item, path, out, err);
    if (json_is_array(item))
        return read_id_list(r, item, path, out, err);
    return request_wrong_type(err, path, "a string or an array of token ids", item);
}

static status read_prompt(struct request *r, const struct request_values *values, struct api_error *err)
{
    const json_t *prompt = values->prompt;
    const json_t *first = json_is_array(prompt) ? json_array_get(prompt, 0) : NULL;
    char path[API_ERROR_PARAM_BYTES];
    status st;
    if (json_is_array(prompt) && !first)
        return api_error_set(err, API_WRONG_VALUE, "prompt", "Invalid value for 'prompt': the list is empty.");
    if (r->kind == REQUEST_TOKENS && !json_is_string(prompt))
        return request_wrong_type(err, "prompt", "a string", prompt);
    if (!json_is_array(prompt) || json_is_number(first)) {
        st = take_prompts(r, 1, err);
        return st == ST_OK ? read_one(r, values, prompt, "prompt", &r->prompts[0], err) : st;
    }
    st = take_prompts(r, json_array_size(prompt), err);
    for (uint32_t i = 0; st == ST_OK && i < r->n_prompts; i++) {
        snprintf(path, sizeof path, "prompt[%u]", i);
        st = read_one(r, values, json_array_get(prompt, i), path, &r->prompts[i], err);
    }
    return st;
}

static status read_chat(struct request *r, struct request_values *values, struct api_error *err)
{
    char *text = NULL;
    size_t len = 0;
    status st = take_prompts(r, 1, err);
    if (st == ST_OK)
        st = request_render(r->model, values, &text, &len, err);
    if (st == ST_OK) /* the template has written begin-of-text where the model wants it */
        st = encode(r, text, len, TOKENIZE_SPECIAL, "messages", &r->prompts[0], err);
    free(text);
    return st;
}

status request_read_prompts(struct request *request, struct request_values *values, struct api_error *err)
{
    status st = values->messages ? read_chat(request, values, err) : read_prompt(request, values, err);
    for (uint32_t i = 0; st == ST_OK && request->kind != REQUEST_TOKENS && i < request->n_prompts; i++)
        if (request->prompts[i].tokens.n == 0)
            st =
                api_error_set(err, API_WRONG_VALUE, values->messages ? "messages" : "prompt",
                              "Invalid value for '%s': the prompt is empty.", values->messages ? "messages" : "prompt");
    return st;
}
