/* Which workers are chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pick_scene.h"
#include "router/pick_time.h"

#define N 4

static const enum pick_policy all_policies[] = {
#define X(name, text) PICK_##name,
    PICK_POLICIES(X)
#undef X
};
#define POLICIES (sizeof all_policies / sizeof *all_policies)

/* ---- the terms of the time ------------------------------------------------------------ */

static uint64_t time_of(const struct pick_scene *s, struct pick_parts *parts)
{
    return pick_predict(&s->in, 0, 0, parts);
}

static uint64_t local_time_of(const struct pick_scene *s, struct pick_parts *parts)
{
    return pick_predict(&s->in, 0, PICK_NONE, parts);
}

static void test_terms_add_up(void **state)
{
    (void)state;
    struct pick_scene s;
    struct pick_parts p;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    s.prefills[0].queued_tokens = 70;
    s.prefills[0].rates.prefill_pair = 1;
    s.decodes[0].kv_free = 500;
    s.decodes[0].kv_blocks = 1000;
    uint64_t us = time_of(&s, &p);
    assert_int_equal(p.wait_us, 7000);
    assert_int_equal(p.prefill_us, 500 + 100000 + 500500);
    assert_int_equal(p.pull_us, 0);
    assert_int_equal(p.handoff_us, 300 + 1000);
    double k = 0.5 + 1000.0 / 16 / 1000;
    assert_int_equal(p.pressure_us, (uint64_t)(PICK_LAMBDA_US * k / (1 - k) + 0.5));
    assert_int_equal(us, p.wait_us + p.prefill_us + p.handoff_us + p.pressure_us);
    assert_int_equal(p.computed, 1000);
    assert_int_equal(p.moved, 1000);
}

typedef void raise_fn(struct pick_scene *s, uint32_t step);

static void raise_queue(struct pick_scene *s, uint32_t step)
{
    s->prefills[0].queued_tokens = 100 * step;
}

static void raise_prompt(struct pick_scene *s, uint32_t step)
{
    s->in.request.n_tokens = 100 + 100 * step;
}

static void raise_token(struct pick_scene *s, uint32_t step)
{
    s->prefills[0].rates.prefill_token = 10 * (float)step;
}

static void raise_pair(struct pick_scene *s, uint32_t step)
{
    s->prefills[0].rates.prefill_pair = 0.1f * (float)step;
}

static void raise_kv(struct pick_scene *s, uint32_t step)
{
    s->decodes[0].kv_free = 1000 - 50 * step;
}

static void raise_promised(struct pick_scene *s, uint32_t step)
{
    s->decodes[0].queued_tokens = 100 * step;
}

static void raise_handoff(struct pick_scene *s, uint32_t step)
{
    s->decodes[0].rates.handoff[0].byte = 0.01f * (float)step;
}

static void raise_faults(struct pick_scene *s, uint32_t step)
{
    s->decodes[0].fault_tokens = 100 * step;
}

static void lose_cached(struct pick_scene *s, uint32_t step)
{
    scene_holds(&s->prefills[0], KV_TIER_DEVICE, 900 - 50 * step);
}

static void raise_pull(struct pick_scene *s, uint32_t step)
{
    s->in.request.elsewhere = 800;
    s->prefills[0].rates.pull[KV_TIER_REMOTE].byte = 0.005f * (float)step;
}

static void test_each_term_rises_with_its_input(void **state)
{
    (void)state;
    static raise_fn *const raises[] = { raise_queue,    raise_prompt,  raise_token,  raise_pair,  raise_kv,
                                        raise_promised, raise_handoff, raise_faults, lose_cached, raise_pull };
    for (size_t i = 0; i < sizeof raises / sizeof *raises; i++) {
        struct pick_scene s;
        uint64_t last = 0;
        scene_init(&s, PICK_CACHE_AWARE, 1, 1);
        for (uint32_t step = 1; step <= 12; step++) {
            raises[i](&s, step);
            uint64_t us = time_of(&s, NULL);
            assert_true(us > last);
            last = us;
        }
    }
}

static void test_a_full_worker_is_not_endless(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    s.decodes[0].kv_free = 0;
    s.decodes[0].queued_tokens = UINT32_MAX;
    struct pick_parts p;
    (void)time_of(&s, &p);
    assert_true(p.pressure_us > 90 * (uint64_t)PICK_LAMBDA_US && p.pressure_us < 110 * (uint64_t)PICK_LAMBDA_US);
    s.prefills[0].queued_tokens = UINT64_MAX / 2; /* whatever a worker says, sums stay sums */
    assert_true(time_of(&s, NULL) > 1000000000);
}

