#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/proto/link_cable.h"
#include "tests/unit/proto/link_world.h"

/* How much later than by the rules a machine under load may notice something; test_link_liveness.c has the rules
 * themselves, on virtual time. */
#define SLACK_US (10 * WORLD_FROZEN_US)
#define STEADY   4 /* times the usual intervals, where a peer that the machine keeps waiting must not look frozen */

struct child {
    pid_t pid;
    int tell, report; /* pipes, until it has begun */
    char endpoint[128];
};

struct orders {
    char listen[128], connect_to[128]; /* the latter empty: nobody */
};

/* told: where its orders come from. */
static void child_main(uint64_t scale, int told, int report)
{
    struct orders orders;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(told, &orders, sizeof orders) != sizeof orders)
        _exit(1);
    struct end end = { .echo = true, .own_live = 3 };
    struct loop *loop = world_loop();
    struct links_options o = world_options(&end, loop, "child");
    o.listen = orders.listen;
    o.incarnation = (uint64_t)getpid() << 32 | (clock_now_us() & UINT32_MAX);
    o.ping_interval_us *= scale;
    o.frozen_us *= scale;
    o.closed_us *= scale;
    end_open_with(&end, &o);
    if (orders.connect_to[0])
        end_connect(&end, "parent", orders.connect_to);
    const char *endpoint = links_endpoint(end.links);
    if (write(report, endpoint, strlen(endpoint) + 1) < 0)
        _exit(1);
    loop_run(loop);
    _exit(0);
}

/* To be called before there are threads here, one of which might hold a lock of the allocator's at that moment. */
static struct child child_fork(uint64_t scale)
{
    struct child c = { 0 };
    int told[2], report[2];
    assert_int_equal(pipe(told), 0);
    assert_int_equal(pipe(report), 0);
    c.pid = fork();
    assert_true(c.pid >= 0);
    if (c.pid == 0) {
        close(told[1]);
        close(report[0]);
        child_main(scale, told[0], report[1]);
    }
    close(told[0]);
    close(report[1]);
    c.tell = told[1];
    c.report = report[0];
    return c;
}

static void child_begin(struct child *c, const char *listen, const char *connect_to)
{
    struct orders orders = { "", "" };
    snprintf(orders.listen, sizeof orders.listen, "%s", listen);
    snprintf(orders.connect_to, sizeof orders.connect_to, "%s", connect_to);
    assert_true(write(c->tell, &orders, sizeof orders) == sizeof orders);
    assert_true(read(c->report, c->endpoint, sizeof c->endpoint - 1) > 0);
    close(c->tell);
    close(c->report);
}

static void child_kill(struct child *c)
{
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
}

struct scene {
    struct loop *loop;
    struct end end;
    struct link *link;
    struct child child, successor; /* the latter is forked, and begins when it is wanted */
};

#define ANYWHERE "tcp://127.0.0.1:0"

/* The child listens and we connect, or the other way round. */
static void scene_open_with(struct scene *s, bool child_connects, uint64_t scale, uint64_t child_scale,
                            uint64_t closed_us)
{
    *s = (struct scene){ .loop = world_loop() };
    s->end.own_live = 2;
    s->child = child_fork(child_scale);
    s->successor = child_fork(1);
    if (!child_connects)
        child_begin(&s->child, ANYWHERE, "");
    struct links_options o = world_options(&s->end, s->loop, "parent");
    o.ping_interval_us *= scale;
    o.frozen_us *= scale;
    o.closed_us = closed_us;
    end_open_with(&s->end, &o);
    if (child_connects)
        child_begin(&s->child, ANYWHERE, links_endpoint(s->end.links));
    else
        s->link = end_connect(&s->end, "child", s->child.endpoint);
    world_wait_for(s->loop, s->end.n_up, 1);
}

static void scene_open(struct scene *s, bool child_connects, uint64_t closed_us)
{
    scene_open_with(s, child_connects, 1, 1, closed_us);
}

