#include <zmq.h>

#include "tests/unit/proto/link_world.h"

/* The far side is played by hand on a raw ROUTER, so that it can be deaf, and answer wrongly. */
struct scene {
    struct loop *loop;
    struct end near;
    struct link *link;
    void *zmq, *raw;
    char endpoint[64];
    uint8_t peer[64];
    int peer_len;
    /* What it heard. */
    int n_messages, n_hellos, n_arrivals; /* an arrival holds one message or several */
    uint64_t ids[512], left[512], greeting;
    bool acknowledges, greets;
    uint64_t incarnation;
};

static void reply(struct scene *s, enum frame_type type, uint64_t message_id, const ProtobufCMessage *body)
{
    uint8_t payload[1024], buf[FRAME_HEADER_BYTES + sizeof payload];
    struct frame f = { .type = type,
                       .incarnation = s->incarnation,
                       .message_id = message_id,
                       .deadline_left_us = FRAME_NO_DEADLINE,
                       .payload = payload,
                       .payload_len = (uint32_t)protobuf_c_message_pack(body, payload) };
    frame_write(&f, buf);
    zmq_send(s->raw, s->peer, (size_t)s->peer_len, ZMQ_SNDMORE);
    zmq_send(s->raw, buf, FRAME_HEADER_BYTES + f.payload_len, 0);
}

static void greet(struct scene *s, uint64_t greeting, bool answer)
{
    Baton__Hello hello = BATON__HELLO__INIT;
    hello.id = (char *)"far";
    hello.role = (char *)"prefill";
    hello.cluster = (char *)"test";
    hello.incarnation = s->incarnation;
    hello.answer = answer;
    reply(s, FRAME_HELLO, greeting, &hello.base);
}

static void acknowledge(struct scene *s, uint64_t id)
{
    Baton__Ack ack = BATON__ACK__INIT;
    ack.message = id;
    reply(s, FRAME_ACK, 0, &ack.base);
}

static void answer_ping(struct scene *s, const struct frame *f)
{
    Baton__Ping *ping = baton__ping__unpack(NULL, f->payload_len, f->payload);
    assert_non_null(ping);
    ping->answer = true;
    reply(s, FRAME_PING, 0, &ping->base);
    baton__ping__free_unpacked(ping, NULL);
}

static void hear(struct scene *s, const struct frame *f)
{
    if (f->type == FRAME_HELLO) {
        s->n_hellos++;
        s->greeting = f->message_id;
        if (s->greets)
            greet(s, s->greeting, true);
    } else if (f->type == FRAME_PING) {
        answer_ping(s, f);
    } else {
        assert_true(s->n_messages < 512);
        s->ids[s->n_messages] = f->message_id;
        s->left[s->n_messages++] = f->deadline_left_us;
        if (s->acknowledges)
            acknowledge(s, f->message_id);
    }
}

static void listen_once(struct scene *s)
{
    uint8_t buf[1 << 16];
    int n = zmq_recv(s->raw, s->peer, sizeof s->peer, ZMQ_DONTWAIT);
    if (n < 0)
        return;
    s->peer_len = n;
    s->n_arrivals++;
    n = zmq_recv(s->raw, buf, sizeof buf, 0);
    struct frame f;
    for (size_t at = 0, used; at < (size_t)n; at += used) {
        assert_int_equal(frame_read_first(buf + at, (size_t)n - at, &f, &used, NULL), ST_OK);
        hear(s, &f);
    }
}

struct wait {
    struct scene *s;
    const int *counter;
    int n;
};

static bool reached(void *arg)
{
    struct wait *w = arg;
    listen_once(w->s);
    return w->counter && *w->counter >= w->n;
}

static void wait_for(struct scene *s, const int *counter, int n)
{
    struct wait w = { s, counter, n };
    assert_true(world_run(s->loop, WORLD_PATIENCE, reached, &w));
}

static void pass(struct scene *s, uint64_t us)
{
    struct wait w = { s, NULL, 0 };
    world_run(s->loop, us, reached, &w);
}

static void scene_open(struct scene *s)
{
    *s = (struct scene){ .loop = world_loop(), .zmq = zmq_ctx_new(), .incarnation = 1234, .greets = true };
    s->raw = zmq_socket(s->zmq, ZMQ_ROUTER);
    assert_int_equal(zmq_bind(s->raw, "tcp://127.0.0.1:0"), 0);
    size_t len = sizeof s->endpoint;
    zmq_getsockopt(s->raw, ZMQ_LAST_ENDPOINT, s->endpoint, &len);
    end_open(&s->near, s->loop, "near");
    s->link = end_connect(&s->near, "far", s->endpoint);
}

