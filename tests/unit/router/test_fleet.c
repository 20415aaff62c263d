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
            marks[s->requests[i].router].queued_tokens += s->requests[i].dispatch.n_tokens;
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

/* What a request for the model gets; NULL: nobody. */
static struct fleet_worker *pick_decode(struct fake_fleet *f, const char *adapter, const char *class, const char *avoid,
                                        struct fleet_picked *out)
{
    char avoided[1][64] = { "" };
    struct fleet_picked picked;
    snprintf(avoided[0], sizeof avoided[0], "%s", avoid);
    const struct fleet_ask ask = { .want = { "m", adapter, class },
                                   .avoid = (const char(*)[64])avoided,
                                   .n_avoid = avoid[0] != 0,
                                   .n_tokens = 10,
                                   .route = PICK_ROUTE_REMOTE };
    return fleet_pick(f->fleet, &ask, out ? out : &picked) ? (out ? out : &picked)->decode : NULL;
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
    assert_ptr_equal(pick_decode(&s.routers[1], "", "", "", NULL), s.worker[1]);
    publish(&s);
    assert_ptr_equal(pick_decode(&s.routers[1], "", "", "", NULL), idle);
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
    assert_ptr_equal(pick_decode(&fake, "", "", "", NULL), lost);
    fleet_on_lost(fake.fleet, lost->link, "closed");
    fleet_set_up(lost, true); /* back at once */
    assert_ptr_equal(pick_decode(&fake, "", "", "", NULL), busy);
    fleet_count(busy, &more, fleet_next_number(fake.fleet), 1000);
    assert_ptr_equal(pick_decode(&fake, "", "", "", NULL), busy); /* a loss weighs more than that */
    fake.now_us += 6000000;
    assert_ptr_equal(pick_decode(&fake, "", "", "", NULL), lost);
    fleet_uncount(busy, &more);
    assert_ptr_equal(pick_decode(&fake, "", "", "", NULL), busy);
    fleet_uncount(busy, &some);
    fleet_count(busy, &some, fleet_next_number(fake.fleet), 1);
    fake.now_us += 4000000;
    assert_ptr_equal(pick_decode(&fake, "", "", "", NULL), lost); /* as if nothing had been */
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
    struct fleet_picked picked;
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *plain = fake_worker(&fake, "d1", "decode", "m");
    struct fleet_worker *red = fake_worker_with(&fake, "d2", "decode", "m", "blue@2,red@1");
    struct fleet_worker *prefill = fake_worker_with(&fake, "p1", "prefill", "m", "red@1");
    (void)fake_worker_with(&fake, "p2", "prefill", "m", "red@9,blue@9");
    (void)fake_worker_with(&fake, "d3", "decode", "other", "green@3");
    for (int i = 0; i < 5; i++)
        assert_ptr_equal(pick_decode(&fake, "red@1", "", "", NULL), red);
    assert_ptr_equal(pick_decode(&fake, "red@1", "", "d2", NULL), red);
    assert_null(pick_decode(&fake, "red@9", "", "", NULL));
    assert_null(pick_decode(&fake, "green@3", "", "", NULL));
    assert_ptr_equal(pick_decode(&fake, "red@1", "", "", &picked), red);
    assert_int_equal(picked.n_prefills, 1);
    assert_ptr_equal(picked.prefills[0], prefill);
    assert_ptr_equal(pick_decode(&fake, "blue@2", "", "", &picked), red);
    assert_int_equal(picked.n_prefills, 0);
    assert_ptr_equal(pick_decode(&fake, "", "", "d2", &picked), plain);
    assert_int_equal(picked.n_prefills, 2);
    const struct known_adapters *known = fleet_adapters(fake.fleet);
    assert_int_equal(known->n, 3); /* what only prefill workers have serves nobody */
    assert_string_equal(known_adapters_find(known, "m", "red", 3)->id, "red@1");
    assert_null(known_adapters_find(known, "m", "green", 5));
    assert_null(known_adapters_find(known, "m", "re", 2));
    fleet_set_up(red, false);
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
        assert_ptr_equal(pick_decode(&fake, "", "amx-bf16", "", NULL), amx);
        assert_ptr_equal(pick_decode(&fake, "", "portable-bf16", "", NULL), portable);
        assert_ptr_equal(pick_decode(&fake, "", "amx-bf16", "a", NULL), amx);
        assert_ptr_equal(pick_decode(&fake, "", "", "a", NULL), portable);
    }
    fleet_set_up(amx, false);
    assert_null(pick_decode(&fake, "", "amx-bf16", "", NULL));
    fleet_destroy(&fake.fleet);
}