/* Of the child that was killed. */
static void scene_succeed(struct scene *s, const char *listen, const char *connect_to)
{
    s->child = s->successor;
    s->successor.pid = 0;
    child_begin(&s->child, listen, connect_to);
}

static void scene_close(struct scene *s)
{
    child_kill(&s->child);
    if (s->successor.pid)
        child_kill(&s->successor);
    links_destroy(&s->end.links);
    loop_destroy(&s->loop);
}

static void assert_alive(struct scene *s)
{
    int before = s->end.n_messages;
    struct message_head head = head_of(FRAME_GENERATE, 1);
    assert_int_equal(link_send_acked(s->end.link, &head, NULL), ST_OK);
    world_wait_for(s->loop, s->end.n_messages, before + 1);
}

/* With the usual intervals: a closed connection is noticed within a second. */
static void a_killed_peer_is_lost_within_a_second(void **state)
{
    (void)state;
    for (int child_connects = 0; child_connects < 2; child_connects++) {
        struct scene s;
        scene_open_with(&s, child_connects, 10, 10, 500000);
        assert_alive(&s);
        uint64_t killed = clock_now_us();
        child_kill(&s.child);
        world_wait_for(s.loop, s.end.n_lost, 1);
        assert_string_equal(s.end.reason, "closed");
        assert_in_range(s.end.changed_us - killed, 400000, 10000000); /* ten times what is promised */
        assert_int_equal(end_stats(&s.end).up, 0);
        assert_int_equal(end_stats(&s.end).lost_closed, 1);
        scene_close(&s);
    }
}

static void a_successor_comes_up_as_new(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, false, WORLD_CLOSED_US);
    uint64_t first = link_peer_incarnation(s.link);
    char endpoint[128];
    strcpy(endpoint, s.child.endpoint);
    child_kill(&s.child);
    world_wait_for(s.loop, s.end.n_lost, 1);
    struct message_head head = head_of(FRAME_GENERATE, 1);
    assert_int_equal(link_send(s.link, &head, NULL), ST_CLOSED);
    scene_succeed(&s, endpoint, "");
    world_wait_for(s.loop, s.end.n_up, 2);
    assert_int_equal(s.end.n_first, 2);
    assert_int_equal(s.end.n_lost, 1);
    assert_true(link_peer_incarnation(s.link) != first);
    assert_alive(&s);
    scene_close(&s);
}

static void a_quick_successor_is_a_restart(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, false, 10000000);
    char endpoint[128];
    strcpy(endpoint, s.child.endpoint);
    child_kill(&s.child);
    scene_succeed(&s, endpoint, "");
    world_wait_for(s.loop, s.end.n_up, 2);
    assert_int_equal(s.end.n_lost, 1);
    assert_string_equal(s.end.reason, "restarted");
    assert_int_equal(s.end.n_first, 2);
    assert_alive(&s);
    scene_close(&s);
}

static void a_successor_that_connects_is_a_restart(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s, true, 10000000);
    child_kill(&s.child);
    scene_succeed(&s, ANYWHERE, links_endpoint(s.end.links));
    world_wait_for(s.loop, s.end.n_up, 2);
    assert_int_equal(s.end.n_lost, 1);
    assert_string_equal(s.end.reason, "restarted");
    assert_int_equal(s.end.n_first, 2);
    assert_alive(&s);
    scene_close(&s);
}

