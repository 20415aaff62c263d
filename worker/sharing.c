#include "worker/sharing.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "kvbm/kv_format.h"
#include "kvbm/registry_source.h"
#include "kvbm/whole_checksum.h"

#define SUM_TAKES        4u  /* checksums: takes under way, and */
#define SUM_BLOCKS       64u /* blocks of one */
#define MAX_LOANS        256u
#define LOAN_BLOCKS      4096u
#define LOAN_LIFETIME_US 10000000u
#define MAX_PULLS        32u
#define PULL_TAKES       32u /* of one pull at one time */
#define TAKE_BYTES       (1u << 20)
#define LAYER_TAKE_BYTES (256u << 10) /* behind which computing begins */
#define OFFER_QUEUE      4096u
#define OFFER_BATCH      64u
#define OFFERS           4u
#define OFFER_LINGER_US  5000u
#define OFFER_LIFE_US    5000000u
#define FORGET_US        10000000u /* half of what is known of a holder */

#define SILENT_HOLDERS 16u /* remembered; the one noted first makes room */

/* Blocks in the order in which they came, each once. */
struct block_queue {
    block_id *blocks; /* [n_blocks] */
    bool *is_in;      /* [n_blocks] */
    uint32_t first, n;
};

struct sharing {
    struct sharing_options options;
    struct exchange_io io;
    uint32_t n_blocks;
    struct whole_checksums *checksums;
    struct registry_source source;
    struct lender_source lent_from; /* source, and who waits for blocks hears of the end of loans */
    struct timer wake;
    struct lender *lender;
    struct borrower *borrower;
    struct offers *offers;
    struct pull_costs costs;
    struct worker_peer *manager;
    struct block_queue to_sum, to_offer;
    uint32_t *uses; /* [n_blocks], sequences that had the block since it was registered */
    uint64_t damaged_here;
    struct {
        uint64_t holder, until_us;
    } silent[SILENT_HOLDERS];
    uint32_t next_silent;
};

/* ---- the world, as the cores see it -------------------------------------------------------------------------- */

static uint64_t io_now(void *ctx)
{
    const struct worker_io *io = ((struct sharing *)ctx)->options.io;
    return io->now(io->ctx);
}

static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    const struct worker_io *io = ((struct sharing *)ctx)->options.io;
    return io->send(io->ctx, peer, head, body, true);
}

static bool io_is_alive(void *ctx, void *peer)
{
    const struct worker_io *io = ((struct sharing *)ctx)->options.io;
    return io->is_alive(io->ctx, peer);
}

static struct transfer_peer *io_way(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct worker_peer *)peer)->transfer;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    const struct worker_io *io = ((struct sharing *)ctx)->options.io;
    return io->take(io->ctx, take);
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    const struct worker_io *io = ((struct sharing *)ctx)->options.io;
    io->cancel_take(io->ctx, take);
}

static const char *io_name(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct worker_peer *)peer)->id;
}

/* ---- who waits for blocks ---------------------------------------------------------------------------------------- */

static void on_wake(void *arg)
{
    struct sharing *sharing = arg;
    sharing->options.released(sharing->options.ctx);
}

/* Not from within the core that gives them back. */
static void on_released(void *ctx)
{
    struct sharing *sharing = ctx;
    timer_set(sharing->options.timers, &sharing->wake, io_now(sharing), on_wake, sharing);
}

static void open_find(void *ctx, struct lender_find *find)
{
    const struct lender_source *source = &((struct sharing *)ctx)->source.source;
    source->open(source->ctx, find);
}

static void close_find(void *ctx, struct lender_find *find)
{
    const struct lender_source *source = &((struct sharing *)ctx)->source.source;
    source->close(source->ctx, find);
    on_released(ctx);
}

static void suspect_find(void *ctx, const struct lender_find *find, uint32_t index)
{
    const struct lender_source *source = &((struct sharing *)ctx)->source.source;
    source->suspect(source->ctx, find, index);
}

/* ---- queues ---------------------------------------------------------------------------------------------------- */

static bool queue_create(struct block_queue *queue, uint32_t n_blocks)
{
    queue->blocks = calloc(n_blocks, sizeof *queue->blocks);
    queue->is_in = calloc(n_blocks, sizeof *queue->is_in);
    return queue->blocks && queue->is_in;
}

