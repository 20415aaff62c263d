/* Choosing a pair of workers: against a scan of all pairs, and against the rules as they stand, on random fleets; and
 * what becomes of a prefix that everybody asks for. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/pick.h"
#include "router/pick_best.h"
#include "router/pick_time.h"
#include "tests/unit/effort.h"

#define MOST 4096

static struct pick_candidate decodes[MOST], prefills[MOST];
static struct pick_input in;
static unsigned seed = 1;

static uint32_t below(uint32_t n)
{
    return (uint32_t)rand_r(&seed) % n;
}

/* ---- against the scan of all pairs --------------------------------------------------------- */

struct found {
    bool any, local;
    uint64_t us, work;
    uint32_t decode, prefill, decode_turn, prefill_turn;
};

static bool is_better(const struct found *a, const struct found *b)
{
    if (!b->any || a->us != b->us)
        return !b->any || a->us < b->us;
    if (a->work != b->work)
        return a->work < b->work;
    if (a->local != b->local)
        return a->local;
    return a->decode_turn != b->decode_turn ? a->decode_turn < b->decode_turn : a->prefill_turn < b->prefill_turn;
}

static bool has_prefill(uint64_t format)
{
    for (uint32_t p = 0; p < in.n_prefills; p++)
        if (prefills[p].usable && prefills[p].format == format)
            return true;
    return false;
}

static bool may_be_local(uint32_t d)
{
    bool alone = !has_prefill(decodes[d].format);
    if (in.request.asked == PICK_ROUTE_AUTO)
        return alone || pick_local_holds(&in, d);
    return in.request.asked == PICK_ROUTE_LOCAL || alone;
}

static void consider(struct found *best, uint32_t d, uint32_t p)
{
    struct found f = { .any = true, .local = p == PICK_NONE, .decode = d, .prefill = p };
    f.us = pick_predict(&in, d, p, NULL);
    f.work = pick_work(&decodes[d]) + (f.local ? 0 : pick_work(&prefills[p]));
    f.decode_turn = pick_turn(d, in.n_decodes, in.request.turn);
    f.prefill_turn = f.local ? 0 : pick_turn(p, in.n_prefills, in.request.turn);
    if (is_better(&f, best))
        *best = f;
}

static struct found scan_all(void)
{
    struct found best = { .any = false };
    for (uint32_t d = 0; d < in.n_decodes; d++) {
        if (!decodes[d].usable)
            continue;
        if (may_be_local(d))
            consider(&best, d, PICK_NONE);
        for (uint32_t p = 0; p < in.n_prefills && in.request.asked != PICK_ROUTE_LOCAL; p++)
            if (prefills[p].usable && prefills[p].format == decodes[d].format)
                consider(&best, d, p);
    }
    return best;
}

struct shape {
    uint32_t n_decodes, n_prefills, formats, hosts, rates;
};

static struct pick_candidate random_worker(uint32_t place, const struct shape *shape)
{
    float speed = shape->rates == 1 ? 1.0f : 1.0f + (float)below(shape->rates);
    struct pick_candidate c = { .usable = below(10) > 0,
                                .place = place,
                                .format = below(shape->formats),
                                .host = below(shape->hosts),
                                .queued_tokens = below(3) ? below(20000) : 0,
                                .age_us = below(60000),
                                .later_tokens = below(2) ? below(4000) : 0,
                                .running_tokens = below(40000),
                                .requests = below(60),
                                .running = below(30),
                                .kv_blocks = below(20) ? 4096 : 0,
                                .token_bytes = 24576,
                                .rates = { .prefill_base = 100.0f * speed,
                                           .prefill_token = 20.0f * speed,
                                           .prefill_pair = 0.01f * (float)below(3),
                                           .step = 1000.0f * speed } };
    c.kv_free = c.kv_blocks ? below(4097) : 0;
    c.remote_tokens = below(10000);
    c.fault_tokens = below(30) ? 0 : below(4096);
    c.rates.handoff[0] = (struct pick_line){ (float)below(3000), 0.0001f * (float)below(30) };
    c.rates.handoff[1] = (struct pick_line){ (float)below(9000), 0.0003f * (float)below(30) };
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        c.rates.pull[tier] = (struct pick_line){ (float)below(5000), 0.0002f * (float)below(30) };
    return c;
}

