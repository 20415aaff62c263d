/* Deaths by schedule: what a dead worker had is lost with it; the others hear of it after a while, and go on as the
 * daemons do. */
#include "sim/sim_internal.h"

#include <stdlib.h>

static int by_time(const void *a, const void *b)
{
    const struct sim_event *x = a, *y = b;
    if (x->at_ns != y->at_ns)
        return x->at_ns < y->at_ns ? -1 : 1;
    return (x->kind > y->kind) - (x->kind < y->kind);
}

static status check(const struct sim_options *o, uint32_t i, struct error *err)
{
    const struct sim_failure *f = &o->failures[i];
    uint32_t n = f->is_decode ? o->n_decode : o->n_prefill;
    const char *role = f->is_decode ? "decode" : "prefill";
    if (f->worker >= n)
        return error_set(err, ST_INVALID, "failure %u: there is no %s worker %u, only %u of them", i + 1, role,
                         f->worker, n);
    if (f->back_us <= f->at_us + o->detect_us)
        return error_set(err, ST_INVALID, "failure %u: %s worker %u is back before its death is noticed, after %.3f s",
                         i + 1, role, f->worker, (double)o->detect_us / 1e6);
    for (uint32_t k = 0; k < o->n_failures; k++) {
        const struct sim_failure *other = &o->failures[k];
        if (k != i && other->is_decode == f->is_decode && other->worker == f->worker && other->at_us >= f->at_us &&
            other->at_us <= f->back_us)
            return error_set(err, ST_INVALID, "failure %u: %s worker %u is dead already", k + 1, role, f->worker);
    }
    return ST_OK;
}

static void add(struct sim *s, uint64_t at_us, enum sim_event_kind kind, uint32_t worker)
{
    s->deaths[s->n_deaths++] = (struct sim_event){ at_us * NS, kind, worker };
}

static void set_next(struct sim *s)
{
    if (s->next_death < s->n_deaths)
        event_heap_set(s->heap, s->failures_source, s->deaths[s->next_death].at_ns);
}

status sim_failures_begin(struct sim *s, struct error *err)
{
    const struct sim_options *o = s->options;
    s->deaths = calloc((size_t)o->n_failures * 3 + 1, sizeof *s->deaths);
    if (!s->deaths)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < o->n_failures; i++) {
        const struct sim_failure *f = &o->failures[i];
        uint32_t worker = f->worker + (f->is_decode ? o->n_prefill : 0);
        status st = check(o, i, err);
        if (st != ST_OK)
            return st;
        add(s, f->at_us, SIM_DIES, worker);
        add(s, f->at_us + o->detect_us, SIM_NOTICED, worker);
        if (f->back_us != UINT64_MAX)
            add(s, f->back_us, SIM_RETURNS, worker);
    }
    qsort(s->deaths, s->n_deaths, sizeof *s->deaths, by_time);
    set_next(s);
    return ST_OK;
}

/* Steps end, and what was on its way to it or from it comes to nothing. Nobody knows yet. */
static void die(struct sim *s, struct sim_worker *w)
{
    sim_steps_stop(s, w);
    w->alive = false;
    w->incarnation++;
    w->up_ns += s->now_ns - w->up_since_ns;
    for (uint32_t i = 0; i < s->n_flights; i++) {
        const struct flight *f = &s->flights[i];
        if (f->state != FLIGHT_ENDED && (f->decode == w || f->prefill == w))
            event_heap_clear(s->heap, f->source);
    }
}

/* The router sends it to another worker, with the tokens so far. */
static void replay(struct sim *s, struct flight *f)
{
    event_heap_clear(s->heap, f->source);
    sim_router_uncount(f);
    sim_prefill_leave(s, f);
    sim_decode_leave(s, f);
    s->result->replays++;
    f->n_tokens = s->workload->requests[f->request].n_input + f->generated;
    f->held_since_ns = s->now_ns;
    flight_enter(f, FLIGHT_HELD);
    sim_router_dispatch(s, f);
}

/* In order of the requests, whatever places their flights have. */
static int by_request(const void *a, const void *b)
{
    const struct flight *x = *(struct flight *const *)a, *y = *(struct flight *const *)b;
    return (x->request > y->request) - (x->request < y->request);
}

static void notice(struct sim *s, struct sim_worker *w)
{
    struct flight **lost = calloc((size_t)s->n_flights + 1, sizeof(struct flight *));
    uint32_t n = 0;
    ASSERT(lost);
    sim_router_forget(s, w);
    for (uint32_t i = 0; i < s->n_flights; i++) {
        struct flight *f = &s->flights[i];
        if (f->state != FLIGHT_ENDED && (f->decode == w || f->prefill == w))
            lost[n++] = f;
    }
    qsort(lost, n, sizeof(struct flight *), by_request);
    for (uint32_t i = 0; i < n; i++)
        if (lost[i]->decode == w)
            replay(s, lost[i]);
        else
            sim_decode_next_leg(s, lost[i]);
    free(lost);
    kv_blocks_forget(w->blocks);
}

static void come_back(struct sim *s, struct sim_worker *w)
{
    w->alive = true;
    w->up_since_ns = s->now_ns;
    w->out_ns = w->in_ns = 0;
    w->seen_number = 0;
    w->step_us = 0;
    ASSERT(w->held == 0 && w->n_slots == 0 && w->n_prompts == 0 && w->active == 0 && w->in_window == 0);
    sim_router_know(s, w);
}

void sim_failures_next(struct sim *s)
{
    const struct sim_event *e = &s->deaths[s->next_death++];
    struct sim_worker *w = &s->workers[e->worker];
    if (e->kind == SIM_DIES)
        die(s, w);
    else if (e->kind == SIM_NOTICED)
        notice(s, w);
    else
        come_back(s, w);
    set_next(s);
}
