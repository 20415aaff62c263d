#include "worker/prefill_job.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static const char *const state_names[] = {
#define X(name, next) #name,
    PREFILL_STATES(X)
#undef X
};

static const unsigned legal_next[] = {
#define TO(name)      (1u << PREFILL_##name)
#define X(name, next) (next) | (1u << PREFILL_ENDED),
    PREFILL_STATES(X)
#undef X
#undef TO
};

void prefill_enter(struct prefill_job *job, enum prefill_state state)
{
    ASSERT(legal_next[job->state] & (1u << state));
    job->state = state;
    log_debug("prefill state", "request=%llx.%llx attempt=%u leg=%u state=%s", (unsigned long long)job->node.key.router,
              (unsigned long long)job->node.key.seq, job->attempt, job->leg, state_names[state]);
    job->worker->io->entered(job->worker->io->ctx, "prefill", state_names[state]);
}

static uint64_t now_of(const struct worker *worker)
{
    return worker->io->now(worker->io->ctx);
}

static struct prefill_job *job_find(struct worker *worker, struct request_key key)
{
    return (struct prefill_job *)request_table_find(&worker->jobs, key);
}

/* ---- ending ------------------------------------------------------------------- */

/* The loan ends with the job, once no step and no checksum reads the blocks. */
static void job_free(struct prefill_job *job)
{
    lease_end(&job->lease);
    free(job->lent);
    free(job->tiers);
    sequence_release_blocks(&job->seq, job->worker->pool);
    sequence_free(&job->seq);
    free(job);
}

void prefill_settle(struct prefill_job *job)
{
    if (job->state != PREFILL_ENDED || job->seq.in_step || job->sums_out || job->pulling.pull)
        return;
    TAILQ_REMOVE(&job->worker->jobs_dying, job, dying);
    job_free(job);
}

static void leave_window(struct prefill_job *job)
{
    if (job->in_window)
        job->worker->jobs_in_window--;
    job->in_window = false;
}

void prefill_end(struct prefill_job *job)
{
    struct worker *worker = job->worker;
    outgoing_drop_all(job);
    if (job->in_queue)
        TAILQ_REMOVE(&worker->job_queue, job, queue);
    job->in_queue = false;
    leave_window(job);
    batch_remove(worker, &job->seq);
    atomic_store(&job->seq.cancelled, true);
    timer_cancel(worker->timers, &job->timer);
    request_table_remove(&worker->jobs, &job->node);
    TAILQ_REMOVE(&worker->job_order, job, order);
    TAILQ_INSERT_TAIL(&worker->jobs_dying, job, dying);
    prefill_enter(job, PREFILL_ENDED);
    if (job->pulling.pull)
        pulling_cancel(&job->pulling); /* settles when it has ended */
    else
        prefill_settle(job);
}

static void send_failed(struct worker *worker, struct worker_peer *to, const struct message_head *head,
                        Baton__FailureCode code, bool retry, const char *text)
{
    Baton__Failure failure = BATON__FAILURE__INIT;
    Baton__PrefillFailed body = BATON__PREFILL_FAILED__INIT;
    failure.code = code;
    failure.retry = retry;
    failure.text = (char *)text;
    body.failure = &failure;
    (void)worker->io->send(worker->io->ctx, to, head, &body.base, true);
}

void prefill_fail(struct prefill_job *job, Baton__FailureCode code, bool retry, const char *text)
{
    struct message_head head = { FRAME_PREFILL_FAILED, job->node.key, job->attempt, job->leg,
                                 FRAME_NO_DEADLINE,    &job->trace };
    log_warn("prefill failed", "request=%llx.%llx attempt=%u leg=%u reason=\"%s\"",
             (unsigned long long)job->node.key.router, (unsigned long long)job->node.key.seq, job->attempt, job->leg,
             text);
    job->worker->counters.failed++;
    send_failed(job->worker, job->decode, &head, code, retry, text);
    prefill_end(job);
}

