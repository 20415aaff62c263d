/* Prefix caching on virtual time: what is found is what a table of all earlier requests says, and with little room,
 * faults and the same beginnings everywhere nothing is wrong and nothing is left over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/log.h"
#include "tests/unit/effort.h"
#include "virtual_cluster.h"

#define MINUTE 60000000u
#define SECOND 1000000u

enum {
    TOKENS = 4,
    LOCAL = 8,
    DECODE = 1,
    PREFILL = 2,
    ROLES = 3,
    REQUESTS = 120
}; /* TOKENS of a block, as virtual_node.c has it */

/* What a worker has computed: sequences, cut to full blocks. */
struct known {
    const uint32_t *tokens[REQUESTS];
    uint32_t n[REQUESTS];
    uint32_t n_known;
};

static void learn(struct known *known, const uint32_t *tokens, uint32_t n)
{
    known->tokens[known->n_known] = tokens;
    known->n[known->n_known++] = n / TOKENS * TOKENS;
}

/* The longest beginning of full blocks that is known, at most n - 1 tokens. */
static uint32_t find(const struct known *known, const uint32_t *tokens, uint32_t n)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < known->n_known; i++) {
        uint32_t same = 0;
        while (same < known->n[i] && same < n - 1 && known->tokens[i][same] == tokens[same])
            same++;
        longest = same > longest ? same : longest;
    }
    return longest / TOKENS * TOKENS;
}

struct trial {
    struct vc *vc;
    struct known known[ROLES];
    uint64_t hits[2][2]; /* whether decode, and whether prefill, found something */
    uint64_t fetched;    /* prompts of which prefill fetched from decode what it did not have */
};

/* What prefill lacks of that which decode has it computes, or fetches where that is faster. */
static void check_computed(struct trial *t, const struct vc_request *r, uint32_t here, uint32_t there)
{
    bool is_fetched = here > there && r->computed != r->n_prompt - there;
    assert_int_equal(r->computed, r->n_prompt - (is_fetched ? here : there));
    t->fetched += is_fetched;
}

static void check_one(struct trial *t, const struct vc_request *r)
{
    uint32_t n = r->n_prompt;
    uint32_t here = r->no_cache ? 0 : find(&t->known[DECODE], r->tokens, n);
    uint32_t there = r->no_cache ? 0 : find(&t->known[PREFILL], r->tokens, n);
    bool remote = r->route == BATON__ROUTE__ROUTE_AUTO ? n - here > LOCAL : r->route == BATON__ROUTE__ROUTE_REMOTE;
    assert_true(r->ended && !r->failed);
    assert_int_equal(r->wrong, 0);
    assert_int_equal(r->remote, remote);
    assert_int_equal(r->cached, remote && there > here ? there : here);
    if (remote)
        check_computed(t, r, here, there);
    else
        assert_int_equal(r->computed, n - here);
    t->hits[here > 0][remote && there > 0]++;
    if (r->no_cache)
        return;
    learn(&t->known[DECODE], r->tokens, r->n_tokens - 1);
    if (remote)
        learn(&t->known[PREFILL], r->tokens, n);
}

static bool restarts(uint32_t i)
{
    return i > 0 && i % 30 == 0;
}

static void restart(struct trial *t, uint32_t worker)
{
    vc_fault(t->vc, worker, FAULT_KILL, 0);
    t->known[worker].n_known = 0;
}

/* One after the other, at block and chunk edges and one off, with everything that a request may be. */
static void test_what_is_found(void **state)
{
    (void)state;
    char what[256];
    struct trial *t = calloc(1, sizeof *t);
    for (uint64_t seed = 0; seed < 10; seed++) {
        const struct vc_options o = { .seed = seed,
                                      .n_decodes = 1,
                                      .n_prefills = 1,
                                      .n_blocks = 4000,
                                      .chunk_tokens = 1 + (uint32_t)seed * 3,
                                      .policy = PICK_LEAST_LOADED, /* the worker's threshold decides on the route */
                                      .restart = true,
                                      .fault_at = "" };
        memset(t->known, 0, sizeof t->known);
        t->vc = vc_create(&o);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            uint32_t x = (uint32_t)(seed * 1000003 + i * 7919);
            uint32_t n = TOKENS * (1 + x % 14) - 1 + x / 14 % 3;
            if (restarts(i))
                restart(t, i / 30 % 2 ? PREFILL : DECODE);
            uint32_t r = vc_submit(t->vc, &(struct vc_request){ .n_prompt = n,
                                                                .max_tokens = 1 + x % 9,
                                                                .text = 1 + x / 5 % 3,
                                                                .n_text = x % 4 ? n : x / 9 % n,
                                                                .no_cache = x % 11 == 0,
                                                                .at_us = restarts(i) ? 5 * SECOND : 0,
                                                                .route = (Baton__Route)(x / 3 % 3) });
            vc_run(t->vc, MINUTE);
            check_one(t, vc_request(t->vc, r));
        }
        assert_int_equal(vc_leaks(t->vc, what, sizeof what), 0);
        vc_destroy(t->vc);
    }
    for (int i = 0; i < 4; i++)
        assert_true(t->hits[i / 2][i % 2] > 10);
    assert_true(t->fetched > 10);
    free(t);
}

