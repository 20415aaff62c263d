#include "kvbm/store_source.h"

#include <stdlib.h>

#include "common/log.h"

struct sourced;

/* A ticket of the store. */
struct part {
    struct sourced *of;
    uint64_t number;
    bool is_open;
};

/* What a Find has. First what is here, then, when all of that is ready, what comes from another host. */
struct sourced {
    struct store_source *source;
    struct lender_find *find;
    struct part here, coming;
    struct remote_plan plan;
    uint32_t run_here;
    bool is_opening; /* the lender is answered when open returns */
    bool is_over;
};

static void tell(const struct sourced *s)
{
    if (!s->is_opening)
        lender_progress(s->source->lender, s->find);
}

static void on_ready(void *ctx, uint64_t number, uint32_t first, const struct store_lent *lent, uint32_t n)
{
    const struct part *part = ctx;
    struct sourced *s = part->of;
    struct lender_find *find = s->find;
    bool is_remote = part == &s->coming;
    (void)number;
    ASSERT(first == find->first + find->n_ready);
    for (uint32_t i = 0; i < n && find->n_ready < find->run; i++) {
        enum kv_tier here = lent[i].from == STORE_DISK ? KV_TIER_DISK : KV_TIER_HOST;
        find->blocks[find->n_ready++] = (struct lent_block){ .block = lent[i].slot.slot,
                                                             .generation = lent[i].slot.generation,
                                                             .checksum = lent[i].checksum,
                                                             .tier = is_remote ? KV_TIER_REMOTE : here };
        s->source->remote_blocks += is_remote;
    }
    tell(s);
}

static void begin_coming(struct sourced *s);

static void on_done(void *ctx, uint64_t number, status st, uint32_t n_ready)
{
    const struct part *part = ctx;
    struct sourced *s = part->of;
    struct lender_find *find = s->find;
    (void)number;
    (void)n_ready;
    if (part == &s->here && find->n_ready == s->run_here && find->run > s->run_here) {
        begin_coming(s);
        return;
    }
    if (find->n_ready < find->run)
        log_info("a run of blocks ends before its time", "promised=%u ready=%u reason=\"%s\"", find->run, find->n_ready,
                 status_text(st));
    find->run = find->n_ready;
    tell(s);
}

static void on_over(void *ctx, uint64_t number)
{
    struct part *part = ctx;
    struct sourced *s = part->of;
    (void)number;
    part->is_open = false;
    s->is_over = true;
    if (!s->is_opening)
        lender_withdrawn(s->source->lender, s->find); /* frees s */
}

/* Blocks from the first-th of the chain on. */
static status open_part(struct sourced *s, struct part *part, uint32_t first, bool await_coming,
                        struct store_found *promised)
{
    const struct lender_find *find = s->find;
    const struct store_reader reader = { on_ready, on_done, on_over, part };
    const struct store_request request = { .chain = { .format = s->source->format,
                                                      .salt = store_salt_id(find->parts.salt),
                                                      .seed = find->seed,
                                                      .hashes = find->hashes,
                                                      .tokens = find->tokens,
                                                      .n_blocks = find->first + find->max },
                                           .first = first,
                                           .deadline_us = find->deadline_us,
                                           .await_coming = await_coming,
                                           .reader = &reader };
    part->of = s;
    status st = store_open(s->source->store, &request, &part->number, promised);
    part->is_open = st == ST_OK;
    return st;
}

/* All that was here is ready. What was promised beyond it may have become less. */
static void begin_coming(struct sourced *s)
{
    struct lender_find *find = s->find;
    struct store_found found = { 0, 0, 0 };
    uint32_t at = find->first + find->n_ready, run = find->n_ready;
    if (s->plan.n_blocks)
        remote_tier_fetch(s->source->remote, find, &s->plan);
    if (open_part(s, &s->coming, at, true, &found) == ST_OK)
        run = found.host + found.disk - find->first;
    else
        remote_tier_released(s->source->remote);
    find->run = run < find->run ? run : find->run;
    tell(s);
}

