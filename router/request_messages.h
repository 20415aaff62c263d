/* request_messages.h - a conversation, checked and rendered with the model's template. Pure; any thread. */
#ifndef BATON_ROUTER_REQUEST_MESSAGES_H
#define BATON_ROUTER_REQUEST_MESSAGES_H

#include "router/models.h"
#include "router/request_values.h"

#define REQUEST_MAX_MESSAGES 16384

/* *text is malloc'ed. Members that no template is given are added to what values list as ignored. */
MUST_CHECK status request_render(const struct served_model *model, struct request_values *values, char **text,
                                 size_t *len, struct api_error *err);

#endif
