#include "bench/serve_run.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/clock.h"

#define FIRST_RECORDS 1024u
#define PROGRESS_US   UINT64_C(1000000)

/* One that lives: it waits for its time, or for a connection, or for an answer. */
struct conversation {
    LIST_ENTRY(conversation) all;
    TAILQ_ENTRY(conversation) ready;
    struct runner *runner;
    uint64_t id;
    uint32_t turn, n_turns;
    uint64_t due_us;
    struct timer timer;
    size_t record;                      /* of its last request */
    struct text_buffer history, answer; /* the answer only where there will be a further question */
    bool saw_done;
    char error[SERVE_ERROR_BYTES]; /* inside the stream */
};

struct runner {
    const struct serve_options *options;
    struct serve_run *run;
    struct conversation **owners; /* [room], by the load's number of the request, while its answer is under way */
    size_t room;
    struct loop *loop;
    struct load *load;
    struct event *signals[2];
    struct timer arrival, end, progress;
    LIST_HEAD(, conversation) all;
    TAILQ_HEAD(ready_list, conversation) ready;
    uint32_t n_live;
    uint64_t n_planned; /* requests that were sent or will be */
    uint64_t n_ended, n_failed;
    uint64_t next_id;
    double next_arrival_us;
    bool arrivals_over, is_over; /* nothing new is asked; all of it */
    uint64_t start_us;
    struct text_buffer text;
    status state; /* ST_OK, or why it could not go on */
};

static uint64_t now_of(const struct runner *r)
{
    return clock_now_us() - r->start_us;
}

static struct timers *timers_of(const struct runner *r)
{
    return loop_timers(r->loop);
}

/* ---- records ------------------------------------------------------------------------------- */

static status grow_records(struct runner *r)
{
    size_t room = r->room ? 2 * r->room : FIRST_RECORDS;
    struct serve_record *records = realloc(r->run->records, room * sizeof *records);
    if (!records)
        return ST_NO_MEMORY;
    r->run->records = records;
    struct conversation **owners = realloc(r->owners, room * sizeof *owners);
    if (!owners)
        return ST_NO_MEMORY;
    r->owners = owners;
    r->room = room;
    return ST_OK;
}

static void note_error(struct runner *r, enum serve_outcome outcome, const char *text)
{
    char *first = r->run->errors[outcome];
    if (!first[0])
        text_copy(first, SERVE_ERROR_BYTES, text);
}

static void finish_if_empty(struct runner *r)
{
    if (r->is_over || !r->arrivals_over || r->n_live > 0)
        return;
    r->is_over = true;
    load_stop(r->load);
}

static void give_up(struct runner *r, status why)
{
    r->state = why;
    loop_stop(r->loop);
}

/* NULL: no memory, and the run ends. */
static struct serve_record *add_record(struct runner *r, struct conversation *c)
{
    if (r->run->n == r->room && grow_records(r) != ST_OK) {
        give_up(r, ST_NO_MEMORY);
        return NULL;
    }
    c->record = r->run->n++;
    struct serve_record *record = &r->run->records[c->record];
    *record = (struct serve_record){ .due_us = c->due_us, .conversation = c->id, .turn = c->turn };
    return record;
}

/* ---- conversations ---------------------------------------------------------------------------- */

static void end_conversation(struct conversation *c)
{
    struct runner *r = c->runner;
    timer_cancel(timers_of(r), &c->timer);
    LIST_REMOVE(c, all);
    text_buffer_free(&c->history);
    text_buffer_free(&c->answer);
    free(c);
    r->n_live--;
}

static void not_sent(struct conversation *c, const char *why)
{
    struct runner *r = c->runner;
    struct serve_record *record = add_record(r, c);
    note_error(r, SERVE_NOT_SENT, why);
    r->n_failed++;
    r->n_ended++;
    if (record)
        record->outcome = SERVE_NOT_SENT;
    end_conversation(c);
}

