#include "common/failpoint.h"
#include "tests/unit/proto/link_world.h"

struct pair {
    struct loop *loop;
    struct end a, b; /* a connects to b */
    struct link *to_b;
};

static void pair_open_with(struct pair *p, uint64_t ping_us, uint64_t repeat_us)
{
    *p = (struct pair){ .loop = world_loop() };
    struct links_options a = world_options(&p->a, p->loop, "a"), b = world_options(&p->b, p->loop, "b");
    a.ping_interval_us = b.ping_interval_us = ping_us;
    a.frozen_us = b.frozen_us = 10 * ping_us;
    a.repeat_us = b.repeat_us = repeat_us;
    end_open_with(&p->a, &a);
    end_open_with(&p->b, &b);
    p->to_b = end_connect(&p->a, "b", links_endpoint(p->b.links));
}

static void pair_open(struct pair *p)
{
    pair_open_with(p, WORLD_PING_US, WORLD_REPEAT_US);
}

static void pair_up(struct pair *p)
{
    pair_open(p);
    world_wait_for(p->loop, p->a.n_up, 1);
    assert_int_equal(p->b.n_up, 1);
}

static void pair_close(struct pair *p)
{
    links_destroy(&p->a.links);
    links_destroy(&p->b.links);
    loop_destroy(&p->loop);
}

static bool rtt_is_known(void *link)
{
    return link_rtt_us(link) > 0;
}

static void hello_goes_both_ways(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p);
    assert_int_equal(link_peer_incarnation(p.to_b), 0);
    assert_false(link_is_up(p.to_b));
    world_wait_for(p.loop, p.a.n_up, 1);
    assert_true(link_is_up(p.to_b) && link_is_up(p.b.link));
    assert_int_equal(p.a.n_first + p.b.n_first, 2);
    assert_string_equal(link_peer_id(p.to_b), "b");
    assert_string_equal(link_peer_id(p.b.link), "a");
    assert_string_equal(link_peer_role(p.b.link), "decode");
    assert_true(link_peer_incarnation(p.to_b) != 0);
    assert_true(world_run(p.loop, WORLD_PATIENCE, rtt_is_known, p.to_b));
    world_run(p.loop, 4 * WORLD_PING_US, NULL, NULL); /* nothing else comes of further pings */
    assert_int_equal(p.a.n_up + p.b.n_up, 2);
    assert_int_equal(end_stats(&p.a).up, 1);
    pair_close(&p);
}

static void a_message_arrives_as_it_was_sent(void **state)
{
    (void)state;
    struct pair p;
    pair_up(&p);
    struct trace_context trace = { { 1, 2, 3 }, { 4, 5 } };
    uint64_t deadline = clock_now_us() + 1000000;
    struct message_head head = { FRAME_GENERATE, { 77, 88 }, 3, 2, deadline, &trace };
    Baton__Generate body = BATON__GENERATE__INIT;
    uint32_t tokens[] = { 5, 6, 7 };
    body.tokens = tokens;
    body.n_tokens = 3;
    p.b.echo = true;
    assert_int_equal(link_send(p.to_b, &head, &body.base), ST_OK);
    world_wait_for(p.loop, p.a.n_messages, 1);
    const struct frame *got = &p.b.last;
    assert_int_equal(got->type, FRAME_GENERATE);
    assert_int_equal(got->key.router, 77);
    assert_int_equal(got->key.seq, 88);
    assert_int_equal(got->attempt, 3);
    assert_int_equal(got->leg, 2);
    assert_int_equal(got->message_id, 0);
    assert_memory_equal(&got->trace, &trace, sizeof trace);
    assert_int_equal(got->incarnation, link_peer_incarnation(p.b.link));
    assert_in_range(p.b.last_deadline_us, deadline - 200000, deadline + 200000);
    assert_int_equal(p.a.last.type, FRAME_TOKENS);
    assert_true(p.a.last_deadline_us == FRAME_NO_DEADLINE);
    pair_close(&p);
}

static void send_burst(struct link *link, int n)
{
    for (int i = 0; i < n; i++) {
        struct message_head head = head_of(FRAME_GENERATE, (uint64_t)i);
        assert_int_equal(link_send(link, &head, NULL), ST_OK);
    }
}

/* Far more than one batch of a wakeup, and no ping wakes the loop again. */
static void bursts_arrive_both_ways(void **state)
{
    (void)state;
    struct pair p;
    pair_open_with(&p, 100 * WORLD_PATIENCE, WORLD_REPEAT_US);
    world_wait_for(p.loop, p.a.n_up, 1);
    p.b.echo = true;
    for (int round = 1; round <= 3; round++) {
        send_burst(p.to_b, 3000);
        send_burst(p.b.link, 500);
        world_wait_for(p.loop, p.b.n_messages, round * 3000);
        world_wait_for(p.loop, p.a.n_messages, round * 3500);
    }
    pair_close(&p);
}

