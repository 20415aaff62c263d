#include "kvbm/borrower.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "common/log.h"
#include "kvbm/whole_checksum.h"

struct batch;

/* Some layers of a batch, on their way. */
struct layers_take {
    struct transfer_take take; /* first */
    struct batch *batch;
    TAILQ_ENTRY(layers_take) link;
};
TAILQ_HEAD(layers_takes, layers_take);

/* Blocks that are taken together. */
struct batch {
    TAILQ_ENTRY(batch) link;
    struct pull *pull;
    uint32_t first, n; /* counted from the pull's first block */
    bool by_layer;
    uint32_t together; /* layers of one take */
    uint32_t asked;    /* layers that are here or on their way */
    struct transfer_span *spans;
    uint64_t *sums;            /* [n_layers][n] */
    uint32_t *damaged;         /* [n], room for */
    struct layers_takes takes; /* under way, by layer */
};
TAILQ_HEAD(batches, batch);

/* A block as the holder told of it. */
struct announced_block {
    bool is_known;
    uint8_t tier;
    uint32_t block;
    uint64_t generation, checksum;
};

struct pull {
    TAILQ_ENTRY(pull) link;
    struct borrower *borrower;
    struct pull_options options; /* tokens: not valid */
    struct trace_context trace;
    uint32_t leg;
    block_id *blocks;                  /* [n_blocks] */
    struct announced_block *announced; /* [n_blocks] */
    uint32_t n_known;                  /* leading ones that were announced */
    uint32_t n_taken;                  /* of these, those in batches, and what was before */
    struct batches batches;            /* not verified yet */
    uint32_t takes_out;
    uint32_t run;    /* blocks that are there or follow */
    uint32_t layers; /* of the whole run, of which the caller was told */
    uint32_t inside; /* calls in progress: nothing is freed under them */
    bool is_answered, is_ending;
    struct timer timer;
    uint64_t born_us, first_take_us;
    struct pull_result result;
};
TAILQ_HEAD(pull_list, pull);

struct borrower {
    struct borrower_options options;
    struct pull_list pulls;
    uint32_t n_pulls;
    uint32_t last_leg;
    struct borrower_counters counters;
};

static uint64_t now_of(const struct borrower *borrower)
{
    return borrower->options.io->now(borrower->options.io->ctx);
}

/* ---- life ------------------------------------------------------------------------------------------------- */

status borrower_create(const struct borrower_options *options, struct borrower **out)
{
    struct borrower *borrower = calloc(1, sizeof *borrower);
    if (!borrower)
        return ST_NO_MEMORY;
    borrower->options = *options;
    TAILQ_INIT(&borrower->pulls);
    *out = borrower;
    return ST_OK;
}

static void batch_free(struct batch *batch)
{
    struct layers_take *take;
    while ((take = TAILQ_FIRST(&batch->takes)) != NULL) {
        TAILQ_REMOVE(&batch->takes, take, link);
        free(take);
    }
    free(batch->spans);
    free(batch->sums);
    free(batch->damaged);
    free(batch);
}

static void pull_free(struct pull *pull)
{
    struct batch *batch;
    while ((batch = TAILQ_FIRST(&pull->batches)) != NULL) {
        TAILQ_REMOVE(&pull->batches, batch, link);
        batch_free(batch);
    }
    timer_cancel(pull->borrower->options.timers, &pull->timer);
    free(pull->blocks);
    free(pull->announced);
    free(pull);
}

static void forget_pull(struct pull *pull)
{
    TAILQ_REMOVE(&pull->borrower->pulls, pull, link);
    pull->borrower->n_pulls--;
}

void borrower_destroy(struct borrower **borrower)
{
    struct pull *pull;
    if (!*borrower)
        return;
    while ((pull = TAILQ_FIRST(&(*borrower)->pulls)) != NULL) {
        forget_pull(pull);
        pull_free(pull);
    }
    free(*borrower);
    *borrower = NULL;
}

/* ---- the end of a pull ------------------------------------------------------------------------------------ */