static void on_deadline(void *arg)
{
    struct prefill_job *job = arg;
    struct worker *worker = job->worker;
    prefill_fail(job, BATON__FAILURE_CODE__FAILURE_DEADLINE, false, "the deadline of the request has passed");
    worker_pump(worker);
}

/* ---- the engine's side ------------------------------------------------------------ */

static struct prefill_job *job_of(struct sequence *seq)
{
    return (struct prefill_job *)((char *)seq - offsetof(struct prefill_job, seq));
}

static void on_layers(struct sequence *seq, uint32_t layers)
{
    outgoing_layers(job_of(seq), seq->computed, seq->step_rows, layers);
}

static void on_rows(struct sequence *seq, uint32_t first, uint32_t n, const struct sampled *sampled, uint32_t n_sampled)
{
    struct prefill_job *job = job_of(seq);
    struct worker *worker = job->worker;
    if (n_sampled) {
        job->sampled = *sampled;
        job->done_us = now_of(worker);
        batch_remove(worker, seq);
        leave_window(job);
        prefill_enter(job, PREFILL_HANDING);
    }
    outgoing_computed(job, first, n, n_sampled > 0);
}

static void on_stopped(struct sequence *seq)
{
    prefill_settle(job_of(seq));
}

static const struct sequence_ops job_ops = { .on_layers = on_layers, .on_rows = on_rows, .on_stopped = on_stopped };

/* ---- messages ------------------------------------------------------------------------ */

static Baton__FailureCode check_prefill(struct worker *worker, const Baton__Prefill *msg, struct error *err)
{
    const struct worker_options *o = &worker->options;
    uint64_t slots = (uint64_t)o->n_blocks * o->layout.block_tokens;
    if (worker->draining) {
        (void)error_set(err, ST_CLOSED, "the worker is draining");
        return BATON__FAILURE_CODE__FAILURE_DRAINING;
    }
    if (worker->jobs.n >= o->max_requests) {
        (void)error_set(err, ST_LIMIT, "the worker holds %u requests, its maximum", o->max_requests);
        return BATON__FAILURE_CODE__FAILURE_BUSY;
    }
    if (strcmp(msg->kv_format, o->kv_format) != 0 || strcmp(msg->model, o->model) != 0) {
        (void)error_set(err, ST_INVALID, "the worker serves %s with KV format %s", o->model, o->kv_format);
        return BATON__FAILURE_CODE__FAILURE_INVALID;
    }
    if (!worker_has_adapter(worker, msg->sampling)) {
        (void)error_set(err, ST_INVALID, "the worker has no adapter %.60s", msg->sampling->adapter);
        return BATON__FAILURE_CODE__FAILURE_INVALID;
    }
    if (msg->n_tokens > slots) {
        (void)error_set(err, ST_LIMIT, "%zu prompt tokens, the worker's KV holds %llu", msg->n_tokens,
                        (unsigned long long)slots);
        return BATON__FAILURE_CODE__FAILURE_LIMIT;
    }
    return BATON__FAILURE_CODE__FAILURE_NONE;
}

static void accept_job(struct worker *worker, struct prefill_job *job, struct worker_peer *decode,
                       const struct frame *frame, uint64_t deadline_us, const Baton__Prefill *msg)
{
    pulling_hold_one(&job->pulling, decode->id, msg->held, KV_TIER_DEVICE);
    pulling_hold(&job->pulling, msg->have, msg->n_have);
    job->worker = worker;
    job->node.key = frame->key;
    job->attempt = frame->attempt;
    job->leg = frame->leg;
    job->deadline_us = deadline_us;
    job->trace = frame->trace;
    job->decode = decode;
    job->arrival = ++worker->arrivals;
    job->born_us = now_of(worker);
    TAILQ_INIT(&job->chunks);
    request_table_add(&worker->jobs, &job->node);
    TAILQ_INSERT_TAIL(&worker->job_order, job, order);
    TAILQ_INSERT_TAIL(&worker->job_queue, job, queue);
    job->in_queue = true;
    worker->counters.prefills++;
    if (deadline_us != FRAME_NO_DEADLINE)
        timer_set(worker->timers, &job->timer, deadline_us, on_deadline, job);
    worker->io->entered(worker->io->ctx, "prefill", state_names[PREFILL_QUEUED]);
}

