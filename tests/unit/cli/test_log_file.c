/* Logs: the last lines, across a rotation, and the bound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/log_file.h"

static char dir[] = "/tmp/baton-log-XXXXXX", path[64], old[72];

static int make(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/x.log", dir);
    snprintf(old, sizeof old, "%s.1", path);
    return 0;
}

static int sweep(void **state)
{
    (void)state;
    unlink(path);
    unlink(old);
    return rmdir(dir);
}

static int empty(void **state)
{
    (void)state;
    unlink(path);
    unlink(old);
    return 0;
}

static void append(const char *text)
{
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static const char *tail(size_t n)
{
    static char copy[65536];
    struct text_buffer out;
    text_buffer_init(&out, 60000);
    assert_int_equal(log_file_tail(path, n, &out, NULL), ST_OK);
    snprintf(copy, sizeof copy, "%s", text_buffer_text(&out));
    text_buffer_free(&out);
    return copy;
}

static void last_lines(void **state)
{
    (void)state;
    append("one\ntwo\nthree\n");
    assert_string_equal(tail(2), "two\nthree\n");
    assert_string_equal(tail(9), "one\ntwo\nthree\n");
    assert_string_equal(tail(0), "");
    append("half");
    assert_string_equal(tail(2), "three\nhalf\n");
}

static void no_file_is_said(void **state)
{
    (void)state;
    struct text_buffer out;
    text_buffer_init(&out, 100);
    assert_int_equal(log_file_tail(path, 2, &out, NULL), ST_NOT_FOUND);
    assert_int_equal(log_file_end(path), 0);
    text_buffer_free(&out);
}

static void since_a_start(void **state)
{
    (void)state;
    append("earlier\n");
    uint64_t start = log_file_end(path);
    struct text_buffer out;
    text_buffer_init(&out, 1000);
    append("a\nb\n");
    assert_int_equal(log_file_tail_since(path, start, 10, &out), ST_OK);
    assert_string_equal(text_buffer_text(&out), "a\nb\n");
    text_buffer_clear(&out);
    assert_int_equal(log_file_tail_since(path, 1000, 10, &out), ST_OK); /* it was cut since: all counts */
    assert_string_equal(text_buffer_text(&out), "earlier\na\nb\n");
    text_buffer_free(&out);
}

static void a_large_file_is_rotated_under_its_writer(void **state)
{
    (void)state;
    struct stat info;
    int writer = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char line[101];
    memset(line, 'x', 99);
    line[99] = '\n';
    for (int i = 0; i < 50; i++)
        assert_int_equal(write(writer, line, 100), 100);
    assert_false(log_file_bound(path, 5000));
    assert_true(log_file_bound(path, 4999));
    assert_int_equal(write(writer, "after\n", 6), 6); /* lands at the start, not behind a hole */
    close(writer);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 6);
    assert_int_equal(stat(old, &info), 0);
    assert_int_equal(info.st_size, 5000);
    const char *both = tail(2);
    assert_int_equal(strlen(both), 106);
    assert_string_equal(both + 100, "after\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(last_lines, empty),
        cmocka_unit_test_teardown(no_file_is_said, empty),
        cmocka_unit_test_teardown(since_a_start, empty),
        cmocka_unit_test_teardown(a_large_file_is_rotated_under_its_writer, empty),
    };
    return cmocka_run_group_tests(tests, make, sweep);
}