static void a_stopped_peer_is_frozen_and_comes_back(void **state)
{
    (void)state;
    for (int child_connects = 0; child_connects < 2; child_connects++) {
        struct scene s;
        scene_open_with(&s, child_connects, STEADY, STEADY, WORLD_CLOSED_US);
        uint64_t stopped = clock_now_us();
        kill(s.child.pid, SIGSTOP);
        world_wait_for(s.loop, s.end.n_lost, 1);
        assert_string_equal(s.end.reason, "frozen");
        assert_in_range(s.end.changed_us - stopped, STEADY * (WORLD_FROZEN_US - 2 * WORLD_PING_US),
                        STEADY * (WORLD_FROZEN_US + WORLD_PING_US) + SLACK_US);
        world_run(s.loop, 2 * STEADY * WORLD_FROZEN_US, NULL, NULL);
        assert_int_equal(s.end.n_lost, 1);
        assert_int_equal(s.end.n_up, 1);
        uint64_t woken = clock_now_us();
        kill(s.child.pid, SIGCONT);
        world_wait_for(s.loop, s.end.n_up, 2);
        assert_in_range(s.end.changed_us - woken, 1, STEADY * WORLD_FROZEN_US + SLACK_US);
        assert_int_equal(s.end.n_first, 1);
        assert_int_equal(s.end.n_live, 3);
        assert_int_equal(s.end.live_seq, 1000);
        assert_alive(&s);
        world_run(s.loop, 2 * STEADY * WORLD_FROZEN_US, NULL, NULL);
        assert_int_equal(s.end.n_lost, 1);
        scene_close(&s);
    }
}

static void a_frozen_peer_that_dies_is_lost_once(void **state)
{
    (void)state;
    for (int child_connects = 0; child_connects < 2; child_connects++) {
        struct scene s;
        scene_open(&s, child_connects, WORLD_CLOSED_US);
        kill(s.child.pid, SIGSTOP);
        world_wait_for(s.loop, s.end.n_lost, 1);
        child_kill(&s.child);
        world_run(s.loop, 4 * WORLD_CLOSED_US, NULL, NULL);
        assert_int_equal(s.end.n_lost, 1);
        scene_close(&s);
    }
}

/* Who stood still himself finds his peers as he left them. */
static void our_own_pause_loses_nobody(void **state)
{
    (void)state;
    for (int child_connects = 0; child_connects < 2; child_connects++) {
        struct scene s;
        /* The child is ten times as patient, so that it does not lose us. */
        scene_open_with(&s, child_connects, 1, 10, WORLD_CLOSED_US);
        for (int i = 0; i < 3; i++) {
            usleep(2 * WORLD_FROZEN_US);
            world_run(s.loop, 3 * WORLD_PING_US, NULL, NULL);
        }
        assert_int_equal(s.end.n_lost, 0);
        assert_alive(&s);
        scene_close(&s);
    }
}

struct wired {
    struct loop *loop;
    struct end a, b;
    struct cable cable;
    struct link *link;
    uint64_t expected_seq;
};

static void wired_open_ends(struct wired *w, const struct links_options *a, const struct links_options *b)
{
    end_open_with(&w->a, a);
    end_open_with(&w->b, b);
    w->a.own_live = 2;
    w->b.own_live = 3;
    w->b.echo = true;
    assert_true(cable_open(&w->cable, w->loop, links_endpoint(w->b.links)));
    w->link = end_connect(&w->a, "b", w->cable.endpoint);
    world_wait_for(w->loop, w->a.n_up, 1);
    assert_int_equal(w->b.n_up, 1);
}

static void wired_open_with(struct wired *w, uint64_t closed_us, uint64_t b_closed_us)
{
    *w = (struct wired){ .loop = world_loop() };
    struct links_options a = world_options(&w->a, w->loop, "a");
    struct links_options b = world_options(&w->b, w->loop, "b");
    a.closed_us = closed_us;
    b.closed_us = b_closed_us;
    wired_open_ends(w, &a, &b);
}

/* Neither side takes the other for lost or frozen, however slow the machine. */
static void wired_open_patient(struct wired *w, uint64_t patience_us)
{
    *w = (struct wired){ .loop = world_loop() };
    struct links_options a = world_options(&w->a, w->loop, "a");
    struct links_options b = world_options(&w->b, w->loop, "b");
    a.closed_us = b.closed_us = a.frozen_us = b.frozen_us = patience_us;
    wired_open_ends(w, &a, &b);
}

