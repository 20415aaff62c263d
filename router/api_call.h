/* api_call.h - one request in the router, from its head to the end of its answer, as
 * the files of the API see it. */
#ifndef BATON_ROUTER_API_CALL_H
#define BATON_ROUTER_API_CALL_H

#include <sys/queue.h>

#include "proto/instance.h"
#include "router/api.h"
#include "router/request.h"

#define CALL_ID_PREFIX_BYTES  13 /* with the NUL */
#define CALL_ID_BYTES         (CALL_ID_PREFIX_BYTES + 2 * 16)
#define CALL_REQUEST_ID_BYTES 129
#define CALL_MODEL_BYTES      (sizeof((struct instance *)NULL)->model + INSTANCE_ADAPTER_NAME_BYTES) /* "MODEL:ADAPTER" */
#define CALL_MAX_PIECE_BYTES  ((size_t)256 << 20) /* of one answer's text or body */

struct answer;
struct read_job;
struct endpoint;

/* What the log tells of a generation; the answer writes it. Unknown: 0, NULL or "". */
struct call_record {
    bool has_key;
    struct request_key key;       /* of the first choice; those of the others follow it */
    char model[CALL_MODEL_BYTES]; /* as it was asked for */
    const char *finish;           /* of the first choice */
    uint32_t choices;
    uint64_t prompt_tokens, completion_tokens;
    uint64_t first_token_us; /* absolute */
    char worker[64];         /* the first choice's last one */
};

struct call {
    TAILQ_ENTRY(call) entry;
    struct api *api;
    struct http_exchange *x;
    const struct endpoint *endpoint;
    uint64_t started_us;
    uint64_t reserved; /* bytes of the body, as counted in held_bytes */
    uint64_t number;
    char request_id[CALL_REQUEST_ID_BYTES];
    struct trace_context trace;
    struct call_record record;
    struct read_job *job;  /* parsing on the pool */
    struct answer *answer; /* generating */
};
TAILQ_HEAD(call_list, call);

struct endpoint {
    const char *path;
    const char *name; /* of metrics and logs */
    const char *method;
    bool is_prefix;
    enum request_kind kind;                                /* POST */
    void (*get)(struct api *api, struct http_exchange *x); /* GET: answers at once */
};

struct api {
    struct api_options options;
    struct request_rules rules;
    struct http_server *server;
    struct call_list calls;
    uint32_t n_calls;
    uint64_t held_bytes;
    uint64_t next_number;
    bool draining;
    struct text_buffer out, piece; /* scratch of one callback */
};

/* Ids of answers: "chatcmpl-<router><number>". */
void call_id(const struct call *call, const char *prefix, char out[CALL_ID_BYTES]);
/* x-baton-ignored, where there is something to list. x-request-id stands in every answer. */
void call_headers(const struct call *call, const struct request *request);
/* The whole answer, after which the call is gone. */
void call_respond(struct call *call, const struct text_buffer *body);
void call_fail(struct call *call, const struct api_error *err);
/* The same after the exchange has been answered by other means: counts and frees. */
void call_end(struct call *call, int code);
/* How long a prompt and its answer may be together. */
uint32_t call_max_model_len(const struct call *call, const struct served_model *model);

/* api_log.c: the one line that a call leaves at info. */
void call_log(const struct call *call, int code, uint64_t took_us);

/* api_read.c: parses the body, here or on the pool, and goes on with it. */
void call_read(struct call *call);
/* The client is gone: a job under way ends into nothing. */
void call_forget_job(struct call *call);

/* api_tokenize.c: answers, frees the request. */
void call_tokenize(struct call *call, struct request *request);
void call_detokenize(struct call *call, struct request *request);

/* api_models.c */
void api_list_models(struct api *api, struct http_exchange *x);
void api_show_model(struct api *api, struct http_exchange *x);
/* api.c: an error without a call. */
void api_refuse(struct api *api, struct http_exchange *x, const char *name, const struct api_error *err);

#endif
