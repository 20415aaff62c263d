#include "worker/wiping.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/zero_memory.h"

/* Whose bytes lie under what the block's life has not written yet. */
enum remains { REMAINS_NONE, REMAINS_ONE, REMAINS_MANY };

/* What of a block is to be zeroed. */
enum { AWAIT_LIFE = 1, AWAIT_REMAINS = 2 };

struct block_bytes {
    struct block_hash life;    /* salt of the sequence that took it, while it is not free */
    struct block_hash remains; /* the one salt of REMAINS_ONE */
    uint32_t wipe;             /* number of the wipe that waits for it */
    uint8_t kind;              /* enum remains */
    uint8_t awaited;
    bool is_queued;
};

struct wiping {
    struct wiping_options options;
    uint32_t n_blocks;
    struct block_bytes *blocks; /* [n_blocks] */
    struct {
        block_id *blocks; /* [n_blocks], each once: free when they came, and to be zeroed */
        uint32_t first, n;
    } queue;
    struct timer work, deadline;
    struct {
        bool is_active;
        status beside;            /* ST_AGAIN: not all of it is zero */
        bool has_begun;           /* with that */
        uint32_t number, waiting; /* blocks */
        struct wipe_call call;
        struct wiped wiped;
    } now;
    struct wiping_counters counters;
};

/* ---- life ------------------------------------------------------------------------------------------------------ */

status wiping_create(const struct wiping_options *options, struct wiping **out)
{
    struct wiping *wiping = calloc(1, sizeof *wiping);
    if (!wiping)
        return ST_NO_MEMORY;
    wiping->options = *options;
    wiping->n_blocks = block_pool_size(options->pool);
    wiping->blocks = calloc(wiping->n_blocks, sizeof *wiping->blocks);
    wiping->queue.blocks = calloc(wiping->n_blocks, sizeof *wiping->queue.blocks);
    if (!wiping->blocks || !wiping->queue.blocks) {
        wiping_destroy(&wiping);
        return ST_NO_MEMORY;
    }
    *out = wiping;
    return ST_OK;
}

void wiping_destroy(struct wiping **wiping)
{
    struct wiping *w = *wiping;
    if (!w)
        return;
    timer_cancel(w->options.timers, &w->work);
    timer_cancel(w->options.timers, &w->deadline);
    free(w->blocks);
    free(w->queue.blocks);
    free(w);
    *wiping = NULL;
}

/* ---- zeroing --------------------------------------------------------------------------------------------------- */

static bool zero(struct wiping *wiping, block_id block)
{
    const size_t bytes = wiping->options.block_bytes;
    uint8_t *memory = wiping->options.memory + block * bytes;
    block_pool_renew(wiping->options.pool, block);
    if (zero_memory(memory, bytes))
        return true;
    log_error("a KV block does not take zeros", "block=%u", block);
    return false;
}

/* No byte of the block has to be zeroed any more. */
static void settle(struct wiping *wiping, block_id block)
{
    struct block_bytes *b = &wiping->blocks[block];
    b->awaited = 0;
    if (wiping->now.is_active && b->wipe == wiping->now.number)
        wiping->now.waiting--;
}

static void zero_free(struct wiping *wiping, block_id block)
{
    struct block_bytes *b = &wiping->blocks[block];
    const bool good = zero(wiping, block), is_of_this = wiping->now.is_active && b->wipe == wiping->now.number;
    b->kind = REMAINS_NONE;
    wiping->counters.zeroed += good;
    wiping->counters.bad += !good;
    if (is_of_this) {
        wiping->now.wiped.blocks_zeroed += good;
        wiping->now.wiped.blocks_bad += !good;
        wiping->now.wiped.bytes_zeroed += good ? wiping->options.block_bytes : 0;
    }
    settle(wiping, block);
}

static void on_work(void *arg);

static void work_soon(struct wiping *wiping)
{
    timer_set(wiping->options.timers, &wiping->work, timers_now(wiping->options.timers) + WIPING_PAUSE_US, on_work,
              wiping);
}

static void enqueue(struct wiping *wiping, block_id block)
{
    struct block_bytes *b = &wiping->blocks[block];
    if (b->is_queued)
        return;
    b->is_queued = true;
    wiping->queue.blocks[(wiping->queue.first + wiping->queue.n++) % wiping->n_blocks] = block;
    if (!timer_is_set(&wiping->work))
        work_soon(wiping);
}

static block_id dequeue(struct wiping *wiping)
{
    block_id block = wiping->queue.blocks[wiping->queue.first];
    wiping->queue.first = (wiping->queue.first + 1) % wiping->n_blocks;
    wiping->queue.n--;
    wiping->blocks[block].is_queued = false;
    return block;
}

static status outcome(const struct wiped *wiped, status beside)
{
    if (wiped->blocks_bad || beside == ST_CORRUPT)
        return ST_CORRUPT;
    return wiped->blocks_left || beside == ST_AGAIN ? ST_TIMEOUT : ST_OK;
}

static void end_wipe(struct wiping *wiping)
{
    struct wiped wiped = wiping->now.wiped;
    const struct wipe_call call = wiping->now.call;
    wiped.blocks_left = wiping->now.waiting;
    wiping->now.is_active = false;
    wiping->counters.late += outcome(&wiped, wiping->now.beside) == ST_TIMEOUT;
    timer_cancel(wiping->options.timers, &wiping->deadline);
    call.done(call.ctx, outcome(&wiped, wiping->now.beside), &wiped);
}