/* What a worker said of its queue is older every moment; what was sent to it since is not. */
static void test_a_queue_runs_off(void **state)
{
    (void)state;
    struct pick_scene s;
    struct pick_parts p;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    s.prefills[0].queued_tokens = s.decodes[0].queued_tokens = 70;
    s.prefills[0].later_tokens = s.decodes[0].later_tokens = 30;
    for (uint64_t age = 0; age < 10000; age += 1000) {
        s.prefills[0].age_us = s.decodes[0].age_us = age;
        (void)time_of(&s, &p);
        assert_int_equal(p.wait_us, age < 7000 ? 10000 - age : 3000);
        (void)local_time_of(&s, &p);
        assert_int_equal(p.wait_us, age < 7000 ? 10000 - age : 3000);
    }
    s.decodes[0].age_us = 1000;
    s.decodes[0].remote_tokens = 40; /* 60 are its own */
    (void)local_time_of(&s, &p);
    assert_int_equal(p.wait_us, 5000);
    s.decodes[0].remote_tokens = 200;
    (void)local_time_of(&s, &p);
    assert_int_equal(p.wait_us, 0);
}

static void test_cached_tokens(void **state)
{
    (void)state;
    struct pick_scene s;
    struct pick_parts p;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    scene_holds(&s.prefills[0], KV_TIER_DEVICE, 960);
    (void)time_of(&s, &p);
    assert_int_equal(p.cached, 960);
    assert_int_equal(p.computed, 40);
    assert_int_equal(p.pull_us, 0);
    assert_int_equal(p.prefill_us, 500 + 4000);
    scene_holds(&s.prefills[0], KV_TIER_DEVICE, 1000); /* the last token is computed all the same, */
    (void)time_of(&s, &p);
    assert_int_equal(p.cached, 992); /* and its block is found whole or not at all */
    assert_int_equal(p.computed, 8);
    scene_holds(&s.decodes[0], KV_TIER_DEVICE, 480); /* and decode needs less */
    (void)time_of(&s, &p);
    assert_int_equal(p.moved, 520);
    assert_int_equal(p.handoff_us, 300 + 520);
}

/* On both sides of the crossover the cheaper one. */
static void test_pull_or_compute(void **state)
{
    (void)state;
    struct pick_scene s;
    struct pick_parts p;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    for (uint32_t held = 1; held < 1000; held++) {
        s.in.request.elsewhere = held;
        (void)time_of(&s, &p);
        /* 100 us a token to compute; to fetch 10, and 1000 once */
        uint64_t fetched = 1000 + 10 * held, computed = 100 * held;
        assert_int_equal(p.pulled, fetched < computed ? held : 0);
        assert_int_equal(p.source, fetched < computed ? KV_TIER_REMOTE : KV_TIER_DEVICE);
        assert_int_equal(p.prefill_us + p.pull_us, 500 + 100000 - computed + (fetched < computed ? fetched : computed));
    }
    s.in.request.elsewhere = 960; /* what it has in its own host memory comes at that tier's price */
    scene_holds(&s.prefills[0], KV_TIER_HOST, 960);
    s.prefills[0].rates.pull[KV_TIER_HOST] = (struct pick_line){ 100, 0.001f };
    (void)time_of(&s, &p);
    assert_int_equal(p.source, KV_TIER_HOST);
    assert_int_equal(p.pull_us, 100 + 960);
    s.prefills[0].computes_all = 1;
    (void)time_of(&s, &p);
    assert_int_equal(p.pulled, 0);
    assert_int_equal(p.prefill_us + p.pull_us, 500 + 100000);
}

/* ---- local or remote ------------------------------------------------------------------- */

static void test_local_when_faster(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    assert_int_equal(scene_pick(&s).route, PICK_ROUTE_LOCAL); /* all equal, and nothing to move */
    s.prefills[0].rates.prefill_token = 50;
    struct pick_choice c = scene_pick(&s);
    assert_int_equal(c.route, PICK_ROUTE_REMOTE);
    assert_int_equal(c.n_prefills, 1);
    s.prefills[0].queued_tokens = 2000;
    c = scene_pick(&s);
    assert_int_equal(c.route, PICK_ROUTE_LOCAL);
    assert_int_equal(c.n_prefills, 0);
    s.decodes[0].queued_tokens = s.decodes[0].remote_tokens = 5000; /* others' prompts are not in its way */
    assert_int_equal(scene_pick(&s).route, PICK_ROUTE_LOCAL);
    s.decodes[0].remote_tokens = 0;
    assert_int_equal(scene_pick(&s).route, PICK_ROUTE_REMOTE);
}

