/* The benchmark of shared cores runs each way and says what is wrong. No speed is looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/wait.h>

#include "bench/bench_share.h"

static struct bench_share_options options(void)
{
    return (struct bench_share_options){ .path = BATON_SOURCE_DIR "/models/baton-tiny",
                                         .isa = ENGINE_AVX2,
                                         .cores = 2,
                                         .prompt = 20,
                                         .generate = 3,
                                         .repeats = 2 };
}

static void assert_measured(const struct bench_share_rates *r)
{
    assert_true(r->prefill_tps > 0 && r->decode_tps > 0);
}

static void each_way_is_measured(void **state)
{
    (void)state;
    struct bench_share_options o = options();
    struct bench_share_result result;
    struct error err;
    assert_int_equal(bench_share(&o, &result, &err), ST_OK);
    assert_measured(&result.one);
    assert_measured(&result.halves);
    assert_measured(&result.crowded);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no worker is left */
}

static void refuses_what_cannot_be(void **state)
{
    (void)state;
    struct bench_share_options o = options();
    struct bench_share_result result;
    struct error err;
    o.cores = 3;
    assert_int_equal(bench_share(&o, &result, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "even"));
    o = options();
    o.path = "/nowhere";
    assert_int_equal(bench_share(&o, &result, &err), ST_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_way_is_measured),
        cmocka_unit_test(refuses_what_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
