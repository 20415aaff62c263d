/* From a body to a checked request: small ones at once, large ones on the pool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "router/answer.h"
#include "router/api_call.h"

struct read_job {
    struct tokenize_job job; /* first */
    struct call *call;       /* NULL: the client is gone. Loop thread's */
    struct request_rules rules;
    enum request_kind kind;
    struct request *request;
    struct api_error err;
    status result;
    size_t len;
    char body[]; /* a copy: the exchange may end first */
};

/* Only here, on the loop's thread, may the fleet be asked. */
static bool find_adapter(struct call *call, struct request *request)
{
    const struct known_adapter *known = known_adapters_find(
        fleet_adapters(call->api->options.fleet), request->model->name, request->adapter, strlen(request->adapter));
    if (known)
        snprintf(request->adapter_id, sizeof request->adapter_id, "%s", known->id);
    return known != NULL;
}

static void go_on(struct call *call, struct request *request)
{
    if (request->adapter[0] && !find_adapter(call, request)) {
        struct api_error err;
        (void)request_no_model(request->name, &err);
        request_free(&request);
        call_fail(call, &err);
        return;
    }
    switch (request->kind) {
    case REQUEST_CHAT:
    case REQUEST_TEXT:
        answer_start(call, request);
        return;
    case REQUEST_TOKENS:
        call_tokenize(call, request);
        return;
    case REQUEST_IDS:
        call_detokenize(call, request);
        return;
    }
}

static void run(struct tokenize_job *arg)
{
    struct read_job *job = (struct read_job *)arg;
    job->result = request_read(&job->rules, job->kind, job->body, job->len, &job->request, &job->err);
}

/* A job that was never run has neither request nor call: the api is gone. */
static void done(struct tokenize_job *arg)
{
    struct read_job *job = (struct read_job *)arg;
    struct call *call = job->call;
    if (!call) {
        request_free(&job->request);
    } else {
        call->job = NULL;
        if (job->result == ST_OK)
            go_on(call, job->request);
        else
            call_fail(call, &job->err);
    }
    free(job);
}

static void submit(struct call *call, const char *body, size_t len)
{
    struct api_error err;
    struct read_job *job = malloc(sizeof *job + len);
    if (job) {
        *job = (struct read_job){ .job = { .run = run, .done = done },
                                  .call = call,
                                  .rules = call->api->rules,
                                  .kind = call->endpoint->kind,
                                  .result = ST_CANCELLED,
                                  .len = len };
        memcpy(job->body, body, len);
        if (tokenize_pool_submit(call->api->options.pool, &job->job) == ST_OK) {
            call->job = job;
            return;
        }
        free(job);
    }
    (void)api_error_set(&err, API_QUEUE_FULL, NULL, "The server is overloaded: too many large requests are waiting.");
    call_fail(call, &err);
}

void call_forget_job(struct call *call)
{
    if (call->job)
        call->job->call = NULL;
    call->job = NULL;
}

void call_read(struct call *call)
{
    struct api_error err;
    struct request *request = NULL;
    size_t len;
    const char *body = http_body(call->x, &len);
    if (call->api->options.pool && len > call->api->options.config->tokenize_inline) {
        submit(call, body, len);
        return;
    }
    if (request_read(&call->api->rules, call->endpoint->kind, body, len, &request, &err) == ST_OK)
        go_on(call, request);
    else
        call_fail(call, &err);
}