static void wired_close(struct wired *w)
{
    cable_close(&w->cable);
    links_destroy(&w->a.links);
    links_destroy(&w->b.links);
    loop_destroy(&w->loop);
}

/* Repeats may come, too. */
static bool seq_arrived(void *arg)
{
    struct wired *w = arg;
    return w->b.last.key.seq == w->expected_seq && end_stats(&w->a).pending == 0;
}

/* What is sent before the cut is noticed may arrive later, or never. */
static bool cut_is_noticed(void *arg)
{
    const struct wired *w = arg;
    const struct message_head head = head_of(FRAME_GENERATE, 1);
    return link_send(w->link, &head, NULL) == ST_CLOSED;
}

static void a_short_cut_brings_the_live_lists(void **state)
{
    (void)state;
    struct wired w;
    wired_open_patient(&w, 10 * WORLD_PATIENCE);
    for (int round = 2; round < 5; round++) {
        cable_unplug(&w.cable);
        assert_true(world_run(w.loop, WORLD_PATIENCE, cut_is_noticed, &w));
        /* Sent while nothing can pass. */
        struct message_head head = head_of(FRAME_GENERATE, (uint64_t)round);
        assert_int_equal(link_send(w.link, &head, NULL), ST_CLOSED);
        assert_int_equal(link_send_acked(w.link, &head, NULL), ST_OK);
        cable_plug_in(&w.cable);
        world_wait_for(w.loop, w.a.n_up, round);
        assert_int_equal(w.b.n_up, round);
        assert_int_equal(w.a.n_live, 3);
        assert_int_equal(w.b.n_live, 2);
        w.expected_seq = head.key.seq;
        assert_true(world_run(w.loop, WORLD_PATIENCE, seq_arrived, &w));
    }
    assert_int_equal(w.a.n_lost + w.b.n_lost, 0);
    assert_int_equal(w.a.n_first + w.b.n_first, 2);
    wired_close(&w);
}

static void a_long_cut_loses_and_comes_back(void **state)
{
    (void)state;
    struct wired w;
    wired_open_with(&w, WORLD_CLOSED_US, WORLD_CLOSED_US);
    cable_unplug(&w.cable);
    world_wait_for(w.loop, w.a.n_lost, 1);
    world_wait_for(w.loop, w.b.n_lost, 1);
    assert_string_equal(w.a.reason, "closed");
    assert_string_equal(w.b.reason, "closed");
    cable_plug_in(&w.cable);
    world_wait_for(w.loop, w.a.n_up, 2);
    assert_int_equal(w.b.n_up, 2);
    assert_int_equal(w.a.n_first + w.b.n_first, 2);
    assert_int_equal(w.a.n_live, 3);
    wired_close(&w);
}

/* The network swallows everything and closes nothing. */
static void a_blocked_network_freezes_both_sides(void **state)
{
    (void)state;
    struct wired w;
    wired_open_with(&w, WORLD_CLOSED_US, WORLD_CLOSED_US);
    cable_block(&w.cable, true);
    world_wait_for(w.loop, w.a.n_lost, 1);
    world_wait_for(w.loop, w.b.n_lost, 1);
    assert_string_equal(w.a.reason, "frozen");
    assert_string_equal(w.b.reason, "frozen");
    cable_block(&w.cable, false);
    world_wait_for(w.loop, w.a.n_up, 2);
    world_run(w.loop, 2 * WORLD_FROZEN_US, NULL, NULL);
    assert_int_equal(w.a.n_lost, 1);
    assert_int_equal(w.b.n_lost, 1);
    assert_true(w.a.link && w.b.link);
    assert_int_equal(w.a.n_first + w.b.n_first, 2);
    wired_close(&w);
}