static void on_due(void *arg)
{
    struct conversation *c = arg;
    struct runner *r = c->runner;
    if (load_idle(r->load) == 0)
        r->run->n_waited++;
    TAILQ_INSERT_TAIL(&r->ready, c, ready);
    load_wake(r->load);
}

static bool may_ask(const struct runner *r)
{
    return !r->arrivals_over && r->n_planned < r->options->n_requests;
}

/* The conversation's next question, at due_us. */
static void plan(struct conversation *c, uint64_t due_us)
{
    struct runner *r = c->runner;
    r->n_planned++;
    c->due_us = due_us;
    timer_set(timers_of(r), &c->timer, r->start_us + due_us, on_due, c);
    if (r->n_planned >= r->options->n_requests)
        r->arrivals_over = true;
}

static void start_conversation(struct runner *r, uint64_t due_us)
{
    struct conversation *c = calloc(1, sizeof *c);
    if (!c) {
        give_up(r, ST_NO_MEMORY);
        return;
    }
    *c = (struct conversation){ .runner = r, .id = r->next_id++ };
    if (r->next_id >= serve_traffic_conversations(r->options->traffic))
        r->arrivals_over = true;
    c->n_turns = serve_traffic_turns(r->options->traffic, c->id);
    text_buffer_init(&c->history, SERVE_MAX_HISTORY);
    text_buffer_init(&c->answer, SERVE_MAX_HISTORY);
    LIST_INSERT_HEAD(&r->all, c, all);
    r->n_live++;
    if (r->n_live > SERVE_MAX_LIVE) {
        r->n_planned++;
        c->due_us = due_us;
        not_sent(c, "too many requests wait for a connection");
    } else {
        plan(c, due_us);
    }
}

/* ---- questions ----------------------------------------------------------------------------------- */

static void say(struct conversation *c, const char *role)
{
    struct runner *r = c->runner;
    serve_body_say(&r->options->api, role, text_buffer_text(&r->text), r->text.len, &c->history);
    if (r->text.state != ST_OK)
        c->history.state = r->text.state;
    text_buffer_clear(&r->text);
}

/* Tokens of what is new. */
static uint64_t ask(struct conversation *c)
{
    struct runner *r = c->runner;
    const struct serve_options *o = r->options;
    uint64_t n = 0;
    if (c->turn == 0)
        n = serve_traffic_prefix(o->traffic, o->words, c->id, &r->text);
    if (n > 0)
        say(c, "system");
    n += serve_traffic_question(o->traffic, o->words, c->id, c->turn, &r->text);
    say(c, "user");
    return n;
}

static enum load_next next_request(void *ctx, uint64_t number, const char **path, struct text_buffer *body)
{
    struct runner *r = ctx;
    struct conversation *c;
    while ((c = TAILQ_FIRST(&r->ready)) && r->state == ST_OK) {
        TAILQ_REMOVE(&r->ready, c, ready);
        uint64_t n = ask(c);
        if (c->history.state != ST_OK) {
            not_sent(c, "the conversation is too long to be sent");
            continue;
        }
        struct serve_record *record = add_record(r, c);
        if (!record)
            return LOAD_NO_MORE;
        r->owners[number] = c;
        record->wanted_input = (uint32_t)n;
        record->wanted_output = serve_traffic_output(r->options->traffic, c->id, c->turn);
        c->saw_done = false;
        c->error[0] = '\0';
        text_buffer_clear(&c->answer);
        *path = r->options->path;
        serve_body_write(&r->options->api, &c->history, record->wanted_output, body);
        return LOAD_REQUEST;
    }
    finish_if_empty(r);
    return r->is_over ? LOAD_NO_MORE : LOAD_NOTHING_YET;
}

/* ---- answers --------------------------------------------------------------------------------------- */

