#include <stdio.h>
#include <string.h>

#include "virtual_internal.h"

static void check_token(const struct vc *vc, struct vc_request *r, uint32_t position, uint32_t id)
{
    if (position != r->n_tokens || vc_next_token(vc, r->tokens, r->n_tokens) != id)
        r->wrong++;
    if (r->n_tokens < r->n_prompt + r->max_tokens)
        r->tokens[r->n_tokens++] = id;
    else
        r->wrong++;
}

static void on_timing(void *arg, const Baton__Timing *timing)
{
    struct vc_request *r = ((struct client *)arg)->request;
    r->timed = timing->decode_worker[0];
    r->cached = r->computed = 0;
    for (size_t tier = 0; tier < timing->n_cached_tokens; tier++)
        r->cached += r->by_tier[tier] = timing->cached_tokens[tier];
    r->pull_us = (uint32_t)timing->pull_us;
    r->computed = timing->computed_tokens;
    r->remote = !strcmp(timing->route, "remote");
}

static void on_tokens(void *arg, uint32_t position, const Baton__Token *const *tokens, size_t n)
{
    struct vc_request *r = ((struct client *)arg)->request;
    r->wrong += !r->timed;
    for (size_t i = 0; i < n; i++)
        check_token(((struct client *)arg)->vc, r, position + (uint32_t)i, tokens[i]->id);
}

static void on_finish(void *arg, Baton__Finish finish, const struct flow_timing *timing)
{
    struct vc_request *r = ((struct client *)arg)->request;
    r->ended = true;
    r->flow = NULL;
    r->wrong += finish != BATON__FINISH__FINISH_LENGTH || !r->timed || !timing->attempts ||
                r->n_tokens != r->n_prompt + r->max_tokens;
}

void client_cancel(struct vc_request *r)
{
    if (r->ended)
        return;
    r->ended = r->cancelled = true;
    flow_cancel(&r->flow, "client_gone");
}

static void on_error(void *arg, enum flow_error error, const char *text)
{
    struct vc *vc = ((struct client *)arg)->vc;
    struct vc_request *r = ((struct client *)arg)->request;
    r->ended = r->failed = true;
    r->flow = NULL;
    r->code = error;
    snprintf(r->error, sizeof r->error, "%d: %s", (int)error, text);
    for (uint32_t i = 0; i < vc->n_requests && r->choices_of; i++)
        if (vc->requests[i].choices_of == r->choices_of)
            client_cancel(&vc->requests[i]);
}

static const struct flow_callbacks client_callbacks = { on_timing, on_tokens, on_finish, on_error };

void client_submit(struct vc *vc, struct vc_request *r)
{
    struct flow_request q = {
        .model = "m",
        .adapter = "",
        .prompt = r->tokens,
        .n_prompt = r->n_prompt,
        .sampling = { .max_tokens = r->max_tokens,
                      .top_p = 1,
                      .repetition_penalty = 1,
                      .n_logprobs = -1,
                      .want_hash = true },
        .route = r->route,
        .priority = r->priority,
        .no_cache = r->no_cache,
        .deadline_us = vc->now + (r->deadline_us ? r->deadline_us : 600000000),
        .callbacks = &client_callbacks,
        .arg = &vc->clients[r - vc->requests],
    };
    ASSERT(flow_submit(vc->nodes[0].flows, &q, &r->flow) == ST_OK);
}
