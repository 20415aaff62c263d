/* What a router believes of its workers, from their figures and from what it gave them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/log.h"
#include "fake_fleet.h"

#define ROUTERS      2
#define MAX_REQUESTS 64

/* One of a router's on its way to the worker (not seen), or there. */
struct request {
    bool used, seen;
    uint32_t router;
    struct fleet_dispatch dispatch;
};

/* One worker, and the fleets of two routers that know it. */
struct scene {
    struct fake_fleet routers[ROUTERS];
    struct fleet_worker *worker[ROUTERS]; /* as each router knows it */
    struct request requests[MAX_REQUESTS];
    uint64_t marks[ROUTERS];
};

static uint64_t incarnation_of(uint32_t router)
{
    return FAKE_ROUTER + router;
}

static void scene_open(struct scene *s)
{
    memset(s, 0, sizeof *s);
    for (uint32_t r = 0; r < ROUTERS; r++) {
        fake_fleet_open_as(&s->routers[r], fake_now, incarnation_of(r));
        s->worker[r] = fake_worker(&s->routers[r], "w", "decode", "m");
    }
}

static void scene_close(struct scene *s)
{
    for (uint32_t r = 0; r < ROUTERS; r++)
        fleet_destroy(&s->routers[r].fleet);
}

static struct request *dispatch(struct scene *s, uint32_t router, uint32_t n_tokens)
{
    struct request *q = s->requests;
    while (q->used)
        ASSERT(++q < s->requests + MAX_REQUESTS);
    *q = (struct request){ .used = true, .router = router };
    fleet_count(s->worker[router], &q->dispatch, fleet_next_number(s->routers[router].fleet), n_tokens);
    return q;
}

static void arrive(struct scene *s, struct request *q)
{
    q->seen = true;
    if (q->dispatch.number > s->marks[q->router])
        s->marks[q->router] = q->dispatch.number;
}

static void end(struct scene *s, struct request *q)
{
    fleet_uncount(s->worker[q->router], &q->dispatch);
    q->used = false;
}

/* The worker tells both routers what it holds, and how far it has seen each of them. */
static void publish(struct scene *s)
{
    Baton__RouterMark marks[ROUTERS], *pointers[ROUTERS];
    Baton__Load load = BATON__LOAD__INIT;
    for (uint32_t r = 0; r < ROUTERS; r++) {
        baton__router_mark__init(&marks[r]);
        marks[r].router = incarnation_of(r);
        marks[r].dispatch = s->marks[r];
        pointers[r] = &marks[r];
    }
    for (size_t i = 0; i < MAX_REQUESTS; i++)
        if (s->requests[i].used && s->requests[i].seen) {
            load.queued_requests++;
            load.queued_tokens += s->requests[i].dispatch.n_tokens;
        }
    load.id = "w";
    load.incarnation = s->worker[0]->instance.incarnation;
    load.marks = pointers;
    load.n_marks = ROUTERS;
    for (uint32_t r = 0; r < ROUTERS; r++)
        fleet_on_load(s->routers[r].fleet, &load);
}

static void expect(const struct scene *s, uint32_t router, uint32_t requests, uint64_t tokens)
{
    const struct fleet_worker *w = s->worker[router];
    assert_int_equal(w->requests + w->later, requests);
    assert_int_equal(w->queued_tokens + w->later_tokens, tokens);
}

static void test_two_routers_and_one_worker(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    struct request *a = dispatch(&s, 0, 100), *b = dispatch(&s, 1, 10), *c = dispatch(&s, 1, 1);
    expect(&s, 0, 1, 100); /* neither knows of the other yet */
    expect(&s, 1, 2, 11);
    arrive(&s, a);
    arrive(&s, b);
    publish(&s);
    expect(&s, 0, 2, 110); /* its own is not counted twice */
    expect(&s, 1, 3, 111); /* one that the worker has not seen is still its own affair */
    arrive(&s, c);
    publish(&s);
    expect(&s, 0, 3, 111);
    expect(&s, 1, 3, 111);
    end(&s, a);
    end(&s, b);
    end(&s, c);
    publish(&s);
    for (uint32_t r = 0; r < ROUTERS; r++) {
        expect(&s, r, 0, 0);
        assert_int_equal(fleet_ours(s.routers[r].fleet), 0);
    }
    scene_close(&s);
}