static void count_event(struct serve_run *run, uint64_t at_us)
{
    while (at_us / run->bin_us >= SERVE_BINS) {
        for (uint32_t i = 0; i < SERVE_BINS; i++)
            run->event_bins[i] = i < SERVE_BINS / 2 ? run->event_bins[2 * i] + run->event_bins[2 * i + 1] : 0;
        run->bin_us *= 2;
    }
    run->event_bins[at_us / run->bin_us]++;
}

static void take_text(struct runner *r, size_t index, uint64_t at_us)
{
    struct serve_record *record = &r->run->records[index];
    count_event(r->run, at_us);
    if (record->n_events++ == 0) {
        record->first_us = at_us;
    } else {
        uint64_t gap = at_us - record->last_us;
        if (index >= r->options->n_warmup)
            latency_add(&r->run->gaps, gap);
        if (gap > record->max_gap_us)
            record->max_gap_us = gap < UINT32_MAX ? (uint32_t)gap : UINT32_MAX;
    }
    record->last_us = at_us;
}

static bool on_event(void *ctx, uint64_t number, const char *data, size_t len, uint64_t received_us)
{
    struct runner *r = ctx;
    struct conversation *c = r->owners[number];
    struct serve_record *record = &r->run->records[c->record];
    struct serve_event event;
    serve_event_read(data, len, &event, c->turn + 1 < c->n_turns ? &c->answer : NULL);
    c->saw_done = c->saw_done || event.is_done;
    if (event.error[0] && !c->error[0])
        text_copy(c->error, sizeof c->error, event.error);
    if (event.has_text)
        take_text(r, c->record, received_us - r->start_us);
    if (event.has_usage) {
        record->prompt_tokens = event.prompt_tokens;
        record->cached_tokens = event.cached_tokens;
        record->output_tokens = event.output_tokens;
    }
    return event.has_text;
}

static enum serve_outcome outcome_of(const struct load_answer *a, const struct serve_record *record,
                                     const struct conversation *c)
{
    switch (a->failure) {
    case LOAD_NOT_CONNECTED:
        return SERVE_NOT_CONNECTED;
    case LOAD_CLOSED:
        return c->error[0] ? SERVE_BROKE_OFF : SERVE_CLOSED;
    case LOAD_TIMED_OUT:
        return SERVE_TIMED_OUT;
    case LOAD_NOT_HTTP:
        return SERVE_NOT_HTTP;
    case LOAD_COMPLETE:
        break;
    }
    if (a->status != 200)
        return SERVE_REFUSED;
    if (!a->is_stream)
        return SERVE_NOT_HTTP;
    if (c->error[0] || !c->saw_done)
        return SERVE_BROKE_OFF;
    return record->n_events || record->output_tokens ? SERVE_DONE : SERVE_NO_TEXT;
}

/* What the server says of a refusal, or that it says nothing. */
static void note_refusal(struct runner *r, const struct load_answer *a)
{
    char text[SERVE_ERROR_BYTES];
    json_t *root = json_loadb(a->body, a->len, 0, NULL);
    const char *message = json_string_value(json_object_get(json_object_get(root, "error"), "message"));
    (void)snprintf(text, sizeof text, "%d: %.140s", a->status, message ? message : "no message");
    note_error(r, SERVE_REFUSED, text);
    json_decref(root);
    if (a->status > 0 && (uint32_t)a->status < SERVE_MAX_HTTP_STATUS)
        r->run->statuses[a->status]++;
}

static void note_failure(struct runner *r, const struct load_answer *a, const struct conversation *c,
                         enum serve_outcome outcome)
{
    r->n_failed++;
    if (outcome == SERVE_REFUSED)
        note_refusal(r, a);
    else if (a->error && !c->error[0])
        note_error(r, outcome, a->error);
    else if (outcome == SERVE_NOT_HTTP)
        note_error(r, outcome, "the answer is no event stream");
    else if (outcome == SERVE_NO_TEXT)
        note_error(r, outcome, "the answer has neither text nor tokens");
    else
        note_error(r, outcome, c->error[0] ? c->error : "the stream ended without [DONE]");
}