static void queue_free(struct block_queue *queue)
{
    free(queue->blocks);
    free(queue->is_in);
}

static void push(struct sharing *sharing, struct block_queue *queue, block_id block)
{
    if (queue->is_in[block])
        return;
    queue->is_in[block] = true;
    queue->blocks[(queue->first + queue->n++) % sharing->n_blocks] = block;
}

static block_id first_of(const struct block_queue *queue)
{
    return queue->n ? queue->blocks[queue->first] : BLOCK_NONE;
}

static void pop(struct sharing *sharing, struct block_queue *queue)
{
    queue->is_in[queue->blocks[queue->first]] = false;
    queue->first = (queue->first + 1) % sharing->n_blocks;
    queue->n--;
}

/* ---- checksums --------------------------------------------------------------------------------------------------- */

static bool is_registered(const struct sharing *sharing, block_id block)
{
    return block_pool_state(sharing->options.pool, block) == BLOCK_REGISTERED;
}

static bool has_checksum(const struct sharing *sharing, block_id block)
{
    uint64_t checksum;
    return whole_checksums_get(sharing->checksums, block, &checksum);
}

static void on_summed(void *ctx, block_id block, uint64_t checksum)
{
    struct sharing *sharing = ctx;
    (void)checksum;
    if (sharing->uses[block] > 0)
        push(sharing, &sharing->to_offer, block);
}

void sharing_know_checksum(struct sharing *sharing, block_id block, uint64_t checksum)
{
    whole_checksums_set(sharing->checksums, block, checksum);
}

bool sharing_knows_checksum(const struct sharing *sharing, block_id block, uint64_t *out)
{
    return whole_checksums_get(sharing->checksums, block, out);
}

/* What has gone since, or came with its checksum, needs none made. */
static void make_checksums(struct sharing *sharing)
{
    struct block_queue *queue = &sharing->to_sum;
    while (queue->n) {
        block_id blocks[SUM_BLOCKS];
        uint32_t n = 0;
        for (uint32_t i = 0; i < queue->n && n < SUM_BLOCKS; i++) {
            block_id block = queue->blocks[(queue->first + i) % sharing->n_blocks];
            if (is_registered(sharing, block) && !has_checksum(sharing, block))
                blocks[n++] = block;
        }
        status st = whole_checksums_make(sharing->checksums, blocks, n);
        if (st == ST_LIMIT)
            return; /* when others have ended */
        for (block_id last = n ? blocks[n - 1] : BLOCK_NONE; queue->n;) {
            block_id block = first_of(queue);
            pop(sharing, queue);
            if (block == last)
                break;
        }
    }
}

/* ---- offers ------------------------------------------------------------------------------------------------------ */

/* How many blocks of its chain there are up to this one. */
static uint32_t depth_of(const struct sharing *sharing, block_id block)
{
    const struct block_registry *registry = prefix_cache_registry(sharing->options.cache);
    uint32_t n = 0;
    for (; block != BLOCK_NONE; block = block_registry_at(registry, block).parent)
        n++;
    return n;
}

/* The ids of the chain's tokens up to this block, which is the depth-th. */
static uint32_t *tokens_of_chain(const struct sharing *sharing, block_id block, uint32_t depth)
{
    const struct block_registry *registry = prefix_cache_registry(sharing->options.cache);
    uint32_t bt = sharing->options.geometry.block_tokens;
    uint32_t *tokens = malloc((size_t)depth * bt * sizeof *tokens);
    while (tokens && depth > 0) {
        struct registry_block what = block_registry_at(registry, block);
        depth--;
        for (uint32_t i = 0; i < bt; i++)
            tokens[(size_t)depth * bt + i] = what.tokens[i];
        block = what.parent;
    }
    return tokens;
}

/* n blocks, each the parent of the next. */
static void offer_run(struct sharing *sharing, const block_id blocks[], uint32_t n)
{
    uint64_t checksums[OFFER_BATCH];
    bool shared[OFFER_BATCH];
    for (uint32_t i = 0; i < n; i++) {
        bool is_known = whole_checksums_get(sharing->checksums, blocks[i], &checksums[i]);
        ASSERT(is_known);
        shared[i] = sharing->uses[blocks[i]] > 1;
    }
    uint32_t depth = depth_of(sharing, blocks[n - 1]);
    uint32_t *tokens = tokens_of_chain(sharing, blocks[n - 1], depth);
    if (!tokens)
        return; /* they are offered when they are used again */
    const struct offered_run run = {
        .parts = prefix_cache_parts(sharing->options.cache, blocks[0]),
        .tokens = tokens,
        .first = depth - n,
        .n = n,
        .blocks = blocks,
        .checksums = checksums,
        .shared = shared,
    };
    (void)offers_add(sharing->offers, &run);
    free(tokens);
}