/* What of this chain is being fetched already, or would be. */
static void look_beyond(struct sourced *s, const struct store_chain *chain)
{
    struct lender_find *find = s->find;
    const struct store_found found = store_find(s->source->store, chain);
    uint32_t here = found.host + found.disk, end = here + found.coming;
    if (!found.coming) {
        s->plan = remote_tier_plan(s->source->remote, find, here);
        end = here + s->plan.n_blocks;
    }
    if (end > here && end > find->first)
        find->run = end - find->first;
}

static void open_find(void *ctx, struct lender_find *find)
{
    struct store_source *source = ctx;
    struct sourced *s = calloc(1, sizeof *s);
    if (!s) {
        log_error("no memory to look for blocks", "blocks=%u", find->max);
        return;
    }
    *s = (struct sourced){ .source = source, .find = find, .is_opening = true };
    find->source = s;
    const struct store_chain chain = { .format = source->format,
                                       .salt = store_salt_id(find->parts.salt),
                                       .seed = find->seed,
                                       .hashes = find->hashes,
                                       .tokens = find->tokens,
                                       .n_blocks = find->first + find->max };
    struct store_found promised = { 0, 0, 0 };
    status st = open_part(s, &s->here, find->first, false, &promised);
    if (st == ST_OK)
        find->run = s->run_here = promised.host + promised.disk - find->first;
    if (source->remote && !find->local_only && (st == ST_OK || st == ST_NOT_FOUND))
        look_beyond(s, &chain);
    if (st == ST_OK)
        store_run(source->store); /* so that what lies in memory is in the first answer */
    else if (find->run)
        begin_coming(s);
    s->is_opening = false;
    if (s->is_over)
        find->run = find->n_ready = 0;
}

static void close_find(void *ctx, struct lender_find *find)
{
    struct store_source *source = ctx;
    struct sourced *s = find->source;
    if (!s)
        return;
    if (s->here.is_open)
        store_close(source->store, s->here.number);
    if (s->coming.is_open)
        store_close(source->store, s->coming.number);
    if (source->remote)
        remote_tier_released(source->remote); /* the ticket may have ended by its own time, in on_over */
    free(s);
}

static void renew_find(void *ctx, struct lender_find *find, uint64_t until_us)
{
    struct store_source *source = ctx;
    const struct sourced *s = find->source;
    uint64_t until = until_us < find->deadline_us ? until_us : find->deadline_us;
    /* Where one has ended on_over says so. */
    if (s && s->here.is_open)
        (void)store_renew(source->store, s->here.number, until);
    if (s && s->coming.is_open)
        (void)store_renew(source->store, s->coming.number, until);
}

static void suspect(void *ctx, const struct lender_find *find, uint32_t index)
{
    const struct lent_block *block = &find->blocks[index];
    store_suspect(((struct store_source *)ctx)->store, (struct store_slot){ block->block, block->generation });
}

static void put_offer(void *ctx, const struct store_offer *offer, struct store_answer out[])
{
    store_offer(((struct store_source *)ctx)->store, offer, out);
}

static status put_commit(void *ctx, struct store_slot slot)
{
    return store_commit(((struct store_source *)ctx)->store, slot);
}

static void put_abort(void *ctx, struct store_slot slot, bool damaged)
{
    store_abort(((struct store_source *)ctx)->store, slot, damaged);
}

void store_source_init(struct store_source *source, struct store *store, const char *kv_format)
{
    *source = (struct store_source){
        .source = { .ctx = source, .open = open_find, .close = close_find, .renew = renew_find, .suspect = suspect },
        .sink = { .ctx = source, .offer = put_offer, .commit = put_commit, .abort = put_abort },
        .store = store,
        .format = store_format_id(kv_format),
    };
}
