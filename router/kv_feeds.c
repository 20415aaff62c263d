#include "router/kv_feeds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/log.h"
#include "kvbm/kv_format.h"
#include "proto/kv_subscriber.h"

#define SWEEP_US   2000u
#define SILENCE_US 500000u /* between looks for silent publishers */
#define PIECE      256u    /* hashes told to the view at one time */

struct feed {
    TAILQ_ENTRY(feed) entry;
    struct kv_feeds *feeds;
    char id[sizeof((struct instance *)NULL)->id]; /* empty: not ours */
    uint64_t incarnation;
    char pub[128], replay[128];
    uint32_t number;              /* in the view; of ours */
    struct foreign_feed *foreign; /* NULL: ours */
    struct kv_subscriber *subscriber;
    bool was_silent, complained;
};
TAILQ_HEAD(feed_list, feed);

struct kv_feeds {
    struct kv_feeds_options options;
    struct feed_list list;
    struct timer timer;
    uint64_t look_us;           /* when silence is looked for next */
    struct kv_feeds_stats past; /* of those not followed any more, and what is counted here */
};

/* ---- events ----------------------------------------------------------------- */

_Static_assert(sizeof(struct kv_event_hash) == sizeof(struct block_hash), "ours are the same on the wire");

static void tell(struct feed *f, const struct kv_event *event)
{
    struct block_hash piece[PIECE];
    struct kv_view *view = f->feeds->options.view;
    for (uint32_t at = 0, n; at < event->n_hashes; at += n) {
        n = event->n_hashes - at < PIECE ? event->n_hashes - at : PIECE;
        for (uint32_t i = 0; i < n; i++)
            piece[i] = (struct block_hash){ event->hashes[at + i].low, event->hashes[at + i].high };
        if (event->kind == KV_BLOCK_STORED)
            kv_view_store(view, f->number, event->tier, piece, n);
        else
            kv_view_remove(view, f->number, event->tier, piece, n);
    }
}

static status take_foreign(struct feed *f, const struct kv_event *event)
{
    status st = foreign_feed_apply(f->foreign, event);
    if (st != ST_OK && !f->complained)
        log_warn("KV events of a foreign publisher are of no use", "address=%s block_tokens=%u reason=\"%s\"", f->pub,
                 event->block_size, st == ST_LIMIT ? "its block size and ours do not divide" : status_text(st));
    f->complained |= st != ST_OK;
    return st;
}

static status take(struct feed *f, const struct kv_event *event)
{
    f->feeds->past.events++;
    if (f->foreign)
        return take_foreign(f, event);
    if (event->kind == KV_ALL_CLEARED)
        kv_view_clear(f->feeds->options.view, f->number);
    else if (event->tier < KV_TIER_COUNT)
        tell(f, event);
    else
        f->feeds->past.unknown++;
    return ST_OK;
}

