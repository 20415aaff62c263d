#include "kvbm/lender.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/log.h"
#include "kvbm/loans.h"

#define LOANS_REMEMBERED 4u /* for each that may be open: how many are known when few are */
#define RENEWALS         4u /* in a lifetime */

/* A Find that has its loan. */
struct lent {
    struct lender_find find;
    TAILQ_ENTRY(lent) link;
    struct loan_id id;
    void *peer;
    uint64_t borrower; /* incarnation */
    struct request_key key;
    uint32_t attempt, leg;
    struct trace_context trace;
    uint32_t first_run;      /* as it was announced first */
    uint32_t sent, sent_run; /* what the borrower was told */
};
TAILQ_HEAD(lent_list, lent);

struct lender {
    struct lender_options options;
    struct loans *loans;
    struct lent_list lent;
    struct timer timer;
    bool draining;
    struct lender_counters counters;
};

static uint64_t now_of(const struct lender *lender)
{
    return lender->options.io->now(lender->options.io->ctx);
}

static struct lent *lent_of(struct lender_find *find)
{
    return (struct lent *)(void *)((char *)find - offsetof(struct lent, find));
}

static struct lent *find_lent(struct lender *lender, struct loan_id id)
{
    struct lent *lent;
    TAILQ_FOREACH(lent, &lender->lent, link)
    if (lent->id.request == id.request && lent->id.attempt == id.attempt && lent->id.leg == id.leg)
        return lent;
    return NULL;
}

static void lent_free(struct lent *lent)
{
    free((void *)(uintptr_t)lent->find.hashes);
    free((void *)(uintptr_t)lent->find.tokens);
    free(lent->find.blocks);
    free(lent);
}

/* From the table of loans: the one place where blocks are given back. */
static void on_loan_ended(void *ctx, struct loan_id id)
{
    struct lender *lender = ctx;
    struct lent *lent = find_lent(lender, id);
    if (!lent)
        return;
    TAILQ_REMOVE(&lender->lent, lent, link);
    lender->options.source->close(lender->options.source->ctx, &lent->find);
    lent_free(lent);
}

status lender_create(const struct lender_options *options, struct lender **out)
{
    struct lender *lender = calloc(1, sizeof *lender);
    if (!lender)
        return ST_NO_MEMORY;
    lender->options = *options;
    TAILQ_INIT(&lender->lent);
    const struct loans_options loans = { .max_loans = LOANS_REMEMBERED * options->max_loans,
                                         .max_blocks = 1,
                                         .lifetime_us = options->lifetime_us,
                                         .ended = on_loan_ended,
                                         .ctx = lender };
    status st = loans_create(&loans, &lender->loans);
    if (st)
        free(lender);
    else
        *out = lender;
    return st;
}

void lender_destroy(struct lender **lender)
{
    if (!*lender)
        return;
    timer_cancel((*lender)->options.timers, &(*lender)->timer);
    loans_destroy(&(*lender)->loans);
    free(*lender);
    *lender = NULL;
}

/* ---- time ------------------------------------------------------------------------------------------------- */

static void on_timer(void *arg);

static void rearm(struct lender *lender)
{
    uint64_t due = now_of(lender) + lender->options.lifetime_us / RENEWALS;
    struct lent *lent;
    TAILQ_FOREACH(lent, &lender->lent, link)
    if (lent->find.deadline_us < due)
        due = lent->find.deadline_us;
    if (TAILQ_EMPTY(&lender->lent))
        timer_cancel(lender->options.timers, &lender->timer);
    else
        timer_set(lender->options.timers, &lender->timer, due, on_timer, lender);
}

static void on_timer(void *arg)
{
    struct lender *lender = arg;
    const struct exchange_io *io = lender->options.io;
    const struct lender_source *source = lender->options.source;
    uint64_t now = now_of(lender);
    struct lent *lent;
    TAILQ_FOREACH(lent, &lender->lent, link)
    if (io->is_alive(io->ctx, lent->peer)) {
        loans_renew(lender->loans, lent->borrower, now);
        if (source->renew)
            source->renew(source->ctx, &lent->find, now + lender->options.lifetime_us);
    }
    lender->counters.ended_by_time += loans_expire(lender->loans, now);
    rearm(lender);
}

/* ---- answers ---------------------------------------------------------------------------------------------- */