static void hold_randomly(struct pick_candidate *c)
{
    uint32_t held = below(in.request.n_tokens + 1);
    for (int tier = 0; tier < KV_TIER_COUNT; tier++) {
        c->cached[tier] = held;
        held += below(in.request.n_tokens + 1 - held);
    }
    if (c->cached[KV_TIER_COUNT - 1] > in.request.elsewhere)
        in.request.elsewhere = c->cached[KV_TIER_COUNT - 1];
}

static void random_fleet(const struct shape *shape)
{
    static const enum pick_route asked[] = { PICK_ROUTE_AUTO, PICK_ROUTE_AUTO, PICK_ROUTE_LOCAL, PICK_ROUTE_REMOTE };
    in = (struct pick_input){ .policy = PICK_CACHE_AWARE,
                              .request = { .n_tokens = 1 + below(6000),
                                           .block_tokens = 16,
                                           .asked = asked[below(4)],
                                           .itl_target_us = below(2) ? 1000u * below(60) : 0,
                                           .turn = below(1u << 20) },
                              .decodes = decodes,
                              .prefills = prefills,
                              .n_decodes = shape->n_decodes,
                              .n_prefills = shape->n_prefills,
                              .decode_places = shape->n_decodes,
                              .prefill_places = shape->n_prefills };
    for (uint32_t i = 0; i < shape->n_decodes; i++)
        decodes[i] = random_worker(i, shape);
    for (uint32_t i = 0; i < shape->n_prefills; i++)
        prefills[i] = random_worker(i, shape);
    for (uint32_t i = below(24); i > 0; i--)
        hold_randomly(below(2) && shape->n_prefills ? &prefills[below(shape->n_prefills)]
                                                    : &decodes[below(shape->n_decodes)]);
}

/* How much longer a pair can take for being on two hosts. */
static uint64_t most_of_a_host(void)
{
    uint64_t most = 0;
    for (uint32_t d = 0; d < in.n_decodes; d++) {
        uint32_t moved = pick_time_moved(&in.request, &decodes[d]);
        uint64_t near_us = pick_time_handoff(&decodes[d], moved, false);
        uint64_t far_us = pick_time_handoff(&decodes[d], moved, true);
        uint64_t more = far_us > near_us ? far_us - near_us : near_us - far_us;
        most = more > most ? more : most;
    }
    return most;
}

static void check_choice(bool exactly)
{
    struct pick_choice c;
    struct found best = scan_all();
    pick(&in, &c);
    assert_int_equal(best.any, c.decode != PICK_NONE);
    if (!best.any)
        return;
    uint32_t prefill = c.n_prefills ? c.prefills[0] : PICK_NONE;
    uint64_t us = pick_predict(&in, c.decode, prefill, NULL);
    assert_true(decodes[c.decode].usable);
    for (uint32_t i = 0; i < c.n_prefills; i++)
        assert_true(prefills[c.prefills[i]].usable && prefills[c.prefills[i]].format == decodes[c.decode].format);
    if (!exactly) {
        assert_true(us >= best.us && us - best.us <= most_of_a_host());
        return;
    }
    assert_int_equal(us, best.us);
    assert_int_equal(c.decode, best.decode);
    assert_int_equal(prefill, best.prefill);
}

static void run(const struct shape *shape, bool exactly, int rounds)
{
    for (int i = 0; i < rounds; i++) {
        random_fleet(shape);
        check_choice(exactly);
    }
}

static void test_one_host_is_exact(void **state)
{
    (void)state;
    run(&(struct shape){ 1, 1, 1, 1, 1 }, true, 300);
    run(&(struct shape){ 3, 5, 1, 1, 4 }, true, 3000);
    run(&(struct shape){ 40, 60, 1, 1, 4 }, true, 400);
    run(&(struct shape){ 60, 40, 3, 1, 8 }, true, 400);
    run(&(struct shape){ 5, 0, 2, 1, 2 }, true, 300);
}

