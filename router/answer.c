#include "router/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "router/answer_write.h"

#define DRAIN_BYTES 16384 /* written at a time when a slow client reads again */

struct answer {
    struct call *call;
    struct request *request;
    struct choice *choices; /* the request's arena holds them */
    uint32_t n_choices, n_initialised, n_over;
    bool begun;   /* the stream's head is sent */
    bool blocked; /* the client takes nothing: tokens are held */
    bool broken;  /* memory ran out while making text */
    struct answer_head head;
    struct answer_usage usage;
    struct metric *generated, *first_token;
};

enum progress { GOES_ON, BLOCKED, GONE };

static struct api *api_of(const struct answer *a)
{
    return a->call->api;
}

/* ---- what the log will tell -------------------------------------------------------------- */

static void record_worker(struct answer *a, const struct choice *c)
{
    struct call_record *record = &a->call->record;
    const char *id = c->flow ? flow_worker_id(c->flow) : c->timing.decode_worker;
    if (c->index == 0 && id[0] && strcmp(record->worker, id) != 0)
        text_copy(record->worker, sizeof record->worker, id);
}

static void record_key(struct answer *a, const struct choice *c)
{
    if (c->index > 0)
        return;
    a->call->record.key = flow_key(c->flow);
    a->call->record.has_key = true;
}

static void record_answer(struct answer *a)
{
    static const char *const finishes[] = { [CHOICE_STOP] = "stop", [CHOICE_LENGTH] = "length" };
    struct call_record *record = &a->call->record;
    text_copy(record->model, sizeof record->model, a->request->name);
    record->choices = a->n_choices;
    record->prompt_tokens = a->usage.prompt_tokens;
    record->completion_tokens = a->usage.completion_tokens;
    if (a->n_initialised == 0)
        return;
    record->finish = finishes[a->choices[0].finish];
    record_worker(a, &a->choices[0]);
}

static void answer_free(struct answer *a)
{
    record_answer(a);
    a->call->answer = NULL;
    for (uint32_t i = 0; i < a->n_initialised; i++)
        choice_free(&a->choices[i]);
    answer_head_free(&a->head);
    request_free(&a->request);
    free(a);
}

static void cancel_choices(struct answer *a, const char *reason)
{
    for (uint32_t i = 0; i < a->n_initialised; i++) {
        record_worker(a, &a->choices[i]);
        flow_cancel(&a->choices[i].flow, reason);
    }
}

void answer_abandon(struct answer **answer)
{
    struct answer *a = *answer;
    *answer = NULL;
    cancel_choices(a, "client_gone");
    answer_free(a);
}

/* ---- from tokens to what is written ------------------------------------------------- */

static void begin_stream(struct answer *a)
{
    struct http_exchange *x = a->call->x;
    a->begun = true;
    call_headers(a->call, a->request);
    http_header_add(x, "Cache-Control", "no-cache");
    http_header_add(x, "X-Accel-Buffering", "no");
    http_stream_begin(x, 200, "text/event-stream; charset=utf-8");
}

static void open_choice(struct answer *a, struct choice *c)
{
    if (c->opened || !a->request->stream)
        return;
    c->opened = true;
    answer_write_opening(&a->head, c, &a->usage, &api_of(a)->out);
}

static struct text_buffer *piece_of(struct answer *a, struct choice *c)
{
    if (!a->request->stream)
        return &c->text;
    text_buffer_clear(&api_of(a)->piece);
    return &api_of(a)->piece;
}

/* One event, when there is something to tell. */
static void write_piece(struct answer *a, struct choice *c)
{
    const struct text_buffer *piece = &api_of(a)->piece;
    uint32_t n = choice_scored_ready(c);
    if (!a->request->stream || (piece->len == 0 && n == 0))
        return;
    answer_write_piece(&a->head, c, piece, n, &a->usage, &api_of(a)->out);
    token_queue_drop(&c->scored, n);
}

static void close_choice(struct answer *a, struct choice *c)
{
    a->n_over++;
    if (c->flow) { /* a stop string */
        struct flow_timing timing;
        flow_timing(c->flow, &timing);
        choice_keep_timing(c, &timing, true);
        snprintf(c->timing.decode_worker, sizeof c->timing.decode_worker, "%s", flow_worker_id(c->flow));
        flow_cancel(&c->flow, "stop_string");
    }
    c->flow_over = true;
    if (a->request->stream)
        answer_write_closing(&a->head, c, a->call->started_us, &a->usage, &api_of(a)->out);
}