static void send_found(struct lender *lender, void *peer, const struct message_head *head, Baton__Found *body)
{
    /* Where it is refused the link is lost, and with it the loan. */
    (void)lender->options.io->send(lender->options.io->ctx, peer, head, &body->base);
}

static void answer_nothing(struct lender *lender, void *peer, const struct frame *frame, uint64_t deadline_us,
                           uint32_t first, Baton__FoundReason reason)
{
    const struct message_head head = {
        FRAME_FOUND, frame->key, frame->attempt, frame->leg, deadline_us, &frame->trace
    };
    Baton__Found body = BATON__FOUND__INIT;
    body.first = first;
    body.reason = reason;
    send_found(lender, peer, &head, &body);
}

static Baton__FoundReason reason_of(const struct lent *lent)
{
    const struct lender_find *find = &lent->find;
    uint32_t wanted = find->n_blocks - find->first;
    if (find->run < lent->first_run)
        return BATON__FOUND_REASON__FOUND_LOST;
    if (find->run == wanted)
        return BATON__FOUND_REASON__FOUND_ALL;
    return find->run == find->max ? BATON__FOUND_REASON__FOUND_CUT : BATON__FOUND_REASON__FOUND_ABSENT;
}

/* Tells the borrower of blocks [from, n_ready) of the run. */
static void answer(struct lender *lender, struct lent *lent, uint32_t from)
{
    const struct lender_find *find = &lent->find;
    const struct message_head head = {
        FRAME_FOUND, lent->key, lent->attempt, lent->leg, find->deadline_us, &lent->trace
    };
    uint32_t n = find->n_ready - from, room = n ? n : 1;
    uint32_t *numbers = malloc(2 * (size_t)room * sizeof *numbers);
    uint64_t *values = malloc(2 * (size_t)room * sizeof *values);
    if (!numbers || !values) { /* the borrower waits until its deadline at most */
        log_error("no memory to answer who looks for blocks", "blocks=%u", n);
        free(numbers);
        free(values);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct lent_block *block = &find->blocks[from + i];
        numbers[i] = block->block;
        numbers[room + i] = block->tier;
        values[i] = block->generation;
        values[room + i] = block->checksum;
    }
    Baton__Found body = BATON__FOUND__INIT;
    body.first = find->first + from;
    body.blocks = numbers;
    body.tiers = numbers + room;
    body.generations = values;
    body.checksums = values + room;
    body.n_blocks = body.n_tiers = body.n_generations = body.n_checksums = n;
    body.run = find->run;
    body.reason = reason_of(lent);
    lent->sent = find->n_ready;
    lent->sent_run = find->run;
    send_found(lender, lent->peer, &head, &body);
    free(numbers);
    free(values);
}

void lender_progress(struct lender *lender, struct lender_find *find)
{
    struct lent *lent = lent_of(find);
    ASSERT(find->n_ready <= find->run && find->run <= lent->sent_run);
    if (find->n_ready == lent->sent && find->run == lent->sent_run)
        return;
    lender->counters.found_blocks += find->n_ready - lent->sent;
    lender->counters.lost_blocks += lent->sent_run - find->run;
    answer(lender, lent, lent->sent);
}

void lender_withdrawn(struct lender *lender, struct lender_find *find)
{
    lender->counters.ended_by_time += loans_end(lender->loans, lent_of(find)->id);
    rearm(lender);
}

/* ---- Find ------------------------------------------------------------------------------------------------- */

/* A borrower has one loan of a request, so that what it asks for next replaces what it asked for before; another's
 * loan of the same request is none of its business. */
static struct loan_id name_loan(const struct frame *frame)
{
    const uint64_t who[] = { frame->key.router, frame->key.seq, frame->incarnation };
    return (struct loan_id){ XXH3_64bits(who, sizeof who), frame->attempt, frame->leg };
}

static bool copy_chain(struct lender *lender, const Baton__Find *msg, struct lender_find *find)
{
    uint32_t bt = lender->options.block_tokens;
    struct block_hash *hashes = calloc(find->n_blocks, sizeof *hashes);
    uint32_t *tokens = calloc((size_t)find->n_blocks * bt, sizeof *tokens);
    find->hashes = hashes;
    find->tokens = tokens;
    find->blocks = calloc(find->max, sizeof *find->blocks);
    if (!hashes || !tokens || !find->blocks)
        return false;
    memcpy(tokens, msg->tokens, msg->n_tokens * sizeof *tokens);
    struct block_hasher hasher;
    block_hasher_init(&hasher, find->seed, bt);
    (void)block_hasher_grow(&hasher, tokens, msg->n_tokens, hashes, find->n_blocks);
    return true;
}

