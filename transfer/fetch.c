#include <string.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "transfer/mover.h"

static struct request *in_window(struct transfer_peer *peer, uint64_t number)
{
    if (number < peer->first_request || number >= peer->next_request)
        return NULL;
    return &peer->window[number % MOVER_WINDOW];
}

static bool window_is_full(const struct transfer_peer *peer)
{
    return peer->next_request - peer->first_request == MOVER_WINDOW;
}

static void open_request(struct mover *m, struct transfer_peer *peer, struct job *job, uint32_t n_spans)
{
    const struct transfer_take *take = job->take;
    const struct transfer_span *spans = take->spans + job->asked_spans;
    struct request *r = &peer->window[peer->next_request % MOVER_WINDOW];
    *r = (struct request){ .job = job,
                           .total = runs_bytes(&m->geometry, spans, n_spans, take->n_layers),
                           .first_span = job->asked_spans };
    run_cursor_init(&r->cursor, &m->geometry, spans, n_spans, take->first_layer, take->n_layers);
    peer->next_request++;
    job->asked_spans += n_spans;
    job->open_requests++;
}

static bool ask(struct mover *m, struct transfer_peer *peer, struct job *job)
{
    const struct transfer_take *take = job->take;
    uint64_t now = clock_now_us();
    uint32_t n = take->n_spans - job->asked_spans;
    n = n < WIRE_MAX_SPANS ? n : WIRE_MAX_SPANS;
    uint8_t payload[WIRE_REQUEST_BYTES];
    size_t len = wire_request_encode(take->first_layer, take->n_layers, take->spans + job->asked_spans, n, payload);
    struct wire_head head = { .magic = WIRE_MAGIC,
                              .kind = WIRE_REQUEST,
                              .session = peer->session,
                              .request = peer->next_request,
                              .value = take->deadline_us > now ? take->deadline_us - now : 0 };
    if (ucx_link_send(peer->link, peer->ep, &head, payload, len, NULL, NULL))
        return false;
    open_request(m, peer, job, n);
    if (!job->started_us)
        job->started_us = now;
    return true;
}

void fetch_ask(struct mover *m, struct transfer_peer *peer)
{
    struct job *job;
    TAILQ_FOREACH(job, &peer->jobs, queue)
    {
        while (job->asked_spans < job->take->n_spans) {
            if (window_is_full(peer))
                return;
            if (!ask(m, peer, job)) {
                peer->broken = true;
                return;
            }
        }
    }
}

status fetch_data(struct mover *m, struct transfer_peer *peer, const struct wire_head *head, const uint8_t *payload,
                  size_t len)
{
    struct request *r = in_window(peer, head->request);
    if (!r || head->value != r->received || len > r->total - r->received)
        return ST_CORRUPT;
    r->received += len;
    if (r->job && atomic_load_explicit(&r->job->take->cancelled, memory_order_relaxed))
        takes_end(m, r->job, ST_CANCELLED);
    if (r->job)
        copier_scatter(m, r->job, &r->cursor, r->first_span, payload, len);
    return ST_OK;
}

/* What a lender may say of a request; anything else is malformed. */
static bool is_answer(status st)
{
    return st == ST_OK || st == ST_STALE || st == ST_TIMEOUT || st == ST_CANCELLED;
}

status fetch_end(struct mover *m, struct transfer_peer *peer, const struct wire_head *head)
{
    struct request *r = in_window(peer, head->request);
    status st = (status)head->st;
    if (!r || head->request != peer->first_request || !is_answer(st) || (!st && r->received != r->total))
        return ST_CORRUPT;
    peer->first_request++;
    struct job *job = r->job;
    r->job = NULL;
    if (!job)
        return ST_OK;
    job->open_requests--;
    (void)FAILPOINT("transfer.take.before_generation");
    /* The lender read the generations again behind the last byte. */
    if (st)
        takes_end(m, job, st == ST_CANCELLED ? ST_CLOSED : st);
    else if (!job->open_requests && job->asked_spans == job->take->n_spans)
        takes_end(m, job, ST_OK);
    return ST_OK;
}

void fetch_forget(struct transfer_peer *peer, struct job *job)
{
    for (uint64_t number = peer->first_request; job->open_requests && number < peer->next_request; number++) {
        struct request *r = &peer->window[number % MOVER_WINDOW];
        if (r->job != job)
            continue;
        r->job = NULL;
        job->open_requests--;
        struct wire_head head = {
            .magic = WIRE_MAGIC, .kind = WIRE_CANCEL, .session = peer->session, .request = number
        };
        /* Only saves the lender work; the endpoint's own error tells of failures. */
        if (peer->ep && !peer->broken && ucx_link_send(peer->link, peer->ep, &head, NULL, 0, NULL, NULL))
            peer->broken = true;
    }
}