static void acknowledged_messages_wait_for_the_link(void **state)
{
    (void)state;
    struct pair p;
    /* A repetition would come too late. */
    pair_open_with(&p, WORLD_PING_US, 100 * WORLD_PATIENCE);
    struct message_head head = head_of(FRAME_CANCEL, 1);
    assert_int_equal(link_send(p.to_b, &head, NULL), ST_CLOSED);
    assert_int_equal(link_send_acked(p.to_b, &head, NULL), ST_OK);
    assert_int_equal(end_stats(&p.a).pending, 1);
    world_wait_for(p.loop, p.b.n_messages, 1);
    assert_true(p.b.last.message_id != 0);
    world_run(p.loop, 4 * WORLD_REPEAT_US, NULL, NULL);
    assert_int_equal(end_stats(&p.a).pending, 0);
    assert_int_equal(p.b.n_messages, 1);
    pair_close(&p);
}

static void pending_messages_are_bounded(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p);
    struct message_head head = head_of(FRAME_GENERATE, 1);
    for (int i = 0; i < 64; i++)
        assert_int_equal(link_send_acked(p.to_b, &head, NULL), ST_OK);
    assert_int_equal(link_send_acked(p.to_b, &head, NULL), ST_LIMIT);
    link_forget(p.to_b, head.key, 0);
    assert_int_equal(end_stats(&p.a).pending, 0);
    pair_close(&p);
}

#ifdef BATON_FAILPOINTS
/* The handler hears of a message again when its acknowledgement was lost. */
static void lost_acknowledgements_bring_repeats(void **state)
{
    (void)state;
    struct pair p;
    pair_up(&p);
    assert_int_equal(failpoint_arm("link.send.ACK=drop,times=2", NULL), ST_OK);
    struct message_head head = head_of(FRAME_GRANT, 1);
    assert_int_equal(link_send_acked(p.to_b, &head, NULL), ST_OK);
    world_wait_for(p.loop, p.b.n_messages, 3);
    world_run(p.loop, 4 * WORLD_REPEAT_US, NULL, NULL);
    assert_int_equal(p.b.n_messages, 3);
    assert_int_equal(end_stats(&p.a).pending, 0);
    failpoint_reset();
    pair_close(&p);
}
#endif

static void close_at_once(struct end *end, struct link *link)
{
    link_close(&link);
    end->link = NULL;
}

static void close_on_message(struct end *end, struct link *link, const struct frame *frame)
{
    (void)frame;
    struct message_head head = head_of(FRAME_TOKENS, 9);
    link_send(link, &head, NULL);
    close_at_once(end, link);
}