static void test_local_while_tokens_keep_coming(void **state)
{
    (void)state;
    struct pick_scene s;
    struct pick_parts p;
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    s.in.request.itl_target_us = 20000;
    for (uint32_t n = 1; n < 600; n++) {
        s.in.request.n_tokens = n;
        uint64_t itl = 5000 + 500 + 100 * (n < PICK_CHUNK_TOKENS ? n : PICK_CHUNK_TOKENS);
        (void)local_time_of(&s, &p);
        assert_int_equal(p.itl_us, itl);
        assert_int_equal(scene_pick(&s).route, itl <= 20000 ? PICK_ROUTE_LOCAL : PICK_ROUTE_REMOTE);
    }
    scene_holds(&s.decodes[0], KV_TIER_DEVICE, 560); /* what is cached stalls nobody */
    assert_int_equal(scene_pick(&s).route, PICK_ROUTE_LOCAL);
    s.prefills[0].usable = false;
    scene_holds(&s.decodes[0], KV_TIER_DEVICE, 0);
    assert_int_equal(scene_pick(&s).route, PICK_ROUTE_LOCAL); /* slow beats never */
}

static void test_what_the_client_asks(void **state)
{
    (void)state;
    struct pick_scene s;
    for (size_t i = 0; i < POLICIES; i++) {
        scene_init(&s, all_policies[i], 2, 2);
        s.in.request.asked = PICK_ROUTE_REMOTE;
        struct pick_choice c = scene_pick(&s);
        assert_int_equal(c.route, PICK_ROUTE_REMOTE);
        assert_int_equal(c.n_prefills, 2);
        s.prefills[0].usable = s.prefills[1].usable = false;
        c = scene_pick(&s);
        assert_int_equal(c.route, PICK_ROUTE_REMOTE); /* the decode worker says what becomes of it */
        assert_int_not_equal(c.decode, PICK_NONE);
        assert_int_equal(c.n_prefills, 0);
        scene_init(&s, all_policies[i], 2, 2);
        s.in.request.asked = PICK_ROUTE_LOCAL;
        s.in.request.itl_target_us = 1;
        c = scene_pick(&s);
        assert_int_equal(c.route, PICK_ROUTE_LOCAL);
        assert_int_equal(c.n_prefills, 0);
        s.in.request.asked = PICK_ROUTE_AUTO;
        c = scene_pick(&s);
        assert_int_equal(c.route, all_policies[i] == PICK_CACHE_AWARE ? PICK_ROUTE_REMOTE : PICK_ROUTE_AUTO);
    }
}

/* ---- policies ------------------------------------------------------------------------------ */

static void test_every_policy_keeps_to_the_usable(void **state)
{
    (void)state;
    for (size_t i = 0; i < POLICIES; i++) {
        struct pick_scene s;
        int hits[N] = { 0 }, helped[N] = { 0 };
        scene_init(&s, all_policies[i], N, N);
        s.in.request.asked = PICK_ROUTE_REMOTE;
        s.decodes[0].usable = s.decodes[2].usable = s.prefills[1].usable = false;
        s.prefills[2].format = 2; /* its KV is of no use */
        for (s.in.request.turn = 0; s.in.request.turn < 200; s.in.request.turn++) {
            struct pick_choice c = scene_pick(&s);
            hits[c.decode]++;
            helped[c.prefills[0]]++;
            assert_int_equal(c.n_prefills, 2);
        }
        assert_int_equal(hits[0] + hits[2] + helped[1] + helped[2], 0);
        assert_true(hits[1] > 20 && hits[3] > 20);
        assert_true(helped[0] > 20 && helped[3] > 20);
    }
}

static void test_nobody(void **state)
{
    (void)state;
    for (size_t i = 0; i < POLICIES; i++) {
        struct pick_scene s;
        scene_init(&s, all_policies[i], N, N);
        for (int k = 0; k < N; k++)
            s.decodes[k].usable = false;
        struct pick_choice c = scene_pick(&s);
        assert_int_equal(c.decode, PICK_NONE);
        assert_int_equal(c.n_prefills, 0);
        s.in.n_decodes = s.in.n_prefills = s.in.decode_places = s.in.prefill_places = 0;
        assert_int_equal(scene_pick(&s).decode, PICK_NONE);
    }
}