/* The next question of this conversation, or the next conversation of this user. */
static void go_on(struct runner *r, struct conversation *c, const struct serve_record *record)
{
    const struct serve_traffic *traffic = r->options->traffic;
    const bool good = record->outcome == SERVE_DONE;
    uint64_t pause = serve_traffic_pause_us(traffic, c->id, c->turn);
    if (!good && pause < SERVE_ERROR_PAUSE_US)
        pause = SERVE_ERROR_PAUSE_US;
    if (good && c->turn + 1 < c->n_turns && may_ask(r)) {
        text_buffer_append(&r->text, text_buffer_text(&c->answer), c->answer.len);
        say(c, "assistant");
        c->turn++;
        plan(c, record->done_us + pause);
        return;
    }
    end_conversation(c);
    if (traffic->arrivals == ARRIVE_CLOSED && may_ask(r))
        start_conversation(r, record->done_us + pause);
}

static void on_answer(void *ctx, const struct load_answer *a)
{
    struct runner *r = ctx;
    struct conversation *c = r->owners[a->number];
    struct serve_record *record = &r->run->records[c->record];
    record->sent_us = a->sent_us - r->start_us;
    record->done_us = a->done_us - r->start_us;
    record->http = (uint16_t)a->status;
    if (record->n_events == 0) /* tokens may have no text: then the end is all that is seen of them */
        record->first_us = record->last_us = record->done_us;
    enum serve_outcome outcome = outcome_of(a, record, c);
    record->outcome = (uint8_t)outcome;
    if (outcome != SERVE_DONE)
        note_failure(r, a, c, outcome);
    r->owners[a->number] = NULL;
    r->n_ended++;
    const struct serve_record ended = *record; /* records may move */
    go_on(r, c, &ended);
    finish_if_empty(r);
}

static void on_done(void *ctx)
{
    struct runner *r = ctx;
    loop_stop(r->loop);
}

/* ---- time --------------------------------------------------------------------------------------------- */

static void on_arrival(void *arg)
{
    struct runner *r = arg;
    const struct serve_traffic *traffic = r->options->traffic;
    uint64_t now = now_of(r);
    while (may_ask(r) && r->state == ST_OK && r->next_arrival_us <= (double)now) {
        start_conversation(r, (uint64_t)r->next_arrival_us);
        if (may_ask(r))
            r->next_arrival_us = serve_traffic_arrival_us(traffic, r->next_id, r->next_arrival_us);
    }
    if (may_ask(r))
        timer_set(timers_of(r), &r->arrival, r->start_us + (uint64_t)r->next_arrival_us, on_arrival, r);
    finish_if_empty(r);
}

/* What waits for its time never comes; what was due stays for a while. */
static void stop_asking(struct runner *r)
{
    struct conversation *next;
    r->arrivals_over = true;
    timer_cancel(timers_of(r), &r->arrival);
    for (struct conversation *c = LIST_FIRST(&r->all); c; c = next) {
        next = LIST_NEXT(c, all);
        if (timer_is_set(&c->timer) && c->due_us > now_of(r))
            end_conversation(c);
    }
    finish_if_empty(r);
}

static void drop_waiting(void *arg)
{
    struct runner *r = arg;
    struct conversation *c;
    while ((c = TAILQ_FIRST(&r->ready))) {
        TAILQ_REMOVE(&r->ready, c, ready);
        not_sent(c, "no connection was free");
    }
    finish_if_empty(r);
}

static void on_end(void *arg)
{
    struct runner *r = arg;
    timer_set(timers_of(r), &r->end, timers_now(timers_of(r)) + r->options->timeout_us, drop_waiting, r);
    stop_asking(r);
}

/* A second signal ends the process. */
static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    struct runner *r = arg;
    (void)fd;
    (void)what;
    r->run->interrupted = true;
    for (int i = 0; i < 2; i++)
        event_del(r->signals[i]);
    stop_asking(r);
    drop_waiting(r);
}