/* After each load a router believes what the worker holds and what is on its own way there, whatever happened. */
static void check_belief(struct scene *s)
{
    publish(s);
    for (uint32_t r = 0; r < ROUTERS; r++) {
        uint32_t requests = 0, ours = 0;
        uint64_t tokens = 0;
        for (size_t i = 0; i < MAX_REQUESTS; i++) {
            const struct request *q = &s->requests[i];
            if (!q->used || (!q->seen && q->router != r))
                continue;
            requests++;
            tokens += q->dispatch.n_tokens;
        }
        for (size_t i = 0; i < MAX_REQUESTS; i++)
            ours += s->requests[i].used && s->requests[i].router == r;
        expect(s, r, requests, tokens);
        assert_int_equal(fleet_ours(s->routers[r].fleet), ours);
    }
}

static struct request *oldest_unseen(struct scene *s, uint32_t router)
{
    struct request *oldest = NULL;
    for (size_t i = 0; i < MAX_REQUESTS; i++) {
        struct request *q = &s->requests[i];
        if (q->used && !q->seen && q->router == router && (!oldest || q->dispatch.number < oldest->dispatch.number))
            oldest = q;
    }
    return oldest;
}

static void test_random_routers(void **state)
{
    (void)state;
    struct scene s;
    unsigned seed = 3;
    uint32_t n = 0;
    scene_open(&s);
    for (int i = 0; i < 20000; i++) {
        uint32_t router = (uint32_t)rand_r(&seed) % ROUTERS;
        struct request *q = &s.requests[rand_r(&seed) % MAX_REQUESTS], *unseen = oldest_unseen(&s, router);
        int what = rand_r(&seed) % 8;
        if (what < 3 && n < MAX_REQUESTS) {
            (void)dispatch(&s, router, 1 + (uint32_t)rand_r(&seed) % 500);
            n++;
        } else if (what < 6 && unseen) {
            arrive(&s, unseen); /* a link keeps the order */
        } else if (what == 6 && q->used) {
            end(&s, q); /* seen or not: the client may go away at any time */
            n--;
        } else {
            check_belief(&s);
        }
    }
    for (size_t i = 0; i < MAX_REQUESTS; i++)
        if (s.requests[i].used)
            end(&s, &s.requests[i]);
    check_belief(&s);
    for (uint32_t r = 0; r < ROUTERS; r++)
        expect(&s, r, 0, 0);
    scene_close(&s);
}

/* A burst of one router is seen by the other as soon as the worker speaks of it. */
static void test_the_other_routers_burst_is_avoided(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    struct fleet_worker *idle = fake_worker(&s.routers[1], "idle", "decode", "m");
    struct request *burst[8], *own;
    for (int i = 0; i < 8; i++)
        arrive(&s, burst[i] = dispatch(&s, 0, 50));
    own = dispatch(&s, 1, 20);
    struct fleet_dispatch other;
    fleet_count(idle, &other, fleet_next_number(s.routers[1].fleet), 200);
    assert_ptr_equal(fleet_pick_decode(s.routers[1].fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0), s.worker[1]);
    publish(&s);
    assert_ptr_equal(fleet_pick_decode(s.routers[1].fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0), idle);
    fleet_uncount(idle, &other);
    end(&s, own);
    for (int i = 0; i < 8; i++)
        end(&s, burst[i]);
    scene_close(&s);
}

/* Links that nobody answers: what they tell the fleet is told by the test. */
static struct links *links_to_nowhere(struct fleet *fleet, struct loop *loop)
{
    struct links *links;
    struct error err;
    const struct links_options options = {
        .loop = loop,
        .id = "r",
        .role = "router",
        .cluster = "test",
        .model = "",
        .kv_format = "",
        .incarnation = FAKE_ROUTER,
        .ping_interval_us = 1000000,
        .frozen_us = 1000000,
        .closed_us = 1000000,
        .repeat_us = 1000000,
        .max_pending = 1,
        .on_up = fleet_on_up,
        .on_lost = fleet_on_lost,
        .on_message = fleet_on_message,
        .live = fleet_live,
        .ctx = fleet,
    };
    assert_int_equal(links_create(&options, &links, &err), ST_OK);
    return links;
}

/* A worker that was lost is chosen late, less so as time passes, and after ten seconds like any other: nobody chose
 * it, so no answer could redeem it. */