static void count_end(struct borrower_counters *counters, const struct pull *pull)
{
    const struct pull_result *r = &pull->result;
    counters->whole += r->n_blocks == pull->options.n_blocks;
    counters->partial += r->n_blocks > 0 && r->n_blocks < pull->options.n_blocks;
    counters->empty += r->n_blocks == 0;
    counters->blocks += r->n_blocks;
    counters->timeouts += r->st == ST_TIMEOUT;
    counters->lost += r->st == ST_CLOSED;
    counters->cancelled += r->st == ST_CANCELLED;
}

/* Every call into a pull is between these two: when the last is left, a pull that has ended goes. */
static void enter(struct pull *pull)
{
    pull->inside++;
}

static void leave(struct pull *pull)
{
    if (--pull->inside || !pull->is_ending || pull->takes_out)
        return;
    const struct pull_result result = pull->result;
    void (*ended)(void *arg, const struct pull_result *result) = pull->options.ended;
    void *arg = pull->options.arg;
    count_end(&pull->borrower->counters, pull);
    forget_pull(pull);
    pull_free(pull);
    ended(arg, &result);
}

static void send_pulled(struct pull *pull, const uint32_t *damaged)
{
    const struct exchange_io *io = pull->borrower->options.io;
    const struct message_head head = { FRAME_PULLED, pull->options.key, pull->options.attempt,
                                       pull->leg,    FRAME_NO_DEADLINE, &pull->trace };
    Baton__Pulled body = BATON__PULLED__INIT;
    body.blocks = pull->result.n_blocks;
    body.damaged = (uint32_t *)(uintptr_t)damaged;
    body.n_damaged = pull->result.damaged;
    /* Where it is refused the link is lost, and with it the loan. */
    (void)io->send(io->ctx, pull->options.holder, &head, &body.base);
}

static void cancel_takes(struct pull *pull)
{
    const struct exchange_io *io = pull->borrower->options.io;
    struct batch *batch;
    struct layers_take *take;
    TAILQ_FOREACH(batch, &pull->batches, link)
    TAILQ_FOREACH(take, &batch->takes, link)
    io->cancel_take(io->ctx, &take->take);
}

/* damaged: [result.damaged] blocks of the chain; NULL when there are none. */
static void begin_end(struct pull *pull, status st, bool holder_is_there, const uint32_t *damaged)
{
    if (pull->is_ending)
        return;
    pull->is_ending = true;
    pull->result.st = st;
    timer_cancel(pull->borrower->options.timers, &pull->timer);
    if (holder_is_there)
        send_pulled(pull, damaged);
    cancel_takes(pull);
}

static void end(struct pull *pull, status st)
{
    begin_end(pull, st, true, NULL);
}

static void on_timer(void *arg)
{
    struct pull *pull = arg;
    enter(pull);
    end(pull, ST_TIMEOUT);
    leave(pull);
}

void borrower_cancel(struct pull *pull)
{
    enter(pull);
    end(pull, ST_CANCELLED);
    leave(pull);
}

static struct pull *of_peer(struct borrower *borrower, const void *peer)
{
    struct pull *pull;
    TAILQ_FOREACH(pull, &borrower->pulls, link)
    if (pull->options.holder == peer && !pull->is_ending)
        return pull;
    return NULL;
}

void borrower_on_peer_lost(struct borrower *borrower, void *peer)
{
    struct pull *pull;
    while ((pull = of_peer(borrower, peer)) != NULL) {
        enter(pull);
        begin_end(pull, ST_CLOSED, false, NULL);
        leave(pull);
    }
}

/* ---- verifying -------------------------------------------------------------------------------------------- */

