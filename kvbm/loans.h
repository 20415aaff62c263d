/* loans.h - what one pool has lent, to whom, and until when.
 * A loan is named by (request, attempt, leg). It ends when the borrower has taken the blocks, with a Cancel, when a
 * newer attempt or leg of its request comes, when the borrower is declared dead, when no ping was answered for its
 * lifetime, and at the request's deadline in any case. Messages may be lost, repeated and late: a repeated ask changes
 * nothing, an ask that is older than what is known is stale, ending what has ended does nothing. After the end the
 * blocks may be used again even if a frozen borrower still copies: his copy fails the generation or the checksum.
 * Owned by the pool's loop thread; all memory is taken at create. */
#ifndef BATON_KVBM_LOANS_H
#define BATON_KVBM_LOANS_H

#include <stdbool.h>
#include <stdint.h>

#include "kvbm/block_pool.h"

struct loans;

struct loan_id {
    uint64_t request;
    uint32_t attempt, leg;
};

struct loans_options {
    struct block_pool *pool; /* borrowed; NULL: loans hold no blocks here, and are opened with none */
    uint32_t max_loans;      /* also how many ended ones are remembered at least, when few are open */
    uint32_t max_blocks;     /* of one loan */
    uint64_t lifetime_us;    /* without a sign of life */
    /* A loan has ended, however it did: the last that is said of it. It calls nothing of the table that the loan is
     * in. May be NULL. */
    void (*ended)(void *ctx, struct loan_id id);
    void *ctx;
};

MUST_CHECK status loans_create(const struct loans_options *options, struct loans **out);
/* Ends all. */
void loans_destroy(struct loans **loans);

/* Lends blocks that have an owner or are registered; they are held for a transfer. Without blocks the loan is a name
 * and a time, for who holds them himself. ST_STALE: it ended before, or a newer one of its request is known; ST_LIMIT:
 * too many loans, or blocks. An older one of the request ends first. */
MUST_CHECK status loans_open(struct loans *loans, struct loan_id id, uint64_t borrower, const block_id blocks[],
                             uint32_t n_blocks, uint64_t now_us, uint64_t deadline_us);
/* Taken or cancelled; false when no such loan is open. */
bool loans_end(struct loans *loans, struct loan_id id);
/* The borrower answered a ping. */
void loans_renew(struct loans *loans, uint64_t borrower, uint64_t now_us);
/* The borrower was declared dead. Returns how many loans ended. */
uint32_t loans_borrower_lost(struct loans *loans, uint64_t borrower);
/* Ends those whose time is over. Returns how many. */
uint32_t loans_expire(struct loans *loans, uint64_t now_us);
uint32_t loans_open_count(const struct loans *loans);

#endif