static void test_hosts_are_within_their_difference(void **state)
{
    (void)state;
    run(&(struct shape){ 6, 6, 1, 3, 2 }, false, 2000);
    run(&(struct shape){ 50, 50, 2, 12, 4 }, false, 300);
}

static void test_thousands(void **state)
{
    (void)state;
    run(&(struct shape){ 2048, 2048, 1, 1, 6 }, true, is_long() ? 20 : 1);
    run(&(struct shape){ 1024, 3072, 2, 300, 6 }, false, is_long() ? 20 : 1);
}

/* Thousands of equals, where only the turn decides. */
static void test_many_equals(void **state)
{
    (void)state;
    const struct shape shape = { 700, 900, 1, 1, 1 };
    random_fleet(&shape);
    in.request.asked = PICK_ROUTE_REMOTE;
    in.request.elsewhere = 0;
    for (uint32_t i = 0; i < shape.n_prefills; i++)
        prefills[i] = (struct pick_candidate){ .usable = i % 7 != 0, .place = i, .rates = { .prefill_token = 1 } };
    for (uint32_t i = 0; i < shape.n_decodes; i++)
        decodes[i] = (struct pick_candidate){ .usable = i % 5 != 0, .place = i, .kv_blocks = 100, .kv_free = 100 };
    for (in.request.turn = 0; in.request.turn < 30; in.request.turn++)
        check_choice(true);
}

/* The finalists of a fleet give what the fleet gives: so a cut list can be decided again. */
static void test_finalists_are_enough(void **state)
{
    (void)state;
    const struct shape shape = { 200, 200, 2, 5, 4 };
    static struct pick_candidate few_decodes[64], few_prefills[64];
    for (int round = 0; round < 200; round++) {
        uint32_t kept[64];
        struct pick_choice whole, cut;
        random_fleet(&shape);
        pick(&in, &whole);
        struct pick_input few = in;
        few.decodes = few_decodes;
        few.prefills = few_prefills;
        few.n_decodes = pick_finalists(&in, true, kept, 64);
        for (uint32_t i = 0; i < few.n_decodes; i++)
            few_decodes[i] = decodes[kept[i]];
        few.n_prefills = pick_finalists(&in, false, kept, 64);
        for (uint32_t i = 0; i < few.n_prefills; i++)
            few_prefills[i] = prefills[kept[i]];
        pick(&few, &cut);
        assert_int_equal(few_decodes[cut.decode].place, whole.decode);
        assert_int_equal(cut.n_prefills, whole.n_prefills);
        for (uint32_t i = 0; i < cut.n_prefills; i++)
            assert_int_equal(few_prefills[cut.prefills[i]].place, whole.prefills[i]);
    }
}

/* ---- against the rules, applied plainly ------------------------------------------------------ */

/* A worker with its place in the order of one list. */
struct ranked {
    uint64_t us, work;
    uint32_t turn, index;
};

static int by_rank(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    if (a->us != b->us)
        return a->us < b->us ? -1 : 1;
    if (a->work != b->work)
        return a->work < b->work ? -1 : 1;
    return a->turn < b->turn ? -1 : a->turn > b->turn;
}

enum order { BY_TIME, BY_CACHED, BY_LOAD };

static struct ranked rank_of(bool is_decode, uint32_t index, enum order order)
{
    const struct pick_candidate *c = is_decode ? &decodes[index] : &prefills[index];
    uint32_t n = is_decode ? in.n_decodes : in.n_prefills;
    struct ranked r = { 0, pick_work(c), pick_turn(c->place, n, in.request.turn), index };
    struct pick_plan plan;
    uint64_t load_us = is_decode ? pick_time_pressure(&in.request, c) : pick_time_wait(c, false);
    pick_time_plan(&in.request, c, &plan);
    if (order == BY_CACHED)
        r.us = UINT32_MAX - c->cached[KV_TIER_COUNT - 1];
    else if (order == BY_LOAD)
        r.us = load_us;
    else if (is_decode)
        r.us = load_us + pick_time_handoff(c, pick_time_moved(&in.request, c), false);
    else
        r.us = load_us + plan.prefill_us + plan.pull_us;
    return r;
}

