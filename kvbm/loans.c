#include "kvbm/loans.h"

#include <stdlib.h>
#include <string.h>

#include "kvbm/lease.h"

/* An ended loan stays known in its slot until a new one needs it, the one that ended first being the first to go. */
enum loan_state { LOAN_NONE, LOAN_OPEN, LOAN_ENDED };

struct loan {
    enum loan_state state;
    struct loan_id id;
    uint64_t borrower;
    uint64_t alive_us, deadline_us; /* the last sign of life; the request's deadline */
    uint64_t ended;                 /* how many had ended before */
    struct lease lease;
    block_id *blocks; /* [max_blocks] */
};

struct loans {
    struct loans_options options;
    struct loan *slots; /* [max_loans] */
    block_id *blocks;
    uint32_t n_open;
    uint64_t n_ended;
};

status loans_create(const struct loans_options *options, struct loans **out)
{
    struct loans *loans = calloc(1, sizeof *loans);
    if (!loans)
        return ST_NO_MEMORY;
    loans->options = *options;
    loans->slots = calloc(options->max_loans, sizeof *loans->slots);
    loans->blocks = calloc((size_t)options->max_loans * options->max_blocks, sizeof *loans->blocks);
    if (!loans->slots || !loans->blocks) {
        free(loans->slots);
        free(loans->blocks);
        free(loans);
        return ST_NO_MEMORY;
    }
    for (uint32_t i = 0; i < options->max_loans; i++)
        loans->slots[i].blocks = loans->blocks + (size_t)i * options->max_blocks;
    *out = loans;
    return ST_OK;
}

static void end(struct loans *loans, struct loan *loan)
{
    lease_end(&loan->lease);
    loan->state = LOAN_ENDED;
    loan->ended = loans->n_ended++;
    loans->n_open--;
    if (loans->options.ended)
        loans->options.ended(loans->options.ctx, loan->id);
}

void loans_destroy(struct loans **loans)
{
    struct loans *l = *loans;
    if (!l)
        return;
    for (uint32_t i = 0; i < l->options.max_loans; i++)
        if (l->slots[i].state == LOAN_OPEN)
            end(l, &l->slots[i]);
    free(l->slots);
    free(l->blocks);
    free(l);
    *loans = NULL;
}

/* Negative: a is the older one of its request. */
static int compare_age(struct loan_id a, struct loan_id b)
{
    if (a.attempt != b.attempt)
        return a.attempt < b.attempt ? -1 : 1;
    return a.leg == b.leg ? 0 : a.leg < b.leg ? -1 : 1;
}

/* An open loan is never given up; of the others, the one that is known for the longest. */
static bool is_better_slot(const struct loan *a, const struct loan *b)
{
    if (a->state == LOAN_OPEN)
        return false;
    return !b || (a->state == LOAN_NONE && b->state != LOAN_NONE) ||
           (a->state == LOAN_ENDED && b->state == LOAN_ENDED && a->ended < b->ended);
}

/* ST_NOT_FOUND: nothing is known that speaks against this loan; ST_OK: it is open. */
static status look_up(struct loans *loans, struct loan_id id, uint64_t borrower, uint64_t now_us)
{
    for (uint32_t i = 0; i < loans->options.max_loans; i++) {
        struct loan *loan = &loans->slots[i];
        if (loan->state == LOAN_NONE || loan->id.request != id.request)
            continue;
        int age = compare_age(loan->id, id);
        if (age > 0 || (age == 0 && (loan->state == LOAN_ENDED || loan->borrower != borrower)))
            return ST_STALE;
        if (age == 0) {
            loan->alive_us = now_us;
            return ST_OK;
        }
        if (loan->state == LOAN_OPEN)
            end(loans, loan);
    }
    return ST_NOT_FOUND;
}

status loans_open(struct loans *loans, struct loan_id id, uint64_t borrower, const block_id blocks[], uint32_t n_blocks,
                  uint64_t now_us, uint64_t deadline_us)
{
    status st = look_up(loans, id, borrower, now_us);
    if (st != ST_NOT_FOUND)
        return st;
    struct loan *slot = NULL;
    for (uint32_t i = 0; i < loans->options.max_loans; i++)
        if (is_better_slot(&loans->slots[i], slot))
            slot = &loans->slots[i];
    if (!slot || n_blocks > loans->options.max_blocks)
        return ST_LIMIT;
    slot->state = LOAN_OPEN;
    slot->id = id;
    slot->borrower = borrower;
    slot->alive_us = now_us;
    slot->deadline_us = deadline_us;
    if (n_blocks)
        memcpy(slot->blocks, blocks, n_blocks * sizeof *blocks);
    lease_open(&slot->lease, loans->options.pool, slot->blocks, n_blocks);
    loans->n_open++;
    return ST_OK;
}

bool loans_end(struct loans *loans, struct loan_id id)
{
    for (uint32_t i = 0; i < loans->options.max_loans; i++) {
        struct loan *loan = &loans->slots[i];
        if (loan->state == LOAN_OPEN && loan->id.request == id.request && compare_age(loan->id, id) == 0) {
            end(loans, loan);
            return true;
        }
    }
    return false;
}

void loans_renew(struct loans *loans, uint64_t borrower, uint64_t now_us)
{
    for (uint32_t i = 0; i < loans->options.max_loans; i++)
        if (loans->slots[i].borrower == borrower)
            loans->slots[i].alive_us = now_us;
}

uint32_t loans_borrower_lost(struct loans *loans, uint64_t borrower)
{
    uint32_t before = loans->n_open;
    for (uint32_t i = 0; i < loans->options.max_loans; i++)
        if (loans->slots[i].state == LOAN_OPEN && loans->slots[i].borrower == borrower)
            end(loans, &loans->slots[i]);
    return before - loans->n_open;
}

uint32_t loans_expire(struct loans *loans, uint64_t now_us)
{
    uint32_t before = loans->n_open;
    for (uint32_t i = 0; i < loans->options.max_loans; i++) {
        struct loan *loan = &loans->slots[i];
        if (loan->state == LOAN_OPEN &&
            (now_us >= loan->deadline_us || now_us - loan->alive_us >= loans->options.lifetime_us))
            end(loans, loan);
    }
    return before - loans->n_open;
}

uint32_t loans_open_count(const struct loans *loans)
{
    return loans->n_open;
}
