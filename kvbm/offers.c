#include "kvbm/offers.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/log.h"
#include "kvbm/loans.h"

#define LOANS_REMEMBERED 4u /* for each offer that may be under way */

struct waiting_block {
    block_id block;
    bool shared;
    uint64_t generation, checksum;
};

/* Consecutive blocks of one sequence that wait. */
struct run {
    TAILQ_ENTRY(run) link;
    struct block_seed_parts parts;
    uint32_t *tokens; /* [(first + n) * block_tokens] */
    uint32_t first, n;
    struct waiting_block *blocks; /* [n] */
    uint64_t since_us;
};
TAILQ_HEAD(run_list, run);

struct offer {
    TAILQ_ENTRY(offer) link;
    struct loan_id id;
    uint32_t n;
    uint64_t deadline_us;
};
TAILQ_HEAD(offer_list, offer);

struct offers {
    struct offers_options options;
    struct loans *loans;
    void *manager; /* NULL: none */
    struct run_list queue;
    uint32_t n_waiting; /* blocks */
    struct offer_list under_way;
    uint32_t n_under_way;
    uint64_t last_number;
    struct timer timer;
    struct offers_counters counters;
};

static uint64_t now_of(const struct offers *offers)
{
    return offers->options.io->now(offers->options.io->ctx);
}

/* ---- life ------------------------------------------------------------------------------------------------- */

static void on_loan_ended(void *ctx, struct loan_id id)
{
    struct offers *offers = ctx;
    struct offer *offer;
    TAILQ_FOREACH(offer, &offers->under_way, link)
    if (offer->id.request == id.request)
        break;
    if (!offer)
        return;
    TAILQ_REMOVE(&offers->under_way, offer, link);
    offers->n_under_way--;
    free(offer);
}

status offers_create(const struct offers_options *options, struct offers **out)
{
    ASSERT(options->batch > 0 && options->batch <= OFFER_MAX_BLOCKS);
    struct offers *offers = calloc(1, sizeof *offers);
    if (!offers)
        return ST_NO_MEMORY;
    offers->options = *options;
    TAILQ_INIT(&offers->queue);
    TAILQ_INIT(&offers->under_way);
    const struct loans_options loans = { .pool = options->pool,
                                         .max_loans = LOANS_REMEMBERED * options->max_offers,
                                         .max_blocks = options->batch,
                                         .lifetime_us = options->lifetime_us,
                                         .ended = on_loan_ended,
                                         .ctx = offers };
    status st = loans_create(&loans, &offers->loans);
    if (st)
        free(offers);
    else
        *out = offers;
    return st;
}

static void drop_run(struct offers *offers, struct run *run)
{
    TAILQ_REMOVE(&offers->queue, run, link);
    offers->n_waiting -= run->n;
    free(run->tokens);
    free(run->blocks);
    free(run);
}

static void empty_queue(struct offers *offers)
{
    struct run *run;
    while ((run = TAILQ_FIRST(&offers->queue)) != NULL)
        drop_run(offers, run);
}

void offers_destroy(struct offers **offers)
{
    if (!*offers)
        return;
    timer_cancel((*offers)->options.timers, &(*offers)->timer);
    loans_destroy(&(*offers)->loans);
    empty_queue(*offers);
    free(*offers);
    *offers = NULL;
}

/* ---- sending ---------------------------------------------------------------------------------------------- */

/* A message about the first n blocks of a run, and where its arrays lie. */
struct offer_message {
    Baton__Offer body;
    Baton__BlockSeed seed;
    uint8_t salt[BLOCK_HASH_BYTES];
    block_id blocks[OFFER_MAX_BLOCKS];
    uint64_t generations[OFFER_MAX_BLOCKS], checksums[OFFER_MAX_BLOCKS];
    protobuf_c_boolean shared[OFFER_MAX_BLOCKS];
};

static void write_message(const struct offers *offers, const struct run *run, uint32_t n, struct offer_message *out)
{
    Baton__Offer *body = &out->body;
    baton__offer__init(body);
    exchange_write_seed(&run->parts, out->salt, &out->seed);
    body->kv_format = (char *)(uintptr_t)offers->options.kv_format;
    body->seed = &out->seed;
    body->tokens = run->tokens;
    body->n_tokens = (size_t)(run->first + n) * offers->options.block_tokens;
    body->first = run->first;
    for (uint32_t i = 0; i < n; i++) {
        out->blocks[i] = run->blocks[i].block;
        out->generations[i] = run->blocks[i].generation;
        out->checksums[i] = run->blocks[i].checksum;
        out->shared[i] = run->blocks[i].shared;
        body->n_shared = run->blocks[i].shared ? n : body->n_shared;
    }
    body->blocks = out->blocks;
    body->generations = out->generations;
    body->checksums = out->checksums;
    body->shared = out->shared;
    body->n_blocks = body->n_generations = body->n_checksums = n;
}