static void test_losses_are_forgotten_with_time(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct loop *loop;
    assert_int_equal(loop_create(&loop), ST_OK);
    fake_fleet_open(&fake, fake_now);
    struct links *links = links_to_nowhere(fake.fleet, loop);
    fleet_set_links(fake.fleet, links);
    struct fleet_worker *lost = fake_worker(&fake, "127.0.0.1:1", "decode", "m");
    struct fleet_worker *busy = fake_worker(&fake, "127.0.0.1:2", "decode", "m");
    struct fleet_dispatch some, more;
    fleet_count(busy, &some, fleet_next_number(fake.fleet), 1000);
    assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0), lost);
    fleet_on_lost(fake.fleet, lost->link, "closed");
    lost->up = true; /* back at once */
    assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0), busy);
    fleet_count(busy, &more, fleet_next_number(fake.fleet), 1000);
    assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0),
                     busy); /* a loss weighs more than that */
    fake.now_us += 6000000;
    assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0), lost);
    fleet_uncount(busy, &more);
    assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0), busy);
    fleet_uncount(busy, &some);
    fleet_count(busy, &some, fleet_next_number(fake.fleet), 1);
    fake.now_us += 4000000;
    assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, NULL, 0),
                     lost); /* as if nothing had been */
    fleet_uncount(busy, &some);
    fleet_destroy(&fake.fleet);
    links_destroy(&links);
    loop_destroy(&loop);
}

/* A request goes only where its adapter is, of the same content. */
static void test_adapters(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_worker *ranked[4];
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *plain = fake_worker(&fake, "d1", "decode", "m");
    struct fleet_worker *red = fake_worker_with(&fake, "d2", "decode", "m", "blue@2,red@1");
    struct fleet_worker *prefill = fake_worker_with(&fake, "p1", "prefill", "m", "red@1");
    (void)fake_worker_with(&fake, "p2", "prefill", "m", "red@9,blue@9");
    (void)fake_worker_with(&fake, "d3", "decode", "other", "green@3");
    for (int i = 0; i < 5; i++)
        assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "red@1", "" }, NULL, 0), red);
    assert_ptr_equal(
        fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "red@1", "" }, (const char[][64]){ "d2" }, 1), red);
    assert_null(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "red@9", "" }, NULL, 0));
    assert_null(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "green@3", "" }, NULL, 0));
    assert_int_equal(fleet_rank_prefills(fake.fleet, red, "red@1", ranked, 4), 1);
    assert_ptr_equal(ranked[0], prefill);
    assert_int_equal(fleet_rank_prefills(fake.fleet, red, "blue@2", ranked, 4), 0);
    assert_int_equal(fleet_rank_prefills(fake.fleet, plain, "", ranked, 4), 2);
    const struct known_adapters *known = fleet_adapters(fake.fleet);
    assert_int_equal(known->n, 3); /* what only prefill workers have serves nobody */
    assert_string_equal(known_adapters_find(known, "m", "red", 3)->id, "red@1");
    assert_null(known_adapters_find(known, "m", "green", 5));
    assert_null(known_adapters_find(known, "m", "re", 2));
    red->up = false;
    fleet_member_gone(fake.fleet, "d2");
    assert_non_null(known_adapters_find(known, "m", "red", 3)); /* it may come back */
    (void)fake_worker_with(&fake, "d2", "decode", "m", "blue@2");
    assert_null(known_adapters_find(known, "m", "red", 3));
    assert_non_null(known_adapters_find(known, "m", "blue", 4));
    assert_non_null(known_adapters_find(known, "other", "green", 5));
    fleet_destroy(&fake.fleet);
}

/* A class has its own workers, and those that are avoided are better than none of it. */
static void test_a_class_is_kept(void **state)
{
    (void)state;
    struct fake_fleet fake;
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *portable = fake_worker(&fake, "p", "decode", "m");
    struct fleet_worker *amx = fake_worker(&fake, "a", "decode", "m");
    strcpy(amx->instance.class, "amx-bf16");
    for (int i = 0; i < 4; i++) {
        assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "amx-bf16" }, NULL, 0), amx);
        assert_ptr_equal(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "portable-bf16" }, NULL, 0),
                         portable);
        assert_ptr_equal(
            fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "amx-bf16" }, (const char[1][64]){ "a" }, 1),
            amx);
        assert_ptr_equal(
            fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "" }, (const char[1][64]){ "a" }, 1),
            portable);
    }
    amx->up = false;
    assert_null(fleet_pick_decode(fake.fleet, &(struct fleet_want){ "m", "", "amx-bf16" }, NULL, 0));
    fleet_destroy(&fake.fleet);
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_routers_and_one_worker),
        cmocka_unit_test(test_random_routers),
        cmocka_unit_test(test_the_other_routers_burst_is_avoided),
        cmocka_unit_test(test_losses_are_forgotten_with_time),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_a_class_is_kept),
    };
    return cmocka_run_group_tests_name("fleet", tests, NULL, NULL);
}
