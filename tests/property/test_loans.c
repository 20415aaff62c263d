/* A lender whose pool keeps and evicts what was computed, borrowers that freeze and die, and messages between them that
 * get lost, repeated and late, on a virtual clock; the table of loans beside a model that remembers everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kvbm/block_registry.h"
#include "kvbm/loans.h"
#include "tests/unit/effort.h"

enum { BLOCKS = 24, OF_LOAN = 3, REQUESTS = 12, BORROWERS = 3, IN_FLIGHT = 64, LIFETIME = 300 };

/* Enough for all loans of a round to be remembered; and few, so that those that ended first are forgotten soon. */
enum { MANY_LOANS = 2048, FEW_LOANS = 6 };

enum kind { ASK, LENT, TAKEN, CANCEL, PONG };

struct message {
    enum kind kind;
    struct loan_id id;
    uint32_t borrower;
    uint64_t arrives;
    block_id blocks[OF_LOAN];
    uint64_t generations[OF_LOAN];
    bool waiting;
};

/* A borrower's copy: begun at one time, finished at another. */
struct copy {
    struct message lent;
    uint64_t bytes[OF_LOAN];
    uint32_t copied;
    bool busy;
};

struct request {
    struct loan_id newest; /* that a borrower may ask for */
    uint32_t borrower;
    block_id blocks[OF_LOAN]; /* at the lender */
    bool owned;               /* by a sequence there; afterwards they stay until they are evicted */
    uint64_t deadline;
};

/* What the lender knows of one request, with nothing forgotten. */
struct known {
    bool any, open;
    uint64_t ended_from; /* how many loans had ended before those that ended with it */
    struct loan_id id;
    uint32_t borrower;
    uint64_t alive;
    block_id blocks[OF_LOAN];
    uint64_t generations[OF_LOAN];
};

struct world {
    struct block_pool *pool;
    struct block_registry *index;
    struct loans *loans;
    uint64_t memory[BLOCKS]; /* the request whose KV a block holds, and which of its blocks this is */
    struct request requests[REQUESTS];
    struct known known[REQUESTS];
    struct copy copies[BORROWERS];
    uint64_t thaws[BORROWERS], dead_until[BORROWERS];
    struct message network[IN_FLIGHT];
    uint64_t now, random;
    uint64_t next_request;
    uint32_t max_loans;
    uint64_t n_ended, n_forgotten;
};

static struct {
    uint64_t accepted, discarded, stale, repeated, expired, lost, ended_late, from_cache, gone, forgotten, full;
} seen;

static uint32_t draw(struct world *w, uint32_t below)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % below;
}

static uint64_t kv_of(uint64_t request, uint32_t i)
{
    return request * OF_LOAN + i;
}

/* ---- the network -------------------------------------------------------------------------------------- */

static void put(struct world *w, struct message m)
{
    for (int i = 0; i < IN_FLIGHT; i++)
        if (!w->network[i].waiting) {
            m.waiting = true;
            m.arrives = w->now + 1 + draw(w, draw(w, 6) ? 10 : 500);
            w->network[i] = m;
            return;
        }
}

/* A message is lost now and then, and sometimes comes twice. */
static void send(struct world *w, struct message m)
{
    uint32_t fate = draw(w, 8);
    for (uint32_t copies = fate == 0 ? 0 : fate == 1 ? 2 : 1; copies > 0; copies--)
        put(w, m);
}

/* ---- the lender --------------------------------------------------------------------------------------- */

static struct known *known_of(struct world *w, uint64_t request)
{
    return &w->known[request % REQUESTS];
}

static int compare_age(struct loan_id a, struct loan_id b)
{
    int64_t x = (int64_t)a.attempt * 1000 + a.leg, y = (int64_t)b.attempt * 1000 + b.leg;
    return x < y ? -1 : x > y;
}

static struct block_hash seed(void)
{
    return (struct block_hash){ 1, 2 };
}

/* A request's tokens, one a block, and their hashes. */
static void chain_of(uint64_t request, uint32_t tokens[OF_LOAN], struct block_hash hashes[OF_LOAN])
{
    struct block_hash last = seed();
    for (uint32_t i = 0; i < OF_LOAN; i++) {
        tokens[i] = (uint32_t)request;
        hashes[i] = last = block_hash_next(last, &tokens[i], 1);
    }
}

