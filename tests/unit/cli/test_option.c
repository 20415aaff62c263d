/* Options: values, limits, repeats, and what a slip of the finger gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/option.h"

static int64_t number;
static double real;
static bool flag;
static const char *text, *word;
static struct option_list list;
static const struct option_row rows[] = {
    { "number", 'n', OPTION_INT, &number, "N", "", 1, 9 },   { "real", 0, OPTION_REAL, &real, "X", "", 0, 2 },
    { "follow", 'f', OPTION_FLAG, &flag, "", "", 0, 0 },     { "text", 0, OPTION_TEXT, &text, "T", "", 0, 0 },
    { "word", 0, OPTION_WORD, &word, "auto|shm", "", 0, 0 }, { "set", 0, OPTION_LIST, &list, "K=V", "", 0, 0 },
};
static struct arguments arguments;
static struct error err;

static status parse(const char *a, const char *b, const char *c, const char *d)
{
    char *argv[] = { (char *)"x", (char *)a, (char *)b, (char *)c, (char *)d, NULL };
    int argc = 1;
    while (argv[argc])
        argc++;
    number = 5;
    flag = false;
    text = word = NULL;
    list.n = 0;
    err.text[0] = '\0';
    return option_parse(argc, argv, rows, sizeof rows / sizeof rows[0], &arguments, &err);
}

static void values_in_both_forms(void **state)
{
    (void)state;
    assert_int_equal(parse("--number", "7", "--text=a=b", "--follow"), ST_OK);
    assert_int_equal(number, 7);
    assert_string_equal(text, "a=b");
    assert_true(flag);
    assert_int_equal(parse("-n", "2", "-f", "left"), ST_OK);
    assert_int_equal(number, 2);
    assert_true(flag);
    assert_int_equal(arguments.n, 1);
    assert_string_equal(arguments.items[0], "left");
    assert_int_equal(parse("--real=0.5", "--word", "shm", NULL), ST_OK);
    assert_true(real == 0.5);
    assert_string_equal(word, "shm");
}

static void lists_keep_their_order(void **state)
{
    (void)state;
    assert_int_equal(parse("--set", "a.b=1", "--set=c.d=2", NULL), ST_OK);
    assert_int_equal(list.n, 2);
    assert_string_equal(list.items[0], "a.b=1");
    assert_string_equal(list.items[1], "c.d=2");
}

static void what_follows_two_dashes_is_no_option(void **state)
{
    (void)state;
    assert_int_equal(parse("--", "--number", "-f", "-"), ST_OK);
    assert_int_equal(arguments.n, 3);
    assert_int_equal(number, 5);
    assert_false(flag);
}

static void wrong_values_name_what_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(parse("--number", "10", NULL, NULL), ST_INVALID);
    assert_non_null(strstr(err.text, "from 1 to 9"));
    assert_int_equal(parse("--number", "3x", NULL, NULL), ST_INVALID);
    assert_int_equal(parse("--number", "", NULL, NULL), ST_INVALID);
    assert_int_equal(parse("--real", "nan", NULL, NULL), ST_INVALID);
    assert_int_equal(parse("--word", "sh", NULL, NULL), ST_INVALID);
    assert_non_null(strstr(err.text, "auto|shm"));
    assert_int_equal(parse("--word", "", NULL, NULL), ST_INVALID);
    assert_int_equal(parse("--follow=1", NULL, NULL, NULL), ST_INVALID);
    assert_int_equal(parse("--text", NULL, NULL, NULL), ST_INVALID);
    assert_non_null(strstr(err.text, "needs a value"));
}

static void unknown_options_name_the_nearest(void **state)
{
    (void)state;
    assert_int_equal(parse("--nubmer=3", NULL, NULL, NULL), ST_INVALID);
    assert_non_null(strstr(err.text, "did you mean --number?"));
    assert_int_equal(parse("--entirely-different", NULL, NULL, NULL), ST_INVALID);
    assert_null(strstr(err.text, "did you mean"));
    assert_int_equal(parse("-z", NULL, NULL, NULL), ST_INVALID);
    assert_int_equal(parse("--numbers", "3", NULL, NULL), ST_INVALID);
}

static void nearest_needs_some_likeness(void **state)
{
    (void)state;
    static const char *const names[] = { "status", "scale", "chat" };
    assert_string_equal(nearest_name("statsu", names, 3), "status");
    assert_string_equal(nearest_name("scal", names, 3), "scale");
    assert_null(nearest_name("xyzzyxyzzy", names, 3));
    assert_null(
        nearest_name("this one is far longer than any word that a command line would reasonably hold", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_in_both_forms),
        cmocka_unit_test(lists_keep_their_order),
        cmocka_unit_test(what_follows_two_dashes_is_no_option),
        cmocka_unit_test(wrong_values_name_what_is_allowed),
        cmocka_unit_test(unknown_options_name_the_nearest),
        cmocka_unit_test(nearest_needs_some_likeness),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