/* ---- what is counted at prefill workers, and learned ------------------------------------------ */

/* own: of this router. */
static void publish_plain(struct fake_fleet *f, struct fleet_worker *w, uint64_t queued_tokens, uint64_t own)
{
    Baton__RouterMark mark = BATON__ROUTER_MARK__INIT, *marks = &mark;
    Baton__Load load = BATON__LOAD__INIT;
    mark.router = FAKE_ROUTER;
    mark.queued_tokens = own;
    load.marks = &marks;
    load.n_marks = 1;
    load.id = w->instance.id;
    load.incarnation = w->instance.incarnation;
    load.queued_tokens = queued_tokens;
    load.kv_blocks = load.kv_free = 1000;
    fleet_on_load(f->fleet, &load);
}

static struct fleet_worker *first_helper(struct fake_fleet *f)
{
    struct fleet_picked picked;
    assert_non_null(pick_decode(f, "", "", "", &picked));
    assert_true(picked.n_prefills > 0);
    return picked.prefills[0];
}

/* A burst spreads over prefill workers before any of them has said a word of it; then their own figures count. */
static void test_prefill_workers_are_counted_at_once(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_dispatch burst[8];
    struct fleet_worker *p[2], *at[8];
    int hits[2] = { 0 };
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker(&fake, "d", "decode", "m");
    p[0] = fake_worker(&fake, "p0", "prefill", "m");
    p[1] = fake_worker(&fake, "p1", "prefill", "m");
    for (int i = 0; i < 8; i++) {
        at[i] = first_helper(&fake);
        hits[at[i] == p[1]]++;
        fleet_count(at[i], &burst[i], fleet_next_number(fake.fleet), 100);
    }
    assert_int_equal(hits[0], 4);
    assert_int_equal(fleet_counted(fake.fleet, false).dispatches, 8);
    assert_int_equal(fleet_counted(fake.fleet, false).tokens, 800);
    publish_plain(&fake, p[0], 0, 0); /* it cannot know of them yet */
    assert_int_equal(p[0]->later_tokens, 400);
    fake.now_us += FLEET_HEARD_US;
    publish_plain(&fake, p[0], 300, 300);
    assert_int_equal(p[0]->later_tokens, 0);
    assert_ptr_equal(first_helper(&fake), p[0]); /* 300 it says itself, and 400 of ours at the other */
    fake.now_us += 5000;
    (void)first_helper(&fake);
    assert_int_equal(fleet_last_input(fake.fleet)->prefills[0].age_us, 5000);
    assert_int_equal(fleet_last_input(fake.fleet)->prefills[1].age_us, 0); /* it said nothing yet */
    for (int i = 0; i < 8; i++)
        fleet_uncount(at[i], &burst[i]);
    assert_int_equal(fleet_counted(fake.fleet, false).dispatches, 0);
    assert_int_equal(fleet_counted(fake.fleet, false).tokens, 0);
    fleet_destroy(&fake.fleet);
}

