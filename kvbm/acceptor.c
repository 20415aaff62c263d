#include "kvbm/acceptor.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/log.h"
#include "kvbm/whole_checksum.h"

/* An offer of which the store wants something. */
struct intake {
    struct transfer_take take; /* first */
    TAILQ_ENTRY(intake) link;
    struct acceptor *acceptor;
    void *peer; /* NULL: lost */
    struct request_key key;
    uint64_t deadline_us;
    uint32_t n;                    /* blocks offered */
    Baton__OfferOutcome *outcomes; /* [n] */
    struct store_slot *slots;      /* [n], of those wanted */
    uint64_t *checksums;           /* [n] */
    struct transfer_span *spans;   /* [take.n_spans] */
    uint32_t *index;               /* [take.n_spans]: which of the n */
    uint64_t *sums;                /* [n_layers][take.n_spans] */
};
TAILQ_HEAD(intake_list, intake);

struct acceptor {
    struct acceptor_options options;
    struct intake_list intakes;
    uint32_t n_intakes;
    struct acceptor_counters counters;
};

status acceptor_create(const struct acceptor_options *options, struct acceptor **out)
{
    struct acceptor *acceptor = calloc(1, sizeof *acceptor);
    if (!acceptor)
        return ST_NO_MEMORY;
    acceptor->options = *options;
    TAILQ_INIT(&acceptor->intakes);
    *out = acceptor;
    return ST_OK;
}

static void intake_free(struct intake *intake)
{
    free(intake->outcomes);
    free(intake->slots);
    free(intake->checksums);
    free(intake->spans);
    free(intake->index);
    free(intake->sums);
    free(intake);
}

static void give_back(struct intake *intake, uint32_t span, bool damaged)
{
    const struct acceptor_store *store = intake->acceptor->options.store;
    store->abort(store->ctx, intake->slots[intake->index[span]], damaged);
}

void acceptor_destroy(struct acceptor **acceptor)
{
    struct intake *intake;
    if (!*acceptor)
        return;
    while ((intake = TAILQ_FIRST(&(*acceptor)->intakes)) != NULL) {
        TAILQ_REMOVE(&(*acceptor)->intakes, intake, link);
        for (uint32_t i = 0; i < intake->take.n_spans; i++)
            give_back(intake, i, false);
        intake_free(intake);
    }
    free(*acceptor);
    *acceptor = NULL;
}

/* ---- answers ---------------------------------------------------------------------------------------------- */

static void count(struct acceptor_counters *counters, Baton__OfferOutcome outcome)
{
    uint64_t *const of[] = {
        [BATON__OFFER_OUTCOME__OFFER_TAKEN] = &counters->taken,
        [BATON__OFFER_OUTCOME__OFFER_PRESENT] = &counters->present,
        [BATON__OFFER_OUTCOME__OFFER_DECLINED] = &counters->declined,
        [BATON__OFFER_OUTCOME__OFFER_FULL] = &counters->full,
        [BATON__OFFER_OUTCOME__OFFER_BUSY] = &counters->busy,
        [BATON__OFFER_OUTCOME__OFFER_FORMAT] = &counters->other_format,
        [BATON__OFFER_OUTCOME__OFFER_STALE] = &counters->stale,
        [BATON__OFFER_OUTCOME__OFFER_DAMAGED] = &counters->damaged,
        [BATON__OFFER_OUTCOME__OFFER_FAILED] = &counters->failed,
    };
    (*of[outcome])++;
}

static void answer(struct acceptor *acceptor, void *peer, struct request_key key, Baton__OfferOutcome *outcomes,
                   uint32_t n)
{
    const struct exchange_io *io = acceptor->options.io;
    const struct message_head head = { FRAME_OFFER_TAKEN, key, 0, 0, FRAME_NO_DEADLINE, NULL };
    Baton__OfferTaken body = BATON__OFFER_TAKEN__INIT;
    for (uint32_t i = 0; i < n; i++)
        count(&acceptor->counters, outcomes[i]);
    body.outcomes = outcomes;
    body.n_outcomes = n;
    if (peer) /* where it is refused the link is lost, and with it the worker's loan */
        (void)io->send(io->ctx, peer, &head, &body.base);
}

