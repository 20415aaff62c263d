/* Paths of values in JSON texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "router/json_place.h"

static const struct {
    const char *text, *path;
} rows[] = {
    { "", "" },
    { "1", "" },
    { "{\"a\":1", "a" },
    { "{\"a\" : \"x,y\", \"b\":1", "b" },
    { "{\"a\":{\"b\":1", "a.b" },
    { "{\"a\":{\"b\":1}, \"c\":1", "c" },
    { "[1", "[0]" },
    { "[[], {\"a\":[0, {}]}, 1", "[2]" },
    { "{\"a\":[{\"b\":[1, 2], \"c\":[{}, \"]\", 7", "a[0].c[2]" },
    { "{\"q\\\"{\\\\\":[\"a\\\"b\", 1", "q\\\"{\\\\[1]" },
    { "{\"a\":[[[[[[[[[[1", "a[0][0][0][0][0][0][0]" },
    { "{\"a\":[[[[[[[[[[1]]]]]]]]], 1", "a[1]" },
};

static void test_paths(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char path[64];
        json_place_find(rows[i].text, strlen(rows[i].text), path, sizeof path);
        if (strcmp(path, rows[i].path) != 0)
            fail_msg("%s: '%s', not '%s'", rows[i].text, path, rows[i].path);
    }
}

static void test_long_names_are_cut(void **state)
{
    (void)state;
    static const char text[] = "{\"abcdefgh\":{\"ijkl\":[1";
    char path[12];
    for (size_t size = 1; size <= sizeof path; size++) {
        memset(path, 'x', sizeof path);
        json_place_find(text, sizeof text - 1, path, size);
        assert_int_equal(strlen(path), size - 1);
        assert_memory_equal(path, "abcdefgh.ijkl", size - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_long_names_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