/* What is over is not waited for, though the last figures still have it. */
static void test_what_is_over_does_not_wait(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_dispatch a, b;
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *p = fake_worker(&fake, "p0", "prefill", "m");
    fleet_count(p, &a, fleet_next_number(fake.fleet), 300);
    fleet_count(p, &b, fleet_next_number(fake.fleet), 100);
    fake.now_us += FLEET_HEARD_US;
    publish_plain(&fake, p, 450, 400); /* and 50 of another router's */
    fleet_uncount(p, &a);
    assert_int_equal(p->queued_tokens + p->later_tokens, 150);
    fleet_uncount(p, &b);
    assert_int_equal(p->queued_tokens + p->later_tokens, 50);
    fleet_count(p, &a, fleet_next_number(fake.fleet), 300);
    fleet_prompt_done(&a); /* before any figures had it */
    assert_int_equal(p->queued_tokens + p->later_tokens, 50);
    assert_int_equal(p->later, 1);
    fleet_uncount(p, &a);
    fleet_destroy(&fake.fleet);
}

/* A prompt that is over sooner than a prefill worker's figures are taken to hold it. */
static void test_figures_of_a_short_prompt(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_dispatch a, b;
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *p = fake_worker(&fake, "p0", "prefill", "m");
    fleet_count(p, &a, fleet_next_number(fake.fleet), 300);
    fake.now_us += FLEET_HEARD_US / 4;
    publish_plain(&fake, p, 350, 300);
    assert_int_equal(p->queued_tokens + p->later_tokens, 350); /* once */
    fleet_uncount(p, &a);
    assert_int_equal(p->queued_tokens + p->later_tokens, 50);
    publish_plain(&fake, p, 350, 300); /* it was on its way */
    assert_int_equal(p->queued_tokens + p->later_tokens, 50);
    fleet_count(p, &b, fleet_next_number(fake.fleet), 20);
    fleet_count_most(&b, 1000);
    publish_plain(&fake, p, 350, 300);
    assert_int_equal(p->queued_tokens + p->later_tokens, 70);
    fake.now_us += FLEET_HEARD_US;
    publish_plain(&fake, p, 2050, 900); /* it found less than was thought */
    assert_int_equal(p->queued_tokens + p->later_tokens, 2050);
    publish_plain(&fake, p, 2050, 1500); /* but no more than all of it */
    assert_int_equal(p->queued_tokens + p->later_tokens, 1550);
    fleet_uncount(p, &b);
    assert_int_equal(p->queued_tokens + p->later_tokens, 550);
    publish_plain(&fake, p, 10, 20); /* nonsense */
    assert_int_equal(p->queued_tokens + p->later_tokens, 0);
    fleet_destroy(&fake.fleet);
}

static bool chance(uint32_t one_of)
{
    return (uint32_t)rand() % one_of == 0;
}

static uint64_t tokens_of(const struct scene *s, uint32_t router, bool of_router)
{
    uint64_t n = 0;
    for (size_t i = 0; i < MAX_REQUESTS; i++)
        if (s->requests[i].used && (s->requests[i].router == router) == of_router)
            n += s->requests[i].dispatch.n_tokens;
    return n;
}

/* Whatever comes in which order: of its own a router counts nothing that is over, and no more than there is; and when
 * the worker has seen all and says so, both count what waits there. */
