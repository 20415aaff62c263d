#include "proto/kv_follow.h"

#include <stdlib.h>
#include <string.h>

status kv_follow_init(struct kv_follow *f, const struct kv_follow_rules *rules, uint64_t now)
{
    *f = (struct kv_follow){ .rules = *rules, .heard_us = now, .progress_us = now, .retry_at_us = now };
    f->held = calloc(rules->max_held, sizeof *f->held);
    kv_batch_reader_init(&f->reader);
    return f->held ? ST_OK : ST_NO_MEMORY;
}

/* --- held batches --- */

static void drop_held(struct kv_follow *f, uint32_t at)
{
    f->held_bytes -= kv_batch_len(f->held[at].batch);
    kv_batch_release(&f->held[at].batch);
    f->n_held--;
    memmove(&f->held[at], &f->held[at + 1], (f->n_held - at) * sizeof f->held[0]);
}

static void drop_all_held(struct kv_follow *f)
{
    while (f->n_held)
        drop_held(f, f->n_held - 1);
}

void kv_follow_free(struct kv_follow *f)
{
    if (f->held)
        drop_all_held(f);
    free(f->held);
    f->held = NULL;
    kv_batch_reader_free(&f->reader);
}

/* Those with the lowest numbers are kept: the others come again with a request. */
static void hold(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len)
{
    uint32_t at = f->n_held;
    while (at && f->held[at - 1].sequence >= sequence)
        at--;
    if (at < f->n_held && f->held[at].sequence == sequence) {
        f->stats.repeated++;
        return;
    }
    while (f->n_held > at && (f->n_held == f->rules.max_held || f->held_bytes + len > f->rules.max_held_bytes))
        drop_held(f, f->n_held - 1);
    if (f->n_held == f->rules.max_held || f->held_bytes + len > f->rules.max_held_bytes)
        return;
    struct kv_batch *batch = kv_batch_create(data, len);
    if (!batch)
        return;
    memmove(&f->held[at + 1], &f->held[at], (f->n_held - at) * sizeof f->held[0]);
    f->held[at] = (struct kv_held){ sequence, batch };
    f->n_held++;
    f->held_bytes += len;
}

/* --- applying --- */

static void forget(struct kv_follow *f)
{
    f->stats.forgotten++;
    f->clear(f->ctx);
}

/* A damaged batch would be damaged again: it is passed over, and with it what was known before. */
static void deliver(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len)
{
    f->next = sequence + 1;
    f->known = true;
    f->repeats = 0;
    f->stats.applied++;
    status st = kv_batch_open(&f->reader, data, len, NULL);
    if (st == ST_OK && f->reader.ts > f->newest_ts)
        f->newest_ts = f->reader.ts;
    if (st == ST_OK)
        st = f->apply(f->ctx, &f->reader);
    if (st == ST_OK)
        return;
    f->stats.corrupt++;
    forget(f);
}

static void deliver_held(struct kv_follow *f)
{
    while (f->n_held && f->held[0].sequence <= f->next) {
        struct kv_batch *batch = kv_batch_share(f->held[0].batch);
        uint64_t sequence = f->held[0].sequence;
        drop_held(f, 0);
        if (sequence == f->next)
            deliver(f, sequence, kv_batch_data(batch), kv_batch_len(batch));
        kv_batch_release(&batch);
    }
}

static bool has_gap(const struct kv_follow *f)
{
    return f->n_held > 0;
}

/* --- requests --- */

static void ask(struct kv_follow *f, uint64_t now)
{
    f->state = KV_FOLLOW_ASKED;
    f->asked_from = f->known && f->complete ? f->next : 0;
    f->asked_next = f->next;
    f->dumping = f->answered = false;
    f->progress_us = now;
    f->send = true;
    f->stats.asked++;
}

/* What is held is all that can be had: what came before it is lost. */
static void give_up_gap(struct kv_follow *f)
{
    f->failures = 0;
    if (!f->n_held)
        return;
    if (f->known)
        forget(f);
    f->complete = false;
    f->known = true;
    f->next = f->held[0].sequence;
    deliver_held(f);
}

static void failed(struct kv_follow *f, uint64_t now)
{
    f->state = KV_FOLLOW_IDLE;
    f->retry_at_us = now + (f->rules.retry_us << (f->failures < 3 ? f->failures : 3));
    f->failures++;
    if (f->dumping) { /* half a dump, and not what was taken back while it came */
        forget(f);
        f->known = f->complete = false;
        f->dumping = false;
    }
    if (f->failures >= KV_FOLLOW_MAX_FAILURES)
        give_up_gap(f);
}

static void answered_whole(struct kv_follow *f, uint64_t now)
{
    bool progress = f->answered;
    f->state = KV_FOLLOW_IDLE;
    f->dumping = false;
    f->complete = f->known;
    f->retry_at_us = f->known || has_gap(f) ? now : now + f->rules.probe_us; /* nothing was published yet */
    if (f->known)
        deliver_held(f);
    if (!has_gap(f)) {
        f->failures = 0;
        return;
    }
    if (progress || f->next != f->asked_next)
        return;
    failed(f, now); /* it has nothing of what is missing, at least not yet */
}

