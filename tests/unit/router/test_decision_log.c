/* The file of decisions: whole lines, two files at most, and nobody waits for the disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/log.h"
#include "router/decision_log.h"

static char dir[64];

static int open_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/baton-decisions-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int close_dir(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command); /* NOLINT(bugprone-command-processor): a folder of this test's own */
}

static const char *path_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static struct decision_log *open_log(const char *name, uint64_t max_bytes)
{
    struct decision_log *log = NULL;
    struct error err;
    if (decision_log_open(path_of(name), "router-7", max_bytes, &log, &err) != ST_OK)
        fail_msg("%s", err.text);
    return log;
}

/* Lines of a file, each "line N ..." with N one more than the last; returns how many, and the first N. */
static unsigned count_lines(const char *name, unsigned *first)
{
    char text[512];
    unsigned n = 0, number;
    FILE *f = fopen(path_of(name), "r");
    if (!f)
        return 0;
    while (fgets(text, sizeof text, f)) {
        assert_int_equal(text[strlen(text) - 1], '\n');
        assert_int_equal(sscanf(text, "line %u", &number), 1);
        if (n == 0)
            *first = number;
        assert_int_equal(number, *first + n);
        n++;
    }
    fclose(f);
    return n;
}

static bool add(struct decision_log *log, unsigned number)
{
    char line[128];
    int n = snprintf(line, sizeof line, "line %u %0*d", number, 80, 0);
    return decision_log_add(log, line, (size_t)n);
}

static void test_lines_are_appended(void **state)
{
    (void)state;
    unsigned first;
    for (unsigned run = 0; run < 2; run++) { /* as a router that was started again does */
        struct decision_log *log = open_log("of-{id}.jsonl", 1 << 20);
        for (unsigned i = 0; i < 10; i++)
            assert_true(add(log, 10 * run + i));
        decision_log_close(&log);
        assert_null(log);
    }
    assert_int_equal(count_lines("of-router-7.jsonl", &first), 20);
    assert_int_equal(first, 0);
}

static uint64_t size_of(const char *name)
{
    struct stat st;
    return stat(path_of(name), &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void test_two_files_at_most(void **state)
{
    (void)state;
    enum { LINES = 5000, MOST = 65536 };
    struct decision_log *log = open_log("log", MOST);
    unsigned first, first_old;
    for (unsigned i = 0; i < LINES; i++)
        assert_true(add(log, i));
    decision_log_close(&log);
    unsigned n = count_lines("log", &first), n_old = count_lines("log.1", &first_old);
    assert_true(n > 0 && n_old > 600);
    assert_int_equal(first_old + n_old, first); /* the old one ends where the new one begins */
    assert_int_equal(first + n, LINES);
    assert_true(size_of("log") <= MOST && size_of("log.1") <= MOST);
    assert_int_equal(count_lines("log.2", &first), 0);
}

/* A line longer than a file may be goes into a file of its own. */
static void test_a_line_longer_than_a_file(void **state)
{
    (void)state;
    static char line[4096];
    struct decision_log *log = open_log("log", 1000);
    memset(line, 'x', sizeof line);
    assert_true(decision_log_add(log, line, 10));
    assert_true(decision_log_add(log, line, sizeof line));
    assert_true(decision_log_add(log, line, 20));
    decision_log_close(&log);
    assert_int_equal(size_of("log"), 21);
    assert_int_equal(size_of("log.1"), sizeof line + 1);
}

static void wait_for_lines(struct decision_log *log, uint64_t lines)
{
    struct decision_log_stats s;
    for (int i = 0; i < 5000; i++) {
        decision_log_stats(log, &s);
        if (s.lines + s.dropped >= lines)
            return;
        usleep(1000);
    }
    fail_msg("the thread does not write");
}

/* What nobody reads fills up: a pipe here, a slow disk elsewhere. Adding goes on, drops, and goes on when there is
 * room. */
static void test_a_stuck_file_stops_nobody(void **state)
{
    (void)state;
    static char line[65536];
    struct decision_log_stats s;
    char path[128];
    snprintf(path, sizeof path, "%s", path_of("pipe"));
    assert_int_equal(mkfifo(path, 0600), 0);
    FILE *reader = fopen(path, "r+"); /* both ends, so that neither waits */
    assert_non_null(reader);
    struct decision_log *log = open_log("pipe", UINT64_MAX);
    memset(line, 'x', sizeof line);
    unsigned taken = 0, refused = 0;
    for (unsigned i = 0; i < 300; i++) /* 19 MiB */
        if (decision_log_add(log, line, sizeof line - 1))
            taken++;
        else
            refused++;
    assert_true(refused > 0 && taken * sizeof line <= 2 * DECISION_LOG_WAITING);
    decision_log_stats(log, &s);
    assert_int_equal(s.dropped, refused);
    for (uint64_t left = (uint64_t)taken * sizeof line; left > 0; left -= sizeof line)
        assert_int_equal(fread(line, 1, sizeof line, reader), sizeof line);
    wait_for_lines(log, 300);
    assert_true(decision_log_add(log, "x", 1));
    wait_for_lines(log, 301);
    decision_log_close(&log);
    fclose(reader);
}

static void test_a_full_disk_is_counted(void **state)
{
    (void)state;
    struct decision_log *log = NULL;
    struct decision_log_stats s;
    struct error err;
    if (access("/dev/full", W_OK) != 0)
        skip();
    assert_int_equal(decision_log_open("/dev/full", "r", UINT64_MAX, &log, &err), ST_OK);
    for (unsigned i = 0; i < 5; i++)
        assert_true(add(log, i));
    wait_for_lines(log, 5);
    decision_log_stats(log, &s);
    assert_int_equal(s.dropped, 5);
    assert_int_equal(s.lines, 0);
    decision_log_close(&log);
}

static void test_refusals(void **state)
{
    (void)state;
    struct decision_log *log = NULL;
    struct error err;
    static char path[2000];
    assert_int_equal(decision_log_open("/no/such/folder/log", "r", 1 << 20, &log, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "/no/such/folder/log"));
    memset(path, 'a', sizeof path - 1);
    assert_int_equal(decision_log_open(path, "r", 1 << 20, &log, &err), ST_INVALID);
    assert_null(log);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_dir, close_dir)

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        TEST(test_lines_are_appended),        TEST(test_two_files_at_most),      TEST(test_a_line_longer_than_a_file),
        TEST(test_a_stuck_file_stops_nobody), TEST(test_a_full_disk_is_counted), TEST(test_refusals),
    };
    return cmocka_run_group_tests_name("decision_log", tests, NULL, NULL);
}