static void test_random_runs(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 100; seed++) {
        struct scene s;
        uint64_t others[ROUTERS] = { 0 }; /* in the last figures */
        uint32_t n = 0;
        srand(seed);
        scene_open(&s);
        for (int step = 0; step < 400; step++) {
            struct request *q = &s.requests[rand() % MAX_REQUESTS];
            if (n < MAX_REQUESTS / 4 && chance(3)) {
                (void)dispatch(&s, (uint32_t)rand() % ROUTERS, 1 + (uint32_t)rand() % 500);
                n++;
            } else if (q->used && !q->seen) {
                for (size_t i = 0; i < MAX_REQUESTS; i++) /* they come in order */
                    if (s.requests[i].used && s.requests[i].router == q->router)
                        arrive(&s, &s.requests[i]);
            } else if (q->used && chance(2)) {
                end(&s, q);
                n--;
            } else if (chance(3)) {
                publish(&s);
                for (uint32_t r = 0; r < ROUTERS; r++) {
                    others[r] = 0;
                    for (size_t i = 0; i < MAX_REQUESTS; i++)
                        if (s.requests[i].used && s.requests[i].seen && s.requests[i].router != r)
                            others[r] += s.requests[i].dispatch.n_tokens;
                }
            }
            for (uint32_t r = 0; r < ROUTERS; r++) {
                const struct fleet_worker *w = s.worker[r];
                assert_int_equal(w->others_tokens, others[r]);
                assert_int_equal(w->queued_tokens + w->later_tokens, others[r] + tokens_of(&s, r, true));
            }
        }
        for (size_t i = 0; i < MAX_REQUESTS; i++)
            if (s.requests[i].used)
                end(&s, &s.requests[i]);
        for (uint32_t r = 0; r < ROUTERS; r++) {
            assert_int_equal(s.worker[r]->queued_tokens, others[r]);
            assert_int_equal(s.worker[r]->later_tokens + s.worker[r]->heard_tokens + s.worker[r]->own_tokens, 0);
        }
        scene_close(&s);
    }
}

/* A worker that goes away takes its counts with it. */
static void test_counts_end_with_the_worker(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_dispatch a, b;
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *gone = fake_worker(&fake, "p0", "prefill", "m");
    struct fleet_worker *stays = fake_worker(&fake, "p1", "prefill", "m");
    fleet_count(gone, &a, fleet_next_number(fake.fleet), 10);
    fleet_count(stays, &b, fleet_next_number(fake.fleet), 20);
    fleet_member_gone(fake.fleet, "p0");
    assert_null(a.worker);
    assert_ptr_equal(b.worker, stays);
    assert_int_equal(fleet_counted(fake.fleet, false).tokens, 20);
    fleet_uncount(stays, &b);
    fleet_destroy(&fake.fleet);
}

/* Local prompts wait only for what the decode worker computes itself. */
static void test_remote_tokens(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_dispatch a;
    fake_fleet_open(&fake, fake_now);
    struct fleet_worker *d = fake_worker(&fake, "d", "decode", "m");
    fleet_count(d, &a, fleet_next_number(fake.fleet), 50);
    fleet_count_remote(&a);
    assert_int_equal(d->remote_tokens, 50);
    assert_int_equal(fleet_counted(fake.fleet, true).tokens, 100);
    fleet_prompt_done(&a);
    fleet_prompt_done(&a);
    assert_int_equal(d->remote_tokens, 0);
    fleet_uncount(d, &a);
    fleet_count(d, &a, fleet_next_number(fake.fleet), 50);
    fleet_count_remote(&a);
    fleet_uncount(d, &a); /* it ended before its prompt was there */
    assert_int_equal(fleet_counted(fake.fleet, true).tokens, 0);
    fleet_destroy(&fake.fleet);
}

static const struct pick_rates *rates_of(const struct fake_fleet *f, uint32_t prefill)
{
    return &fleet_last_input(f->fleet)->prefills[prefill].rates;
}