static void scene_close(struct scene *s)
{
    int zero = 0;
    zmq_setsockopt(s->raw, ZMQ_LINGER, &zero, sizeof zero);
    links_destroy(&s->near.links);
    zmq_close(s->raw);
    zmq_ctx_term(s->zmq);
    loop_destroy(&s->loop);
}

static void send_acked(struct scene *s, uint64_t seq, uint64_t deadline_us)
{
    struct message_head head = head_of(FRAME_GRANT, seq);
    head.deadline_us = deadline_us;
    assert_int_equal(link_send_acked(s->link, &head, NULL), ST_OK);
}

static void messages_are_repeated_until_acknowledged(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    wait_for(&s, &s.near.n_up, 1);
    send_acked(&s, 1, clock_now_us() + 10000000);
    wait_for(&s, &s.n_messages, 4);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(s.ids[i], s.ids[0]);
        /* The deadline stays where it was: less is left each time. */
        assert_in_range(s.left[i - 1] - s.left[i], WORLD_REPEAT_US * 8 / 10, 10 * WORLD_REPEAT_US);
    }
    assert_int_equal(end_stats(&s.near).repeated, 3);
    acknowledge(&s, s.ids[0]);
    pass(&s, WORLD_REPEAT_US / 2);
    int n = s.n_messages;
    pass(&s, 5 * WORLD_REPEAT_US);
    assert_int_equal(s.n_messages, n);
    assert_int_equal(end_stats(&s.near).pending, 0);
    scene_close(&s);
}

static void messages_of_one_turn_travel_together(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    s.acknowledges = true;
    wait_for(&s, &s.near.n_up, 1);
    int before = s.n_arrivals;
    for (uint64_t seq = 1; seq <= 20; seq++)
        send_acked(&s, seq, FRAME_NO_DEADLINE);
    wait_for(&s, &s.n_messages, 20);
    for (int i = 1; i < 20; i++)
        assert_int_equal(s.ids[i], s.ids[0] + (uint64_t)i);
    assert_in_range(s.n_arrivals - before, 1, 10); /* 20, were they alone; pings come as well */
    scene_close(&s);
}

static void repeating_ends_at_the_deadline_or_when_forgotten(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    wait_for(&s, &s.near.n_up, 1);
    send_acked(&s, 1, clock_now_us() + 3 * WORLD_REPEAT_US);
    pass(&s, 8 * WORLD_REPEAT_US);
    assert_in_range(s.n_messages, 1, 3);
    assert_int_equal(end_stats(&s.near).pending, 0);
    int before = s.n_messages;
    send_acked(&s, 2, FRAME_NO_DEADLINE);
    wait_for(&s, &s.n_messages, before + 2);
    link_forget(s.link, (struct request_key){ 7, 2 }, 0);
    before = s.n_messages;
    pass(&s, 5 * WORLD_REPEAT_US);
    assert_int_equal(s.n_messages, before);
    scene_close(&s);
}

static void a_hello_without_answer_is_said_again(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    s.greets = false;
    wait_for(&s, &s.n_hellos, 3);
    assert_int_equal(s.near.n_up, 0);
    uint64_t greeting = s.greeting;
    greet(&s, greeting + 1, true); /* of no greeting of ours */
    pass(&s, 2 * WORLD_PING_US);
    assert_int_equal(s.near.n_up, 0);
    greet(&s, greeting, true);
    wait_for(&s, &s.near.n_up, 1);
    greet(&s, greeting, true); /* the answer to a repetition */
    int hellos = s.n_hellos;
    pass(&s, 4 * WORLD_PING_US);
    assert_int_equal(s.near.n_up, 1);
    assert_int_equal(s.n_hellos, hellos);
    scene_close(&s);
}

static void an_invitation_is_followed(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    wait_for(&s, &s.near.n_up, 1);
    greet(&s, 99, false);
    wait_for(&s, &s.near.n_up, 2);
    assert_int_equal(s.near.n_first, 1);
    assert_int_equal(s.near.n_lost, 0);
    scene_close(&s);
}