static void test_equals_share(void **state)
{
    (void)state;
    static const enum pick_policy sharing[] = { PICK_CACHE_AWARE, PICK_KV_OVERLAP, PICK_LEAST_LOADED,
                                                PICK_ROUND_ROBIN };
    for (size_t i = 0; i < sizeof sharing / sizeof *sharing; i++) {
        struct pick_scene s;
        int hits[N] = { 0 }, helped[N] = { 0 };
        scene_init(&s, sharing[i], N, N);
        s.in.request.asked = PICK_ROUTE_REMOTE;
        for (s.in.request.turn = 0; s.in.request.turn < 40; s.in.request.turn++) {
            struct pick_choice c = scene_pick(&s);
            hits[c.decode]++;
            helped[c.prefills[0]]++;
        }
        for (int k = 0; k < N; k++) {
            assert_int_equal(hits[k], 10);
            assert_int_equal(helped[k], 10);
        }
    }
}

/* Equal times: less work is left behind. */
static void test_ties_go_to_the_least_work(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_CACHE_AWARE, N, N);
    s.in.request.asked = PICK_ROUTE_REMOTE;
    for (int i = 0; i < N; i++)
        s.decodes[i].running_tokens = s.prefills[i].running_tokens = 500;
    s.decodes[2].running_tokens = 400;
    s.prefills[1].running_tokens = 499;
    for (s.in.request.turn = 0; s.in.request.turn < 8; s.in.request.turn++) {
        struct pick_choice c = scene_pick(&s);
        assert_int_equal(c.decode, 2);
        assert_int_equal(c.prefills[0], 1);
    }
}

static void test_cache_aware(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_CACHE_AWARE, N, N);
    s.in.request.asked = PICK_ROUTE_REMOTE;
    scene_holds(&s.decodes[3], KV_TIER_DEVICE, 800);
    scene_holds(&s.prefills[2], KV_TIER_DEVICE, 800);
    s.in.request.elsewhere = 800;
    for (int i = 0; i < N; i++) /* fetching is slow */
        s.prefills[i].rates.pull[KV_TIER_REMOTE].byte = 1;
    struct pick_choice c = scene_pick(&s);
    assert_int_equal(c.decode, 3);
    assert_int_equal(c.prefills[0], 2);
    assert_int_equal(c.predicted.computed, 200);
    s.prefills[2].queued_tokens = 799;
    assert_int_equal(scene_pick(&s).prefills[0], 2);
    s.prefills[2].queued_tokens = 810; /* waiting for it costs more than computing */
    assert_int_not_equal(scene_pick(&s).prefills[0], 2);
    for (int i = 0; i < N; i++)
        s.prefills[i].rates.pull[KV_TIER_REMOTE].byte = 0.01f;
    s.prefills[2].queued_tokens = 100; /* fetching takes 9 ms, waiting 10 */
    c = scene_pick(&s);
    assert_int_not_equal(c.prefills[0], 2);
    assert_int_equal(c.predicted.pulled, 800);
    s.prefills[2].queued_tokens = 80;
    assert_int_equal(scene_pick(&s).prefills[0], 2);
}

static void test_other_hosts_are_farther(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_CACHE_AWARE, 1, 2);
    s.in.request.asked = PICK_ROUTE_REMOTE;
    s.prefills[0].host = 2; /* 900 us and 4 us a token instead of 300 and 1 */
    assert_int_equal(scene_pick(&s).prefills[0], 1);
    s.prefills[1].queued_tokens = 35;
    assert_int_equal(scene_pick(&s).prefills[0], 1);
    s.prefills[1].queued_tokens = 37;
    struct pick_choice c = scene_pick(&s);
    assert_int_equal(c.prefills[0], 0);
    assert_int_equal(c.predicted.handoff_us, 900 + 4000);
    assert_int_equal(c.prefills[1], 1);
}

/* max((prefill tokens in flight + prompt) / block - cached blocks, 0) + decode blocks */
static void test_kv_overlap(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_KV_OVERLAP, 3, 0);
    s.decodes[0].queued_tokens = 320; /* (320 + 1000) / 16 - 40 = 42.5 */
    scene_holds(&s.decodes[0], KV_TIER_DEVICE, 640);
    s.decodes[1].running_tokens = 16 * 20;           /* 1000 / 16 - 40 + 20 = 42.5 */
    scene_holds(&s.decodes[1], KV_TIER_DEVICE, 655); /* of the last block a part: 40 blocks */
    s.decodes[2].queued_tokens = 0;                  /* 62.5 */
    s.in.request.turn = 1;
    assert_int_equal(scene_pick(&s).decode, 1); /* equals take turns */
    s.in.request.turn = 0;
    assert_int_equal(scene_pick(&s).decode, 0);
    s.decodes[0].queued_tokens++;
    assert_int_equal(scene_pick(&s).decode, 1);
    s.decodes[1].running_tokens += 16 * 21;
    s.decodes[0].queued_tokens += 16 * 21;
    assert_int_equal(scene_pick(&s).decode, 2);
    scene_holds(&s.decodes[1], KV_TIER_DEVICE, 4000); /* never below none */
    s.decodes[1].running_tokens = 999;
    assert_int_equal(scene_pick(&s).decode, 1);
}