static void answer_all(struct intake *intake, Baton__OfferOutcome outcome)
{
    for (uint32_t i = 0; i < intake->n; i++)
        intake->outcomes[i] = outcome;
    answer(intake->acceptor, intake->peer, intake->key, intake->outcomes, intake->n);
}

/* ---- taking ----------------------------------------------------------------------------------------------- */

static Baton__OfferOutcome settle(struct intake *intake, uint32_t span)
{
    struct acceptor *acceptor = intake->acceptor;
    const struct acceptor_store *store = acceptor->options.store;
    uint32_t i = intake->index[span];
    if (intake->take.st != ST_OK) {
        give_back(intake, span, false);
        return intake->take.st == ST_STALE ? BATON__OFFER_OUTCOME__OFFER_STALE : BATON__OFFER_OUTCOME__OFFER_FAILED;
    }
    uint64_t sum = whole_checksum_of(intake->sums, acceptor->options.geometry.n_layers, intake->take.n_spans, span);
    if (sum != intake->checksums[i]) {
        log_error("a block that was offered arrived damaged", "remote_block=%u slot=%u",
                  intake->spans[span].remote_block, intake->slots[i].slot);
        give_back(intake, span, true);
        return BATON__OFFER_OUTCOME__OFFER_DAMAGED;
    }
    return store->commit(store->ctx, intake->slots[i]) == ST_OK ? BATON__OFFER_OUTCOME__OFFER_TAKEN
                                                                : BATON__OFFER_OUTCOME__OFFER_DECLINED;
}

/* What came whole is kept even when its worker is lost meanwhile. */
static void on_taken(struct transfer_take *take)
{
    struct intake *intake = (struct intake *)(void *)take;
    struct acceptor *acceptor = intake->acceptor;
    acceptor->counters.bytes += take->bytes;
    for (uint32_t i = 0; i < take->n_spans; i++)
        intake->outcomes[intake->index[i]] = settle(intake, i);
    answer(acceptor, intake->peer, intake->key, intake->outcomes, intake->n);
    TAILQ_REMOVE(&acceptor->intakes, intake, link);
    acceptor->n_intakes--;
    intake_free(intake);
}

/* ---- Offer ------------------------------------------------------------------------------------------------ */

static Baton__OfferOutcome outcome_of(enum store_verdict verdict)
{
    switch (verdict) {
    case STORE_WANTED:
        return BATON__OFFER_OUTCOME__OFFER_TAKEN;
    case STORE_PRESENT:
    case STORE_COMING:
        return BATON__OFFER_OUTCOME__OFFER_PRESENT;
    case STORE_SIZE:
        return BATON__OFFER_OUTCOME__OFFER_FORMAT;
    case STORE_QUOTA:
    case STORE_ROOM:
    case STORE_SALTS:
        return BATON__OFFER_OUTCOME__OFFER_FULL;
    default:
        return BATON__OFFER_OUTCOME__OFFER_DECLINED;
    }
}

/* Asks the store, and makes a span for each block that it wants. */
static void ask_store(struct intake *intake, const Baton__Offer *msg, const struct block_hash *hashes,
                      const bool *shared, struct store_answer answers[])
{
    struct acceptor *acceptor = intake->acceptor;
    const struct acceptor_options *options = &acceptor->options;
    struct block_seed_parts parts;
    (void)exchange_read_seed(msg->seed, &parts); /* is_sound has looked */
    const struct store_offer offer = {
        .chain = { .format = options->format,
                   .salt = store_salt_id(parts.salt),
                   .seed = block_seed(&parts),
                   .hashes = hashes,
                   .tokens = msg->tokens,
                   .n_blocks = msg->first + intake->n },
        .first = msg->first,
        .block_bytes = transfer_block_bytes(&options->geometry),
        .checksums = intake->checksums,
        .shared = shared,
    };
    options->store->offer(options->store->ctx, &offer, answers);
    for (uint32_t i = 0; i < intake->n; i++) {
        intake->outcomes[i] = outcome_of(answers[i].verdict);
        if (answers[i].verdict != STORE_WANTED)
            continue;
        intake->slots[i] = answers[i].slot;
        intake->index[intake->take.n_spans] = i;
        intake->spans[intake->take.n_spans++] = (struct transfer_span){ .local_block = answers[i].slot.slot,
                                                                        .remote_block = msg->blocks[i],
                                                                        .remote_generation = msg->generations[i],
                                                                        .n = (uint16_t)options->geometry.block_tokens };
    }
}