/* -1: the frame is of an older attempt or leg than the job, 0: of the same, 1: of a newer one. */
static int compare_leg(const struct prefill_job *job, const struct frame *frame)
{
    if (frame->attempt != job->attempt)
        return frame->attempt > job->attempt ? 1 : -1;
    return frame->leg == job->leg ? 0 : frame->leg > job->leg ? 1 : -1;
}

void prefill_on_prefill(struct worker *worker, struct worker_peer *decode, const struct frame *frame,
                        uint64_t deadline_us, const Baton__Prefill *msg)
{
    struct prefill_job *old = job_find(worker, frame->key);
    if (old && compare_leg(old, frame) == 0)
        return; /* a repeat: its answer is on the way */
    if (old && compare_leg(old, frame) < 0) {
        worker_answer_stale(worker, decode, frame, old->attempt, old->leg);
        return;
    }
    if (old) {
        worker->counters.cancelled++;
        prefill_end(old);
    }
    struct error err = { "" };
    Baton__FailureCode no = check_prefill(worker, msg, &err);
    struct prefill_job *job = no ? NULL : calloc(1, sizeof *job);
    if (!no && !job)
        no = BATON__FAILURE_CODE__FAILURE_BUSY;
    const struct sequence_request request = { msg->tokens, msg->n_tokens, msg->sampling,
                                              msg->salt,   msg->priority, msg->no_cache };
    status st = job ? worker_begin_sequence(worker, &request, &job_ops, &job->seq, &err) : ST_OK;
    if (st != ST_OK) {
        no = st == ST_NO_MEMORY ? BATON__FAILURE_CODE__FAILURE_BUSY : BATON__FAILURE_CODE__FAILURE_INVALID;
        free(job);
    }
    if (no) {
        struct message_head head = { FRAME_PREFILL_FAILED, frame->key,        frame->attempt,
                                     frame->leg,           FRAME_NO_DEADLINE, &frame->trace };
        worker->counters.refused++;
        send_failed(worker, decode, &head, no, true, err.text);
    } else {
        accept_job(worker, job, decode, frame, deadline_us, msg);
    }
}

bool prefill_on_cancel(struct worker *worker, struct worker_peer *from, const struct frame *frame)
{
    struct prefill_job *job = job_find(worker, frame->key);
    if (!job || job->decode != from)
        return false;
    if (compare_leg(job, frame) >= 0) {
        worker->counters.cancelled++;
        prefill_end(job);
    }
    return true;
}

/* The job that a message of its decode worker speaks of, or NULL. */
static struct prefill_job *current_job(struct worker *worker, const struct worker_peer *from, const struct frame *frame)
{
    struct prefill_job *job = job_find(worker, frame->key);
    return job && job->decode == from && compare_leg(job, frame) == 0 ? job : NULL;
}

static void start(struct prefill_job *job)
{
    if (job->seq.is_running)
        return;
    job->started_us = now_of(job->worker);
    job->seq.awaited_us = 0;
    batch_add(job->worker, &job->seq);
}

static void compute(struct prefill_job *job)
{
    start(job);
    prefill_enter(job, PREFILL_COMPUTING);
}

void prefill_on_grant(struct worker *worker, struct worker_peer *from, const struct frame *frame, uint32_t from_token)
{
    struct prefill_job *job = current_job(worker, from, frame);
    if (!job) {
        worker_answer_stale(worker, from, frame, 0, 0);
        return;
    }
    if (job->state != PREFILL_ASKING)
        return; /* a repeat */
    job->from_token = from_token < job->seq.n_tokens ? from_token : job->seq.n_tokens;
    job->next_found = job->from_token;
    job->granted_us = now_of(worker);
    if (job->pulling.pull)
        prefill_enter(job, PREFILL_PULLING);
    else
        compute(job);
    outgoing_found(job);
}