static struct lent *lent_create(struct lender *lender, void *peer, const struct frame *frame, uint64_t deadline_us,
                                const Baton__Find *msg)
{
    struct lent *lent = calloc(1, sizeof *lent);
    if (!lent)
        return NULL;
    struct lender_find *find = &lent->find;
    (void)exchange_read_seed(msg->seed, &find->parts); /* is_sound has looked */
    find->seed = block_seed(&find->parts);
    find->n_blocks = (uint32_t)(msg->n_tokens / lender->options.block_tokens);
    find->first = msg->first;
    find->max = find->n_blocks - find->first;
    find->max = find->max < lender->options.max_blocks ? find->max : lender->options.max_blocks;
    find->deadline_us = deadline_us;
    find->tokens_per_s = msg->tokens_per_s;
    find->local_only = msg->local_only;
    lent->id = name_loan(frame);
    lent->peer = peer;
    lent->borrower = frame->incarnation;
    lent->key = frame->key;
    lent->attempt = frame->attempt;
    lent->leg = frame->leg;
    lent->trace = frame->trace;
    if (copy_chain(lender, msg, find))
        return lent;
    lent_free(lent);
    return NULL;
}

static bool is_sound(const struct lender *lender, const Baton__Find *msg)
{
    struct block_seed_parts parts;
    uint32_t bt = lender->options.block_tokens;
    return exchange_read_seed(msg->seed, &parts) && msg->n_tokens % bt == 0 &&
           msg->n_tokens / bt <= lender->options.max_chain && msg->first < msg->n_tokens / bt;
}

/* The loan is open: fills it, or ends it when there is nothing to lend. */
static void lend(struct lender *lender, struct lent *lent, const struct frame *frame)
{
    struct lender_find *find = &lent->find;
    TAILQ_INSERT_TAIL(&lender->lent, lent, link);
    lender->options.source->open(lender->options.source->ctx, find);
    ASSERT(find->n_ready <= find->run && find->run <= find->max);
    lent->first_run = find->run;
    lender->counters.finds++;
    lender->counters.found_blocks += find->n_ready;
    lender->counters.cut += find->run == find->max && find->max < find->n_blocks - find->first;
    if (find->run) {
        answer(lender, lent, 0);
        return;
    }
    lender->counters.nothing_found++;
    answer_nothing(lender, lent->peer, frame, find->deadline_us, find->first, BATON__FOUND_REASON__FOUND_ABSENT);
    (void)loans_end(lender->loans, lent->id);
}

static status open_loan(struct lender *lender, struct loan_id id, uint64_t borrower, uint64_t deadline_us)
{
    uint32_t before = loans_open_count(lender->loans);
    status st = loans_open(lender->loans, id, borrower, NULL, 0, now_of(lender), deadline_us);
    uint32_t after = loans_open_count(lender->loans) - (st == ST_OK);
    lender->counters.ended_by_time += before - after; /* an older one of the request */
    if (st == ST_OK && after >= lender->options.max_loans) {
        (void)loans_end(lender->loans, id);
        st = ST_LIMIT;
    }
    return st;
}

static void begin(struct lender *lender, void *peer, const struct frame *frame, uint64_t deadline_us,
                  const Baton__Find *msg)
{
    status st = open_loan(lender, name_loan(frame), frame->incarnation, deadline_us);
    if (st == ST_STALE) {
        lender->counters.stale++;
        answer_nothing(lender, peer, frame, deadline_us, msg->first, BATON__FOUND_REASON__FOUND_STALE);
        return;
    }
    struct lent *lent = st == ST_OK ? lent_create(lender, peer, frame, deadline_us, msg) : NULL;
    if (!lent) {
        (void)loans_end(lender->loans, name_loan(frame));
        lender->counters.busy++;
        answer_nothing(lender, peer, frame, deadline_us, msg->first, BATON__FOUND_REASON__FOUND_BUSY);
        return;
    }
    lend(lender, lent, frame);
    rearm(lender);
}