/* Hashes the chain, so that what the worker calls a block is what its tokens say. False: no memory. */
static bool look_up(struct intake *intake, const Baton__Offer *msg)
{
    struct block_seed_parts parts;
    uint32_t n_blocks = msg->first + intake->n;
    struct block_hash *hashes = calloc(n_blocks, sizeof *hashes);
    struct store_answer *answers = calloc(intake->n, sizeof *answers);
    bool *shared = calloc(intake->n, sizeof *shared);
    bool ok = hashes && answers && shared;
    if (ok) {
        struct block_hasher hasher;
        (void)exchange_read_seed(msg->seed, &parts);
        block_hasher_init(&hasher, block_seed(&parts), intake->acceptor->options.geometry.block_tokens);
        (void)block_hasher_grow(&hasher, msg->tokens, msg->n_tokens, hashes, n_blocks);
        for (size_t i = 0; i < msg->n_shared; i++)
            shared[i] = msg->shared[i] != 0;
        ask_store(intake, msg, hashes, shared, answers);
    }
    free(hashes);
    free(answers);
    free(shared);
    return ok;
}

static struct intake *intake_create(struct acceptor *acceptor, void *peer, const struct frame *frame,
                                    uint64_t deadline_us, const Baton__Offer *msg)
{
    struct intake *intake = calloc(1, sizeof *intake);
    if (!intake)
        return NULL;
    uint32_t n = (uint32_t)msg->n_blocks;
    uint64_t latest = acceptor->options.io->now(acceptor->options.io->ctx) + acceptor->options.take_us;
    intake->acceptor = acceptor;
    intake->peer = peer;
    intake->key = frame->key;
    intake->deadline_us = deadline_us < latest ? deadline_us : latest;
    intake->n = n;
    intake->outcomes = calloc(n, sizeof *intake->outcomes);
    intake->slots = calloc(n, sizeof *intake->slots);
    intake->checksums = calloc(n, sizeof *intake->checksums);
    intake->spans = calloc(n, sizeof *intake->spans);
    intake->index = calloc(n, sizeof *intake->index);
    intake->sums = calloc((size_t)n * acceptor->options.geometry.n_layers, sizeof *intake->sums);
    if (intake->outcomes && intake->slots && intake->checksums && intake->spans && intake->index && intake->sums) {
        memcpy(intake->checksums, msg->checksums, n * sizeof *intake->checksums);
        return intake;
    }
    intake_free(intake);
    return NULL;
}

static bool start_take(struct intake *intake, struct transfer_peer *way)
{
    const struct exchange_io *io = intake->acceptor->options.io;
    struct transfer_take *take = &intake->take;
    take->peer = way;
    take->n_layers = intake->acceptor->options.geometry.n_layers;
    take->spans = intake->spans;
    take->checksums = intake->sums;
    take->deadline_us = intake->deadline_us;
    take->done = on_taken;
    return io->take(io->ctx, take) == ST_OK;
}