static void on_progress(void *arg)
{
    struct runner *r = arg;
    const struct serve_options *o = r->options;
    o->on_progress(o->ctx, now_of(r), r->run->n, r->n_ended, r->n_failed);
    timer_set(timers_of(r), &r->progress, timers_now(timers_of(r)) + PROGRESS_US, on_progress, r);
}

/* ---- all of it ----------------------------------------------------------------------------------------- */

static status open_all(struct runner *r, struct error *err)
{
    const struct serve_options *o = r->options;
    static const int signals[] = { SIGINT, SIGTERM };
    if (loop_create(&r->loop) != ST_OK)
        return error_set(err, ST_IO, "no event loop");
    for (int i = 0; i < 2; i++) {
        r->signals[i] = evsignal_new(loop_base(r->loop), signals[i], on_signal, r);
        if (!r->signals[i] || event_add(r->signals[i], NULL) != 0)
            return error_set(err, ST_NO_MEMORY, "no memory for a signal");
    }
    const struct load_options load = {
        .loop = r->loop,
        .host = o->host,
        .port = o->port,
        .n_connections = o->connections,
        .timeout_us = o->timeout_us,
        .keeps_trying = true,
        .next = next_request,
        .on_event = on_event,
        .on_answer = on_answer,
        .on_done = on_done,
        .ctx = r,
    };
    return load_create(&load, &r->load, err);
}

static void begin(struct runner *r)
{
    const struct serve_options *o = r->options;
    const struct serve_traffic *traffic = o->traffic;
    r->start_us = clock_now_us();
    load_start(r->load);
    if (o->duration_us)
        timer_set(timers_of(r), &r->end, r->start_us + o->duration_us, on_end, r);
    if (o->on_progress)
        timer_set(timers_of(r), &r->progress, r->start_us + PROGRESS_US, on_progress, r);
    if (traffic->arrivals != ARRIVE_CLOSED) {
        r->next_arrival_us = serve_traffic_arrival_us(traffic, 0, 0);
        on_arrival(r);
        return;
    }
    for (uint32_t i = 0; i < traffic->users && may_ask(r); i++)
        start_conversation(r, 0);
}

static void close_all(struct runner *r)
{
    while (!LIST_EMPTY(&r->all))
        end_conversation(LIST_FIRST(&r->all));
    if (r->load)
        load_destroy(&r->load);
    for (int i = 0; i < 2; i++)
        if (r->signals[i])
            event_free(r->signals[i]);
    if (r->loop) {
        timer_cancel(timers_of(r), &r->arrival);
        timer_cancel(timers_of(r), &r->end);
        timer_cancel(timers_of(r), &r->progress);
        loop_destroy(&r->loop);
    }
    text_buffer_free(&r->text);
    free(r->owners);
}

status serve_run(const struct serve_options *options, struct serve_run **out, struct error *err)
{
    struct runner r = { .options = options, .run = calloc(1, sizeof *r.run) };
    LIST_INIT(&r.all);
    TAILQ_INIT(&r.ready);
    text_buffer_init(&r.text, SERVE_MAX_HISTORY);
    if (!r.run)
        return error_set(err, ST_NO_MEMORY, "no memory for a run");
    r.run->bin_us = SERVE_BIN_US;
    status st = open_all(&r, err);
    if (st == ST_OK) {
        begin(&r);
        loop_run(r.loop);
        load_stats(r.load, &r.run->load);
        st = r.state == ST_OK ? ST_OK : error_set(err, r.state, "no memory for more requests");
    }
    close_all(&r);
    if (st == ST_OK)
        *out = r.run;
    else
        serve_run_free(&r.run);
    return st;
}

void serve_run_free(struct serve_run **run)
{
    if (!*run)
        return;
    free((*run)->records);
    free(*run);
    *run = NULL;
}