/* Adds the first `most` of a side, in that order, to those marked. */
static void mark_first(bool is_decode, uint64_t format, enum order order, uint32_t most, bool marked[MOST])
{
    static struct ranked all[MOST];
    uint32_t n = 0, of_side = is_decode ? in.n_decodes : in.n_prefills;
    for (uint32_t i = 0; i < of_side; i++) {
        const struct pick_candidate *c = is_decode ? &decodes[i] : &prefills[i];
        if (c->usable && c->format == format && (order != BY_CACHED || c->cached[KV_TIER_COUNT - 1]))
            all[n++] = rank_of(is_decode, i, order);
    }
    qsort(all, n, sizeof *all, by_rank);
    for (uint32_t i = 0; i < n && i < most; i++)
        marked[all[i].index] = true;
}

static void mark_finalists(bool is_decode, bool marked[MOST])
{
    memset(marked, 0, MOST * sizeof *marked);
    for (uint32_t d = 0; d < in.n_decodes; d++) {
        bool seen = false;
        for (uint32_t before = 0; before < d; before++)
            seen |= decodes[before].usable && decodes[before].format == decodes[d].format;
        if (seen || !decodes[d].usable)
            continue;
        mark_first(is_decode, decodes[d].format, BY_TIME, PICK_BEST_BY_TIME, marked);
        mark_first(is_decode, decodes[d].format, BY_CACHED, PICK_BEST_BY_REST, marked);
        mark_first(is_decode, decodes[d].format, BY_LOAD, PICK_BEST_BY_REST, marked);
    }
}

static struct found plain_choice(const bool *finalist_decodes, const bool *finalist_prefills)
{
    struct found best = { .any = false };
    for (uint32_t d = 0; d < in.n_decodes; d++) {
        if (!decodes[d].usable)
            continue;
        if (may_be_local(d))
            consider(&best, d, PICK_NONE);
        for (uint32_t p = 0; finalist_decodes[d] && p < in.n_prefills && in.request.asked != PICK_ROUTE_LOCAL; p++)
            if (finalist_prefills[p] && prefills[p].format == decodes[d].format)
                consider(&best, d, p);
    }
    return best;
}

/* The first of the pair, and behind it those that are next with this decode worker. */
static uint32_t plain_helpers(const struct found *best, const bool *finalist_prefills, struct ranked *out)
{
    uint32_t n = 0;
    for (uint32_t p = 0; !best->local && p < in.n_prefills; p++)
        if (finalist_prefills[p] && prefills[p].format == decodes[best->decode].format) {
            out[n] = rank_of(false, p, BY_TIME);
            out[n].us = p == best->prefill ? 0 : pick_predict(&in, best->decode, p, NULL);
            n++;
        }
    qsort(out, n, sizeof *out, by_rank);
    return n < PICK_MAX_RANKED ? n : PICK_MAX_RANKED;
}

static void check_plainly(void)
{
    static bool finalist_decodes[MOST], finalist_prefills[MOST];
    struct ranked helpers[PICK_FINALISTS];
    struct pick_parts parts;
    struct pick_choice c;
    mark_finalists(true, finalist_decodes);
    mark_finalists(false, finalist_prefills);
    const struct found best = plain_choice(finalist_decodes, finalist_prefills);
    pick(&in, &c);
    assert_int_equal(best.any, c.decode != PICK_NONE);
    if (!best.any)
        return;
    assert_int_equal(c.decode, best.decode);
    assert_int_equal(c.route,
                     best.local && in.request.asked != PICK_ROUTE_REMOTE ? PICK_ROUTE_LOCAL : PICK_ROUTE_REMOTE);
    assert_int_equal(c.n_prefills, plain_helpers(&best, finalist_prefills, helpers));
    for (uint32_t i = 0; i < c.n_prefills; i++)
        assert_int_equal(c.prefills[i], helpers[i].index);
    (void)pick_predict(&in, best.decode, best.prefill, &parts);
    assert_memory_equal(&c.predicted, &parts, offsetof(struct pick_parts, source) + sizeof parts.source);
}