static void accept_offer(struct intake *intake, struct transfer_peer *way, const Baton__Offer *msg)
{
    struct acceptor *acceptor = intake->acceptor;
    if (!look_up(intake, msg)) {
        answer_all(intake, BATON__OFFER_OUTCOME__OFFER_BUSY);
    } else if (!intake->take.n_spans) {
        answer(acceptor, intake->peer, intake->key, intake->outcomes, intake->n);
    } else if (start_take(intake, way)) {
        TAILQ_INSERT_TAIL(&acceptor->intakes, intake, link);
        acceptor->n_intakes++;
        return;
    } else {
        for (uint32_t i = 0; i < intake->take.n_spans; i++) {
            give_back(intake, i, false);
            intake->outcomes[intake->index[i]] = BATON__OFFER_OUTCOME__OFFER_BUSY;
        }
        answer(acceptor, intake->peer, intake->key, intake->outcomes, intake->n);
    }
    intake_free(intake);
}

static bool is_sound(const struct acceptor *acceptor, const Baton__Offer *msg)
{
    struct block_seed_parts parts;
    const struct acceptor_options *options = &acceptor->options;
    size_t n = msg->n_blocks;
    return exchange_read_seed(msg->seed, &parts) && n > 0 && n <= options->max_blocks && msg->n_generations == n &&
           msg->n_checksums == n && (!msg->n_shared || msg->n_shared == n) && msg->first <= options->max_chain &&
           msg->first + n <= options->max_chain && msg->n_tokens == (msg->first + n) * options->geometry.block_tokens;
}

static bool is_under_way(const struct acceptor *acceptor, const void *peer, struct request_key key)
{
    const struct intake *intake;
    TAILQ_FOREACH(intake, &acceptor->intakes, link)
    if (intake->peer == peer && intake->key.router == key.router && intake->key.seq == key.seq)
        return true;
    return false;
}

static void on_offer(struct acceptor *acceptor, void *peer, const struct frame *frame, uint64_t deadline_us,
                     const Baton__Offer *msg)
{
    const struct acceptor_options *options = &acceptor->options;
    if (is_under_way(acceptor, peer, frame->key)) {
        acceptor->counters.repeated++;
        return;
    }
    if (!is_sound(acceptor, msg)) { /* the worker's loan ends by time: nothing of this can be trusted */
        acceptor->counters.malformed++;
        return;
    }
    acceptor->counters.offers++;
    acceptor->counters.offered += msg->n_blocks;
    struct intake *intake = intake_create(acceptor, peer, frame, deadline_us, msg);
    if (!intake) {
        acceptor->counters.failed += msg->n_blocks;
        return;
    }
    struct transfer_peer *way = options->io->way(options->io->ctx, peer);
    bool is_ours = !strcmp(msg->kv_format, options->kv_format);
    if (is_ours && way && acceptor->n_intakes < options->max_offers) {
        accept_offer(intake, way, msg);
        return;
    }
    answer_all(intake, is_ours ? BATON__OFFER_OUTCOME__OFFER_BUSY : BATON__OFFER_OUTCOME__OFFER_FORMAT);
    intake_free(intake);
}

bool acceptor_on_message(struct acceptor *acceptor, void *peer, const struct frame *frame, uint64_t deadline_us)
{
    if (frame->type != FRAME_OFFER)
        return false;
    Baton__Offer *msg = (Baton__Offer *)(void *)exchange_unpack(&baton__offer__descriptor, frame);
    if (msg)
        on_offer(acceptor, peer, frame, deadline_us, msg);
    else
        acceptor->counters.malformed++;
    if (msg)
        protobuf_c_message_free_unpacked(&msg->base, NULL);
    return true;
}

void acceptor_on_peer_lost(struct acceptor *acceptor, void *peer)
{
    const struct exchange_io *io = acceptor->options.io;
    struct intake *intake;
    TAILQ_FOREACH(intake, &acceptor->intakes, link)
    {
        if (intake->peer != peer)
            continue;
        acceptor->counters.lost++;
        intake->peer = NULL;
        io->cancel_take(io->ctx, &intake->take);
    }
}

uint32_t acceptor_under_way(const struct acceptor *acceptor)
{
    return acceptor->n_intakes;
}

const struct acceptor_counters *acceptor_counters(const struct acceptor *acceptor)
{
    return &acceptor->counters;
}
