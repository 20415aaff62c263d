/* A worker's side of shared weights: a holder that answers, is slow, says nonsense or is not there; systemd's store. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/unix_socket.h"
#include "proto/weights_message.h"
#include "worker/weights_client.h"

#define KEY "00-avx2-portable"

static char top[] = "/tmp/baton-weights-XXXXXX";
static char holder_path[64];
static int listener = -1;

static void open_folder(int type)
{
    strcpy(top + sizeof top - 7, "XXXXXX");
    assert_non_null(mkdtemp(top));
    snprintf(holder_path, sizeof holder_path, "%s/" WEIGHTS_SOCKET, top);
    int dir_fd = open(top, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    listener = unix_socket_bind(dir_fd, WEIGHTS_SOCKET, type);
    close(dir_fd);
    assert_true(listener >= 0);
}

static int open_holder(void **state)
{
    (void)state;
    open_folder(SOCK_SEQPACKET);
    return listen(listener, 4);
}

static int close_folder(void **state)
{
    (void)state;
    close(listener);
    unlink(holder_path);
    return rmdir(top);
}

static struct weights_client *client_of(uint64_t timeout_us, bool (*told_to_end)(void))
{
    struct weights_client *client = NULL;
    const struct weights_client_options options = { holder_path, timeout_us, told_to_end };
    assert_int_equal(weights_client_create(&options, &client), ST_OK);
    return client;
}

/* ---- a holder that says what it is told to ------------------------------------------------ */

struct script {
    const enum weights_verb *hears, *says; /* in turn, ended by 0 */
    int fd;                                /* goes with HELD */
    unsigned wrong;
    pthread_t thread;
};

static void *hold(void *arg)
{
    struct script *s = arg;
    int socket = accept(listener, NULL, NULL);
    for (int i = 0; s->hears[i]; i++) {
        struct weights_message m;
        int fd;
        s->wrong += unix_socket_receive(socket, &m, sizeof m, &fd) != ST_OK || m.verb != s->hears[i] ||
                    strcmp(m.key, KEY) != 0 || (fd >= 0) != (m.verb == WEIGHTS_GIVE);
        if (fd >= 0)
            close(fd);
        m = (struct weights_message){ .verb = s->says[i] };
        s->wrong += unix_socket_send(socket, &m, sizeof m, m.verb == WEIGHTS_HELD ? s->fd : -1) != ST_OK;
    }
    char end;
    s->wrong += recv(socket, &end, 1, 0) != 0; /* until the worker hangs up */
    close(socket);
    return NULL;
}

static void begin(struct script *s)
{
    assert_int_equal(pthread_create(&s->thread, NULL, hold, s), 0);
}

static void end(struct script *s, struct weights_client **client)
{
    weights_client_destroy(client);
    pthread_join(s->thread, NULL);
    assert_int_equal(s->wrong, 0);
}

static status take(const struct weights_client *client, bool refused, int *fd)
{
    const struct weights_store *store = weights_client_store(client);
    *fd = -1;
    return store->take(store->ctx, KEY, refused, fd);
}

static bool give(const struct weights_client *client)
{
    const struct weights_store *store = weights_client_store(client);
    struct weight_image image = { .fd = memfd_create("image", MFD_CLOEXEC), .map_bytes = 1 };
    bool kept = store->give(store->ctx, KEY, &image);
    weight_image_close_fd(&image);
    return kept;
}

static void takes_refuses_and_gives(void **state)
{
    (void)state;
    static const enum weights_verb hears[] = { WEIGHTS_ASK, WEIGHTS_REFUSE, WEIGHTS_GIVE, 0 };
    static const enum weights_verb says[] = { WEIGHTS_HELD, WEIGHTS_PACK, WEIGHTS_KEPT };
    struct script s = { .hears = hears, .says = says, .fd = memfd_create("held", MFD_CLOEXEC) };
    struct weights_client *client = client_of(10000000, NULL);
    int fd;
    begin(&s);
    assert_int_equal(take(client, false, &fd), ST_OK);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(take(client, true, &fd), ST_NOT_FOUND);
    assert_true(give(client));
    end(&s, &client);
    close(s.fd);
}

static void answers_that_make_no_sense(void **state)
{
    (void)state;
    static const enum weights_verb hears[] = { WEIGHTS_ASK, 0 }, gives[] = { WEIGHTS_ASK, WEIGHTS_GIVE, 0 };
    static const enum weights_verb odd[] = { WEIGHTS_KEPT }, no[] = { WEIGHTS_NO },
                                   packs[] = { WEIGHTS_PACK, WEIGHTS_NO };
    const enum weights_verb *const refusals[] = { odd, no };
    int fd;
    for (int i = 0; i < 2; i++) {
        struct script s = { .hears = hears, .says = refusals[i] };
        struct weights_client *client = client_of(10000000, NULL);
        begin(&s);
        assert_int_equal(take(client, false, &fd), ST_LIMIT);
        assert_int_equal(fd, -1);
        end(&s, &client);
    }
    struct script s = { .hears = gives, .says = packs };
    struct weights_client *client = client_of(10000000, NULL);
    begin(&s);
    assert_int_equal(take(client, false, &fd), ST_NOT_FOUND);
    assert_false(give(client));
    end(&s, &client);
}

