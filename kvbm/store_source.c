#include "kvbm/store_source.h"

#include <stdlib.h>

#include "common/log.h"

/* What a Find has of the store. */
struct ticket {
    struct store_source *source;
    struct lender_find *find;
    uint64_t number;
    bool is_opening; /* the lender is answered when open returns */
    bool is_over;
};

static void tell(const struct ticket *ticket)
{
    if (!ticket->is_opening)
        lender_progress(ticket->source->lender, ticket->find);
}

static void on_ready(void *ctx, uint64_t number, uint32_t first, const struct store_lent *lent, uint32_t n)
{
    struct ticket *ticket = ctx;
    struct lender_find *find = ticket->find;
    (void)number;
    ASSERT(first == find->first + find->n_ready);
    for (uint32_t i = 0; i < n && find->n_ready < find->run; i++)
        find->blocks[find->n_ready++] =
            (struct lent_block){ .block = lent[i].slot.slot,
                                 .generation = lent[i].slot.generation,
                                 .checksum = lent[i].checksum,
                                 .tier = lent[i].from == STORE_DISK ? KV_TIER_DISK : KV_TIER_HOST };
    tell(ticket);
}

static void on_done(void *ctx, uint64_t number, status st, uint32_t n_ready)
{
    struct ticket *ticket = ctx;
    (void)number;
    if (n_ready < ticket->find->run)
        log_info("a run of blocks ends before its time", "promised=%u ready=%u reason=\"%s\"", ticket->find->run,
                 n_ready, status_text(st));
    ticket->find->run = ticket->find->n_ready;
    tell(ticket);
}

static void on_over(void *ctx, uint64_t number)
{
    struct ticket *ticket = ctx;
    (void)number;
    ticket->is_over = true;
    if (!ticket->is_opening)
        lender_withdrawn(ticket->source->lender, ticket->find); /* frees the ticket */
}

static void open_find(void *ctx, struct lender_find *find)
{
    struct store_source *source = ctx;
    struct ticket *ticket = calloc(1, sizeof *ticket);
    if (!ticket) {
        log_error("no memory to look for blocks", "blocks=%u", find->max);
        return;
    }
    *ticket = (struct ticket){ .source = source, .find = find, .is_opening = true };
    const struct store_reader reader = { on_ready, on_done, on_over, ticket };
    const struct store_request request = { .chain = { .format = source->format,
                                                      .salt = store_salt_id(find->parts.salt),
                                                      .seed = find->seed,
                                                      .hashes = find->hashes,
                                                      .tokens = find->tokens,
                                                      .n_blocks = find->first + find->max },
                                           .first = find->first,
                                           .deadline_us = find->deadline_us,
                                           .reader = &reader };
    struct store_found promised;
    if (store_open(source->store, &request, &ticket->number, &promised) != ST_OK) {
        free(ticket);
        return;
    }
    find->source = ticket;
    find->run = promised.host + promised.disk - find->first;
    store_run(source->store); /* so that what lies in memory is in the first answer */
    ticket->is_opening = false;
    if (ticket->is_over)
        find->run = find->n_ready = 0;
}

static void close_find(void *ctx, struct lender_find *find)
{
    struct store_source *source = ctx;
    struct ticket *ticket = find->source;
    if (!ticket)
        return;
    store_close(source->store, ticket->number);
    free(ticket);
}

static void renew_find(void *ctx, struct lender_find *find, uint64_t until_us)
{
    struct store_source *source = ctx;
    const struct ticket *ticket = find->source;
    uint64_t until = until_us < find->deadline_us ? until_us : find->deadline_us;
    if (ticket) /* when it has ended on_over says so */
        (void)store_renew(source->store, ticket->number, until);
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
        .source = { .ctx = source, .open = open_find, .close = close_find, .renew = renew_find },
        .sink = { .ctx = source, .offer = put_offer, .commit = put_commit, .abort = put_abort },
        .store = store,
        .format = store_format_id(kv_format),
    };
}
