/* What `baton bench router` says of itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_router.h"

/* Runs it with one option; what it wrote to `stream` is in text. */
static int run(const char *option, FILE *stream, char *text, size_t size)
{
    char name[] = "router", word[64];
    char *argv[] = { name, word, NULL };
    FILE *file = tmpfile();
    int descriptor = fileno(stream), own = dup(descriptor);
    assert_non_null(file);
    snprintf(word, sizeof word, "%s", option);
    fflush(stream);
    dup2(fileno(file), descriptor);
    int code = bench_router(2, argv);
    fflush(stream);
    dup2(own, descriptor);
    close(own);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
    return code;
}

static void test_it_goes_by_its_whole_name(void **state)
{
    (void)state;
    char text[4096];
    assert_int_equal(run("--help", stdout, text, sizeof text), 0);
    assert_ptr_equal(strstr(text, "usage: baton bench router [--seconds S]"), text);
    assert_int_equal(run("--workers=0", stderr, text, sizeof text), 2);
    assert_ptr_equal(strstr(text, "baton bench router: 0 is not an allowed value\n"), text);
    assert_int_equal(run("--zz", stderr, text, sizeof text), 2);
    assert_ptr_equal(strstr(text, "baton bench router: unrecognized option '--zz'\n"), text);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_it_goes_by_its_whole_name) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