static void callbacks_may_close_their_link(void **state)
{
    (void)state;
    struct pair p;
    pair_up(&p);
    p.b.on_message = close_on_message;
    struct message_head head = head_of(FRAME_GENERATE, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(link_send_acked(p.to_b, &head, NULL), ST_OK);
    /* What b sent before it closed arrives, its acceptor's link is gone without on_lost, and our pings bring a
     * new one, on which the message that was not acknowledged comes again. */
    world_wait_for(p.loop, p.a.n_messages, 2);
    world_wait_for(p.loop, p.b.n_up, 2);
    assert_int_equal(p.b.n_lost, 0);
    assert_int_equal(p.b.n_first, 1);
    p.a.on_message = close_on_message;
    p.b.on_message = NULL;
    world_wait_for(p.loop, p.b.n_up, 3);
    send_burst(p.b.link, 1);
    int before = p.a.n_messages;
    world_wait_for(p.loop, p.a.n_messages, before + 1);
    assert_int_equal(end_stats(&p.a).up, 0);
    world_wait_for(p.loop, p.b.n_lost, 1);
    assert_string_equal(p.b.reason, "closed");
    pair_close(&p);
}

static void on_up_may_close(void **state)
{
    (void)state;
    struct pair p;
    pair_open(&p);
    p.a.on_up = close_at_once;
    world_wait_for(p.loop, p.b.n_lost, 1);
    assert_int_equal(p.a.n_up, 1);
    assert_int_equal(p.a.n_lost, 0);
    pair_close(&p);
}

static void a_link_that_is_opened_anew_replaces_the_former(void **state)
{
    (void)state;
    struct pair p;
    pair_up(&p);
    struct link *second = NULL;
    assert_int_equal(links_connect(p.a.links, "b", links_endpoint(p.b.links), &second), ST_INVALID);
    struct link *former = p.b.link;
    link_close(&p.to_b);
    p.to_b = end_connect(&p.a, "b", links_endpoint(p.b.links));
    world_wait_for(p.loop, p.a.n_up, 2);
    assert_int_equal(p.b.n_lost, 1);
    assert_int_equal(p.b.n_up, 2);
    assert_int_equal(p.b.n_first, 1);
    assert_true(p.b.link != NULL && p.b.link != former);
    pair_close(&p);
}

static void another_cluster_is_refused(void **state)
{
    (void)state;
    struct pair p = { .loop = world_loop() };
    struct links_options o = world_options(&p.a, p.loop, "a");
    o.cluster = "elsewhere";
    log_init("test", LOG_OFF);
    end_open_with(&p.a, &o);
    end_open(&p.b, p.loop, "b");
    end_connect(&p.a, "b", links_endpoint(p.b.links));
    world_run(p.loop, 10 * WORLD_PING_US, NULL, NULL);
    assert_int_equal(p.a.n_up + p.b.n_up, 0);
    assert_int_equal(end_stats(&p.b).dropped_hostile, 1);
    assert_int_equal(end_stats(&p.a).dropped_hostile, 1);
    log_init("test", LOG_ERROR);
    pair_close(&p);
}

static void another_daemon_at_the_endpoint_is_refused(void **state)
{
    (void)state;
    struct pair p = { .loop = world_loop() };
    log_init("test", LOG_OFF);
    end_open(&p.a, p.loop, "a");
    end_open(&p.b, p.loop, "b");
    struct link *stale = end_connect(&p.a, "c", links_endpoint(p.b.links));
    world_run(p.loop, 10 * WORLD_PING_US, NULL, NULL);
    assert_int_equal(p.a.n_up, 0);
    assert_false(link_is_up(stale));
    end_connect(&p.a, "b", links_endpoint(p.b.links));
    world_wait_for(p.loop, p.a.n_up, 1);
    int ups = p.b.n_up;
    world_run(p.loop, 10 * WORLD_PING_US, NULL, NULL);
    assert_int_equal(p.a.n_up, 1);
    assert_int_equal(p.b.n_up, ups);
    log_init("test", LOG_ERROR);
    pair_close(&p);
}

static void options_are_checked(void **state)
{
    (void)state;
    struct pair p = { .loop = world_loop() };
    struct error err;
    struct links_options o = world_options(&p.a, p.loop, "");
    assert_int_equal(links_create(&o, &p.a.links, &err), ST_INVALID);
    o = world_options(&p.a, p.loop, "a");
    o.incarnation = 0;
    assert_int_equal(links_create(&o, &p.a.links, &err), ST_INVALID);
    o = world_options(&p.a, p.loop, "a");
    o.listen = "tcp://nowhere";
    assert_int_equal(links_create(&o, &p.a.links, &err), ST_IO);
    assert_non_null(strstr(err.text, "tcp://nowhere"));
    end_open(&p.a, p.loop, "a");
    struct link *link;
    log_init("test", LOG_OFF);
    assert_int_equal(links_connect(p.a.links, "b", "not an endpoint", &link), ST_INVALID);
    log_init("test", LOG_ERROR);
    pair_close(&p);
}

struct listener {
    int n;
    uint64_t last;
};

static void on_load(void *arg, const uint8_t *payload, size_t len)
{
    struct listener *l = arg;
    Baton__Load *load = baton__load__unpack(NULL, len, payload);
    assert_non_null(load);
    l->last = load->queued_tokens;
    l->n++;
    baton__load__free_unpacked(load, NULL);
}

static void publish(struct end *end, const char *topic, uint64_t value)
{
    Baton__Load load = BATON__LOAD__INIT;
    load.queued_tokens = value;
    links_publish(end->links, topic, &load.base);
}

static void events_reach_subscribers(void **state)
{
    (void)state;
    struct pair p = { .loop = world_loop() };
    struct links_options o = world_options(&p.a, p.loop, "a");
    o.listen_events = "tcp://127.0.0.1:0";
    end_open_with(&p.a, &o);
    end_open(&p.b, p.loop, "b");
    struct listener l = { 0 };
    struct subscription *sub;
    assert_int_equal(links_subscribe(p.b.links, links_events_endpoint(p.a.links), "load", on_load, &l, &sub), ST_OK);
    for (uint64_t i = 1; l.n < 5 && i < 500; i++) {
        publish(&p.a, "load", i);
        publish(&p.a, "loadstone", 1000000);
        publish(&p.a, "other", 1000000);
        world_run(p.loop, 2000, NULL, NULL);
    }
    assert_in_range(l.n, 5, 500);
    assert_in_range(l.last, 1, 500);
    subscription_close(&sub);
    assert_null(sub);
    int n = l.n;
    publish(&p.a, "load", 1);
    world_run(p.loop, 20000, NULL, NULL);
    assert_int_equal(l.n, n);
    pair_close(&p);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello_goes_both_ways),
        cmocka_unit_test(a_message_arrives_as_it_was_sent),
        cmocka_unit_test(bursts_arrive_both_ways),
        cmocka_unit_test(acknowledged_messages_wait_for_the_link),
        cmocka_unit_test(pending_messages_are_bounded),
#ifdef BATON_FAILPOINTS
        cmocka_unit_test(lost_acknowledgements_bring_repeats),
#endif
        cmocka_unit_test(callbacks_may_close_their_link),
        cmocka_unit_test(on_up_may_close),
        cmocka_unit_test(a_link_that_is_opened_anew_replaces_the_former),
        cmocka_unit_test(another_cluster_is_refused),
        cmocka_unit_test(another_daemon_at_the_endpoint_is_refused),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(events_reach_subscribers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
