#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/unit/proto/link_world.h"

/* A raw peer beside a good one: whatever it says, the good one goes on. */
struct scene {
    struct loop *loop;
    struct end good, daemon;
    struct link *link;
    void *zmq, *raw;
};

static void scene_open(struct scene *s)
{
    *s = (struct scene){ .loop = world_loop(), .zmq = zmq_ctx_new() };
    end_open(&s->daemon, s->loop, "daemon");
    end_open(&s->good, s->loop, "good");
    s->daemon.echo = true;
    s->link = end_connect(&s->good, "daemon", links_endpoint(s->daemon.links));
    s->raw = zmq_socket(s->zmq, ZMQ_DEALER);
    assert_int_equal(zmq_connect(s->raw, links_endpoint(s->daemon.links)), 0);
    world_wait_for(s->loop, s->good.n_up, 1);
}

static void scene_close(struct scene *s)
{
    int zero = 0;
    zmq_setsockopt(s->raw, ZMQ_LINGER, &zero, sizeof zero);
    zmq_close(s->raw);
    zmq_ctx_term(s->zmq);
    links_destroy(&s->good.links);
    links_destroy(&s->daemon.links);
    loop_destroy(&s->loop);
}

static void good_peer_goes_on(struct scene *s)
{
    int before = s->good.n_messages;
    struct message_head head = head_of(FRAME_GENERATE, 1);
    assert_int_equal(link_send(s->link, &head, NULL), ST_OK);
    world_wait_for(s->loop, s->good.n_messages, before + 1);
    assert_int_equal(s->good.n_lost + s->daemon.n_lost, 0);
}

static size_t make(uint8_t *buf, unsigned type, uint64_t incarnation, const void *payload, uint32_t len)
{
    struct frame f = { .type = (enum frame_type)type,
                       .incarnation = incarnation,
                       .message_id = 5,
                       .deadline_left_us = FRAME_NO_DEADLINE,
                       .payload = payload,
                       .payload_len = len };
    frame_write(&f, buf);
    return FRAME_HEADER_BYTES + len;
}

static void say(struct scene *s, const void *bytes, size_t len)
{
    assert_int_equal(zmq_send(s->raw, bytes, len, 0), (int)len);
}

struct counts {
    struct scene *scene;
    uint64_t hostile, unknown, stale;
};

static bool counted(void *arg)
{
    const struct counts *c = arg;
    struct links_stats stats = end_stats(&c->scene->daemon);
    return stats.dropped_hostile >= c->hostile && stats.dropped_unknown >= c->unknown &&
           stats.dropped_stale >= c->stale;
}

static void expect(struct scene *s, uint64_t hostile, uint64_t unknown, uint64_t stale)
{
    struct counts c = { s, hostile, unknown, stale };
    world_run(s->loop, WORLD_PATIENCE, counted, &c);
    good_peer_goes_on(s);
    struct links_stats stats = end_stats(&s->daemon);
    assert_int_equal(stats.dropped_hostile, hostile);
    assert_int_equal(stats.dropped_unknown, unknown);
    assert_int_equal(stats.dropped_stale, stale);
}

static void random_bytes_are_dropped(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    unsigned seed = 42;
    for (int i = 0; i < 500; i++) {
        uint8_t bytes[300];
        size_t len = (size_t)rand_r(&seed) % sizeof bytes;
        for (size_t j = 0; j < len; j++)
            bytes[j] = (uint8_t)rand_r(&seed);
        say(&s, bytes, len);
    }
    expect(&s, 500, 0, 0);
    scene_close(&s);
}

static void spoilt_frames_are_dropped(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t buf[FRAME_HEADER_BYTES + 16], payload[16] = { 8, 1 };
    size_t len = make(buf, FRAME_GENERATE, 9, payload, sizeof payload);
    for (size_t at = 0; at < len; at++) {
        buf[at]++;
        say(&s, buf, len);
        buf[at]--;
        say(&s, buf, at);
    }
    expect(&s, 2 * len, 0, 0);
    scene_close(&s);
}

static void messages_in_wrong_parts_are_dropped(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t buf[FRAME_HEADER_BYTES];
    size_t len = make(buf, FRAME_PING, 9, NULL, 0);
    for (int parts = 2; parts < 6; parts++) {
        for (int i = 1; i < parts; i++)
            zmq_send(s.raw, buf, len, ZMQ_SNDMORE);
        say(&s, buf, len);
    }
    expect(&s, 4, 0, 0);
    scene_close(&s);
}

/* What comes before the broken frame counts, what is behind it does not. */
static void frames_in_one_message_are_read_in_order(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t buf[4 * FRAME_HEADER_BYTES];
    size_t len = 0;
    for (int i = 0; i < 4; i++)
        len += make(buf + len, 250, 9, NULL, 0);
    say(&s, buf, len);
    say(&s, buf, len - 1);
    buf[2 * FRAME_HEADER_BYTES]++;
    say(&s, buf, len);
    expect(&s, 2, 4 + 3 + 2, 0);
    scene_close(&s);
}

static void strangers_are_not_heard(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t buf[FRAME_HEADER_BYTES];
    int before = s.daemon.n_messages;
    for (unsigned type = 2; type < 256; type++)
        say(&s, buf, make(buf, type, 9, NULL, 0));
    /* A PING invites a stranger to say who it is; everything else is of an unknown sender. */
    expect(&s, 0, 253, 0);
    assert_int_equal(s.daemon.n_messages, before + 1);
    scene_close(&s);
}

