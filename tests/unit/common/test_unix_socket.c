/* Sockets in folders with long names, and descriptors that travel with records. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/unix_socket.h"

static int pair[2];

static int open_pair(void **state)
{
    (void)state;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair);
}

static int close_pair(void **state)
{
    (void)state;
    close(pair[0]);
    close(pair[1]);
    return 0;
}

static void a_descriptor_travels(void **state)
{
    (void)state;
    char got[4], byte = 0;
    int pipe_fds[2], fd = -1;
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(unix_socket_receive(pair[1], got, sizeof got, &fd), ST_AGAIN);
    assert_int_equal(unix_socket_send(pair[0], "one", 4, pipe_fds[1]), ST_OK);
    assert_int_equal(unix_socket_send(pair[0], "two", 4, -1), ST_OK);
    assert_int_equal(unix_socket_receive(pair[1], got, sizeof got, &fd), ST_OK);
    assert_string_equal(got, "one");
    assert_true(fd >= 0 && fd != pipe_fds[1] && fcntl(fd, F_GETFD) == FD_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    close(fd);
    assert_int_equal(unix_socket_receive(pair[1], got, sizeof got, &fd), ST_OK);
    assert_string_equal(got, "two");
    assert_int_equal(fd, -1);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

/* Descriptors that nobody wants must not stay open: the pipe would not end. */
static void another_length_is_refused(void **state)
{
    (void)state;
    char got[4], byte;
    int pipe_fds[2], fd = 7;
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(unix_socket_send(pair[0], "longer", 7, pipe_fds[1]), ST_OK);
    close(pipe_fds[1]);
    assert_int_equal(unix_socket_receive(pair[1], got, sizeof got, &fd), ST_CORRUPT);
    assert_int_equal(fd, -1);
    assert_int_equal(read(pipe_fds[0], &byte, 1), 0);
    close(pipe_fds[0]);
    assert_int_equal(unix_socket_send(pair[0], "a", 1, -1), ST_OK);
    assert_int_equal(unix_socket_receive(pair[1], got, sizeof got, &fd), ST_CORRUPT);
}

static void an_end_is_told(void **state)
{
    (void)state;
    char got[4];
    int fd;
    shutdown(pair[0], SHUT_RDWR);
    assert_int_equal(unix_socket_receive(pair[1], got, sizeof got, &fd), ST_CLOSED);
    assert_int_equal(unix_socket_send(pair[1], "one", 4, -1), ST_CLOSED);
}

static void folders_may_have_long_names(void **state)
{
    (void)state;
    char top[] = "/tmp/baton-socket-XXXXXX", path[512], file[600];
    assert_non_null(mkdtemp(top));
    snprintf(path, sizeof path, "%s/%0200d", top, 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(unix_socket_connect(path, "s", SOCK_STREAM), -1);
    assert_int_equal(errno, ENOENT);
    int dir_fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    for (int turn = 0; turn < 2; turn++) { /* what an earlier process left is replaced */
        int listener = unix_socket_bind(dir_fd, "s", SOCK_STREAM);
        assert_true(listener >= 0);
        assert_int_equal(unix_socket_connect(path, "s", SOCK_STREAM), -1);
        assert_int_equal(errno, ECONNREFUSED);
        assert_int_equal(listen(listener, 1), 0);
        int fd = unix_socket_connect(path, "s", SOCK_STREAM);
        assert_true(fd >= 0);
        close(fd);
        close(listener);
    }
    close(dir_fd);
    snprintf(file, sizeof file, "%s/s", path);
    unlink(file);
    rmdir(path);
    rmdir(top);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_descriptor_travels, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(another_length_is_refused, open_pair, close_pair),
        cmocka_unit_test_setup_teardown(an_end_is_told, open_pair, close_pair),
        cmocka_unit_test(folders_may_have_long_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