static void another_incarnation_is_a_restart(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    wait_for(&s, &s.near.n_up, 1);
    send_acked(&s, 1, FRAME_NO_DEADLINE);
    wait_for(&s, &s.n_messages, 1);
    s.incarnation = 1235;
    greet(&s, 99, false);
    wait_for(&s, &s.near.n_up, 2);
    assert_int_equal(s.near.n_lost, 1);
    assert_string_equal(s.near.reason, "restarted");
    assert_int_equal(s.near.n_first, 2);
    assert_int_equal(end_stats(&s.near).lost_restarted, 1);
    int before = s.n_messages;
    pass(&s, 4 * WORLD_REPEAT_US);
    assert_int_equal(s.n_messages, before); /* what was pending was for the former one */
    scene_close(&s);
}

static void resend_on_lost(struct end *end, struct link *link)
{
    (void)end;
    struct message_head head = head_of(FRAME_CANCEL, 2);
    assert_int_equal(link_send(link, &head, NULL), ST_CLOSED);
    assert_int_equal(link_send_acked(link, &head, NULL), ST_OK);
}

static void what_is_sent_in_on_lost_waits_for_the_successor(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    s.acknowledges = true;
    s.near.on_lost = resend_on_lost;
    wait_for(&s, &s.near.n_up, 1);
    s.incarnation = 1235;
    greet(&s, 99, false);
    wait_for(&s, &s.n_messages, 1);
    assert_int_equal(s.near.n_up, 2);
    pass(&s, 2 * WORLD_REPEAT_US);
    assert_int_equal(end_stats(&s.near).pending, 0);
    scene_close(&s);
}

/* Openers are refused and nothing happens; the first answer that finds no room costs the link, which comes up
 * again as soon as the peer speaks. */
static void a_link_that_keeps_too_much_is_lost(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    wait_for(&s, &s.near.n_up, 1);
    struct message_head begin = head_of(FRAME_PREFILL, 1), answer = head_of(FRAME_GRANT, 1);
    uint64_t kept = 0;
    while (link_send_acked(s.link, &begin, NULL) == ST_OK)
        kept++;
    assert_int_equal(kept, 64);
    while (link_send_acked(s.link, &answer, NULL) == ST_OK)
        kept++;
    assert_true(kept > 64);
    assert_int_equal(s.near.n_lost, 0); /* not from inside the call */
    wait_for(&s, &s.near.n_lost, 1);
    assert_string_equal(s.near.reason, "overrun");
    assert_int_equal(end_stats(&s.near).pending, 0);
    wait_for(&s, &s.near.n_up, 2);
    assert_int_equal(s.near.n_first, 1);
    assert_int_equal(end_stats(&s.near).lost_overrun, 1);
    scene_close(&s);
}

/* The same at the side that was connected to: both hear of it, and say what they still hold. */
static void the_other_side_hears_of_it(void **state)
{
    (void)state;
    struct loop *loop = world_loop();
    struct end a = { .own_live = 0 }, b = { .own_live = 3 };
    end_open(&a, loop, "a");
    end_open(&b, loop, "b");
    (void)end_connect(&a, "b", links_endpoint(b.links));
    world_wait_for(loop, a.n_up, 1);
    world_wait_for(loop, b.n_up, 1);
    b.own_live = 0;
    struct message_head answer = head_of(FRAME_CHUNK_DONE, 1);
    while (link_send_acked(b.link, &answer, NULL) == ST_OK)
        ;
    world_wait_for(loop, b.n_lost, 1);
    assert_string_equal(b.reason, "overrun");
    world_wait_for(loop, a.n_up, 2);
    assert_int_equal(a.n_live, 0);
    assert_int_equal(a.n_first, 1);
    world_wait_for(loop, b.n_up, 2);
    answer = head_of(FRAME_GRANT, 2);
    a.n_messages = 0;
    assert_int_equal(link_send_acked(b.link, &answer, NULL), ST_OK);
    world_wait_for(loop, a.n_messages, 1);
    links_destroy(&a.links);
    links_destroy(&b.links);
    loop_destroy(&loop);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_repeated_until_acknowledged),
        cmocka_unit_test(messages_of_one_turn_travel_together),
        cmocka_unit_test(repeating_ends_at_the_deadline_or_when_forgotten),
        cmocka_unit_test(a_hello_without_answer_is_said_again),
        cmocka_unit_test(an_invitation_is_followed),
        cmocka_unit_test(another_incarnation_is_a_restart),
        cmocka_unit_test(what_is_sent_in_on_lost_waits_for_the_successor),
        cmocka_unit_test(a_link_that_keeps_too_much_is_lost),
        cmocka_unit_test(the_other_side_hears_of_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
