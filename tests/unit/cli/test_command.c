/* Which command runs and with what, and help on one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"

static char seen[128];

static int note(const struct command *self, int argc, char **argv)
{
    int n = snprintf(seen, sizeof seen, "%s:", self->name);
    for (int i = 1; i < argc; i++)
        n += snprintf(seen + n, sizeof seen - (size_t)n, " %s", argv[i]);
    return 7;
}

static const struct command inner_alpha = { "group alpha", "", "", note };

static int group(const struct command *self, int argc, char **argv)
{
    static const struct command *const table[] = { &inner_alpha, NULL };
    (void)self;
    return command_dispatch("test group", table, argc, argv);
}

static const struct command outer_beta = { "beta", "", "", note }, outer_group = { "group", "", "", group };
static const struct command *const commands[] = { &outer_beta, &outer_group, NULL };

/* Up to five words, the program's name first. */
static int dispatch(const char *a, const char *b, const char *c, const char *d)
{
    const char *words[] = { "test", a, b, c, d, NULL };
    char *argv[6] = { NULL };
    int argc = 0;
    for (; words[argc]; argc++)
        assert_non_null(argv[argc] = strdup(words[argc]));
    char *const owned[] = { argv[0], argv[1], argv[2], argv[3], argv[4] };
    seen[0] = '\0';
    int code = command_dispatch("test", commands, argc, argv);
    for (int i = 0; i < argc; i++)
        free(owned[i]);
    return code;
}

static void test_a_command_gets_its_arguments(void **state)
{
    (void)state;
    assert_int_equal(dispatch("beta", "x", "--y", NULL), 7);
    assert_string_equal(seen, "beta: x --y");
    assert_int_equal(dispatch("group", "alpha", "z", NULL), 7);
    assert_string_equal(seen, "group alpha: z");
}

static void test_help_on_a_command_is_its_own(void **state)
{
    (void)state;
    assert_int_equal(dispatch("help", "beta", NULL, NULL), 7);
    assert_string_equal(seen, "beta: --help");
    assert_int_equal(dispatch("help", "group", "alpha", NULL), 7);
    assert_string_equal(seen, "group alpha: --help");
}

static void test_help_alone_lists(void **state)
{
    (void)state;
    assert_int_equal(dispatch("help", NULL, NULL, NULL), EXIT_DONE);
    assert_int_equal(dispatch("help", "help", NULL, NULL), EXIT_DONE);
    assert_int_equal(dispatch("help", "group", NULL, NULL), EXIT_DONE);
    assert_string_equal(seen, "");
}

static void test_an_unknown_command_is_wrong_use(void **state)
{
    (void)state;
    assert_int_equal(dispatch("betta", NULL, NULL, NULL), EXIT_USAGE);
    assert_int_equal(dispatch("help", "betta", NULL, NULL), EXIT_USAGE);
    assert_int_equal(dispatch(NULL, NULL, NULL, NULL), EXIT_USAGE);
    assert_string_equal(seen, "");
}

static int read_flag(const struct command *self, char *word, struct arguments *arguments)
{
    bool flag = false;
    int code = -1;
    char name[] = "beta", *argv[] = { name, word, NULL };
    const struct option_row rows[] = { { "flag", 0, OPTION_FLAG, &flag, "", "", 0, 0 } };
    if (command_options(self, 2, argv, rows, COUNT_OF(rows), arguments, &code))
        return flag ? 1 : 0;
    return code;
}

static void test_an_argument_nobody_takes_is_wrong_use(void **state)
{
    (void)state;
    struct arguments arguments;
    char flag[] = "--flag", word[] = "stray", wrong[] = "--flog";
    assert_int_equal(read_flag(&outer_beta, flag, NULL), 1);
    assert_int_equal(read_flag(&outer_beta, word, NULL), EXIT_USAGE);
    assert_int_equal(read_flag(&outer_beta, wrong, NULL), EXIT_USAGE);
    assert_int_equal(read_flag(&outer_beta, word, &arguments), 0);
    assert_int_equal(arguments.n, 1);
    assert_string_equal(arguments.items[0], word);
}

/* What was complained of, as the terminal would get it. */
static void read_complaint(int (*complain)(const struct command *, const char *, ...), const char *quoted, char *out,
                           size_t size)
{
    int ends[2], before = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    (void)complain(&outer_beta, "%s", quoted);
    assert_int_equal(dup2(before, STDERR_FILENO), STDERR_FILENO);
    ssize_t n = read(ends[0], out, size - 1);
    assert_true(n > 0);
    out[n] = '\0';
    close(ends[0]);
    close(ends[1]);
    close(before);
}

static void test_complaints_do_not_steer_the_terminal(void **state)
{
    (void)state;
    char text[256];
    read_complaint(command_failed, "tensor \x1b[2Ja\nb\x7f", text, sizeof text);
    assert_string_equal(text, "baton beta: tensor  [2Ja b \n");
    read_complaint(command_misuse, "--k\xc3\xa4se\r", text, sizeof text);
    assert_string_equal(text, "baton beta: --k\xc3\xa4se  (see baton beta --help)\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_command_gets_its_arguments),
        cmocka_unit_test(test_help_on_a_command_is_its_own),
        cmocka_unit_test(test_help_alone_lists),
        cmocka_unit_test(test_an_unknown_command_is_wrong_use),
        cmocka_unit_test(test_an_argument_nobody_takes_is_wrong_use),
        cmocka_unit_test(test_complaints_do_not_steer_the_terminal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
