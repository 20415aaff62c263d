/* request_prompt.h - what is to be continued, as token ids: from messages, or from `prompt` in
 * its four forms. Pure; any thread. */
#ifndef BATON_ROUTER_REQUEST_PROMPT_H
#define BATON_ROUTER_REQUEST_PROMPT_H

#include "router/request.h"

/* Fills in request->prompts; arena, model, kind and echo are set. */
MUST_CHECK status request_read_prompts(struct request *request, struct request_values *values, struct api_error *err);
/* The text of ids, appended; special tokens too when keep_special. ids are below the vocabulary's size. */
void request_detokenize(const struct served_model *model, const uint32_t *ids, size_t n, bool keep_special,
                        struct text_buffer *out);
/* A JSON array of ids that the model knows, appended to out; path names it in errors. */
MUST_CHECK status request_read_ids(const struct served_model *model, const json_t *list, const char *path,
                                   struct token_list *out, struct api_error *err);

#endif
