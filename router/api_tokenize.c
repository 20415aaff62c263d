/* POST /tokenize and /detokenize, with vLLM's fields. */
#include <string.h>

#include "common/json_writer.h"
#include "router/api_call.h"
#include "router/listed_token.h"
#include "router/request_prompt.h"

static void write_strings(struct json_writer *w, const struct request *r, const struct token_list *tokens,
                          struct text_buffer *piece)
{
    json_write_array(w);
    for (size_t i = 0; i < tokens->n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(r->model->tokenizer, tokens->ids[i], &len);
        text_buffer_clear(piece);
        if (tokenizer_is_special(r->model->tokenizer, tokens->ids[i]))
            text_buffer_append(piece, bytes, len);
        else
            listed_token_write(bytes, len, piece);
        json_write_bytes(w, text_buffer_text(piece), piece->len);
    }
    json_write_end(w);
}

void call_tokenize(struct call *call, struct request *request)
{
    struct api *api = call->api;
    const struct token_list *tokens = &request->prompts[0].tokens;
    struct json_writer w;
    text_buffer_clear(&api->out);
    json_writer_init(&w, &api->out);
    json_write_object(&w);
    json_field_uint(&w, "count", tokens->n);
    json_field_uint(&w, "max_model_len", call_max_model_len(call, request->model));
    json_write_key(&w, "tokens");
    json_write_array(&w);
    for (size_t i = 0; i < tokens->n; i++)
        json_write_uint(&w, tokens->ids[i]);
    json_write_end(&w);
    json_write_key(&w, "token_strs");
    if (request->return_strings)
        write_strings(&w, request, tokens, &api->piece);
    else
        json_write_null(&w);
    json_write_end(&w);
    call_headers(call, request);
    request_free(&request);
    call_respond(call, &api->out);
}

void call_detokenize(struct call *call, struct request *request)
{
    struct api *api = call->api;
    const struct token_list *tokens = &request->prompts[0].tokens;
    struct json_writer w;
    text_buffer_clear(&api->piece);
    request_detokenize(request->model, tokens->ids, tokens->n, true, &api->piece);
    text_buffer_clear(&api->out);
    json_writer_init(&w, &api->out);
    json_write_object(&w);
    json_write_key(&w, "prompt");
    json_write_bytes(&w, text_buffer_text(&api->piece), api->piece.len);
    json_write_end(&w);
    if (api->piece.state != ST_OK)
        api->out.state = api->piece.state;
    call_headers(call, request);
    request_free(&request);
    call_respond(call, &api->out);
}