static void on_deadline(void *arg)
{
    end_wipe(arg);
}

static void erase_beside(struct wiping *wiping)
{
    if (!wiping->now.is_active || wiping->now.beside != ST_AGAIN)
        return;
    wiping->now.beside = wiping->options.erase_beside(wiping->options.ctx, !wiping->now.has_begun);
    wiping->now.has_begun = true;
}

/* Also when there is nothing to zero: the end of a wipe is told from here. */
static void on_work(void *arg)
{
    struct wiping *wiping = arg;
    const size_t bytes = wiping->options.block_bytes;
    for (size_t done = 0; wiping->queue.n && (done == 0 || done + bytes <= WIPING_TURN_BYTES);) {
        block_id block = dequeue(wiping);
        if (!wiping->blocks[block].awaited || block_pool_state(wiping->options.pool, block) != BLOCK_FREE)
            continue; /* taken meanwhile: it comes back, or is written over */
        zero_free(wiping, block);
        done += bytes;
    }
    erase_beside(wiping);
    if (wiping->queue.n || (wiping->now.is_active && wiping->now.beside == ST_AGAIN))
        work_soon(wiping);
    if (wiping->now.is_active && wiping->now.waiting == 0 && wiping->now.beside != ST_AGAIN)
        end_wipe(wiping);
}

/* ---- whose bytes they are ---------------------------------------------------------------------------------------- */

static void add_remains(struct block_bytes *b, struct block_hash salt)
{
    if (b->kind == REMAINS_NONE) {
        b->remains = salt;
        b->kind = REMAINS_ONE;
    } else if (!block_hash_equal(b->remains, salt)) {
        b->kind = REMAINS_MANY;
    }
}

void wiping_taken(struct wiping *wiping, const block_id blocks[], uint32_t n, struct block_hash salt)
{
    for (uint32_t i = 0; i < n; i++)
        wiping->blocks[blocks[i]].life = salt;
}

static void on_free(struct wiping *wiping, block_id block)
{
    struct block_bytes *b = &wiping->blocks[block];
    add_remains(b, b->life);
    if (!b->awaited)
        return;
    b->awaited = AWAIT_REMAINS;
    enqueue(wiping, block);
}

/* Every slot is written: nothing of the lives before is left. */
static void on_complete(struct wiping *wiping, block_id block)
{
    struct block_bytes *b = &wiping->blocks[block];
    b->kind = REMAINS_NONE;
    if (!b->awaited)
        return;
    b->awaited &= AWAIT_LIFE;
    if (b->awaited)
        return;
    settle(wiping, block);
    if (wiping->now.is_active && wiping->now.waiting == 0 && !timer_is_set(&wiping->work))
        work_soon(wiping);
}

void wiping_entered(struct wiping *wiping, block_id block, enum block_state state)
{
    if (state == BLOCK_FREE)
        on_free(wiping, block);
    else if (state == BLOCK_COMPLETE)
        on_complete(wiping, block);
}

bool wiping_awaits(const struct wiping *wiping, block_id block)
{
    return wiping->blocks[block].awaited & AWAIT_LIFE;
}

/* ---- beginning ------------------------------------------------------------------------------------------------- */

static bool covers(const struct wipe_call *call, struct block_hash salt)
{
    return !call->salt || block_hash_equal(*call->salt, salt);
}

static uint8_t covered(const struct wiping *wiping, const struct wipe_call *call, block_id block)
{
    const struct block_bytes *b = &wiping->blocks[block];
    const bool lives = block_pool_state(wiping->options.pool, block) != BLOCK_FREE;
    const bool remains = b->kind == REMAINS_MANY || (b->kind == REMAINS_ONE && covers(call, b->remains));
    return (uint8_t)((lives && covers(call, b->life) ? AWAIT_LIFE : 0) | (remains ? AWAIT_REMAINS : 0));
}

static void mark(struct wiping *wiping, const struct wipe_call *call, block_id block)
{
    struct block_bytes *b = &wiping->blocks[block];
    const uint8_t bytes = covered(wiping, call, block);
    if (!bytes)
        return;
    b->awaited |= bytes;
    b->wipe = wiping->now.number;
    wiping->now.waiting++;
    if (block_pool_state(wiping->options.pool, block) == BLOCK_FREE)
        enqueue(wiping, block);
}

status wiping_begin(struct wiping *wiping, const struct wipe_call *call)
{
    ASSERT(call->done);
    if (wiping->now.is_active)
        return ST_AGAIN;
    const uint32_t number = wiping->now.number + 1;
    memset(&wiping->now, 0, sizeof wiping->now);
    wiping->now.number = number;
    wiping->now.is_active = true;
    wiping->now.call = *call;
    wiping->now.beside = wiping->options.erase_beside ? ST_AGAIN : ST_OK;
    wiping->counters.begun++;
    for (block_id block = 0; block < wiping->n_blocks; block++)
        mark(wiping, call, block);
    wiping->now.call.salt = NULL;
    timer_set(wiping->options.timers, &wiping->deadline, call->deadline_us, on_deadline, wiping);
    work_soon(wiping);
    return ST_OK;
}

bool wiping_is_active(const struct wiping *wiping)
{
    return wiping->now.is_active;
}

const struct wiping_counters *wiping_counters(const struct wiping *wiping)
{
    return &wiping->counters;
}
