/* request.h - a checked request of a client: which model, which prompts as token ids, how to
 * sample, what to answer. Reading is pure and may be long (template, tokenizer),
 * so it may run on any thread; afterwards one thread owns the request. */
#ifndef BATON_ROUTER_REQUEST_H
#define BATON_ROUTER_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"
#include "engine/sampling.h"
#include "kvbm/block_hash.h"
#include "kvbm/salt_key.h"
#include "proto/baton.pb-c.h"
#include "proto/instance.h"
#include "router/models.h"
#include "router/request_values.h"
#include "router/stop_match.h"

#define REQUEST_MAX_CHOICES    256               /* prompts times n */
#define REQUEST_ARENA_BYTES    ((size_t)8 << 20) /* beside token ids and prompt texts */
#define REQUEST_DEFAULT_TOKENS 16                /* completions without max_tokens */
#define REQUEST_MAX_SALT_BYTES 1024

struct request_rules {
    const struct models *models;
    uint32_t max_choices;
    bool debug_extensions;
    const struct salt_key *salt_key; /* NULL: none */
};

struct request_prompt {
    struct token_list tokens;
    char *text; /* with echo: malloc'ed; else NULL */
    size_t text_len;
};

struct request {
    enum request_kind kind;
    const struct served_model *model;
    const char *name;                        /* of the model as it was asked for: "MODEL" or "MODEL:ADAPTER" */
    const char *adapter;                     /* its name; "": none. Whether there is such a one the fleet knows */
    char adapter_id[INSTANCE_ADAPTER_BYTES]; /* "" until it was found there */
    struct arena *arena;                     /* of what follows */
    struct request_prompt *prompts;
    uint32_t n_prompts, n;    /* n answers for each */
    struct sampling sampling; /* choice, seed and max_tokens are set for each choice; bias, stop_ids: arena */
    bool has_seed, has_max_tokens;
    const char *max_tokens_name; /* of the member that said it; with has_max_tokens */
    struct stop_set stops;
    bool stream, include_usage, continuous_usage, echo, keep_special;
    bool return_strings;    /* /tokenize */
    int32_t priority;       /* lower is sooner */
    struct block_hash salt; /* of cache_salt; {0, 0}: none was given */
    Baton__Route route;
    bool no_cache, want_timing, want_baton;
    char ignored[REQUEST_IGNORED_BYTES];
};

MUST_CHECK status request_read(const struct request_rules *rules, enum request_kind kind, const char *body, size_t len,
                               struct request **out, struct api_error *err);
void request_free(struct request **request);

/* Tells that there is no such model; name is printable. Returns ST_INVALID. */
status request_no_model(const char *name, struct api_error *err);

/* Settles sampling.max_tokens of a prompt under max_model_len (prompt and answer together);
 * default_tokens: when the client did not say, 0: as many as fit; at most the model's own limit, which binds
 * nobody who says. API_TOO_LONG with the numbers. */
MUST_CHECK status request_fit(const struct request *request, const struct request_prompt *prompt,
                              uint32_t max_model_len, uint32_t default_tokens, uint32_t *max_tokens,
                              struct api_error *err);

#endif