static void a_standing_engine_is_frozen_until_it_moves(void **state)
{
    (void)state;
    for (int initiator = 0; initiator < 2; initiator++) {
        struct wired w;
        wired_open_with(&w, WORLD_CLOSED_US, WORLD_CLOSED_US);
        struct end *stuck = initiator ? &w.a : &w.b, *judge = initiator ? &w.b : &w.a;
        stuck->busy = true;
        for (int i = 0; i < 20; i++) { /* busy for long, but moving */
            stuck->progress++;
            world_run(w.loop, WORLD_FROZEN_US / 10, NULL, NULL);
        }
        assert_int_equal(judge->n_lost, 0);
        world_wait_for(w.loop, judge->n_lost, 1);
        assert_string_equal(judge->reason, "frozen");
        world_run(w.loop, 3 * WORLD_FROZEN_US, NULL, NULL);
        assert_int_equal(judge->n_lost, 1);
        assert_int_equal(judge->n_up, 1);
        stuck->progress++;
        world_wait_for(w.loop, judge->n_up, 2);
        stuck->busy = false;
        world_run(w.loop, 2 * WORLD_FROZEN_US, NULL, NULL);
        assert_int_equal(judge->n_lost, 1);
        assert_int_equal(judge->n_first, 1);
        wired_close(&w);
    }
}

/* The one that is stuck connects anew before the other one noticed that it was gone: only its pings can say that
 * its engine moves again. */
static void a_frozen_peer_that_connects_anew_is_heard(void **state)
{
    (void)state;
    struct wired w;
    wired_open_with(&w, WORLD_CLOSED_US, 1000 * WORLD_CLOSED_US);
    w.a.busy = true;
    world_wait_for(w.loop, w.b.n_lost, 1);
    cable_unplug(&w.cable);
    world_wait_for(w.loop, w.a.n_lost, 1);
    cable_plug_in(&w.cable);
    world_run(w.loop, 2 * WORLD_FROZEN_US, NULL, NULL);
    assert_int_equal(w.b.n_up, 1);
    w.a.progress++;
    world_wait_for(w.loop, w.b.n_up, 2);
    world_wait_for(w.loop, w.a.n_up, 2);
    wired_close(&w);
}

static void close_it(struct end *end, struct link *link)
{
    (void)end;
    link_close(&link);
}

static void on_lost_may_close(void **state)
{
    (void)state;
    for (int blocked = 0; blocked < 2; blocked++) {
        struct wired w;
        wired_open_with(&w, WORLD_CLOSED_US, WORLD_CLOSED_US);
        w.a.on_lost = w.b.on_lost = close_it;
        if (blocked)
            cable_block(&w.cable, true);
        else
            cable_unplug(&w.cable);
        world_wait_for(w.loop, w.a.n_lost, 1);
        world_wait_for(w.loop, w.b.n_lost, 1);
        cable_plug_in(&w.cable);
        cable_block(&w.cable, false);
        world_run(w.loop, 10 * WORLD_PING_US, NULL, NULL);
        assert_int_equal(w.a.n_up, 1);
        wired_close(&w);
    }
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_peer_is_lost_within_a_second),
        cmocka_unit_test(a_successor_comes_up_as_new),
        cmocka_unit_test(a_quick_successor_is_a_restart),
        cmocka_unit_test(a_successor_that_connects_is_a_restart),
        cmocka_unit_test(a_stopped_peer_is_frozen_and_comes_back),
        cmocka_unit_test(a_frozen_peer_that_dies_is_lost_once),
        cmocka_unit_test(our_own_pause_loses_nobody),
        cmocka_unit_test(a_short_cut_brings_the_live_lists),
        cmocka_unit_test(a_long_cut_loses_and_comes_back),
        cmocka_unit_test(a_blocked_network_freezes_both_sides),
        cmocka_unit_test(a_standing_engine_is_frozen_until_it_moves),
        cmocka_unit_test(a_frozen_peer_that_connects_anew_is_heard),
        cmocka_unit_test(on_lost_may_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