/* The block is in the life in which it was added, and somebody owns it or it is registered. */
static bool is_there(const struct offers *offers, const struct waiting_block *block)
{
    enum block_state state = block_pool_state(offers->options.pool, block->block);
    return (state == BLOCK_COMPLETE || state == BLOCK_REGISTERED) &&
           block_pool_generation(offers->options.pool, block->block) == block->generation;
}

/* What is behind a block that has gone is of no use without it. */
static void cut_at_gone(struct offers *offers, struct run *run)
{
    uint32_t n = 0;
    while (n < run->n && is_there(offers, &run->blocks[n]))
        n++;
    offers->counters.gone += run->n - n;
    offers->n_waiting -= run->n - n;
    run->n = n;
}

static void take_off(struct offers *offers, struct run *run, uint32_t n)
{
    offers->n_waiting -= n;
    run->first += n;
    run->n -= n;
    memmove(run->blocks, run->blocks + n, run->n * sizeof *run->blocks);
    if (!run->n)
        drop_run(offers, run);
}

/* Lends the first n blocks of a run and says so. */
static bool offer_blocks(struct offers *offers, const struct run *run, uint32_t n)
{
    const struct offers_options *options = &offers->options;
    struct offer_message message;
    struct offer *offer = calloc(1, sizeof *offer);
    if (!offer)
        return false;
    write_message(offers, run, n, &message);
    offer->id = (struct loan_id){ .request = ++offers->last_number };
    offer->n = n;
    uint64_t now = now_of(offers);
    offer->deadline_us = now + options->lifetime_us;
    if (loans_open(offers->loans, offer->id, 0, message.blocks, n, now, offer->deadline_us) != ST_OK) {
        free(offer);
        return false;
    }
    TAILQ_INSERT_TAIL(&offers->under_way, offer, link);
    offers->n_under_way++;
    const struct message_head head = {
        FRAME_OFFER, { options->incarnation, offer->id.request }, 0, 0, offer->deadline_us, NULL
    };
    if (options->io->send(options->io->ctx, offers->manager, &head, &message.body.base) == ST_OK) {
        offers->counters.offered += n;
        return true;
    }
    (void)loans_end(offers->loans, (struct loan_id){ .request = offers->last_number });
    return false;
}

static void on_timer(void *arg);

/* When the first offer is over, or the first run has waited long enough. */
static void rearm(struct offers *offers)
{
    uint64_t due = TIMERS_NEVER;
    const struct run *run = TAILQ_FIRST(&offers->queue);
    if (run && offers->n_under_way < offers->options.max_offers)
        due = run->since_us + offers->options.linger_us;
    const struct offer *oldest = TAILQ_FIRST(&offers->under_way);
    if (oldest && oldest->deadline_us < due)
        due = oldest->deadline_us;
    if (due == TIMERS_NEVER)
        timer_cancel(offers->options.timers, &offers->timer);
    else
        timer_set(offers->options.timers, &offers->timer, due, on_timer, offers);
}

static void pump(struct offers *offers)
{
    const struct offers_options *options = &offers->options;
    uint64_t now = now_of(offers);
    struct run *run;
    while (offers->manager && offers->n_under_way < options->max_offers &&
           (run = TAILQ_FIRST(&offers->queue)) != NULL) {
        if (run->n < options->batch && now < run->since_us + options->linger_us)
            break;
        cut_at_gone(offers, run);
        uint32_t n = run->n < options->batch ? run->n : options->batch;
        if (n && !offer_blocks(offers, run, n)) {
            offers->counters.lost += n;
            log_debug("blocks not offered: the link takes no more", "blocks=%u", n);
        }
        take_off(offers, run, n);
    }
    rearm(offers);
}

static void on_timer(void *arg)
{
    struct offers *offers = arg;
    uint32_t n = loans_expire(offers->loans, now_of(offers));
    offers->counters.expired += n;
    pump(offers);
    if (n && offers->options.released)
        offers->options.released(offers->options.ctx);
}

/* ---- adding ----------------------------------------------------------------------------------------------- */

static bool same_parts(const struct block_seed_parts *a, const struct block_seed_parts *b)
{
    return a->weights == b->weights && a->tokenizer == b->tokenizer && a->adapter == b->adapter &&
           block_hash_equal(a->salt, b->salt);
}

/* The last run of the queue, where the new one goes on with the same sequence. */
static struct run *joined(struct offers *offers, const struct offered_run *what)
{
    struct run *last = TAILQ_LAST(&offers->queue, run_list);
    if (!last || last->first + last->n != what->first || !same_parts(&last->parts, &what->parts))
        return NULL;
    size_t tokens = (size_t)what->first * offers->options.block_tokens;
    return memcmp(last->tokens, what->tokens, tokens * sizeof *what->tokens) ? NULL : last;
}

static struct run *begin_run(struct offers *offers, const struct offered_run *what)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->parts = what->parts;
    run->first = what->first;
    run->since_us = now_of(offers);
    TAILQ_INSERT_TAIL(&offers->queue, run, link);
    return run;
}