void prefill_on_chunk_taken(struct worker *worker, struct worker_peer *from, const struct frame *frame, uint32_t index)
{
    struct prefill_job *job = current_job(worker, from, frame);
    if (!job || !outgoing_taken(job, index))
        return;
    if (job->state == PREFILL_HANDING && TAILQ_EMPTY(&job->chunks))
        prefill_end(job);
    else
        outgoing_found(job);
}

void prefill_on_stale(struct worker *worker, struct worker_peer *from, const struct frame *frame)
{
    struct prefill_job *job = current_job(worker, from, frame);
    if (job)
        prefill_end(job);
}

/* ---- peers ------------------------------------------------------------------------------ */

void prefills_on_peer_lost(struct worker *worker, struct worker_peer *peer)
{
    struct prefill_job *job, *next;
    for (job = TAILQ_FIRST(&worker->job_order); job; job = next) {
        next = TAILQ_NEXT(job, order);
        if (job->decode == peer)
            prefill_end(job);
    }
}

void prefills_on_peer_again(struct worker *worker, struct worker_peer *peer, Baton__Live *const *live, size_t n_live)
{
    struct prefill_job *job, *next;
    for (job = TAILQ_FIRST(&worker->job_order); job; job = next) {
        next = TAILQ_NEXT(job, order);
        if (job->decode == peer && !live_contains(live, n_live, job->node.key, job->attempt, job->leg))
            prefill_end(job);
    }
}

size_t prefills_live(struct worker *worker, struct worker_peer *peer, Baton__Live *out, size_t max)
{
    size_t n = 0;
    const struct prefill_job *job;
    TAILQ_FOREACH(job, &worker->job_order, order)
    {
        if (n == max || job->decode != peer)
            continue;
        baton__live__init(&out[n]);
        out[n].router = job->node.key.router;
        out[n].seq = job->node.key.seq;
        out[n].attempt = job->attempt;
        out[n++].leg = job->leg;
    }
    return n;
}

/* ---- KV from elsewhere ------------------------------------------------------------------------- */

static struct prefill_job *job_that_pulls(struct pulling *pulling)
{
    return (struct prefill_job *)((char *)pulling - offsetof(struct prefill_job, pulling));
}

static void on_came(struct pulling *pulling, uint32_t first, uint32_t n, const enum kv_tier by_tier[])
{
    struct prefill_job *job = job_that_pulls(pulling);
    uint32_t bt = job->worker->options.layout.block_tokens;
    for (uint32_t i = 0; i < n / bt; i++)
        job->tiers[first / bt + i] = (uint8_t)by_tier[i];
    job->found = first + n;
    if (!job->seq.awaits)
        job->seq.computed = job->found;
    if (job->state == PREFILL_PULLING)
        outgoing_found(job);
}

/* Only when what comes can be handed over at once then, before the rows behind it. */
static bool on_ahead(struct pulling *pulling, uint32_t upto)
{
    struct prefill_job *job = job_that_pulls(pulling);
    if (job->state != PREFILL_PULLING || !outgoing_has_room(job, upto))
        return false;
    start(job);
    return true;
}

static void on_pull_ended(struct pulling *pulling)
{
    struct prefill_job *job = job_that_pulls(pulling);
    if (job->state == PREFILL_PULLING)
        compute(job);
    else
        prefill_settle(job);
}

static const struct pulling_ops pulling_ops = { on_came, on_ahead, on_pull_ended };

/* While the Grant is on its way. */
static void pull(struct prefill_job *job)
{
    const struct pulling_request request = {
        .worker = job->worker,
        .seq = &job->seq,
        .held = job->found,
        .key = job->node.key,
        .attempt = job->attempt,
        .deadline_us = job->deadline_us,
        .trace = &job->trace,
        .is_handed_over = true,
        .ops = &pulling_ops,
    };
    (void)pulling_begin(&job->pulling, &request);
}