/* Who was never measured is taken for one like those that were: neither starved nor flooded. */
static void test_the_unmeasured_are_like_the_others(void **state)
{
    (void)state;
    struct fake_fleet fake;
    int hits[3] = { 0 };
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker(&fake, "d", "decode", "m");
    struct fleet_worker *p[3];
    p[0] = fake_worker(&fake, "p0", "prefill", "m");
    p[1] = fake_worker(&fake, "p1", "prefill", "m");
    (void)first_helper(&fake);
    assert_true(rates_of(&fake, 0)->prefill_token == RATE_PREFILL_TOKEN_US);
    for (int i = 0; i < 40; i++)
        for (uint32_t n = 16; n <= 4096; n *= 4)
            fleet_learn_prefill(p[i % 2], n, n, 300 + 20 * n);
    p[2] = fake_worker(&fake, "p2", "prefill", "m"); /* new */
    for (int i = 0; i < 3; i++)
        publish_plain(&fake, p[i], 0, 0);
    (void)first_helper(&fake);
    for (uint32_t i = 0; i < 3; i++)
        assert_true(rates_of(&fake, i)->prefill_token > 19.0f && rates_of(&fake, i)->prefill_token < 21.0f);
    for (int i = 0; i < 90; i++) {
        struct fleet_dispatch count;
        struct fleet_worker *at = first_helper(&fake);
        hits[at == p[1] ? 1 : at == p[2] ? 2 : 0]++;
        fleet_count(at, &count, fleet_next_number(fake.fleet), 100);
        fleet_uncount(at, &count);
    }
    assert_true(hits[2] >= 20 && hits[2] <= 40);
    fleet_destroy(&fake.fleet);
}

/* Fetching is learned for the next request, not for those behind the next load. */
static void test_fetching_is_learned_at_once(void **state)
{
    (void)state;
    struct fake_fleet fake;
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker(&fake, "d", "decode", "m");
    struct fleet_worker *p = fake_worker(&fake, "p", "prefill", "m");
    (void)first_helper(&fake);
    const struct pick_line *line = &rates_of(&fake, 0)->pull[KV_TIER_HOST];
    assert_true(line->base == RATE_PULL_BASE_US);
    fleet_learn_pull(p, KV_TIER_HOST, 1000000, 400);
    assert_true(line->base < RATE_PULL_BASE_US / 5);
    fleet_learn_missed(p, KV_TIER_HOST, 1000000, 40000);
    assert_true(line->base > 5 * RATE_PULL_BASE_US);
    fleet_destroy(&fake.fleet);
}

/* Where a queue was predicted the wait is the queue's. */
static void test_wait_is_learned_without_a_queue(void **state)
{
    (void)state;
    struct fake_fleet fake;
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker(&fake, "d", "decode", "m");
    struct fleet_worker *p = fake_worker(&fake, "p", "prefill", "m");
    fleet_learn_queue(p, 0, 300);
    for (int i = 0; i < 20; i++)
        fleet_learn_queue(p, 5000, 5000);
    publish_plain(&fake, p, 0, 0);
    (void)first_helper(&fake);
    assert_true(rates_of(&fake, 0)->queue == 300.0f);
    fleet_learn_queue(p, 300, 600);
    (void)first_helper(&fake); /* the next request knows it */
    assert_true(rates_of(&fake, 0)->queue > 300.0f && rates_of(&fake, 0)->queue < 600.0f);
    fleet_destroy(&fake.fleet);
}

/* Slow once is not slow for ever: who is not chosen cannot show that it is quick again. */
static void test_a_slow_measure_is_forgotten(void **state)
{
    (void)state;
    struct fake_fleet fake;
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker(&fake, "d", "decode", "m");
    struct fleet_worker *p[2];
    p[0] = fake_worker(&fake, "p0", "prefill", "m");
    p[1] = fake_worker(&fake, "p1", "prefill", "m");
    for (int i = 0; i < 60; i++)
        for (uint32_t n = 16; n <= 4096; n *= 4)
            fleet_learn_prefill(p[0], n, n, 20 * n);
    fleet_learn_prefill(p[1], 16, 16, 100 * 20 * 16);
    publish_plain(&fake, p[0], 0, 0);
    publish_plain(&fake, p[1], 0, 0);
    for (int i = 0; i < 5; i++)
        assert_ptr_equal(first_helper(&fake), p[0]);
    fake.now_us += 11000000;
    publish_plain(&fake, p[0], 0, 0);
    publish_plain(&fake, p[1], 0, 0);
    struct fleet_dispatch one;
    fleet_count(p[0], &one, fleet_next_number(fake.fleet), 10);
    assert_ptr_equal(first_helper(&fake), p[1]);
    fleet_learn_prefill(p[1], 16, 16, 20 * 16); /* as quick as the other: what it once was is no part of that */
    publish_plain(&fake, p[1], 0, 0);
    assert_ptr_equal(first_helper(&fake), p[1]);
    fleet_uncount(p[0], &one);
    fleet_destroy(&fake.fleet);
}