static size_t make_hello(uint8_t *buf, const char *id, const char *cluster, uint64_t incarnation, bool answer)
{
    Baton__Hello hello = BATON__HELLO__INIT;
    uint8_t payload[1024];
    hello.id = (char *)id;
    hello.role = (char *)"router";
    hello.cluster = (char *)cluster;
    hello.incarnation = incarnation;
    hello.answer = answer;
    size_t len = baton__hello__pack(&hello, payload);
    return make(buf, FRAME_HELLO, 77, payload, (uint32_t)len);
}

static void senseless_hellos_are_refused(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t buf[FRAME_HEADER_BYTES + 1024];
    char long_id[100];
    memset(long_id, 'x', sizeof long_id - 1);
    long_id[sizeof long_id - 1] = 0;
    log_init("test", LOG_OFF);
    say(&s, buf, make_hello(buf, "", "test", 77, false));
    say(&s, buf, make_hello(buf, long_id, "test", 77, false));
    say(&s, buf, make_hello(buf, "x", "test", 78, false)); /* the frame says 77 */
    say(&s, buf, make_hello(buf, "x", "test", 77, true));
    say(&s, buf, make_hello(buf, "x", "toast", 77, false));
    say(&s, buf, make(buf, FRAME_HELLO, 77, "\xff\xff\xff", 3));
    expect(&s, 6, 0, 0);
    assert_int_equal(s.daemon.n_up, 1);
    log_init("test", LOG_ERROR);
    scene_close(&s);
}

static void a_huge_hello_is_not_unpacked(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t small[FRAME_HEADER_BYTES + 1024];
    size_t good = make_hello(small, "raw", "test", 77, false) - FRAME_HEADER_BYTES;
    /* A good HELLO, and then live requests: two bytes each on the wire, some hundred in memory. */
    uint32_t len = 2u << 20;
    uint8_t *payload = malloc(len + good), *buf = malloc(FRAME_HEADER_BYTES + len + good);
    memcpy(payload, small + FRAME_HEADER_BYTES, good);
    for (uint32_t i = 0; i < len; i++)
        payload[good + i] = i % 2 ? 0 : 0x42;
    len += (uint32_t)good;
    say(&s, buf, make(buf, FRAME_HELLO, 77, payload, len));
    expect(&s, 1, 0, 0);
    assert_int_equal(s.daemon.n_up, 1);
    free(payload);
    free(buf);
    scene_close(&s);
}

static void a_peer_that_went_bad_harms_only_itself(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    uint8_t buf[FRAME_HEADER_BYTES + 1024];
    say(&s, buf, make_hello(buf, "raw", "test", 77, false));
    world_wait_for(s.loop, s.daemon.n_up, 2);
    say(&s, buf, make_hello(buf, "raw", "test", 77, false)); /* again, of the same greeting */
    say(&s, buf, make(buf, FRAME_PING, 77, "\xff\xff", 2));
    say(&s, buf, make(buf, FRAME_ACK, 77, "\xff\xff", 2));
    say(&s, buf, make(buf, 200, 77, NULL, 0));
    say(&s, buf, make(buf, FRAME_EVENT, 77, NULL, 0));
    say(&s, buf, make(buf, FRAME_GENERATE, 78, NULL, 0));
    say(&s, buf, make(buf, FRAME_ACK, 77, NULL, 0)); /* of nothing: no harm */
    expect(&s, 2, 2, 1);
    assert_int_equal(s.daemon.n_up, 2);
    scene_close(&s);
}

static void a_long_routing_id_is_refused(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    void *other = zmq_socket(s.zmq, ZMQ_DEALER);
    char id[200];
    memset(id, 'i', sizeof id);
    int zero = 0;
    zmq_setsockopt(other, ZMQ_ROUTING_ID, id, sizeof id);
    zmq_setsockopt(other, ZMQ_LINGER, &zero, sizeof zero);
    zmq_connect(other, links_endpoint(s.daemon.links));
    uint8_t buf[FRAME_HEADER_BYTES + 1024];
    size_t len = make_hello(buf, "raw", "test", 77, false);
    zmq_send(other, buf, len, 0);
    expect(&s, 1, 0, 0);
    zmq_close(other);
    scene_close(&s);
}

/* Not even ZeroMQ. */
static void other_protocols_do_not_disturb(void **state)
{
    (void)state;
    struct scene s;
    scene_open(&s);
    unsigned port = 0;
    assert_int_equal(sscanf(links_endpoint(s.daemon.links), "tcp://127.0.0.1:%u", &port), 1);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 20; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
        static const char text[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_int_equal(write(fd, text, sizeof text), (int)sizeof text);
        world_run(s.loop, 2000, NULL, NULL);
        close(fd);
    }
    expect(&s, 0, 0, 0);
    scene_close(&s);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_bytes_are_dropped),
        cmocka_unit_test(spoilt_frames_are_dropped),
        cmocka_unit_test(messages_in_wrong_parts_are_dropped),
        cmocka_unit_test(frames_in_one_message_are_read_in_order),
        cmocka_unit_test(strangers_are_not_heard),
        cmocka_unit_test(senseless_hellos_are_refused),
        cmocka_unit_test(a_huge_hello_is_not_unpacked),
        cmocka_unit_test(a_peer_that_went_bad_harms_only_itself),
        cmocka_unit_test(a_long_routing_id_is_refused),
        cmocka_unit_test(other_protocols_do_not_disturb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