static float *rate_of(struct pick_rates *r, uint32_t which)
{
    float *const rates[] = { &r->prefill_base,
                             &r->prefill_token,
                             &r->prefill_pair,
                             &r->queue,
                             &r->step,
                             &r->handoff[0].base,
                             &r->handoff[1].byte,
                             &r->pull[KV_TIER_HOST].base,
                             &r->pull[KV_TIER_REMOTE].byte };
    return rates[which % (sizeof rates / sizeof *rates)];
}

/* What a log may hold as well as a fleet: rates of nothing, endless ones, and queues of any length. */
static void make_strange(struct pick_candidate *c)
{
    static const float strange[] = { 0, 1e-30f, 1e30f, (float)INFINITY, (float)NAN };
    *rate_of(&c->rates, below(64)) = strange[below(5)];
    c->computes_all = below(2);
    if (below(8) == 0)
        c->queued_tokens = UINT64_MAX;
    if (below(8) == 0)
        c->age_us = UINT64_MAX / 2;
}

static void make_alike(struct pick_candidate *c, const struct pick_candidate *other)
{
    bool usable = c->usable;
    uint32_t place = c->place;
    *c = *other;
    c->usable = usable;
    c->place = place;
}

/* Changes some workers of a side: into one of two, or into strange ones. */
static void disturb(struct pick_candidate *side, uint32_t n, uint32_t alike, uint32_t strange)
{
    for (uint32_t i = 2; i < n; i++) {
        if (below(100) < alike)
            make_alike(&side[i], &side[below(2)]);
        if (below(100) < strange)
            make_strange(&side[i]);
    }
}

/* All take the same time, so that work, turn and who computes decide. */
static void make_equal(struct pick_candidate *side, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        side[i].queued_tokens = side[i].later_tokens = side[i].remote_tokens = side[i].fault_tokens = 0;
        side[i].running_tokens = below(3);
        side[i].kv_blocks = side[i].kv_free = 100;
        side[i].rates = (struct pick_rates){ 0 };
    }
}

static void run_plainly(const struct shape *shape)
{
    static const uint32_t parts[] = { 0, 20, 90 };
    for (int round = 0; round < (is_long() ? 4000 : 300); round++) {
        random_fleet(shape);
        if (below(4) == 0)
            in.request.elsewhere = below(12000);
        if (below(10) == 0)
            in.request.block_tokens = 0;
        uint32_t alike = parts[below(3)], strange = parts[below(3)] / 2;
        disturb(decodes, in.n_decodes, alike, strange);
        disturb(prefills, in.n_prefills, alike, strange);
        if (round % 5 == 0) {
            make_equal(decodes, in.n_decodes);
            make_equal(prefills, in.n_prefills);
        }
        check_plainly();
    }
}

static void test_any_fleet_is_as_the_rules_say(void **state)
{
    (void)state;
    run_plainly(&(struct shape){ 1, 1, 1, 1, 1 });
    run_plainly(&(struct shape){ 7, 5, 1, 3, 2 });
    run_plainly(&(struct shape){ 5, 0, 2, 2, 2 });
    run_plainly(&(struct shape){ 30, 50, 1, 1, 4 });
    run_plainly(&(struct shape){ 60, 40, 3, 12, 6 });
}

/* ---- a hot prefix ---------------------------------------------------------------------------- */

#define WORKERS   8u
#define PREFIX    2000u
#define OWN       100u /* tokens of each request behind the prefix */
#define REQUESTS  400u
#define TOKEN_US  50u
#define TOKEN_KV  20000.0f
#define PULL_BASE 1000u

/* Workers whose queues run off while time passes; who computed or fetched the prefix has it. */
struct hot {
    uint32_t served[WORKERS];
    uint32_t pulled, recomputed, reused;
};