static void test_bytes_of_a_token(void **state)
{
    (void)state;
    struct fake_fleet fake;
    fake_fleet_open(&fake, fake_now);
    struct instance in = { .incarnation = 7, .id = "d", .role = "decode", .model = "m", .control = "tcp://d" };
    snprintf(in.kv_format, sizeof in.kv_format,
             "f9388c4fbe333d6c-6ac721d62cac494a-BF16-lsht-l30h3d64-b16-tp1-portable");
    fleet_member(fake.fleet, &in);
    assert_int_equal(fleet_kv_bytes(fleet_find(fake.fleet, "d"), 10), 10 * 30 * 2 * 3 * 64 * 2);
    assert_int_equal(fleet_kv_bytes(fake_worker(&fake, "p", "prefill", "m"), 10), 10 * 65536); /* it does not say */
    fleet_destroy(&fake.fleet);
}

static void test_holdings(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_picked picked;
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker(&fake, "d", "decode", "m");
    (void)fake_worker(&fake, "p0", "prefill", "m");
    struct fleet_worker *holds = fake_worker(&fake, "p1", "prefill", "m");
    const struct fleet_holding holdings[] = { { .id = "p1", .number = 5, .tokens = { 480, 480, 480, 480 } },
                                              { .id = "kvbm",
                                                .number = 6,
                                                .tokens = { 0, 800, 800, 800 },
                                                .host = "another",
                                                .format = "format",
                                                .weights = FAKE_WEIGHTS } };
    const struct fleet_ask ask = {
        .want = { "m", "", "" }, .n_tokens = 1000, .route = PICK_ROUTE_REMOTE, .holdings = holdings, .n_holdings = 2
    };
    for (int i = 0; i < 4; i++) {
        assert_true(fleet_pick(fake.fleet, &ask, &picked));
        assert_ptr_equal(picked.prefills[0], holds);
        assert_int_equal(fleet_last_input(fake.fleet)->request.elsewhere, 800);
        assert_int_equal(picked.predicted.cached, 480);
        assert_int_equal(picked.predicted.cached + picked.predicted.pulled + picked.predicted.computed, 1000);
    }
    fleet_member_gone(fake.fleet, "p1"); /* and its number with it */
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    assert_string_equal(picked.prefills[0]->instance.id, "p0");
    assert_int_equal(picked.predicted.cached, 0);
    const struct fleet_ask bare = { .want = { "m", "", "" }, .n_tokens = 1000, .route = PICK_ROUTE_REMOTE };
    assert_true(fleet_pick(fake.fleet, &bare, &picked)); /* what one prompt finds is not the next one's */
    assert_int_equal(picked.predicted.cached + picked.predicted.pulled, 0);
    fleet_destroy(&fake.fleet);
}

static const struct pick_candidate *prefill_at(const struct fake_fleet *fake, const struct fleet_worker *worker)
{
    return &fleet_last_input(fake->fleet)->prefills[worker->place];
}