static void take_token(struct answer *a, struct choice *c, const struct token_view *token)
{
    open_choice(a, c);
    a->usage.completion_tokens++;
    if (choice_take(c, token, piece_of(a, c)) != ST_OK)
        a->broken = true;
    write_piece(a, c);
    if (c->finish != CHOICE_GOES_ON)
        close_choice(a, c);
}

static void end_choice(struct answer *a, struct choice *c)
{
    open_choice(a, c);
    choice_end(c, c->flow_finish, piece_of(a, c));
    write_piece(a, c);
    close_choice(a, c);
}

/* ---- writing --------------------------------------------------------------------------- */

static void count_tokens(struct answer *a)
{
    metric_add(a->generated, (int64_t)a->usage.completion_tokens);
}

static void fail(struct answer *a, const struct api_error *err)
{
    struct call *call = a->call;
    bool begun = a->begun;
    cancel_choices(a, "failed");
    count_tokens(a);
    answer_free(a);
    if (!begun) {
        call_fail(call, err);
        return;
    }
    struct text_buffer *out = &call->api->out;
    text_buffer_clear(out);
    answer_write_error_event(err, out);
    if (http_stream_write(call->x, out->data, out->len) != ST_CLOSED)
        http_stream_abort(call->x);
    else
        http_on_gone(call->x, NULL, NULL);
    call_end(call, api_error_status(err));
}

static void fail_for_memory(struct answer *a)
{
    struct api_error err;
    (void)api_error_set(&err, API_INTERNAL, NULL, "The answer is larger than this server can hold.");
    fail(a, &err);
}

static void finish_stream(struct answer *a)
{
    struct call *call = a->call;
    struct text_buffer *out = &call->api->out;
    answer_write_end(&a->head, &a->usage, out);
    count_tokens(a);
    answer_free(a);
    if (http_stream_write(call->x, out->data, out->len) == ST_CLOSED) {
        http_on_writable(call->x, NULL, NULL);
        return; /* on_gone follows and ends the call */
    }
    http_stream_end(call->x);
    call_end(call, 200);
}

/* Only with --debug-extensions. A stream's head goes out before it is known. */
static void add_cache_header(const struct answer *a)
{
    char text[128];
    size_t n = 0;
    if (!api_of(a)->options.config->debug_extensions)
        return;
    for (int i = 0; i < KV_TIER_COUNT; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s=%llu", i ? " " : "", cached_tokens_tier((enum kv_tier)i),
                              (unsigned long long)a->usage.cached.by_tier[i]);
    http_header_add(a->call->x, "x-baton-cache", text);
}

static void finish_body(struct answer *a)
{
    struct call *call = a->call;
    struct text_buffer *out = &call->api->out;
    bool broken = false;
    text_buffer_clear(out);
    for (uint32_t i = 0; i < a->n_choices; i++)
        broken = broken || a->choices[i].text.state != ST_OK || a->choices[i].hashes.state != ST_OK;
    if (broken) {
        fail_for_memory(a);
        return;
    }
    answer_write_body(&a->head, a->choices, a->n_choices, call->started_us, &a->usage, out);
    count_tokens(a);
    call_headers(call, a->request);
    add_cache_header(a);
    answer_free(a);
    call_respond(call, out);
}

/* Sends what is in the scratch buffer; ends the answer when all choices are over. */
static enum progress flush(struct answer *a)
{
    struct text_buffer *out = &api_of(a)->out;
    if (a->broken || out->state != ST_OK || api_of(a)->piece.state != ST_OK) {
        text_buffer_clear(out);
        text_buffer_clear(&api_of(a)->piece);
        fail_for_memory(a);
        return GONE;
    }
    bool over = a->n_over == a->n_choices;
    if (!a->request->stream) {
        if (over)
            finish_body(a);
        return over ? GONE : GOES_ON;
    }
    if (!a->begun && (out->len || over))
        begin_stream(a);
    if (over) {
        finish_stream(a);
        return GONE;
    }
    if (out->len && http_stream_write(a->call->x, out->data, out->len) != ST_OK) {
        a->blocked = true; /* or lost: then on_gone follows */
        metric_add(metrics_series(api_of(a)->options.metrics, &router_metric_table, ROUTER_BLOCKED, NULL), 1);
    }
    return a->blocked ? BLOCKED : GOES_ON;
}

/* ---- a slow client reads again ------------------------------------------------------------ */