static void test_least_loaded(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_LEAST_LOADED, N, N);
    s.decodes[0].queued_tokens = s.decodes[1].queued_tokens = s.decodes[3].queued_tokens = 500;
    scene_holds(&s.decodes[0], KV_TIER_DEVICE, 999); /* it does not look at that */
    s.prefills[0].queued_tokens = 30;
    s.prefills[1].queued_tokens = 10;
    s.prefills[2].queued_tokens = 20;
    s.prefills[3].usable = false;
    for (s.in.request.turn = 0; s.in.request.turn < 10; s.in.request.turn++) {
        struct pick_choice c = scene_pick(&s);
        assert_int_equal(c.decode, 2);
        assert_int_equal(c.n_prefills, 3);
        assert_int_equal(c.prefills[0], 1);
        assert_int_equal(c.prefills[1], 2);
        assert_int_equal(c.prefills[2], 0);
    }
    s.decodes[2].requests = 8;
    assert_int_not_equal(scene_pick(&s).decode, 2);
    s.decodes[2].requests = 0;
    s.decodes[2].kv_free = 100;
    assert_int_not_equal(scene_pick(&s).decode, 2);
}

static void test_round_robin_looks_at_no_load(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_ROUND_ROBIN, N, N);
    s.decodes[1].queued_tokens = s.prefills[1].queued_tokens = 100000;
    for (s.in.request.turn = 0; s.in.request.turn < 8; s.in.request.turn++) {
        struct pick_choice c = scene_pick(&s);
        assert_int_equal(c.decode, s.in.request.turn % N);
        assert_int_equal(c.prefills[0], s.in.request.turn % N);
    }
}

static void test_power_of_two_leans_to_the_less_loaded(void **state)
{
    (void)state;
    struct pick_scene s;
    int hits[N] = { 0 };
    scene_init(&s, PICK_POWER_OF_TWO, N, 0);
    for (int i = 0; i < N; i++)
        s.decodes[i].queued_tokens = 1000u * (uint32_t)i;
    for (s.in.request.turn = 0; s.in.request.turn < 1600; s.in.request.turn++)
        hits[scene_pick(&s).decode]++;
    /* the best of two of four: 7, 5, 3 and 1 of 16 */
    assert_true(hits[0] > 600 && hits[0] < 800 && hits[3] > 50 && hits[3] < 150);
}

static void test_names(void **state)
{
    (void)state;
    enum pick_policy policy;
    enum pick_route route;
    for (size_t i = 0; i < POLICIES; i++) {
        assert_true(pick_policy_find(pick_policy_name(all_policies[i]), &policy));
        assert_int_equal(policy, all_policies[i]);
    }
    assert_true(pick_route_find("remote", &route) && route == PICK_ROUTE_REMOTE);
    assert_false(pick_policy_find("", &policy) || pick_route_find("far", &route));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terms_add_up),
        cmocka_unit_test(test_each_term_rises_with_its_input),
        cmocka_unit_test(test_a_full_worker_is_not_endless),
        cmocka_unit_test(test_a_queue_runs_off),
        cmocka_unit_test(test_cached_tokens),
        cmocka_unit_test(test_pull_or_compute),
        cmocka_unit_test(test_local_when_faster),
        cmocka_unit_test(test_local_while_tokens_keep_coming),
        cmocka_unit_test(test_what_the_client_asks),
        cmocka_unit_test(test_every_policy_keeps_to_the_usable),
        cmocka_unit_test(test_nobody),
        cmocka_unit_test(test_equals_share),
        cmocka_unit_test(test_ties_go_to_the_least_work),
        cmocka_unit_test(test_cache_aware),
        cmocka_unit_test(test_other_hosts_are_farther),
        cmocka_unit_test(test_kv_overlap),
        cmocka_unit_test(test_least_loaded),
        cmocka_unit_test(test_round_robin_looks_at_no_load),
        cmocka_unit_test(test_power_of_two_leans_to_the_less_loaded),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("pick", tests, NULL, NULL);
}