static void on_find(struct lender *lender, void *peer, const struct frame *frame, uint64_t deadline_us,
                    const Baton__Find *msg)
{
    struct lent *known = find_lent(lender, name_loan(frame));
    if (known) {
        lender->counters.repeated++;
        loans_renew(lender->loans, known->borrower, now_of(lender));
        answer(lender, known, 0);
    } else if (strcmp(msg->kv_format, lender->options.kv_format)) {
        lender->counters.other_format++;
        answer_nothing(lender, peer, frame, deadline_us, msg->first, BATON__FOUND_REASON__FOUND_FORMAT);
    } else if (!is_sound(lender, msg)) {
        lender->counters.malformed++;
        answer_nothing(lender, peer, frame, deadline_us, msg->first, BATON__FOUND_REASON__FOUND_INVALID);
    } else if (lender->draining) {
        answer_nothing(lender, peer, frame, deadline_us, msg->first, BATON__FOUND_REASON__FOUND_BUSY);
    } else if (now_of(lender) < deadline_us) {
        begin(lender, peer, frame, deadline_us, msg);
    }
}

/* ---- Pulled, and the rest --------------------------------------------------------------------------------- */

static void suspect_damaged(struct lender *lender, struct lent *lent, const Baton__Pulled *msg)
{
    const struct lender_source *source = lender->options.source;
    const struct lender_find *find = &lent->find;
    for (size_t i = 0; i < msg->n_damaged && i < find->n_ready; i++) {
        uint32_t index = msg->damaged[i] - find->first;
        if (msg->damaged[i] < find->first || index >= find->n_ready)
            continue;
        lender->counters.damaged++;
        log_error("a block that was lent arrived damaged", "borrower=%s block=%u tier=%s",
                  lender->options.io->name(lender->options.io->ctx, lent->peer), find->blocks[index].block,
                  kv_tier_medium(find->blocks[index].tier));
        if (source->suspect)
            source->suspect(source->ctx, find, index);
    }
}

static void on_pulled(struct lender *lender, const struct frame *frame, const Baton__Pulled *msg)
{
    struct loan_id id = name_loan(frame);
    struct lent *lent = find_lent(lender, id);
    if (lent) {
        lender->counters.pulled_blocks += msg->blocks <= lent->find.n_ready ? msg->blocks : lent->find.n_ready;
        suspect_damaged(lender, lent, msg);
    } else {
        /* What was never open is known as ended from now on: its Find may still come, repeated, and is too late then.
         */
        (void)open_loan(lender, id, frame->incarnation, 0);
    }
    (void)loans_end(lender->loans, id);
    rearm(lender);
}

bool lender_on_message(struct lender *lender, void *peer, const struct frame *frame, uint64_t deadline_us)
{
    if (frame->type != FRAME_FIND && frame->type != FRAME_PULLED)
        return false;
    bool is_find = frame->type == FRAME_FIND;
    ProtobufCMessage *msg = exchange_unpack(is_find ? &baton__find__descriptor : &baton__pulled__descriptor, frame);
    if (!msg)
        lender->counters.malformed++;
    else if (is_find)
        on_find(lender, peer, frame, deadline_us, (const Baton__Find *)(const void *)msg);
    else
        on_pulled(lender, frame, (const Baton__Pulled *)(const void *)msg);
    if (msg)
        protobuf_c_message_free_unpacked(msg, NULL);
    return true;
}

static struct lent *of_peer(struct lender *lender, const void *peer)
{
    struct lent *lent;
    TAILQ_FOREACH(lent, &lender->lent, link)
    if (lent->peer == peer)
        return lent;
    return NULL;
}

void lender_on_peer_lost(struct lender *lender, void *peer)
{
    struct lent *lent;
    while ((lent = of_peer(lender, peer)) != NULL)
        lender->counters.ended_by_loss += loans_borrower_lost(lender->loans, lent->borrower);
    rearm(lender);
}

void lender_drain(struct lender *lender)
{
    lender->draining = true;
}

uint32_t lender_open_loans(const struct lender *lender)
{
    return loans_open_count(lender->loans);
}

const struct lender_counters *lender_counters(const struct lender *lender)
{
    return &lender->counters;
}