/* Turns held tokens of a choice into events, up to DRAIN_BYTES. True: there was something to do. */
static bool drain_choice(struct answer *a, struct choice *c)
{
    struct token_view token;
    bool some = false;
    while (c->held.n && c->finish == CHOICE_GOES_ON && api_of(a)->out.len < DRAIN_BYTES) {
        token_queue_pop(&c->held, &token);
        take_token(a, c, &token);
        some = true;
    }
    if (c->flow_over && c->finish == CHOICE_GOES_ON && !c->held.n) {
        end_choice(a, c);
        some = true;
    }
    return some;
}

static void on_writable(void *arg)
{
    struct answer *a = arg;
    bool some = true;
    a->blocked = false;
    while (some) {
        some = false;
        text_buffer_clear(&api_of(a)->out);
        for (uint32_t i = 0; i < a->n_choices; i++)
            some = drain_choice(a, &a->choices[i]) || some;
        if (some && flush(a) != GOES_ON)
            return;
    }
}

/* ---- from the flows ------------------------------------------------------------------------- */

static void note_first_token(struct answer *a, struct choice *c)
{
    if (!c->timing.first_token_us)
        c->timing.first_token_us = clock_now_us();
    if (a->call->record.first_token_us)
        return;
    a->call->record.first_token_us = c->timing.first_token_us;
    metric_observe_us(a->first_token, c->timing.first_token_us - a->call->started_us);
}

/* A prompt counts once, however many choices it has: as its first choice found it. */
static void count_cached(struct answer *a, const struct cached_tokens *cached)
{
    cached_tokens_add(&a->usage.cached, cached);
    for (int i = 0; i < KV_TIER_COUNT; i++)
        if (cached->by_tier[i])
            metric_add(metrics_series(api_of(a)->options.metrics, &router_metric_table, ROUTER_CACHED_TOKENS,
                                      (const char *[]){ a->request->model->name, cached_tokens_tier((enum kv_tier)i) }),
                       (int64_t)cached->by_tier[i]);
}

static void on_timing(void *arg, const Baton__Timing *timing)
{
    struct choice *c = arg;
    bool first = !c->timing.from_worker && !c->timing.first_token_us;
    choice_keep_worker_timing(c, timing);
    if (first && c->index % c->request->n == 0)
        count_cached(c->answer, &c->timing.cached);
}

static void on_tokens(void *arg, uint32_t position, const Baton__Token *const *tokens, size_t n)
{
    struct choice *c = arg;
    struct answer *a = c->answer;
    struct token_view token;
    (void)position;
    note_first_token(a, c);
    record_worker(a, c);
    text_buffer_clear(&api_of(a)->out);
    for (size_t i = 0; i < n && c->finish == CHOICE_GOES_ON; i++) {
        token_view_read(tokens[i], &token);
        if (!a->blocked && !c->held.n)
            take_token(a, c, &token);
        else if (token_queue_push(&c->held, &token) != ST_OK)
            a->broken = true;
    }
    (void)flush(a);
}

static void on_finish(void *arg, Baton__Finish finish, const struct flow_timing *timing)
{
    struct choice *c = arg;
    struct answer *a = c->answer;
    c->flow = NULL;
    c->flow_over = true;
    c->flow_finish = finish == BATON__FINISH__FINISH_STOP ? CHOICE_STOP : CHOICE_LENGTH;
    choice_keep_timing(c, timing, false);
    if (a->blocked || c->held.n)
        return;
    text_buffer_clear(&api_of(a)->out);
    end_choice(a, c);
    (void)flush(a);
}

static void on_error(void *arg, enum flow_error error, const char *text)
{
    static const enum api_error_kind kinds[] = {
        [FLOW_INVALID] = API_REFUSED,   [FLOW_NO_WORKER] = API_NO_WORKER, [FLOW_BUSY] = API_QUEUE_FULL,
        [FLOW_DEADLINE] = API_DEADLINE, [FLOW_INTERNAL] = API_INTERNAL,
    };
    struct choice *c = arg;
    struct api_error err;
    c->flow = NULL;
    if (error == FLOW_NO_WORKER)
        (void)api_error_set(&err, API_NO_WORKER, NULL, "The model '%s' cannot be served now: %s.", c->request->name,
                            text);
    else
        (void)api_error_sentence(&err, kinds[error], text);
    fail(c->answer, &err);
}

static const struct flow_callbacks flow_callbacks = { on_timing, on_tokens, on_finish, on_error };

/* ---- starting ---------------------------------------------------------------------------------- */