/* The blocks of a batch before the first damaged one count; then the pull is over. */
static void verify(struct pull *pull, const struct batch *batch)
{
    struct borrower *borrower = pull->borrower;
    uint32_t good = batch->n, wrong = 0;
    for (uint32_t i = 0; i < batch->n; i++) {
        const struct announced_block *block = &pull->announced[batch->first + i];
        if (whole_checksum_of(batch->sums, borrower->options.geometry.n_layers, batch->n, i) == block->checksum)
            continue;
        good = wrong ? good : i;
        batch->damaged[wrong++] = pull->options.first + batch->first + i;
    }
    for (uint32_t i = 0; i < good; i++)
        pull->result.by_tier[pull->announced[batch->first + i].tier]++;
    pull->result.n_blocks += good;
    if (good && pull->options.verified)
        pull->options.verified(pull->options.arg, batch->first, good);
    if (!wrong)
        return;
    pull->result.damaged = wrong;
    borrower->counters.damaged += wrong;
    log_error("a block that was pulled arrived damaged", "holder=%s block=%u of_chain=%u damaged=%u",
              borrower->options.io->name(borrower->options.io->ctx, pull->options.holder),
              pull->announced[batch->first + good].block, batch->damaged[0], wrong);
    begin_end(pull, ST_CORRUPT, true, batch->damaged);
}

/* Layers of a batch that are here. */
static uint32_t layers_here(const struct batch *batch)
{
    const struct layers_take *take = TAILQ_FIRST(&batch->takes);
    return take ? take->take.first_layer : batch->asked;
}

static void verify_whole(struct pull *pull)
{
    struct batch *batch;
    while (!pull->is_ending && (batch = TAILQ_FIRST(&pull->batches)) != NULL &&
           layers_here(batch) == pull->borrower->options.geometry.n_layers) {
        TAILQ_REMOVE(&pull->batches, batch, link);
        verify(pull, batch);
        batch_free(batch);
    }
}

static void tell_layers(struct pull *pull)
{
    const struct batch *batch;
    const uint32_t n_layers = pull->borrower->options.geometry.n_layers;
    uint32_t layers = n_layers;
    uint64_t missing = 0; /* layers of single blocks */
    if (pull->is_ending || !pull->options.layers || !pull->options.n_by_layer || pull->n_taken < pull->run)
        return;
    TAILQ_FOREACH(batch, &pull->batches, link)
    {
        layers = layers_here(batch) < layers ? layers_here(batch) : layers;
        missing += (uint64_t)batch->n * (n_layers - layers_here(batch));
    }
    if (layers == n_layers || layers <= pull->layers)
        return;
    pull->layers = layers;
    pull->options.layers(pull->options.arg, layers, 1 - (double)missing / ((double)pull->run * n_layers));
}

/* ---- taking ----------------------------------------------------------------------------------------------- */

static void go_on(struct pull *pull);

/* A take that failed says what became of the pull. */
static void take_failed(struct pull *pull, status st)
{
    pull->borrower->counters.stale += st == ST_STALE && !pull->is_ending;
    pull->borrower->counters.malformed += st == ST_CORRUPT && !pull->is_ending;
    end(pull, st == ST_CANCELLED ? ST_CLOSED : st);
}

static void on_take_done(struct transfer_take *done)
{
    struct layers_take *take = (struct layers_take *)(void *)done;
    struct batch *batch = take->batch;
    struct pull *pull = batch->pull;
    enter(pull);
    TAILQ_REMOVE(&batch->takes, take, link);
    pull->takes_out--;
    pull->result.bytes += take->take.bytes;
    pull->borrower->counters.bytes += take->take.bytes;
    pull->result.take_us = now_of(pull->borrower) - pull->first_take_us;
    if (take->take.st != ST_OK)
        take_failed(pull, take->take.st);
    free(take);
    verify_whole(pull);
    tell_layers(pull);
    go_on(pull);
    leave(pull);
}

/* The next layers of a batch. */
static status take_layers(struct pull *pull, struct batch *batch)
{
    const struct exchange_io *io = pull->borrower->options.io;
    /* Without a peer a take would sum up our own blocks. */
    struct transfer_peer *way = io->way(io->ctx, pull->options.holder);
    if (!way)
        return ST_CLOSED;
    struct layers_take *take = calloc(1, sizeof *take);
    if (!take)
        return ST_NO_MEMORY;
    uint32_t left = pull->borrower->options.geometry.n_layers - batch->asked;
    take->batch = batch;
    take->take.peer = way;
    take->take.first_layer = batch->asked;
    take->take.n_layers = left < batch->together ? left : batch->together;
    take->take.spans = batch->spans;
    take->take.n_spans = batch->n;
    take->take.checksums = batch->sums + (size_t)batch->asked * batch->n;
    take->take.deadline_us = pull->options.deadline_us;
    take->take.done = on_take_done;
    if (io->take(io->ctx, &take->take) != ST_OK) {
        free(take);
        return ST_LIMIT;
    }
    TAILQ_INSERT_TAIL(&batch->takes, take, link);
    batch->asked += take->take.n_layers;
    pull->takes_out++;
    return ST_OK;
}