static status apply(void *ctx, struct kv_batch_reader *batch)
{
    struct feed *f = ctx;
    struct kv_event event;
    status st;
    while ((st = kv_batch_next(batch, &event, NULL)) == ST_OK && (st = take(f, &event)) == ST_OK)
        ;
    f->feeds->past.unknown += batch->n_unknown;
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static void forget(void *ctx)
{
    struct feed *f = ctx;
    if (f->foreign)
        foreign_feed_clear(f->foreign);
    else
        kv_view_clear(f->feeds->options.view, f->number);
}

/* ---- silence and sweeping ----------------------------------------------------- */

static void look(struct kv_feeds *feeds)
{
    struct feed *f;
    TAILQ_FOREACH(f, &feeds->list, entry)
    {
        bool silent = kv_subscriber_is_silent(f->subscriber);
        if (silent && !f->was_silent)
            log_warn("a publisher of KV events is silent", "id=%s address=%s", f->id[0] ? f->id : "foreign", f->pub);
        if (!silent && f->was_silent)
            log_info("a publisher of KV events is heard again", "id=%s address=%s", f->id[0] ? f->id : "foreign",
                     f->pub);
        f->was_silent = silent;
    }
}

/* Runs while somebody is followed, and until what the last one held is swept. */
static void on_time(void *arg)
{
    struct kv_feeds *feeds = arg;
    struct timers *timers = loop_timers(feeds->options.loop);
    uint64_t now = timers_now(timers);
    bool more = kv_view_sweep(feeds->options.view);
    if (now >= feeds->look_us) {
        look(feeds);
        feeds->look_us = now + SILENCE_US;
    }
    if (more)
        timer_set(timers, &feeds->timer, now + SWEEP_US, on_time, feeds);
    else if (!TAILQ_EMPTY(&feeds->list))
        timer_set(timers, &feeds->timer, feeds->look_us, on_time, feeds);
}

static void run_timer(struct kv_feeds *feeds)
{
    struct timers *timers = loop_timers(feeds->options.loop);
    timer_set(timers, &feeds->timer, timers_now(timers) + SWEEP_US, on_time, feeds);
}

/* ---- who is followed ------------------------------------------------------------ */

static status subscribe(struct feed *f, struct error *err)
{
    const struct kv_feeds_options *o = &f->feeds->options;
    struct kv_subscriber_options options = { .loop = o->loop,
                                             .zmq = o->zmq,
                                             .endpoint = f->pub,
                                             .replay = f->replay[0] ? f->replay : NULL,
                                             .topic = f->foreign ? "" : KV_EVENTS_TOPIC,
                                             .rules = o->rules,
                                             .apply = apply,
                                             .clear = forget,
                                             .ctx = f };
    options.rules.dumps = !f->foreign;
    return kv_subscriber_create(&options, &f->subscriber, err);
}

static void add_counts(const struct feed *f, struct kv_feeds_stats *sum)
{
    struct kv_follow_stats s;
    kv_subscriber_stats(f->subscriber, &s);
#define X(name, help) sum->follow.name += s.name;
    KV_FOLLOW_COUNTERS(X)
#undef X
    sum->hostile += kv_subscriber_hostile(f->subscriber);
    sum->left_out += f->foreign ? foreign_feed_left_out(f->foreign) : 0;
}

static void feed_free(struct feed *f)
{
    struct kv_feeds *feeds = f->feeds;
    add_counts(f, &feeds->past);
    kv_subscriber_destroy(&f->subscriber);
    if (f->foreign)
        foreign_feed_destroy(&f->foreign);
    else
        kv_view_drop(feeds->options.view, f->number);
    TAILQ_REMOVE(&feeds->list, f, entry);
    free(f);
    run_timer(feeds);
}

/* f is entered and in the view; on failure it is the caller's again. */
static status begin(struct feed *f, struct error *err)
{
    status st = subscribe(f, err);
    if (st != ST_OK)
        return st;
    TAILQ_INSERT_TAIL(&f->feeds->list, f, entry);
    run_timer(f->feeds);
    return ST_OK;
}

static struct feed *feed_new(struct kv_feeds *feeds, const char *pub, const char *replay)
{
    struct feed *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->feeds = feeds;
    snprintf(f->pub, sizeof f->pub, "%s", pub);
    snprintf(f->replay, sizeof f->replay, "%s", replay);
    return f;
}

/* Managers publish nothing before it. */
static const char *format_of(const struct instance *in)
{
    const char *of_worker = kv_format_of_worker(in->kv_format);
    return of_worker ? of_worker : in->kv_format;
}

static status follow(struct kv_feeds *feeds, const struct instance *in, struct error *err)
{
    const struct kv_holder holder = { .id = in->id,
                                      .role = in->role,
                                      .host = in->host,
                                      .address = in->control,
                                      .format = format_of(in),
                                      .model = in->model,
                                      .weights = in->weights,
                                      .tokenizer = in->tokenizer,
                                      .block_tokens = in->block_tokens };
    struct feed *f = feed_new(feeds, in->kv_events, in->kv_replay);
    if (!f)
        return error_set(err, ST_NO_MEMORY, "no memory");
    f->incarnation = in->incarnation;
    snprintf(f->id, sizeof f->id, "%s", in->id);
    status st = kv_view_add(feeds->options.view, &holder, &f->number, err);
    if (st == ST_OK && (st = begin(f, err)) != ST_OK)
        kv_view_drop(feeds->options.view, f->number);
    if (st != ST_OK)
        free(f);
    return st;
}

static struct feed *find(const struct kv_feeds *feeds, const char *id)
{
    struct feed *f;
    TAILQ_FOREACH(f, &feeds->list, entry)
    if (!f->foreign && !strcmp(f->id, id))
        return f;
    return NULL;
}

void kv_feeds_member(struct kv_feeds *feeds, const struct instance *in)
{
    struct feed *f = find(feeds, in->id);
    struct error err;
    if (f && f->incarnation == in->incarnation && !strcmp(f->pub, in->kv_events) && !strcmp(f->replay, in->kv_replay))
        return;
    if (f)
        feed_free(f);
    if (!in->kv_events[0])
        return;
    if (follow(feeds, in, &err) != ST_OK)
        log_error("KV events are not followed", "id=%s address=%s reason=\"%s\"", in->id, in->kv_events, err.text);
    else
        log_info("KV events followed", "id=%s address=%s", in->id, in->kv_events);
}

void kv_feeds_member_gone(struct kv_feeds *feeds, const char *id)
{
    struct feed *f = find(feeds, id);
    if (f)
        feed_free(f);
}

status kv_feeds_add_foreign(struct kv_feeds *feeds, const struct foreign_address *address,
                            const struct foreign_feed_options *options, struct error *err)
{
    struct feed *f = feed_new(feeds, address->pub, address->replay);
    if (!f)
        return error_set(err, ST_NO_MEMORY, "no memory");
    status st = foreign_feed_create(options, &f->foreign, err);
    if (st == ST_OK)
        st = begin(f, err);
    if (st != ST_OK) {
        foreign_feed_destroy(&f->foreign);
        free(f);
    }
    return st;
}

/* ---- life -------------------------------------------------------------------------- */

status kv_feeds_create(const struct kv_feeds_options *options, struct kv_feeds **out, struct error *err)
{
    struct kv_feeds *feeds = calloc(1, sizeof *feeds);
    if (!feeds)
        return error_set(err, ST_NO_MEMORY, "no memory");
    feeds->options = *options;
    TAILQ_INIT(&feeds->list);
    *out = feeds;
    return ST_OK;
}

void kv_feeds_destroy(struct kv_feeds **p)
{
    struct kv_feeds *feeds = *p;
    struct feed *f;
    *p = NULL;
    if (!feeds)
        return;
    while ((f = TAILQ_FIRST(&feeds->list)))
        feed_free(f);
    timer_cancel(loop_timers(feeds->options.loop), &feeds->timer);
    free(feeds);
}

void kv_feeds_stats(const struct kv_feeds *feeds, struct kv_feeds_stats *out)
{
    const struct feed *f;
    *out = feeds->past;
    TAILQ_FOREACH(f, &feeds->list, entry)
    {
        out->followed++;
        out->complete += kv_subscriber_is_complete(f->subscriber);
        out->silent += kv_subscriber_is_silent(f->subscriber);
        add_counts(f, out);
    }
}