static uint32_t match(struct world *w, uint64_t request, block_id out[OF_LOAN])
{
    uint32_t tokens[OF_LOAN];
    struct block_hash hashes[OF_LOAN];
    chain_of(request, tokens, hashes);
    return block_registry_match(w->index, &(struct registry_query){ seed(), hashes, tokens, OF_LOAN }, out);
}

static void release(struct world *w, const block_id blocks[], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        block_pool_release(w->pool, blocks[i], BLOCK_OF_SEQUENCE);
}

static void note_ended(struct known *k, uint64_t ended_from)
{
    k->open = false;
    k->ended_from = ended_from;
}

/* The slot of the loan that ended first is used again when all are used. */
static bool is_remembered(const struct world *w, const struct known *k)
{
    return k->open || k->ended_from >= w->n_forgotten;
}

static uint32_t count_open(const struct world *w)
{
    uint32_t n = 0;
    for (int i = 0; i < REQUESTS; i++)
        n += w->known[i].open;
    return n;
}

/* What is known decides, but for an ended loan that may be forgotten, whose ask may open it again. */
static void check_answer(const struct world *w, const struct known *k, int age, status st)
{
    const bool is_full = count_open(w) == w->max_loans;
    if (age > 0 || st != ST_STALE)
        assert_int_equal(st, is_full ? ST_LIMIT : ST_OK);
    if (age <= 0 && is_remembered(w, k))
        assert_int_equal(st, ST_STALE);
    seen.forgotten += age <= 0 && st == ST_OK;
    seen.full += st == ST_LIMIT;
}

static void lend(struct world *w, const struct message *m, const block_id blocks[], uint64_t deadline)
{
    struct known *k = known_of(w, m->id.request);
    int age = k->any ? compare_age(m->id, k->id) : 1;
    bool again = age == 0 && k->open && k->borrower == m->borrower;
    const status st = loans_open(w->loans, m->id, m->borrower, blocks, OF_LOAN, w->now, deadline);
    if (age > 0 && k->open)
        note_ended(k, w->n_ended++);
    if (again)
        assert_int_equal(st, ST_OK);
    else
        check_answer(w, k, age, st);
    seen.repeated += again;
    seen.stale += st == ST_STALE;
    if (st != ST_OK)
        return;
    w->n_forgotten += !again && count_open(w) + w->n_ended - w->n_forgotten == w->max_loans;
    *k = (struct known){ .any = true, .open = true, .id = m->id, .borrower = m->borrower, .alive = w->now };
    struct message lent = { .kind = LENT, .id = m->id, .borrower = m->borrower };
    for (int i = 0; i < OF_LOAN; i++) {
        lent.blocks[i] = k->blocks[i] = blocks[i];
        lent.generations[i] = k->generations[i] = block_pool_generation(w->pool, blocks[i]);
    }
    send(w, lent);
}

/* Lends what is cached, whether its own sequence still runs or not. */
static void on_ask(struct world *w, const struct message *m)
{
    struct request *r = &w->requests[m->id.request % REQUESTS];
    block_id blocks[OF_LOAN];
    if (r->newest.request != m->id.request)
        return; /* the request is over here */
    uint32_t n = match(w, m->id.request, blocks);
    seen.gone += n < OF_LOAN;
    seen.from_cache += n == OF_LOAN && !r->owned;
    if (n == OF_LOAN)
        lend(w, m, blocks, r->deadline);
    release(w, blocks, n);
}

static void on_end(struct world *w, const struct message *m)
{
    struct known *k = known_of(w, m->id.request);
    bool open = k->open && k->id.request == m->id.request && compare_age(k->id, m->id) == 0;
    assert_int_equal(loans_end(w->loans, m->id), open);
    if (open)
        note_ended(k, w->n_ended++);
    else
        seen.ended_late++;
}

static void on_pong(struct world *w, uint32_t borrower)
{
    loans_renew(w->loans, borrower, w->now);
    for (int i = 0; i < REQUESTS; i++)
        if (w->known[i].open && w->known[i].borrower == borrower)
            w->known[i].alive = w->now;
}