static struct batch *batch_create(struct pull *pull, uint32_t n)
{
    const struct transfer_geometry *geometry = &pull->borrower->options.geometry;
    struct batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return NULL;
    TAILQ_INIT(&batch->takes);
    batch->pull = pull;
    batch->first = pull->n_taken;
    batch->n = n;
    batch->spans = calloc(n, sizeof *batch->spans);
    batch->sums = calloc((size_t)n * geometry->n_layers, sizeof *batch->sums);
    batch->damaged = calloc(n, sizeof *batch->damaged);
    if (!batch->spans || !batch->sums || !batch->damaged) {
        batch_free(batch);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct announced_block *block = &pull->announced[batch->first + i];
        batch->spans[i] = (struct transfer_span){ .local_block = pull->blocks[batch->first + i],
                                                  .remote_block = block->block,
                                                  .remote_generation = block->generation,
                                                  .n = (uint16_t)geometry->block_tokens };
    }
    return batch;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* How many units of so many bytes make up a take; at least one. */
static uint32_t fitting(size_t bytes, size_t unit)
{
    return bytes > unit ? (uint32_t)(bytes / unit) : 1;
}

/* From this block on blocks come by layer. */
static uint32_t by_layer_from(const struct pull *pull)
{
    return pull->run > pull->options.n_by_layer ? pull->run - pull->options.n_by_layer : 0;
}

/* Of blocks that are known of, behind those that are in batches. */
static status open_batch(struct pull *pull)
{
    const struct borrower_options *options = &pull->borrower->options;
    const size_t layer_bytes = transfer_layer_bytes(&options->geometry);
    const bool by_layer = pull->n_taken >= by_layer_from(pull);
    const size_t bytes = by_layer ? options->layer_take_bytes : options->take_bytes;
    uint32_t most = options->batch_blocks;
    if (!by_layer)
        most = min_u32(most, by_layer_from(pull) - pull->n_taken);
    else if (fitting(bytes, layer_bytes) > most)
        most = fitting(bytes, layer_bytes);
    uint32_t n = min_u32(pull->n_known - pull->n_taken, most);
    struct batch *batch = batch_create(pull, n);
    if (!batch)
        return ST_NO_MEMORY;
    batch->by_layer = by_layer;
    batch->together = min_u32(fitting(bytes, n * layer_bytes), options->geometry.n_layers);
    TAILQ_INSERT_TAIL(&pull->batches, batch, link);
    pull->n_taken += n;
    if (!pull->first_take_us)
        pull->first_take_us = now_of(pull->borrower);
    return ST_OK;
}

/* The first of which layers are left to ask for, and by layer that of which the fewest were. NULL: all were of all. */
static struct batch *next_batch(const struct pull *pull)
{
    struct batch *batch, *next = NULL;
    TAILQ_FOREACH(batch, &pull->batches, link)
    {
        if (batch->asked == pull->borrower->options.geometry.n_layers)
            continue;
        if (!batch->by_layer)
            return batch;
        if (!next || batch->asked < next->asked)
            next = batch;
    }
    return next;
}

/* A batch is opened when the one before it is on its way, and where blocks come by layer as soon as they are known. */
static status open_batches(struct pull *pull)
{
    status st = ST_OK;
    while (st == ST_OK && pull->n_taken < pull->n_known && (pull->n_taken >= by_layer_from(pull) || !next_batch(pull)))
        st = open_batch(pull);
    return st;
}

/* Takes what is announced, as far as may be at one time; ends the pull when all is here. */
static void go_on(struct pull *pull)
{
    struct batch *batch = NULL;
    status st = ST_OK;
    while (!pull->is_ending && st == ST_OK && pull->takes_out < pull->borrower->options.takes) {
        st = open_batches(pull);
        batch = st == ST_OK ? next_batch(pull) : NULL;
        if (!batch)
            break;
        st = take_layers(pull, batch);
    }
    if (st)
        end(pull, st);
    else if (!pull->is_ending && pull->is_answered && pull->result.n_blocks >= pull->run)
        end(pull, ST_OK);
}

/* ---- what the holder says --------------------------------------------------------------------------------- */

static bool is_sound(const struct pull *pull, const Baton__Found *msg)
{
    size_t n = msg->n_blocks;
    uint32_t first = pull->options.first, wanted = pull->options.n_blocks;
    if (msg->n_generations != n || msg->n_checksums != n || msg->n_tiers != n || msg->run > wanted)
        return false;
    if (msg->first < first || msg->first - first > wanted || n > msg->run || (n && msg->first - first > msg->run - n))
        return false;
    for (size_t i = 0; i < n; i++)
        if (msg->tiers[i] >= KV_TIER_COUNT)
            return false;
    return true;
}

/* Each block is told of once: what is said again changes nothing. */
static void learn(struct pull *pull, const Baton__Found *msg)
{
    for (size_t i = 0; i < msg->n_blocks; i++) {
        struct announced_block *block = &pull->announced[msg->first - pull->options.first + i];
        if (!block->is_known)
            *block = (struct announced_block){ .is_known = true,
                                               .tier = (uint8_t)msg->tiers[i],
                                               .block = msg->blocks[i],
                                               .generation = msg->generations[i],
                                               .checksum = msg->checksums[i] };
    }
    while (pull->n_known < pull->options.n_blocks && pull->announced[pull->n_known].is_known)
        pull->n_known++;
}

static void set_run(struct pull *pull, uint32_t run)
{
    run = run > pull->n_known ? run : pull->n_known;
    bool is_news = !pull->is_answered || run < pull->run;
    pull->run = run < pull->run ? run : pull->run;
    pull->result.announced = pull->is_answered ? pull->result.announced : pull->run;
    if (!pull->is_answered) {
        pull->is_answered = true;
        pull->result.answer_us = now_of(pull->borrower) - pull->born_us;
        timer_set(pull->borrower->options.timers, &pull->timer, pull->options.deadline_us, on_timer, pull);
    }
    if (is_news && pull->options.announced)
        pull->options.announced(pull->options.arg, pull->run);
}

/* OK where blocks come, few or none: a refusal is no such answer. */
static status status_of(Baton__FoundReason reason)
{
    switch (reason) {
    case BATON__FOUND_REASON__FOUND_BUSY:
        return ST_AGAIN;
    case BATON__FOUND_REASON__FOUND_FORMAT:
        return ST_UNSUPPORTED;
    case BATON__FOUND_REASON__FOUND_STALE:
        return ST_STALE;
    case BATON__FOUND_REASON__FOUND_INVALID:
        return ST_CORRUPT;
    default:
        return ST_OK;
    }
}

static void on_found(struct pull *pull, const Baton__Found *msg)
{
    status st = status_of(msg->reason);
    if (st == ST_OK && !is_sound(pull, msg)) {
        pull->borrower->counters.malformed++;
        st = ST_CORRUPT;
    }
    if (st) {
        end(pull, st);
        return;
    }
    learn(pull, msg);
    set_run(pull, msg->run);
    go_on(pull);
}

static struct pull *find_pull(struct borrower *borrower, const void *peer, const struct frame *frame)
{
    struct pull *pull;
    TAILQ_FOREACH(pull, &borrower->pulls, link)
    if (pull->leg == frame->leg && pull->options.attempt == frame->attempt && pull->options.holder == peer &&
        pull->options.key.router == frame->key.router && pull->options.key.seq == frame->key.seq && !pull->is_ending)
        return pull;
    return NULL;
}

bool borrower_on_message(struct borrower *borrower, void *peer, const struct frame *frame)
{
    if (frame->type != FRAME_FOUND)
        return false;
    ProtobufCMessage *msg = exchange_unpack(&baton__found__descriptor, frame);
    struct pull *pull = find_pull(borrower, peer, frame);
    borrower->counters.malformed += !msg;
    borrower->counters.late += msg && !pull;
    if (msg && pull) {
        enter(pull);
        on_found(pull, (const Baton__Found *)(const void *)msg);
        leave(pull);
    }
    if (msg)
        protobuf_c_message_free_unpacked(msg, NULL);
    return true;
}

/* ---- the beginning ---------------------------------------------------------------------------------------- */

static status send_find(const struct pull *pull, const struct pull_options *options)
{
    const struct borrower_options *ours = &pull->borrower->options;
    const struct message_head head = { FRAME_FIND, options->key,         options->attempt,
                                       pull->leg,  options->deadline_us, &pull->trace };
    uint8_t salt[BLOCK_HASH_BYTES];
    Baton__BlockSeed seed;
    Baton__Find body = BATON__FIND__INIT;
    exchange_write_seed(&options->parts, salt, &seed);
    body.kv_format = (char *)(uintptr_t)ours->kv_format;
    body.seed = &seed;
    body.tokens = (uint32_t *)(uintptr_t)options->tokens;
    body.n_tokens = (size_t)(options->first + options->n_blocks) * ours->geometry.block_tokens;
    body.first = options->first;
    body.tokens_per_s = options->tokens_per_s;
    body.local_only = options->local_only;
    return ours->io->send(ours->io->ctx, options->holder, &head, &body.base);
}

static struct pull *pull_create(struct borrower *borrower, const struct pull_options *options)
{
    struct pull *pull = calloc(1, sizeof *pull);
    if (!pull)
        return NULL;
    TAILQ_INIT(&pull->batches);
    pull->borrower = borrower;
    pull->options = *options;
    if (options->trace)
        pull->trace = *options->trace;
    pull->run = options->n_blocks;
    pull->blocks = calloc(options->n_blocks, sizeof *pull->blocks);
    pull->announced = calloc(options->n_blocks, sizeof *pull->announced);
    if (!pull->blocks || !pull->announced) {
        pull_free(pull);
        return NULL;
    }
    memcpy(pull->blocks, options->blocks, options->n_blocks * sizeof *pull->blocks);
    return pull;
}

status borrower_pull(struct borrower *borrower, const struct pull_options *options, struct pull **out)
{
    const struct borrower_options *ours = &borrower->options;
    uint64_t now = now_of(borrower);
    ASSERT(options->n_blocks > 0);
    if (options->deadline_us <= now)
        return ST_TIMEOUT;
    if (borrower->n_pulls >= ours->max_pulls || options->n_blocks > ours->max_blocks)
        return ST_LIMIT;
    if (!ours->io->way(ours->io->ctx, options->holder))
        return ST_CLOSED;
    struct pull *pull = pull_create(borrower, options);
    if (!pull)
        return ST_NO_MEMORY;
    pull->leg = ++borrower->last_leg;
    pull->born_us = now;
    status st = send_find(pull, options);
    if (st) {
        pull_free(pull);
        return st;
    }
    uint64_t due = options->deadline_us - now < ours->answer_us ? options->deadline_us : now + ours->answer_us;
    timer_set(ours->timers, &pull->timer, due, on_timer, pull);
    TAILQ_INSERT_TAIL(&borrower->pulls, pull, link);
    borrower->n_pulls++;
    borrower->counters.pulls++;
    *out = pull;
    return ST_OK;
}

struct pulled_block borrower_pulled(const struct pull *pull, uint32_t i)
{
    ASSERT(i < pull->n_known);
    return (struct pulled_block){ pull->announced[i].checksum, (enum kv_tier)pull->announced[i].tier };
}

uint32_t borrower_open_pulls(const struct borrower *borrower)
{
    return borrower->n_pulls;
}

const struct borrower_counters *borrower_counters(const struct borrower *borrower)
{
    return &borrower->counters;
}