/* Drawn where the client gave none. Not a secret: it only has to differ (splitmix64). */
static uint64_t draw_seed(const struct call *call)
{
    uint64_t x = call->api->options.incarnation + call->number * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static status submit_choice(struct answer *a, struct choice *c, uint64_t seed, uint32_t max_tokens)
{
    const struct request *r = a->request;
    struct call *call = a->call;
    struct flow_request flow = {
        .model = r->model->name,
        .adapter = r->adapter_id,
        .prompt = c->prompt->tokens.ids,
        .n_prompt = (uint32_t)c->prompt->tokens.n,
        .sampling = r->sampling,
        .route = r->route,
        .no_cache = r->no_cache,
        .priority = r->priority,
        .salt = r->salt,
        .deadline_us = call->started_us + api_of(a)->options.config->deadline,
        .trace = call->trace,
        .callbacks = &flow_callbacks,
        .arg = c,
    };
    flow.sampling.seed = seed;
    flow.sampling.choice = c->index % r->n;
    flow.sampling.max_tokens = max_tokens;
    c->timing.submitted_us = clock_now_us();
    status st = flow_submit(api_of(a)->options.flows, &flow, &c->flow);
    if (st == ST_OK)
        record_key(a, c);
    return st;
}

static status start_choices(struct answer *a, struct api_error *err)
{
    struct request *r = a->request;
    uint64_t seed = r->has_seed ? r->sampling.seed : draw_seed(a->call);
    uint32_t most = call_max_model_len(a->call, r->model), max_tokens = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) {
        struct choice *c = &a->choices[i];
        const struct request_prompt *prompt = &r->prompts[i / r->n];
        struct error why;
        if (request_fit(r, prompt, most, (uint32_t)api_of(a)->options.config->default_max_tokens, &max_tokens, err) !=
            ST_OK)
            return ST_INVALID;
        struct sampling checked = r->sampling;
        checked.max_tokens = max_tokens;
        if (sampling_check(&checked, r->model->n_vocab, &why) != ST_OK)
            return api_error_set(err, API_WRONG_VALUE, NULL, "Invalid value: %s.", why.text);
        a->n_initialised = i + 1;
        status st = choice_init(c, a, r, i);
        if (st == ST_OK && max_tokens > 0)
            st = submit_choice(a, c, seed, max_tokens);
        if (st != ST_OK)
            return api_error_set(err, API_QUEUE_FULL, NULL, "There is not enough memory for another request.");
        if (max_tokens == 0) { /* only the prompt's text was wanted */
            c->flow_over = true;
            c->flow_finish = CHOICE_LENGTH;
        }
    }
    return ST_OK;
}

static void find_metrics(struct answer *a)
{
    struct metrics *m = api_of(a)->options.metrics;
    const char *model = a->request->model->name;
    a->generated = metrics_series(m, &router_metric_table, ROUTER_TOKENS, (const char *[]){ model, "answer" });
    a->first_token = metrics_series(m, &router_metric_table, ROUTER_FIRST_TOKEN_SECONDS, (const char *[]){ model });
    metric_add(metrics_series(m, &router_metric_table, ROUTER_TOKENS, (const char *[]){ model, "prompt" }),
               (int64_t)a->usage.prompt_tokens);
}

static void end_empty_choices(struct answer *a)
{
    bool some = false;
    text_buffer_clear(&api_of(a)->out);
    for (uint32_t i = 0; i < a->n_choices; i++)
        if (a->choices[i].flow_over) {
            end_choice(a, &a->choices[i]);
            some = true;
        }
    if (some)
        (void)flush(a);
}

static struct answer *make_answer(struct call *call, struct request *request)
{
    char id[CALL_ID_BYTES];
    struct answer *a = calloc(1, sizeof *a);
    uint32_t n = request->n_prompts * request->n;
    struct choice *choices = a ? arena_take(request->arena, n * sizeof *choices) : NULL;
    if (!choices) {
        free(a);
        return NULL;
    }
    *a = (struct answer){ .call = call, .request = request, .choices = choices, .n_choices = n };
    call_id(call, request->kind == REQUEST_CHAT ? "chatcmpl-" : "cmpl-", id);
    answer_head_init(&a->head, id, (int64_t)time(NULL), request);
    for (uint32_t i = 0; i < request->n_prompts; i++)
        a->usage.prompt_tokens += request->prompts[i].tokens.n;
    find_metrics(a);
    return a;
}

void answer_start(struct call *call, struct request *request)
{
    struct api_error err;
    struct answer *a = make_answer(call, request);
    if (!a) {
        request_free(&request);
        (void)api_error_set(&err, API_QUEUE_FULL, NULL, "There is not enough memory for another request.");
        call_fail(call, &err);
        return;
    }
    call->answer = a;
    http_on_writable(call->x, on_writable, a);
    if (start_choices(a, &err) != ST_OK)
        fail(a, &err);
    else
        end_empty_choices(a);
}
