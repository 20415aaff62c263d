/* The holder of packed weights: one packs, the others wait; what is lost, damaged or unused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/control.h"
#include "cli/weights_holder.h"
#include "common/unix_socket.h"
#include "engine/weight_image.h"
#include "proto/weights_message.h"

#define KEY         "00-avx2-portable"
#define PATIENCE_MS 10000
#define SILENCE_MS  100

static char top[] = "/tmp/baton-holder-XXXXXX";
static struct state_dir dir;
static struct loop *loop;
static struct weights_holder *holder;
static struct control_server *server;
static pthread_t thread;
static struct team *team;
static struct error err;

/* So that the holder is asked on its own thread. */
static status answer(void *ctx, const json_t *request, struct json_writer *reply, struct error *why)
{
    (void)ctx;
    (void)why;
    if (!strcmp(json_string_value(json_object_get(request, "op")), "gc"))
        weights_holder_gc(holder, reply);
    json_write_key(reply, "held");
    weights_holder_write(holder, reply);
    return ST_OK;
}

static const char *name_user(void *ctx, pid_t pid)
{
    (void)ctx;
    return pid == getpid() ? "decode-7" : NULL;
}

static void *run(void *arg)
{
    (void)arg;
    loop_run(loop);
    return NULL;
}

static int start(void **state)
{
    (void)state;
    strcpy(top + sizeof top - 7, "XXXXXX");
    if (!mkdtemp(top) || state_dir_resolve(top, NULL, &dir, &err) != ST_OK || loop_create(&loop) != ST_OK ||
        weights_holder_create(loop, &dir, name_user, NULL, &holder, &err) != ST_OK ||
        control_server_create(loop, &dir, answer, NULL, &server, &err) != ST_OK ||
        team_create(1, NULL, &team, &err) != ST_OK)
        return -1;
    return pthread_create(&thread, NULL, run, NULL);
}

static int stop(void **state)
{
    (void)state;
    loop_stop(loop);
    pthread_join(thread, NULL);
    control_server_destroy(&server);
    weights_holder_destroy(&holder);
    weights_holder_destroy(&holder);
    loop_destroy(&loop);
    team_destroy(&team);
    return rmdir(top); /* no socket is left */
}

/* ---- a worker ------------------------------------------------------------------------- */