static void hot_fleet(float pull_byte)
{
    memset(decodes, 0, sizeof decodes);
    memset(prefills, 0, sizeof prefills);
    for (uint32_t i = 0; i < WORKERS; i++) {
        struct pick_candidate c = { .usable = true,
                                    .place = i,
                                    .kv_blocks = 100000,
                                    .kv_free = 100000,
                                    .token_bytes = TOKEN_KV,
                                    .rates = { .prefill_token = TOKEN_US, .step = 1000 } };
        c.rates.pull[KV_TIER_REMOTE] = (struct pick_line){ PULL_BASE, pull_byte };
        decodes[i] = prefills[i] = c;
    }
    in = (struct pick_input){ .policy = PICK_CACHE_AWARE,
                              .request = { .n_tokens = PREFIX + OWN, .block_tokens = 16, .asked = PICK_ROUTE_REMOTE },
                              .decodes = decodes,
                              .prefills = prefills,
                              .n_decodes = WORKERS,
                              .n_prefills = WORKERS,
                              .decode_places = WORKERS,
                              .prefill_places = WORKERS };
}

static uint64_t pull_us(void)
{
    const struct pick_line *line = &prefills[0].rates.pull[KV_TIER_REMOTE];
    return (uint64_t)((double)line->base + (double)line->byte * (double)TOKEN_KV * PREFIX + 0.5);
}

static void serve_hot(struct hot *hot, uint64_t between_us)
{
    struct pick_choice c;
    uint64_t compute = (uint64_t)TOKEN_US * PREFIX;
    pick(&in, &c);
    in.request.turn++;
    struct pick_candidate *p = &prefills[c.prefills[0]];
    bool has = p->cached[KV_TIER_DEVICE] > 0;
    if (has)
        assert_int_equal(c.predicted.computed, OWN);
    else if (in.request.elsewhere) /* whichever is cheaper */
        assert_int_equal(c.predicted.pulled, pull_us() < compute ? PREFIX : 0);
    hot->served[c.prefills[0]]++;
    hot->reused += has;
    hot->pulled += c.predicted.pulled > 0;
    hot->recomputed += !has && !c.predicted.pulled;
    p->queued_tokens += c.predicted.computed + c.predicted.pull_us / TOKEN_US;
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        p->cached[tier] = PREFIX;
    in.request.elsewhere = PREFIX;
    for (uint32_t i = 0; i < WORKERS; i++) {
        uint64_t done = between_us / TOKEN_US;
        prefills[i].queued_tokens -= prefills[i].queued_tokens < done ? prefills[i].queued_tokens : done;
    }
}

static struct hot run_hot(float pull_byte, uint64_t between_us)
{
    struct hot hot = { { 0 }, 0, 0, 0 };
    hot_fleet(pull_byte);
    for (uint32_t i = 0; i < REQUESTS; i++)
        serve_hot(&hot, i == 0 ? 1000000 : between_us); /* the prefix is there before the many come */
    return hot;
}

static uint32_t most_served(const struct hot *hot)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < WORKERS; i++)
        most = hot->served[i] > most ? hot->served[i] : most;
    return most;
}

/* While one worker keeps up, it has them all; when more come than it can take, others get the prefix and their share.
 */
static void test_a_hot_prefix_spreads(void **state)
{
    (void)state;
    const uint64_t one_takes = (uint64_t)OWN * TOKEN_US;
    struct hot slow = run_hot(0.0005f, 2 * one_takes);
    assert_int_equal(most_served(&slow), REQUESTS);
    assert_int_equal(slow.recomputed, 1);
    struct hot fast =
        run_hot(0.0005f, one_takes / 6); /* six times what one can take, and pulling 21 ms, computing 100 */
    assert_int_equal(fast.recomputed, 1);
    assert_true(fast.pulled >= 5 && fast.pulled < WORKERS);
    assert_true(most_served(&fast) <= REQUESTS / 4);
    struct hot far = run_hot(0.005f, one_takes / 6); /* pulling 201 ms: the others compute it themselves */
    assert_int_equal(far.pulled, 0);
    assert_true(far.recomputed >= 5 && far.recomputed <= WORKERS);
    assert_true(most_served(&far) <= REQUESTS / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_host_is_exact),
        cmocka_unit_test(test_hosts_are_within_their_difference),
        cmocka_unit_test(test_thousands),
        cmocka_unit_test(test_many_equals),
        cmocka_unit_test(test_finalists_are_enough),
        cmocka_unit_test(test_any_fleet_is_as_the_rules_say),
        cmocka_unit_test(test_a_hot_prefix_spreads),
    };
    return cmocka_run_group_tests_name("pick", tests, NULL, NULL);
}
