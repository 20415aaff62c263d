/* Runs that are kept: what was saved is found, and what is none is told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/baseline.h"

static void test_names(void **state)
{
    static const char *const good[] = { "a", "night-1.0_x",
                                        "0123456789012345678901234567890123456789012345678901234567890123" };
    static const char *const bad[] = {
        "", ".", ".a", "a/b", "a b", "\xc3\xa4", "01234567890123456789012345678901234567890123456789012345678901234"
    };
    struct error err;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(baseline_check_name(good[i], &err), ST_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(baseline_check_name(bad[i], &err), ST_INVALID);
}

static void save(const char *dir, const char *name, const char *text)
{
    struct error err;
    assert_int_equal(baseline_save(dir, name, text, strlen(text), &err), ST_OK);
}

static void test_saved_and_found(void **state)
{
    char dir[] = "/tmp/baton-baseline-XXXXXX", inner[64], file[128];
    struct error err;
    json_t *found = NULL;
    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(inner, sizeof inner, "%s/new", dir);
    assert_int_equal(baseline_load(inner, "a", "s 1", &found, &err), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "new/a.json"));
    save(inner, "a", "{\"schema\": \"s 1\", \"x\": 1}");
    save(inner, "a", "{\"schema\": \"s 1\", \"x\": 2}");
    assert_int_equal(baseline_load(inner, "a", "s 1", &found, &err), ST_OK);
    assert_int_equal(json_integer_value(json_object_get(found, "x")), 2);
    json_decref(found);
    found = NULL;
    assert_int_equal(baseline_load(inner, "a", "s 2", &found, &err), ST_INVALID);
    save(inner, "a", "{\"schema\": \n");
    assert_int_equal(baseline_load(inner, "a", "s 1", &found, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "line"));
    assert_null(found);
    (void)snprintf(file, sizeof file, "%s/a.json", inner);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(inner), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_names), cmocka_unit_test(test_saved_and_found) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
