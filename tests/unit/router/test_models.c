/* The list of models: names, what is refused, and whose sampling defaults apply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/log.h"
#include "router/models.h"
#include "tests/unit/engine/model_files.h"

#define TINY BATON_SOURCE_DIR "/models/baton-tiny"

static struct models *open_good(const char *list)
{
    struct models *models = NULL;
    struct error err = { "" };
    if (models_open(list, true, &models, &err) != ST_OK)
        fail_msg("%s refused: %s", list, err.text);
    return models;
}

static void check_refused(const char *list, status want, const char *words)
{
    struct models *models = NULL;
    struct error err = { "" };
    status st = models_open(list, true, &models, &err);
    if (st != want || !strstr(err.text, words))
        fail_msg("%.200s gives %s: %s", list, status_text(st), err.text);
    assert_null(models);
}

static void test_names(void **state)
{
    (void)state;
    struct models *models = open_good("," TINY ",,a=" TINY ",b c=" TINY "/,");
    static const char *const names[] = { "baton-tiny", "a", "b c" };
    assert_int_equal(models_count(models), 3);
    for (size_t i = 0; i < 3; i++) {
        const struct served_model *m = models_at(models, i);
        assert_string_equal(m->name, names[i]);
        assert_ptr_equal(models_find(models, names[i], strlen(names[i])), m);
        assert_ptr_equal(m->tokenizer, model_tokenizer(m->model));
        assert_ptr_equal(m->chat_template, model_chat_template(m->model));
        assert_int_equal(m->n_vocab, 1024);
        assert_int_equal(m->max_positions, 4096);
    }
    assert_null(models_find(models, "c", 1));
    assert_null(models_find(models, "", 0));
    assert_null(models_find(models, "a\0", 2)); /* the whole name, not what a C string shows */
    assert_non_null(models_find(models, "ab", 1));
    models_close(&models);
    assert_null(models);
    models_close(&models);
}

static void test_refusals(void **state)
{
    (void)state;
    char longest[MODELS_MAX_NAME_BYTES + sizeof TINY + 2], path[5000];
    check_refused("", ST_INVALID, "--models is empty");
    check_refused(",,", ST_INVALID, "--models is empty");
    check_refused("a=", ST_INVALID, "\"a=\" has no usable path");
    check_refused("=" TINY, ST_INVALID, "a model's name has 1 to 127 bytes, \"\" has 0");
    check_refused("a\tb=" TINY, ST_INVALID, "a control character");
    check_refused(TINY "," TINY, ST_INVALID, "names \"baton-tiny\" twice");
    check_refused("a=" TINY ",a=" TINY, ST_INVALID, "names \"a\" twice");
    check_refused(TINY ",x=/no/such/model", ST_NOT_FOUND, "/no/such/model");
    memset(longest, 'n', MODELS_MAX_NAME_BYTES);
    strcpy(longest + MODELS_MAX_NAME_BYTES, "=" TINY);
    check_refused(longest, ST_INVALID, "has 128");
    models_close(&(struct models *){ open_good(longest + 1) });
    memset(path, '/', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    check_refused(path, ST_INVALID, "no usable path");
}

static void test_number_is_bounded(void **state)
{
    (void)state;
    char list[(MODELS_MAX + 1) * (sizeof TINY + 8)];
    size_t n = 0;
    for (int i = 0; i < MODELS_MAX; i++)
        n += (size_t)sprintf(list + n, "m%d=%s,", i, TINY);
    struct models *models = open_good(list);
    assert_int_equal(models_count(models), MODELS_MAX);
    models_close(&models);
    sprintf(list + n, "m%d=%s", MODELS_MAX, TINY);
    check_refused(list, ST_LIMIT, "more than 32 models");
}

static void link_file(struct scratch *s, const char *name)
{
    char from[256];
    snprintf(from, sizeof from, TINY "/%s", name);
    snprintf(s->path, sizeof s->path, "%s/%s", s->dir, name);
    assert_int_equal(symlink(from, s->path), 0);
}

/* A model that brings sampling defaults along, and one whose file of them is wrong. */
static void test_whose_defaults(void **state)
{
    static const char *const files[] = { "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
                                         "generation_config.json" };
    static const char good[] = "{\"temperature\": 0.5, \"max_new_tokens\": 9}", bad[] = "{\"top_k\": \"many\"}";
    (void)state;
    struct scratch s;
    struct models *models = NULL;
    struct error err = { "" };
    scratch_make(&s);
    for (size_t i = 0; i < 4; i++)
        link_file(&s, files[i]);
    scratch_write(&s, files[4], good, sizeof good - 1);
    models = open_good(s.dir);
    assert_true(models_at(models, 0)->defaults.temperature == 0.5f);
    assert_int_equal(models_at(models, 0)->defaults.max_tokens, 9);
    models_close(&models);
    scratch_write(&s, files[4], bad, sizeof bad - 1);
    check_refused(s.dir, ST_INVALID, "/generation_config.json: top_k");
    assert_int_equal(models_open(s.dir, false, &models, &err), ST_OK);
    assert_true(models_at(models, 0)->defaults.temperature == 1);
    assert_int_equal(models_at(models, 0)->defaults.max_tokens, 0);
    models_close(&models);
    scratch_remove(&s, files, 5);
}

static int quiet(void **state)
{
    (void)state;
    log_init("test", LOG_OFF);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_number_is_bounded),
        cmocka_unit_test(test_whose_defaults),
    };
    return cmocka_run_group_tests(tests, quiet, NULL);
}
