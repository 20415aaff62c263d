/* Which variables look like a misspelt option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/stray_variable.h"

static char nearest[64];

static bool is_stray(const char *name)
{
    nearest[0] = '\0';
    return stray_variable(name, nearest, sizeof nearest);
}

static void misspelt_ones_are_told(void **state)
{
    (void)state;
    assert_true(is_stray("BATON_POLCY"));
    assert_string_equal(nearest, "BATON_POLICY");
    assert_true(is_stray("BATON_DECODE_KVMEMORY"));
    assert_string_equal(nearest, "BATON_DECODE_KV_MEMORY");
    assert_true(is_stray("BATON_ETCDLEASE"));
    assert_string_equal(nearest, "BATON_ETCD_LEASE");
}

static void options_of_any_role_are_none(void **state)
{
    (void)state;
    static const char *const names[] = { "BATON_POLICY", "BATON_MODELS",    "BATON_MODEL", "BATON_ROUTER_POLICY",
                                         "BATON_ETCD",   "BATON_KV_MEMORY", "PATH",        "BATON_PREFILL_THREADS" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_false(is_stray(names[i]));
}

static void what_resembles_no_option_is_none(void **state)
{
    (void)state;
    static const char *const names[] = { "BATON_",           "BATON_TEST_BIN",      "BATON_TEST_SLOW",
                                         "BATON_READY_FD",   "BATON_FAILPOINTS",    "BATON_BIN_DIR",
                                         "BATON_PYTHON",     "BATON_QUICKSTART_UP", "BATON_VERSION",
                                         "BATON_SOURCE_DIR", "BATON_TEST_LONG",     "BATON_TEST_SMOLLM2" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (is_stray(names[i]))
            fail_msg("%s is taken for %s", names[i], nearest);
}

static void the_log_names_both(void **state)
{
    (void)state;
    char text[4096];
    FILE *log = tmpfile();
    int kept = dup(STDERR_FILENO);
    setenv("BATON_POLCY", "2", 1);
    assert_true(log && kept >= 0 && dup2(fileno(log), STDERR_FILENO) >= 0);
    log_init("test", LOG_INFO);
    stray_variables_warn();
    dup2(kept, STDERR_FILENO);
    rewind(log);
    text[fread(text, 1, sizeof text - 1, log)] = '\0';
    fclose(log);
    assert_non_null(strstr(text, "variable=BATON_POLCY nearest=BATON_POLICY"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(misspelt_ones_are_told),
        cmocka_unit_test(options_of_any_role_are_none),
        cmocka_unit_test(what_resembles_no_option_is_none),
        cmocka_unit_test(the_log_names_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
