/* generation_config.json: what is taken from it, and what is refused with file and field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/model.h"
#include "tests/unit/engine/model_files.h"

#define FILE_NAME "generation_config.json"
#define BUILTIN   BATON_SOURCE_DIR "/models/baton-tiny"

static struct scratch scratch;

static struct model_defaults read_good(const char *text)
{
    struct model_defaults d;
    struct error err = { "" };
    scratch_write(&scratch, FILE_NAME, text, strlen(text));
    if (model_defaults_read(scratch.dir, &d, &err) != ST_OK)
        fail_msg("%s\n refused: %s", text, err.text);
    return d;
}

static void check_neutral(const struct model_defaults *d)
{
    assert_true(d->temperature == 1 && d->top_p == 1 && d->min_p == 0 && d->repetition_penalty == 1);
    assert_int_equal(d->top_k, -1);
    assert_int_equal(d->max_tokens, 0);
}

static void test_all_fields(void **state)
{
    (void)state;
    struct model_defaults d = read_good("{\"temperature\": 0.5, \"top_p\": 0.75, \"top_k\": 20, \"min_p\": 0.25,"
                                        " \"repetition_penalty\": 1.5, \"max_new_tokens\": 2048, \"do_sample\": true}");
    assert_true(d.temperature == 0.5f && d.top_p == 0.75f && d.min_p == 0.25f && d.repetition_penalty == 1.5f);
    assert_int_equal(d.top_k, 20);
    assert_int_equal(d.max_tokens, 2048);
}

static void test_what_is_not_said_is_neutral(void **state)
{
    static const char *const texts[] = {
        "{}",
        ("{\"temperature\": null, \"top_p\": null, \"top_k\": null, \"min_p\": null, \"repetition_penalty\": null,"
         " \"max_new_tokens\": null}"),
        "{\"do_sample\": false, \"max_length\": 20, \"eos_token_id\": [3, 4]}", /* as in vLLM, no greedy choice */
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct model_defaults d = read_good(texts[i]);
        check_neutral(&d);
    }
    struct model_defaults d = read_good("{\"temperature\": 2, \"repetition_penalty\": 0.01}"); /* the ends of ranges */
    assert_true(d.temperature == 2 && d.repetition_penalty == 0.01f);
    d = read_good("{\"temperature\": 1, \"top_k\": 0}"); /* whole numbers are numbers too */
    assert_true(d.temperature == 1);
    assert_int_equal(d.top_k, 0);
}

static void test_no_file(void **state)
{
    (void)state;
    struct model_defaults d = { 0 };
    struct error err = { "" };
    scratch_remove_file(&scratch, FILE_NAME);
    assert_int_equal(model_defaults_read(scratch.dir, &d, &err), ST_OK);
    check_neutral(&d);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        { "{\"temperature\": \"0.7\"}", "temperature: not a number" },
        { "{\"temperature\": -0.1}", "temperature must be between 0 and" },
        { "{\"temperature\": 1e39}", "temperature must be between 0 and 2" },
        { "{\"temperature\": 9}", "temperature must be between 0 and 2" },
        { "{\"temperature\": 2.001}", "temperature must be between 0 and 2" },
        { "{\"top_p\": [0.9]}", "top_p: not a number" },
        { "{\"top_p\": 1.1}", "top_p must be between 0 and 1" },
        { "{\"top_p\": 0}", "top_p must be greater than 0" },
        { "{\"top_k\": 20.5}", "top_k: not a whole number" },
        { "{\"top_k\": -2}", "top_k: not a whole number from -1 to 2147483647" },
        { "{\"top_k\": 2147483648}", "top_k: not a whole number from -1 to 2147483647" },
        { "{\"min_p\": true}", "min_p: not a number" },
        { "{\"min_p\": 2}", "min_p must be between 0 and 1" },
        { "{\"repetition_penalty\": {}}", "repetition_penalty: not a number" },
        { "{\"repetition_penalty\": 0}", "repetition_penalty must be between 0.01 and 10" },
        { "{\"repetition_penalty\": 11}", "repetition_penalty must be between 0.01 and 10" },
        { "{\"max_new_tokens\": 0}", "max_new_tokens must be 1 or more" },
        { "{\"max_new_tokens\": -1}", "max_new_tokens: not a count" },
        { "{\"max_new_tokens\": 4294967296}", "max_new_tokens: not a count" },
        { "[]", "not a JSON object" },
        { "{\"temperature\": 1,}", "line 1" },
        { "{\"temperature\": 1, \"temperature\": 2}", "duplicate" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_defaults d = { .top_k = 77 };
        struct error err = { "" };
        const char *path = scratch_write(&scratch, FILE_NAME, cases[i].text, strlen(cases[i].text));
        status st = model_defaults_read(scratch.dir, &d, &err);
        if (st != ST_INVALID || !strstr(err.text, cases[i].words) || !strstr(err.text, path))
            fail_msg("%s gives %s: %s", cases[i].text, status_text(st), err.text);
        assert_int_equal(d.top_k, 77); /* written on success only */
    }
}

/* Its file says only "do_sample": false, which changes nothing. */
static void test_builtin_is_neutral(void **state)
{
    (void)state;
    struct model *m = NULL;
    struct error err = { "" };
    assert_int_equal(model_open(BUILTIN, MODEL_DEFAULTS, &m, &err), ST_OK);
    check_neutral(model_defaults(m));
    model_close(&m);
}

static int setup(void **state)
{
    (void)state;
    scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    static const char *const files[] = { FILE_NAME };
    (void)state;
    scratch_remove(&scratch, files, 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_fields),
        cmocka_unit_test(test_what_is_not_said_is_neutral),
        cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_builtin_is_neutral),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