static void offer_blocks(struct sharing *sharing)
{
    const struct block_registry *registry = prefix_cache_registry(sharing->options.cache);
    block_id run[OFFER_BATCH], block;
    uint32_t n = 0;
    while ((block = first_of(&sharing->to_offer)) != BLOCK_NONE) {
        pop(sharing, &sharing->to_offer);
        if (!is_registered(sharing, block) || !has_checksum(sharing, block))
            continue;
        bool goes_on = n > 0 && block_registry_at(registry, block).parent == run[n - 1];
        if (n > 0 && (!goes_on || n == OFFER_BATCH)) {
            offer_run(sharing, run, n);
            n = 0;
        }
        run[n++] = block;
    }
    if (n > 0)
        offer_run(sharing, run, n);
}

void sharing_pump(struct sharing *sharing)
{
    make_checksums(sharing);
    offer_blocks(sharing);
}

/* ---- what becomes of blocks ----------------------------------------------------------------------------------------
 */

/* What came from this host its manager has heard of by whoever computed it. */
static void on_registered(void *ctx, const struct sequence *seq, block_id block)
{
    struct sharing *sharing = ctx;
    sharing->uses[block] = seq->chain.is_from_host ? 0 : 1;
    if (has_checksum(sharing, block))
        on_summed(sharing, block, 0);
    else
        push(sharing, &sharing->to_sum, block);
}

/* At each doubling of its uses a block is offered again, as the manager may have declined it; and what lies behind it
 * in the chain with it, which no manager takes without its beginning. */
static void on_used(void *ctx, const block_id blocks[], uint32_t n)
{
    struct sharing *sharing = ctx;
    bool is_offered = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *uses = &sharing->uses[blocks[i]];
        *uses += *uses < UINT32_MAX;
        if (*uses == 1) /* of what came from this host, the first sequence's was not counted */
            *uses = 2;
        is_offered |= (*uses & (*uses - 1)) == 0;
        if (is_offered)
            push(sharing, &sharing->to_offer, blocks[i]);
    }
}

/* ---- a block that arrived damaged at a borrower
 * ---------------------------------------------------------------------- */

struct look {
    struct transfer_take take; /* first */
    struct sharing *sharing;
    struct transfer_span span;
    uint64_t expected;
    uint64_t sums[]; /* [n_layers] */
};

static bool is_block(void *ctx, block_id block)
{
    return block == *(const block_id *)ctx;
}

static void on_looked(struct transfer_take *take)
{
    struct look *look = (struct look *)(void *)take;
    struct sharing *sharing = look->sharing;
    block_id block = look->span.local_block;
    if (take->st == ST_OK && is_registered(sharing, block) &&
        whole_checksum_of(look->sums, take->n_layers, 1, 0) != look->expected) {
        log_error("a registered block is damaged", "block=%u", block);
        sharing->damaged_here++;
        (void)prefix_cache_forget(sharing->options.cache, is_block, &block);
    }
    block_pool_release(sharing->options.pool, block, BLOCK_OF_TRANSFER);
    free(look);
    on_released(sharing);
}