static void check_all(struct vc *vc, uint32_t n, const char *name)
{
    char what[256];
    for (uint32_t i = 0; i < n; i++) {
        const struct vc_request *r = vc_request(vc, i);
        if (!r->ended || r->failed || r->wrong)
            print_error("%s: request %u: ended=%d failed=%d (%s) wrong=%u\n", name, i, r->ended, r->failed, r->error,
                        r->wrong);
        assert_true(r->ended && !r->failed);
        assert_int_equal(r->wrong, 0);
    }
    uint32_t left = vc_leaks(vc, what, sizeof what);
    if (left)
        print_error("%s: left over: %s\n", name, what);
    assert_int_equal(left, 0);
}

static void submit_many(struct vc *vc, uint32_t n, uint64_t over_us, uint64_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t x = (uint32_t)(seed * 1000003 + i * 7919);
        vc_submit(vc, &(struct vc_request){ .n_prompt = 1 + x % 61,
                                            .max_tokens = 1 + x / 61 % 40,
                                            .no_cache = x % 13 == 0,
                                            .route = (Baton__Route)(x % 3),
                                            .at_us = over_us * i / n,
                                            .cancel_at_us = x % 17 == 0 ? over_us * i / n + 1 + x % 5000 : 0 });
    }
}

/* Eviction while sequences run, are preempted and come back, on both sides. */
static void test_little_room(void **state)
{
    (void)state;
    struct prefix_cache_counters sum = { .hit = 0 };
    uint64_t preemptions = 0;
    for (uint64_t seed = 0; seed < (is_long() ? 100 : 10); seed++) {
        struct vc_options o = { .seed = seed,
                                .n_decodes = 1 + (uint32_t)(seed % 2),
                                .n_prefills = 1 + (uint32_t)(seed % 3 / 2),
                                .n_blocks = 52,
                                .chunk_tokens = 1 + (uint32_t)(seed * 7 % 20),
                                .texts = 1 + (uint32_t)seed % 4,
                                .slow = seed % 4 ? 0 : 0.1,
                                .flip = seed % 5 ? 0 : 0.01,
                                .fault_at = "" };
        struct vc *vc = vc_create(&o);
        submit_many(vc, 150, 300000, seed);
        vc_run(vc, 30 * MINUTE);
        check_all(vc, 150, "little room");
        for (uint32_t w = 1; w <= o.n_decodes + o.n_prefills; w++) {
            struct prefix_cache_counters c = vc_prefix_cache(vc, w);
            sum.hit += c.hit;
            sum.miss += c.miss;
            sum.shared += c.shared;
            sum.evicted += c.evicted;
            preemptions += vc_counters(vc, w)->preemptions;
        }
        vc_destroy(vc);
    }
    assert_true(sum.hit > 100 && sum.miss > 10 && sum.shared > 10 && sum.evicted > 100 && preemptions > 10);
}

static void test_off(void **state)
{
    (void)state;
    struct vc_options o = { .seed = 1,
                            .n_decodes = 1,
                            .n_prefills = 1,
                            .n_blocks = 96,
                            .chunk_tokens = 16,
                            .texts = 1,
                            .no_cache = true,
                            .fault_at = "" };
    struct vc *vc = vc_create(&o);
    submit_many(vc, 60, 300000, 1);
    vc_run(vc, 10 * MINUTE);
    check_all(vc, 60, "off");
    for (uint32_t w = 1; w <= 2; w++) {
        struct prefix_cache_counters c = vc_prefix_cache(vc, w);
        assert_true(c.hit == 0 && c.miss == 0 && c.registered == 0);
    }
    vc_destroy(vc);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_found),
        cmocka_unit_test(test_little_room),
        cmocka_unit_test(test_off),
    };
    return cmocka_run_group_tests_name("prefix cache", tests, NULL, NULL);
}