/* --- what comes in --- */

static void heard(struct kv_follow *f, uint64_t now)
{
    f->heard_us = now;
    f->silent = false;
}

static void start_anew(struct kv_follow *f)
{
    f->stats.restarts++;
    forget(f);
    drop_all_held(f);
    f->known = f->complete = false;
    f->newest_ts = 0;
    f->repeats = 0;
    f->fresh = true;
    f->state = KV_FOLLOW_IDLE;
}

/* An old number with a new time is a publisher that counts from the beginning. */
static bool is_restart(struct kv_follow *f, const uint8_t *data, size_t len)
{
    bool readable = kv_batch_open(&f->reader, data, len, NULL) == ST_OK;
    return (readable && f->reader.ts > f->newest_ts) || ++f->repeats > KV_FOLLOW_MAX_REPEATS;
}

static void live_while_nothing_is_known(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len)
{
    if (f->rules.can_ask)
        hold(f, sequence, data, len);
    else
        deliver(f, sequence, data, len);
}

static void live_after_gap(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len)
{
    f->stats.gaps += !has_gap(f);
    if (f->rules.can_ask) {
        hold(f, sequence, data, len);
        return;
    }
    forget(f);
    deliver(f, sequence, data, len);
}

void kv_follow_live(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len, uint64_t now)
{
    heard(f, now);
    if (f->known && !f->dumping && sequence < f->next) {
        if (!is_restart(f, data, len)) {
            f->stats.repeated++;
            return;
        }
        start_anew(f);
    }
    if (f->dumping)
        hold(f, sequence, data, len);
    else if (!f->known)
        live_while_nothing_is_known(f, sequence, data, len);
    else if (sequence > f->next)
        live_after_gap(f, sequence, data, len);
    else {
        deliver(f, sequence, data, len);
        deliver_held(f);
    }
}

/* A dump begins with AllBlocksCleared, and with another number than the one asked for. */
static void first_of_answer(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len)
{
    bool continues = f->known && f->asked_from;
    bool clears = kv_batch_open(&f->reader, data, len, NULL) == ST_OK && f->reader.clears;
    if (continues && sequence < f->next && !clears)
        return;
    if (continues && sequence == f->next) {
        deliver(f, sequence, data, len);
        return;
    }
    if (f->rules.dumps && !clears) {
        f->state = KV_FOLLOW_SKIPPING; /* the beginning of the dump was lost */
        return;
    }
    f->dumping = clears || !continues;
    f->stats.dumps += clears;
    forget(f);
    deliver(f, sequence, data, len);
}

static void data_of_answer(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len)
{
    if (!f->answered) {
        f->answered = true;
        first_of_answer(f, sequence, data, len);
    } else if (sequence == f->next)
        deliver(f, sequence, data, len);
    else if (sequence > f->next)
        f->state = KV_FOLLOW_SKIPPING;
}

void kv_follow_answer(struct kv_follow *f, uint64_t sequence, const uint8_t *data, size_t len, uint64_t now)
{
    if (f->state == KV_FOLLOW_IDLE)
        return;
    heard(f, now);
    f->progress_us = now;
    if (sequence != KV_SEQUENCE_END) {
        if (f->state == KV_FOLLOW_ASKED)
            data_of_answer(f, sequence, data, len);
        return;
    }
    if (f->state == KV_FOLLOW_SKIPPING)
        failed(f, now);
    else
        answered_whole(f, now);
}

/* --- time --- */

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool wants_to_ask(const struct kv_follow *f)
{
    return f->rules.can_ask && (!f->complete || has_gap(f));
}

static uint64_t ask_at(const struct kv_follow *f)
{
    if (!f->rules.can_ask)
        return UINT64_MAX;
    uint64_t probe = f->heard_us + f->rules.probe_us;
    return wants_to_ask(f) || probe < f->retry_at_us ? f->retry_at_us : probe;
}

uint64_t kv_follow_step(struct kv_follow *f, uint64_t now)
{
    if (f->state != KV_FOLLOW_IDLE && now >= f->progress_us + f->rules.answer_us) {
        f->stats.unanswered++;
        f->fresh = true;
        failed(f, now);
    }
    if (f->state == KV_FOLLOW_IDLE && now >= ask_at(f))
        ask(f, now);
    f->silent = now >= f->heard_us + f->rules.silence_us;
    uint64_t due = f->state == KV_FOLLOW_IDLE ? ask_at(f) : f->progress_us + f->rules.answer_us;
    return f->silent ? due : sooner(due, f->heard_us + f->rules.silence_us);
}

bool kv_follow_take_request(struct kv_follow *f, uint64_t *from, bool *fresh)
{
    if (!f->send)
        return false;
    *from = f->asked_from;
    *fresh = f->fresh;
    f->send = f->fresh = false;
    return true;
}