/* It is in the borrower's loan now: held here until it has been looked at. */
static void on_suspect(void *ctx, block_id block)
{
    struct sharing *sharing = ctx;
    uint32_t layers = sharing->options.geometry.n_layers;
    struct look *look = calloc(1, sizeof *look + layers * sizeof look->sums[0]);
    if (!look || !whole_checksums_get(sharing->checksums, block, &look->expected)) {
        free(look);
        return;
    }
    look->sharing = sharing;
    look->span = (struct transfer_span){ .local_block = block, .n = (uint16_t)sharing->options.geometry.block_tokens };
    look->take.n_layers = layers;
    look->take.n_spans = 1;
    look->take.spans = &look->span;
    look->take.checksums = look->sums;
    look->take.deadline_us = io_now(sharing) + sharing->options.take_timeout_us;
    look->take.done = on_looked;
    if (io_take(sharing, &look->take) == ST_OK)
        block_pool_hold(sharing->options.pool, block, BLOCK_OF_TRANSFER);
    else
        free(look);
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------ */

static void name_format(const struct sharing *sharing, char *out, size_t size)
{
    const char *published = sharing->options.kv_format, *format = kv_format_of_worker(published);
    snprintf(out, size, "%s", format ? format : published);
}

static status create_sums(struct sharing *sharing)
{
    const struct whole_checksums_options options = {
        .io = &sharing->io,
        .pool = sharing->options.pool,
        .geometry = sharing->options.geometry,
        .max_takes = SUM_TAKES,
        .take_us = sharing->options.take_timeout_us,
        .done = on_summed,
        .released = on_released,
        .ctx = sharing,
    };
    return whole_checksums_create(&options, &sharing->checksums);
}

static uint32_t longest_chain(const struct sharing *sharing)
{
    return sharing->options.max_tokens / sharing->options.geometry.block_tokens + 1;
}

static status create_lender(struct sharing *sharing)
{
    struct lender_options options = {
        .io = &sharing->io,
        .source = &sharing->lent_from,
        .timers = sharing->options.timers,
        .block_tokens = sharing->options.geometry.block_tokens,
        .max_loans = MAX_LOANS,
        .max_blocks = LOAN_BLOCKS,
        .max_chain = longest_chain(sharing),
        .lifetime_us = LOAN_LIFETIME_US,
    };
    registry_source_init(&sharing->source, sharing->options.pool, prefix_cache_registry(sharing->options.cache),
                         sharing->checksums);
    sharing->source.suspect = on_suspect;
    sharing->source.ctx = sharing;
    sharing->lent_from =
        (struct lender_source){ .ctx = sharing, .open = open_find, .close = close_find, .suspect = suspect_find };
    name_format(sharing, options.kv_format, sizeof options.kv_format);
    return lender_create(&options, &sharing->lender);
}

static status create_borrower(struct sharing *sharing)
{
    const uint32_t bytes = sharing->options.pull_take_bytes;
    struct borrower_options options = {
        .io = &sharing->io,
        .timers = sharing->options.timers,
        .geometry = sharing->options.geometry,
        .max_pulls = MAX_PULLS,
        .max_blocks = longest_chain(sharing),
        .batch_blocks = SHARING_PULL_BATCH,
        .takes = PULL_TAKES,
        .answer_us = sharing->options.pull_timeout_us,
        .take_bytes = bytes ? bytes : TAKE_BYTES,
        .layer_take_bytes = bytes ? bytes : LAYER_TAKE_BYTES,
    };
    name_format(sharing, options.kv_format, sizeof options.kv_format);
    return borrower_create(&options, &sharing->borrower);
}

static status create_offers(struct sharing *sharing)
{
    struct offers_options options = {
        .io = &sharing->io,
        .timers = sharing->options.timers,
        .pool = sharing->options.pool,
        .block_tokens = sharing->options.geometry.block_tokens,
        .incarnation = sharing->options.incarnation,
        .max_queue = OFFER_QUEUE,
        .max_chain = longest_chain(sharing),
        .batch = OFFER_BATCH,
        .max_offers = OFFERS,
        .linger_us = OFFER_LINGER_US,
        .lifetime_us = OFFER_LIFE_US,
        .released = on_released,
        .ctx = sharing,
    };
    name_format(sharing, options.kv_format, sizeof options.kv_format);
    return offers_create(&options, &sharing->offers);
}

status sharing_create(const struct sharing_options *options, struct sharing **out)
{
    struct sharing *sharing = calloc(1, sizeof *sharing);
    if (!sharing)
        return ST_NO_MEMORY;
    sharing->options = *options;
    sharing->n_blocks = block_pool_size(options->pool);
    sharing->io =
        (struct exchange_io){ sharing, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    sharing->costs.prior.forget_us = FORGET_US;
    sharing->uses = calloc(sharing->n_blocks, sizeof *sharing->uses);
    bool has_queues = queue_create(&sharing->to_sum, sharing->n_blocks);
    has_queues = queue_create(&sharing->to_offer, sharing->n_blocks) && has_queues;
    status st = sharing->uses && has_queues ? create_sums(sharing) : ST_NO_MEMORY;
    if (st == ST_OK)
        st = create_lender(sharing);
    if (st == ST_OK)
        st = create_borrower(sharing);
    if (st == ST_OK)
        st = create_offers(sharing);
    if (st != ST_OK) {
        sharing_destroy(&sharing);
        return st;
    }
    const struct prefix_cache_watch watch = { on_registered, on_used, sharing };
    prefix_cache_watch(options->cache, &watch);
    *out = sharing;
    return ST_OK;
}

void sharing_destroy(struct sharing **sharing)
{
    struct sharing *s = *sharing;
    if (!s)
        return;
    offers_destroy(&s->offers);
    borrower_destroy(&s->borrower);
    lender_destroy(&s->lender);
    whole_checksums_destroy(&s->checksums);
    timer_cancel(s->options.timers, &s->wake);
    queue_free(&s->to_sum);
    queue_free(&s->to_offer);
    free(s->uses);
    free(s);
    *sharing = NULL;
}

/* ---- messages and peers
 * ------------------------------------------------------------------------------------------------ */

bool sharing_on_message(struct sharing *sharing, struct worker_peer *peer, const struct frame *frame,
                        uint64_t deadline_us)
{
    return borrower_on_message(sharing->borrower, peer, frame) ||
           lender_on_message(sharing->lender, peer, frame, deadline_us) ||
           offers_on_message(sharing->offers, peer, frame);
}

void sharing_on_peer_lost(struct sharing *sharing, struct worker_peer *peer)
{
    if (sharing->manager == peer)
        sharing->manager = NULL;
    borrower_on_peer_lost(sharing->borrower, peer);
    lender_on_peer_lost(sharing->lender, peer);
    offers_on_peer_lost(sharing->offers, peer);
}

/* A new manager has heard of nothing: blocks are offered to it when they are used next. */
void sharing_set_manager(struct sharing *sharing, struct worker_peer *manager)
{
    for (uint32_t i = 0; manager && i < sharing->n_blocks; i++)
        if (sharing->uses[i] > 1)
            sharing->uses[i] = 1;
    sharing->manager = manager;
    offers_set_manager(sharing->offers, manager);
}

struct worker_peer *sharing_manager(const struct sharing *sharing)
{
    return sharing->manager;
}

void sharing_drain(struct sharing *sharing)
{
    lender_drain(sharing->lender);
}

bool sharing_is_idle(const struct sharing *sharing)
{
    return sharing->to_sum.n == 0 && sharing->to_offer.n == 0 && offers_waiting(sharing->offers) == 0 &&
           lender_open_loans(sharing->lender) == 0 && borrower_open_pulls(sharing->borrower) == 0 &&
           offers_under_way(sharing->offers) == 0 && whole_checksums_under_way(sharing->checksums) == 0;
}

struct borrower *sharing_borrower(struct sharing *sharing)
{
    return sharing->borrower;
}

struct pull_costs *sharing_costs(struct sharing *sharing)
{
    return &sharing->costs;
}

void sharing_note_silent(struct sharing *sharing, uint64_t holder, uint64_t until_us)
{
    uint32_t at = sharing->next_silent++ % SILENT_HOLDERS;
    sharing->silent[at].holder = holder;
    sharing->silent[at].until_us = until_us;
}

bool sharing_is_silent(const struct sharing *sharing, uint64_t holder, uint64_t now_us)
{
    for (uint32_t i = 0; i < SILENT_HOLDERS; i++)
        if (sharing->silent[i].holder == holder && now_us < sharing->silent[i].until_us)
            return true;
    return false;
}

const struct lender_counters *sharing_lender_counters(const struct sharing *sharing)
{
    return lender_counters(sharing->lender);
}

const struct offers_counters *sharing_offers_counters(const struct sharing *sharing)
{
    return offers_counters(sharing->offers);
}

uint32_t sharing_loans(const struct sharing *sharing)
{
    return lender_open_loans(sharing->lender);
}

struct sharing_exchanges sharing_exchanges(const struct sharing *sharing)
{
    return (struct sharing_exchanges){ .pulls = borrower_open_pulls(sharing->borrower),
                                       .offers = offers_under_way(sharing->offers),
                                       .checksums = whole_checksums_under_way(sharing->checksums) };
}

uint64_t sharing_damaged_here(const struct sharing *sharing)
{
    return sharing->damaged_here;
}