/* What a manager keeps is host and disk to the workers of its host that take such blocks, and elsewhere to others. */
static void test_managers(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_picked picked;
    fake_fleet_open(&fake, fake_now);
    (void)fake_worker_on(&fake, "d", "decode", "m", "", "h1");
    struct fleet_worker *near = fake_worker_on(&fake, "p1", "prefill", "m", "", "h1");
    struct fleet_worker *far = fake_worker_on(&fake, "p2", "prefill", "m", "", "h2");
    struct fleet_holding holdings[] = { { .id = "p1", .number = 1, .tokens = { 160, 160, 160, 160 } },
                                        { .id = "k",
                                          .number = 2,
                                          .tokens = { 0, 480, 800, 800 },
                                          .host = "h1",
                                          .format = "format",
                                          .weights = FAKE_WEIGHTS } };
    const struct fleet_ask ask = {
        .want = { "m", "", "" }, .n_tokens = 1000, .route = PICK_ROUTE_REMOTE, .holdings = holdings, .n_holdings = 2
    };
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    assert_ptr_equal(picked.prefills[0], near);
    assert_int_equal(picked.n_prefills, 2);
    assert_int_equal(prefill_at(&fake, near)->cached[KV_TIER_DEVICE], 160);
    assert_int_equal(prefill_at(&fake, near)->cached[KV_TIER_HOST], 480);
    assert_int_equal(prefill_at(&fake, near)->cached[KV_TIER_DISK], 800);
    assert_int_equal(prefill_at(&fake, far)->cached[KV_TIER_REMOTE], 0);
    assert_int_equal(fleet_last_input(fake.fleet)->request.elsewhere, 800);
    assert_int_equal(picked.predicted.source, KV_TIER_DISK);
    holdings[1].weights++; /* of another version of the model */
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    assert_int_equal(prefill_at(&fake, near)->cached[KV_TIER_DISK], 160);
    holdings[1].weights--;
    holdings[1].format = "other";
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    assert_int_equal(prefill_at(&fake, near)->cached[KV_TIER_DISK], 160);
    const struct fleet_ask bare = { .want = { "m", "", "" }, .n_tokens = 1000, .route = PICK_ROUTE_REMOTE };
    holdings[1].format = "format";
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    assert_true(fleet_pick(fake.fleet, &bare, &picked));
    assert_int_equal(prefill_at(&fake, near)->cached[KV_TIER_REMOTE], 0);
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    fleet_member_gone(fake.fleet, "p1"); /* what was noted goes with it, and its host's list is right */
    assert_true(fleet_pick(fake.fleet, &ask, &picked));
    assert_ptr_equal(picked.prefills[0], far);
    fleet_destroy(&fake.fleet);
}

/* A manager is no worker, whatever it is asked. */
static void test_a_manager_is_never_chosen(void **state)
{
    (void)state;
    struct fake_fleet fake;
    struct fleet_picked picked;
    struct instance in = { .id = "k", .role = "kvbm", .incarnation = 3, .control = "tcp://k", .kv_format = "format" };
    const struct fleet_ask ask = { .want = { "", "", "" }, .n_tokens = 1000 };
    fake_fleet_open(&fake, fake_now);
    fleet_member(fake.fleet, &in);
    assert_null(fleet_find(fake.fleet, "k"));
    assert_false(fleet_pick(fake.fleet, &ask, &picked));
    fleet_member_gone(fake.fleet, "k");
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
        cmocka_unit_test(test_prefill_workers_are_counted_at_once),
        cmocka_unit_test(test_what_is_over_does_not_wait),
        cmocka_unit_test(test_figures_of_a_short_prompt),
        cmocka_unit_test(test_fetching_is_learned_at_once),
        cmocka_unit_test(test_random_runs),
        cmocka_unit_test(test_counts_end_with_the_worker),
        cmocka_unit_test(test_remote_tokens),
        cmocka_unit_test(test_the_unmeasured_are_like_the_others),
        cmocka_unit_test(test_wait_is_learned_without_a_queue),
        cmocka_unit_test(test_a_slow_measure_is_forgotten),
        cmocka_unit_test(test_bytes_of_a_token),
        cmocka_unit_test(test_holdings),
        cmocka_unit_test(test_managers),
        cmocka_unit_test(test_a_manager_is_never_chosen),
    };
    return cmocka_run_group_tests_name("fleet", tests, NULL, NULL);
}
