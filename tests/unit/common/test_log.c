/* What stands in a line, and that a line is one line of bounded length whatever it is given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

static int stderr_kept, read_end;
static char text[8192];

static int begin(void **state)
{
    (void)state;
    int ends[2];
    fflush(stderr);
    stderr_kept = dup(STDERR_FILENO);
    if (pipe(ends) < 0 || dup2(ends[1], STDERR_FILENO) < 0)
        return -1;
    close(ends[1]);
    read_end = ends[0];
    return 0;
}

/* Gives standard error back and returns what was written. */
static const char *logged(void)
{
    dup2(stderr_kept, STDERR_FILENO);
    close(stderr_kept);
    size_t n = 0;
    for (ssize_t got; (got = read(read_end, text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    close(read_end);
    text[n] = '\0';
    return text;
}

static void test_a_line(void **state)
{
    (void)state;
    log_init("decode-0", LOG_INFO);
    log_info("sequence admitted", "request=%s tokens=%d", "1f.2a", 37);
    log_error("plain", "");
    log_debug("below the least", "");
    const char *line = logged(), *second = strchr(line, '\n') + 1;
    assert_int_equal(line[23], 'Z'); /* 2026-01-31T12:00:00.123Z */
    assert_int_equal(strncmp(line + 24, " info decode-0 msg=\"sequence admitted\" request=1f.2a tokens=37\n",
                             (size_t)(second - line - 24)),
                     0);
    assert_string_equal(second + 24, " error decode-0 msg=\"plain\"\n");
}

static void test_a_long_line_is_cut(void **state)
{
    (void)state;
    char lengthy[4000];
    memset(lengthy, 'x', sizeof lengthy);
    lengthy[sizeof lengthy - 1] = '\0';
    log_init("decode-0", LOG_INFO);
    log_warn("cut", "value=%s", lengthy);
    log_warn(lengthy, "value=1");
    const char *line = logged(), *second = strchr(line, '\n') + 1;
    assert_true(second - line > 1000 && second - line <= 2048);
    assert_true(strlen(second) > 1000 && strlen(second) <= 2048);
    assert_ptr_equal(strchr(second, '\n'), second + strlen(second) - 1);
}

static void test_levels(void **state)
{
    (void)state;
    enum log_level level = LOG_DEBUG;
    assert_int_equal(log_level_parse("WARN", &level), ST_OK);
    assert_int_equal(level, LOG_WARN);
    assert_int_equal(log_level_parse("loud", &level), ST_INVALID);
    log_init("x", LOG_OFF);
    assert_false(log_enabled(LOG_ERROR));
    log_init("x", LOG_WARN);
    assert_false(log_enabled(LOG_INFO));
    assert_true(log_enabled(LOG_WARN));
}

static void test_quoting(void **state)
{
    (void)state;
    char buf[64], tiny[8];
    assert_string_equal(log_quote(buf, sizeof buf, "a \"b\" c\\d\ne"), "\"a \\\"b\\\" c\\\\d e\"");
    assert_string_equal(log_quote(buf, sizeof buf, ""), "\"\"");
    log_quote(tiny, sizeof tiny, "\"\"\"\"\"\"\"\"\"\"");
    assert_true(strlen(tiny) < sizeof tiny);
    assert_int_equal(tiny[strlen(tiny) - 1], '"');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_line, begin),
        cmocka_unit_test_setup(test_a_long_line_is_cut, begin),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_quoting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