static void declare_dead(struct world *w, uint32_t borrower)
{
    uint32_t ended = 0;
    for (int i = 0; i < REQUESTS; i++)
        if (w->known[i].open && w->known[i].borrower == borrower) {
            note_ended(&w->known[i], w->n_ended);
            ended++;
        }
    assert_int_equal(loans_borrower_lost(w->loans, borrower), ended);
    w->n_ended += ended;
    seen.lost += ended;
}

static void expire(struct world *w)
{
    uint32_t ended = 0;
    for (int i = 0; i < REQUESTS; i++) {
        struct known *k = &w->known[i];
        if (k->open && (w->now >= w->requests[i].deadline || w->now - k->alive >= LIFETIME)) {
            note_ended(k, w->n_ended);
            ended++;
        }
    }
    assert_int_equal(loans_expire(w->loans, w->now), ended);
    w->n_ended += ended;
    seen.expired += ended;
}

static void forget_request(struct world *w, struct request *r)
{
    if (r->owned)
        release(w, r->blocks, OF_LOAN);
    r->owned = false;
}

static void compute(struct world *w, uint64_t request, block_id blocks[OF_LOAN])
{
    uint32_t tokens[OF_LOAN];
    struct block_hash hashes[OF_LOAN];
    chain_of(request, tokens, hashes);
    for (uint32_t i = 0; i < OF_LOAN; i++) {
        const struct registry_block what = { seed(), hashes[i], &tokens[i], i ? blocks[i - 1] : BLOCK_NONE };
        w->memory[blocks[i]] = kv_of(request, i);
        block_pool_filled(w->pool, blocks[i], 1);
        assert_int_equal(block_registry_register(w->index, &what, &blocks[i]), REGISTRY_STORED);
    }
}

/* The slot of a request whose loan is over goes to a new one, whose KV overwrites what was there. */
static void begin_request(struct world *w)
{
    uint64_t id = w->next_request;
    struct request *r = &w->requests[id % REQUESTS];
    if (w->known[id % REQUESTS].open)
        return;
    forget_request(w, r);
    w->next_request++;
    w->known[id % REQUESTS] = (struct known){ .any = false };
    *r = (struct request){ .newest = { id, 1, 1 }, .borrower = draw(w, BORROWERS), .deadline = w->now + 2000 };
    if (block_pool_take(w->pool, OF_LOAN, BLOCK_FILLING, r->blocks) != ST_OK)
        return;
    r->owned = true;
    compute(w, id, r->blocks);
}

/* ---- borrowers ------------------------------------------------------------------------------------------- */

static bool is_up(const struct world *w, uint32_t borrower)
{
    return w->now >= w->thaws[borrower] && w->now >= w->dead_until[borrower];
}

static void on_lent(struct world *w, const struct message *m)
{
    struct copy *c = &w->copies[m->borrower];
    if (!c->busy)
        *c = (struct copy){ .lent = *m, .busy = true };
}

/* One block at a time, so that a freeze falls between two; afterwards generations are read again. */
static void copy_on(struct world *w, uint32_t borrower)
{
    struct copy *c = &w->copies[borrower];
    if (!c->busy)
        return;
    if (c->copied < OF_LOAN) {
        c->bytes[c->copied] = w->memory[c->lent.blocks[c->copied]];
        c->copied++;
        return;
    }
    c->busy = false;
    for (int i = 0; i < OF_LOAN; i++)
        if (block_pool_generation(w->pool, c->lent.blocks[i]) != c->lent.generations[i]) {
            seen.discarded++;
            return;
        }
    for (uint32_t i = 0; i < OF_LOAN; i++)
        assert_int_equal(c->bytes[i], kv_of(c->lent.id.request, i));
    seen.accepted++;
    send(w, (struct message){ .kind = TAKEN, .id = c->lent.id });
}

static void ask(struct world *w)
{
    struct request *r = &w->requests[draw(w, REQUESTS)];
    if (!is_up(w, r->borrower))
        return;
    struct message m = { .kind = draw(w, 12) ? ASK : CANCEL, .id = r->newest, .borrower = r->borrower };
    send(w, m);
    if (draw(w, 4))
        return;
    /* Another attempt or leg, perhaps by another borrower. */
    if (draw(w, 2))
        r->newest.leg++;
    else
        r->newest = (struct loan_id){ r->newest.request, r->newest.attempt + 1, 1 };
    r->borrower = draw(w, BORROWERS);
}