static int worker(void)
{
    int fd = unix_socket_connect(top, WEIGHTS_SOCKET, SOCK_SEQPACKET | SOCK_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static void say(int socket, enum weights_verb verb, uint64_t bytes, int fd)
{
    struct weights_message m = { .verb = verb, .bytes = bytes, .key = KEY };
    assert_int_equal(unix_socket_send(socket, &m, sizeof m, fd), ST_OK);
}

static bool hears_something(int socket, int ms)
{
    struct pollfd p = { socket, POLLIN, 0 };
    return poll(&p, 1, ms) == 1;
}

/* The verb, 0 when the holder hung up. *fd is -1 or to be closed. */
static uint32_t hear(int socket, int *fd)
{
    struct weights_message m = { .verb = 0 };
    assert_true(hears_something(socket, PATIENCE_MS));
    status st = unix_socket_receive(socket, &m, sizeof m, fd);
    assert_true(st == ST_OK || st == ST_CLOSED);
    return st == ST_OK ? m.verb : 0;
}

static void hear_verb(int socket, enum weights_verb verb)
{
    int fd;
    assert_int_equal(hear(socket, &fd), verb);
    assert_int_equal(fd, -1);
}

/* Bytes of the image whose content begins with mark. */
static int image_of(uint8_t mark, uint64_t *bytes)
{
    struct weight_image image;
    assert_int_equal(weight_image_create(KEY, 4096, &image, &err), ST_OK);
    image.content[0] = mark;
    assert_int_equal(weight_image_seal(&image, 0, team, &err), ST_OK);
    int fd = dup(image.fd);
    *bytes = image.map_bytes;
    weight_image_close(&image);
    return fd;
}

static void give(int socket, uint8_t mark)
{
    uint64_t bytes;
    int fd = image_of(mark, &bytes);
    say(socket, WEIGHTS_GIVE, bytes, fd);
    close(fd);
    hear_verb(socket, WEIGHTS_KEPT);
}

static void hear_held(int socket, uint8_t mark)
{
    struct weight_image image;
    int fd;
    assert_int_equal(hear(socket, &fd), WEIGHTS_HELD);
    assert_int_equal(weight_image_open(fd, KEY, 4096, &image, &err), ST_OK);
    assert_int_equal(image.content[0], mark);
    weight_image_close(&image);
}

static json_t *ask_holder(const char *op)
{
    char request[64];
    json_t *reply = NULL;
    snprintf(request, sizeof request, "{\"op\":\"%s\"}", op);
    assert_int_equal(control_call(&dir, request, &reply, &err), ST_OK);
    return reply;
}

static size_t count_of(const char *op, const char *key)
{
    json_t *reply = ask_holder(op);
    size_t n = json_array_size(json_object_get(reply, key));
    json_decref(reply);
    return n;
}

static size_t n_users(void)
{
    json_t *reply = ask_holder("look");
    const json_t *users = json_object_get(json_array_get(json_object_get(reply, "held"), 0), "users");
    size_t n = json_array_size(users);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(json_string_value(json_array_get(users, i)), "decode-7");
    json_decref(reply);
    return n;
}

static void wait_users(size_t n)
{
    for (int i = 0; i < PATIENCE_MS / 10 && n_users() != n; i++)
        usleep(10000);
    assert_int_equal(n_users(), n);
}

/* ---- tests --------------------------------------------------------------------------------- */

static void one_packs_and_others_wait(void **state)
{
    (void)state;
    int a = worker(), b = worker(), c = worker();
    say(a, WEIGHTS_ASK, 0, -1);
    hear_verb(a, WEIGHTS_PACK);
    say(b, WEIGHTS_ASK, 0, -1);
    assert_false(hears_something(b, SILENCE_MS));
    give(a, 1);
    hear_held(b, 1);
    say(c, WEIGHTS_ASK, 0, -1);
    hear_held(c, 1);
    assert_int_equal(n_users(), 3);
    assert_int_equal(count_of("gc", "freed"), 0);
    close(a);
    close(b);
    wait_users(1);
    assert_int_equal(count_of("gc", "freed"), 0);
    close(c);
    wait_users(0);
    assert_int_equal(count_of("gc", "freed"), 1);
    assert_int_equal(count_of("look", "held"), 0);
}

static void a_lost_packer_is_replaced(void **state)
{
    (void)state;
    int a = worker(), b = worker(), c = worker();
    say(a, WEIGHTS_ASK, 0, -1);
    hear_verb(a, WEIGHTS_PACK);
    say(b, WEIGHTS_ASK, 0, -1);
    wait_users(2);
    say(c, WEIGHTS_ASK, 0, -1);
    wait_users(3);
    assert_int_equal(count_of("gc", "freed"), 0); /* nor is what is being packed */
    close(a);
    hear_verb(b, WEIGHTS_PACK);
    assert_false(hears_something(c, SILENCE_MS));
    give(b, 2);
    hear_held(c, 2);
    close(b);
    close(c);
    wait_users(0);
    assert_int_equal(count_of("gc", "freed"), 1);
    a = worker();
    say(a, WEIGHTS_ASK, 0, -1);
    hear_verb(a, WEIGHTS_PACK);
    close(a); /* nobody waits: as if it had never asked */
    for (int i = 0; i < 500 && count_of("look", "held") > 0; i++)
        usleep(10000);
    assert_int_equal(count_of("look", "held"), 0);
}

static void damaged_weights_are_replaced_once(void **state)
{
    (void)state;
    int a = worker(), b = worker(), c = worker();
    say(a, WEIGHTS_ASK, 0, -1);
    hear_verb(a, WEIGHTS_PACK);
    give(a, 3);
    say(b, WEIGHTS_ASK, 0, -1);
    hear_held(b, 3);
    say(c, WEIGHTS_ASK, 0, -1);
    hear_held(c, 3);
    say(b, WEIGHTS_REFUSE, 0, -1);
    hear_verb(b, WEIGHTS_PACK);
    say(c, WEIGHTS_REFUSE, 0, -1); /* the same image: b packs already */
    assert_false(hears_something(c, SILENCE_MS));
    give(b, 4);
    hear_held(c, 4);
    close(a);
    close(b);
    close(c);
    wait_users(0);
    assert_int_equal(count_of("gc", "freed"), 1);
}

static void bad_gifts_are_not_taken(void **state)
{
    (void)state;
    int a = worker(), b = worker(), plain = memfd_create("plain", MFD_CLOEXEC);
    uint64_t bytes;
    say(a, WEIGHTS_ASK, 0, -1);
    hear_verb(a, WEIGHTS_PACK);
    say(b, WEIGHTS_ASK, 0, -1);
    wait_users(2);
    assert_int_equal(ftruncate(plain, 8192), 0);
    say(a, WEIGHTS_GIVE, 8192, plain); /* not sealed */
    hear_verb(a, WEIGHTS_NO);
    hear_verb(a, 0);
    hear_verb(b, WEIGHTS_PACK);
    int fd = image_of(5, &bytes);
    say(b, WEIGHTS_GIVE, bytes + 1, fd);
    hear_verb(b, WEIGHTS_NO);
    close(fd);
    close(plain);
    close(a);
    close(b);
    assert_int_equal(count_of("look", "held"), 0);
}

static void nonsense_ends_the_connection(void **state)
{
    (void)state;
    int a = worker(), b = worker(), c = worker();
    say(a, WEIGHTS_GIVE, 1, -1); /* was not asked to pack */
    hear_verb(a, 0);
    assert_int_equal(send(b, "short", 5, 0), 5);
    hear_verb(b, 0);
    say(c, 99, 0, -1);
    hear_verb(c, 0);
    close(a);
    close(b);
    close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_packs_and_others_wait, start, stop),
        cmocka_unit_test_setup_teardown(a_lost_packer_is_replaced, start, stop),
        cmocka_unit_test_setup_teardown(damaged_weights_are_replaced_once, start, stop),
        cmocka_unit_test_setup_teardown(bad_gifts_are_not_taken, start, stop),
        cmocka_unit_test_setup_teardown(nonsense_ends_the_connection, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
