/* api.h - the HTTP API: OpenAI's chat and completions, models, vLLM's tokenize
 * and detokenize. Admission before a body is read, parsing (large bodies on the pool), one flow
 * for each choice, one JSON body or server-sent events. Loop thread only. */
#ifndef BATON_ROUTER_API_H
#define BATON_ROUTER_API_H

#include <stdbool.h>
#include <stdint.h>

#include "common/http_server.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "kvbm/salt_key.h"
#include "router/fleet.h"
#include "router/flow.h"
#include "router/models.h"
#include "router/router_config.h"
#include "router/tokenize_pool.h"

struct api;

struct api_options { /* all borrowed for the life of the api */
    struct loop *loop;
    const struct router_config *config;
    const struct models *models;
    struct fleet *fleet;
    struct flows *flows;
    struct tokenize_pool *pool; /* NULL: the loop parses everything */
    struct metrics *metrics;
    uint64_t incarnation;
    const struct salt_key *salt_key; /* NULL: none */
    /* Answers /health, /healthz, /readyz and /metrics; false: it is no such path. */
    bool (*answer_health)(void *ctx, struct http_exchange *x);
    void *ctx;
};

MUST_CHECK status api_create(const struct api_options *options, struct api **out, struct error *err);
/* Streams break, their choices are cancelled. Jobs of the pool that are under way end later, into nothing. */
void api_destroy(struct api **api);
uint16_t api_port(const struct api *api);
/* Accepts no more; what runs goes on to its end. */
void api_drain(struct api *api);
uint32_t api_held(const struct api *api); /* requests that are not answered yet */
uint64_t api_held_bytes(const struct api *api);
void api_http_stats(const struct api *api, struct http_server_stats *out);

#endif