/* ---- time goes by ---------------------------------------------------------------------------------------- */

static void deliver(struct world *w)
{
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct message m = w->network[i];
        if (!m.waiting || m.arrives > w->now || (m.kind == LENT && !is_up(w, m.borrower)))
            continue;
        w->network[i].waiting = false;
        if (m.kind == ASK)
            on_ask(w, &m);
        else if (m.kind == LENT)
            on_lent(w, &m);
        else if (m.kind == PONG)
            on_pong(w, m.borrower);
        else
            on_end(w, &m);
    }
}

static void trouble(struct world *w)
{
    uint32_t b = draw(w, BORROWERS);
    if (draw(w, 40) == 0)
        w->thaws[b] = w->now + draw(w, 1000);
    if (draw(w, 80) == 0) {
        w->dead_until[b] = w->now + 100;
        w->copies[b].busy = false;
        declare_dead(w, b);
    }
}

/* What is lent is not written to, and one request has one loan. */
static void check(const struct world *w)
{
    uint32_t open = 0;
    for (int i = 0; i < REQUESTS; i++)
        for (int b = 0; w->known[i].open && b < OF_LOAN; b++) {
            open += b == 0;
            assert_int_equal(block_pool_generation(w->pool, w->known[i].blocks[b]), w->known[i].generations[b]);
        }
    assert_int_equal(loans_open_count(w->loans), open);
}

static void step(struct world *w)
{
    w->now += draw(w, 6);
    switch (draw(w, 6)) {
    case 0:
        begin_request(w);
        break;
    case 1:
        forget_request(w, &w->requests[draw(w, REQUESTS)]);
        break;
    default:
        ask(w);
    }
    for (uint32_t b = 0; b < BORROWERS; b++) {
        if (is_up(w, b) && draw(w, 10) == 0)
            send(w, (struct message){ .kind = PONG, .borrower = b });
        if (is_up(w, b) && draw(w, 2))
            copy_on(w, b);
    }
    trouble(w);
    deliver(w);
    expire(w);
    check(w);
}

static void run_round(uint64_t random, uint32_t max_loans, int steps)
{
    struct world *w = calloc(1, sizeof *w);
    const struct block_pool_options pool = { .n_blocks = BLOCKS, .block_tokens = 1, .policy = &eviction_s3fifo };
    w->random = random;
    w->max_loans = max_loans;
    assert_int_equal(block_pool_create(&pool, &w->pool), ST_OK);
    const struct block_registry_options index = { w->pool, 1 };
    assert_int_equal(block_registry_create(&index, &w->index), ST_OK);
    const struct loans_options options = {
        .pool = w->pool, .max_loans = max_loans, .max_blocks = OF_LOAN, .lifetime_us = LIFETIME
    };
    assert_int_equal(loans_create(&options, &w->loans), ST_OK);
    for (int i = 0; i < steps; i++)
        step(w);
    for (int i = 0; i < REQUESTS; i++)
        forget_request(w, &w->requests[i]);
    w->now += 5000; /* whatever was lost, it ends */
    expire(w);
    assert_int_equal(loans_open_count(w->loans), 0);
    assert_int_equal(block_pool_free(w->pool), BLOCKS);
    loans_destroy(&w->loans);
    block_registry_destroy(&w->index);
    block_pool_destroy(&w->pool);
    free(w);
}

static void test_loans_under_bad_messages(void **state)
{
    (void)state;
    int rounds = is_long() ? 1000 : 20;
    const uint64_t seed = test_seed();
    for (int i = 0; i < rounds; i++)
        run_round(seed + (uint64_t)i, i % 2 ? FEW_LOANS : MANY_LOANS, 1000);
    assert_true(seen.accepted > 0 && seen.discarded > 0 && seen.stale > 0 && seen.repeated > 0);
    assert_true(seen.expired > 0 && seen.lost > 0 && seen.ended_late > 0);
    assert_true(seen.from_cache > 0 && seen.gone > 0 && seen.forgotten > 0 && seen.full > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_loans_under_bad_messages) };
    return cmocka_run_group_tests_name("loans", tests, NULL, NULL);
}