static bool always(void)
{
    return true;
}

/* The holder accepts and says nothing. */
static void waiting_has_an_end(void **state)
{
    (void)state;
    struct weights_client *client = client_of(50000, NULL);
    int fd;
    assert_int_equal(take(client, false, &fd), ST_TIMEOUT);
    weights_client_destroy(&client);
    client = client_of(600000000, always);
    assert_int_equal(take(client, false, &fd), ST_CANCELLED);
    weights_client_destroy(&client);
    weights_client_destroy(&client);
}

static void nobody_is_there(void **state)
{
    (void)state;
    int fd;
    snprintf(holder_path, sizeof holder_path, "/tmp/no-such-folder/" WEIGHTS_SOCKET);
    struct weights_client *client = client_of(10000000, NULL);
    assert_int_equal(take(client, false, &fd), ST_CLOSED);
    weights_client_destroy(&client);
    holder_path[0] = '\0';
    client = client_of(10000000, NULL);
    assert_null(weights_client_store(client));
    weights_client_destroy(&client);
}

/* ---- systemd ---------------------------------------------------------------------------------- */

static int open_systemd(void **state)
{
    (void)state;
    open_folder(SOCK_DGRAM);
    setenv("NOTIFY_SOCKET", holder_path, 1);
    return 0;
}

static int close_systemd(void **state)
{
    snprintf(holder_path, sizeof holder_path, "%s/" WEIGHTS_SOCKET, top);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return close_folder(state);
}

static void hear_notice(const char *text, bool with_fd)
{
    char notice[256] = "";
    int fd = -1;
    assert_int_equal(unix_socket_receive(listener, notice, strlen(text), &fd), ST_OK);
    assert_string_equal(notice, text);
    assert_int_equal(fd >= 0, with_fd);
    if (fd >= 0)
        close(fd);
}

static struct weights_client *systemd_client(void)
{
    struct weights_client *client = NULL;
    const struct weights_client_options options = { "", 1000000, NULL };
    assert_int_equal(weights_client_create(&options, &client), ST_OK);
    assert_non_null(weights_client_store(client));
    return client;
}

static void systemd_keeps_what_is_given(void **state)
{
    (void)state;
    struct weights_client *client = systemd_client();
    int fd;
    assert_int_equal(take(client, false, &fd), ST_NOT_FOUND);
    assert_true(give(client));
    hear_notice("FDSTORE=1\nFDNAME=baton-weights-" KEY, true);
    weights_client_destroy(&client);
}

/* Descriptors 3, 4 and 5 are passed as after a restart: one of another purpose, one of an earlier model, and ours. */
static void systemd_gives_them_back(void **state)
{
    (void)state;
    char pid[16];
    struct weights_client *client = systemd_client();
    int fd, keep[3], passed = memfd_create("passed", 0);
    for (int i = 0; i < 3; i++) {
        keep[i] = fcntl(3 + i, F_DUPFD_CLOEXEC, 20);
        dup2(passed, 3 + i);
    }
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "3", 1);
    setenv("LISTEN_FDNAMES", "other:baton-weights-old:baton-weights-" KEY, 1);
    int listener_was = listener;
    for (int i = 0; i < 3; i++)
        if (listener == 3 + i)
            listener = keep[i];
    status st = take(client, false, &fd);
    int old_is_open = fcntl(4, F_GETFD), ours = fcntl(5, F_GETFD), other = fcntl(3, F_GETFD);
    for (int i = 0; i < 3; i++) {
        if (keep[i] >= 0 && dup2(keep[i], 3 + i) >= 0)
            close(keep[i]);
        else
            close(3 + i);
    }
    listener = listener_was;
    close(passed);
    assert_int_equal(st, ST_OK);
    assert_int_equal(fd, 5);
    assert_int_equal(ours, FD_CLOEXEC);
    assert_int_equal(other, 0);
    assert_int_equal(old_is_open, -1);
    hear_notice("FDSTOREREMOVE=1\nFDNAME=baton-weights-old", false);
    assert_int_equal(take(client, true, &fd), ST_NOT_FOUND);
    hear_notice("FDSTOREREMOVE=1\nFDNAME=baton-weights-" KEY, false);
    setenv("LISTEN_PID", "1", 1); /* meant for another process */
    assert_int_equal(take(client, false, &fd), ST_NOT_FOUND);
    weights_client_destroy(&client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(takes_refuses_and_gives, open_holder, close_folder),
        cmocka_unit_test_setup_teardown(answers_that_make_no_sense, open_holder, close_folder),
        cmocka_unit_test_setup_teardown(waiting_has_an_end, open_holder, close_folder),
        cmocka_unit_test(nobody_is_there),
        cmocka_unit_test_setup_teardown(systemd_keeps_what_is_given, open_systemd, close_systemd),
        cmocka_unit_test_setup_teardown(systemd_gives_them_back, open_systemd, close_systemd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