/* ---- blocks and Grants ---------------------------------------------------------------------- */

/* Blocks for the whole prompt, which are lent from now on; those of its beginning that are here come first. */
static bool take_blocks(struct prefill_job *job)
{
    struct worker *worker = job->worker;
    uint32_t n = job->seq.n_tokens, n_blocks = blocks_for(n, worker->options.layout.block_tokens);
    if (!job->lent)
        job->lent = calloc(n_blocks, sizeof *job->lent);
    if (!job->tiers)
        job->tiers = calloc(n_blocks, sizeof *job->tiers);
    if (!job->lent || !job->tiers ||
        prefix_cache_take(worker->cache, &job->seq, n, 0, BLOCK_FILLING, &job->found) != ST_OK)
        return false;
    job->seq.computed = job->found;
    memcpy(job->lent, job->seq.blocks, n_blocks * sizeof *job->lent);
    lease_open(&job->lease, worker->pool, job->lent, n_blocks);
    return true;
}

static bool ask_grant(struct prefill_job *job)
{
    struct worker *worker = job->worker;
    if (!take_blocks(job))
        return false;
    TAILQ_REMOVE(&worker->job_queue, job, queue);
    job->in_queue = false;
    job->in_window = true;
    worker->jobs_in_window++;
    prefill_enter(job, PREFILL_ASKING);
    struct message_head head = {
        FRAME_GRANT_ASK, job->node.key, job->attempt, job->leg, job->deadline_us, &job->trace
    };
    Baton__GrantAsk body = BATON__GRANT_ASK__INIT;
    body.tokens = job->seq.n_tokens;
    if (worker->io->send(worker->io->ctx, job->decode, &head, &body.base, true) != ST_OK)
        prefill_end(job); /* the link is gone: its loss is about to be told */
    else
        pull(job);
    return true;
}

static struct prefill_job *first_in_queue(const struct worker *worker)
{
    struct prefill_job *first = NULL, *job;
    struct scheduler_claim of_first, claim;
    uint64_t now = now_of(worker);
    TAILQ_FOREACH(job, &worker->job_queue, queue)
    {
        claim = (struct scheduler_claim){ .priority = job->seq.priority,
                                          .arrival = job->arrival,
                                          .waited = now - job->born_us };
        if (first && !scheduler_goes_before(&worker->options.limits, &claim, &of_first))
            continue;
        first = job;
        of_first = claim;
    }
    return first;
}

/* The first waits for blocks, and all behind it with it: a long prompt is not passed by short ones for ever. */
void prefills_ask_grants(struct worker *worker)
{
    struct prefill_job *job;
    while (worker->jobs_in_window < worker->options.grant_window && (job = first_in_queue(worker)))
        if (!ask_grant(job))
            return;
}

/* What is to be computed still; not what is being fetched. */
static uint32_t queued_tokens(const struct prefill_job *job)
{
    uint32_t fetched = pulling_upto(&job->pulling), done = job->seq.computed;
    return job->state < PREFILL_HANDING ? job->seq.n_tokens - (fetched > done ? fetched : done) : 0;
}

uint64_t prefills_count_queued(struct worker *worker)
{
    uint64_t all = 0;
    const struct prefill_job *job;
    TAILQ_FOREACH(job, &worker->job_order, order)
    {
        uint32_t n = queued_tokens(job);
        router_marks_add_queued(&worker->marks, job->node.key.router, n);
        all += n;
    }
    return all;
}

void prefills_destroy(struct worker *worker)
{
    struct prefill_job *job;
    while ((job = TAILQ_FIRST(&worker->job_order)))
        prefill_end(job);
    while ((job = TAILQ_FIRST(&worker->jobs_dying))) { /* takes and steps are over by now */
        TAILQ_REMOVE(&worker->jobs_dying, job, dying);
        job->seq.in_step = false;
        job_free(job);
    }
}