static bool grow(struct offers *offers, struct run *run, const struct offered_run *what, uint32_t n)
{
    size_t n_tokens = (size_t)(what->first + n) * offers->options.block_tokens;
    uint32_t *tokens = realloc(run->tokens, n_tokens * sizeof *tokens);
    run->tokens = tokens ? tokens : run->tokens;
    struct waiting_block *blocks = tokens ? realloc(run->blocks, (run->n + n) * sizeof *blocks) : NULL;
    if (!blocks)
        return false;
    run->blocks = blocks;
    memcpy(tokens, what->tokens, n_tokens * sizeof *tokens);
    for (uint32_t i = 0; i < n; i++)
        blocks[run->n + i] =
            (struct waiting_block){ .block = what->blocks[i],
                                    .shared = what->shared && what->shared[i],
                                    .generation = block_pool_generation(offers->options.pool, what->blocks[i]),
                                    .checksum = what->checksums[i] };
    run->n += n;
    offers->n_waiting += n;
    return true;
}

/* How many of the run there is room for. */
static uint32_t room_for(const struct offers *offers, const struct offered_run *what)
{
    uint32_t in_queue = offers->options.max_queue - offers->n_waiting;
    uint32_t in_chain = what->first < offers->options.max_chain ? offers->options.max_chain - what->first : 0;
    uint32_t room = in_queue < in_chain ? in_queue : in_chain;
    return what->n < room ? what->n : room;
}

uint32_t offers_add(struct offers *offers, const struct offered_run *what)
{
    if (!offers->manager) {
        offers->counters.no_manager += what->n;
        return 0;
    }
    uint32_t n = room_for(offers, what);
    offers->counters.queue_full += what->n - n;
    if (!n)
        return 0;
    struct run *run = joined(offers, what);
    run = run ? run : begin_run(offers, what);
    if (!run || !grow(offers, run, what, n)) {
        if (run && !run->n)
            drop_run(offers, run);
        offers->counters.queue_full += n;
        return 0;
    }
    pump(offers);
    return n;
}

void offers_set_manager(struct offers *offers, void *manager)
{
    if (offers->manager == manager)
        return;
    uint32_t under_way = offers->n_under_way;
    struct offer *offer;
    while ((offer = TAILQ_FIRST(&offers->under_way)) != NULL)
        (void)loans_end(offers->loans, offer->id);
    offers->counters.lost += under_way;
    empty_queue(offers);
    offers->manager = manager;
    rearm(offers);
}

void offers_on_peer_lost(struct offers *offers, void *peer)
{
    if (peer == offers->manager)
        offers_set_manager(offers, NULL);
}

/* ---- answers ---------------------------------------------------------------------------------------------- */

static void count(struct offers_counters *counters, Baton__OfferOutcome outcome)
{
    switch (outcome) {
    case BATON__OFFER_OUTCOME__OFFER_TAKEN:
        counters->taken++;
        break;
    case BATON__OFFER_OUTCOME__OFFER_PRESENT:
        counters->present++;
        break;
    case BATON__OFFER_OUTCOME__OFFER_DECLINED:
        counters->declined++;
        break;
    case BATON__OFFER_OUTCOME__OFFER_STALE:
        counters->stale++;
        break;
    case BATON__OFFER_OUTCOME__OFFER_DAMAGED:
        counters->damaged++;
        break;
    case BATON__OFFER_OUTCOME__OFFER_FULL:
    case BATON__OFFER_OUTCOME__OFFER_BUSY:
    case BATON__OFFER_OUTCOME__OFFER_FORMAT:
        counters->refused++;
        break;
    default:
        counters->failed++;
        break;
    }
}

static struct offer *find_offer(struct offers *offers, const void *peer, const struct frame *frame)
{
    struct offer *offer;
    TAILQ_FOREACH(offer, &offers->under_way, link)
    if (peer == offers->manager && frame->key.router == offers->options.incarnation &&
        frame->key.seq == offer->id.request)
        return offer;
    return NULL;
}

bool offers_on_message(struct offers *offers, void *peer, const struct frame *frame)
{
    if (frame->type != FRAME_OFFER_TAKEN)
        return false;
    Baton__OfferTaken *msg = (Baton__OfferTaken *)(void *)exchange_unpack(&baton__offer_taken__descriptor, frame);
    struct offer *offer = find_offer(offers, peer, frame);
    offers->counters.late += msg && !offer;
    offers->counters.malformed += !msg || (offer && msg->n_outcomes != offer->n);
    for (size_t i = 0; msg && offer && i < msg->n_outcomes && i < offer->n; i++)
        count(&offers->counters, msg->outcomes[i]);
    if (msg && offer)
        (void)loans_end(offers->loans, offer->id);
    if (msg)
        protobuf_c_message_free_unpacked(&msg->base, NULL);
    pump(offers);
    return true;
}

uint32_t offers_waiting(const struct offers *offers)
{
    return offers->n_waiting;
}

uint32_t offers_under_way(const struct offers *offers)
{
    return offers->n_under_way;
}

const struct offers_counters *offers_counters(const struct offers *offers)
{
    return &offers->counters;
}
