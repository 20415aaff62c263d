/* What `baton up` was asked for: models by path and name, settings, equality. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/cluster_options.h"

#define TINY BATON_SOURCE_DIR "/models/baton-tiny"

static struct error err;

static void a_path_is_named_after_its_last_part(void **state)
{
    (void)state;
    struct cluster_options o = { .n_models = 0 };
    assert_int_equal(cluster_options_add_models(&o, TINY, &err), ST_OK);
    assert_int_equal(cluster_options_add_models(&o, BATON_SOURCE_DIR "/models/README.md", &err), ST_OK);
    assert_int_equal(o.n_models, 2);
    assert_string_equal(o.models[0].name, "baton-tiny");
    assert_string_equal(o.models[1].name, "README"); /* a file's extension is no part of its name */
    assert_int_equal(o.models[0].path[0], '/');
}

static void a_list_and_own_names(void **state)
{
    (void)state;
    struct cluster_options o = { .n_models = 0 };
    assert_int_equal(cluster_options_add_models(&o, "a=" TINY ",b=" TINY, &err), ST_OK);
    assert_int_equal(o.n_models, 2);
    assert_string_equal(o.models[0].name, "a");
    assert_string_equal(o.models[1].name, "b");
    assert_int_equal(cluster_options_add_models(&o, "b=" TINY, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "two models are named"));
    assert_int_equal(cluster_options_add_models(&o, "=" TINY, &err), ST_INVALID);
    assert_int_equal(cluster_options_add_models(&o, TINY ",", &err), ST_INVALID);
}

static void absent_models_say_what_to_do(void **state)
{
    (void)state;
    struct cluster_options o = { .n_models = 0 };
    assert_int_equal(cluster_options_add_models(&o, "/no/such/file.gguf", &err), ST_NOT_FOUND);
    assert_int_equal(cluster_options_add_models(&o, "smolm2", &err), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "did you mean smollm2"));
    assert_int_equal(o.n_models, 0);
}

static void settings_name_role_key_and_value(void **state)
{
    (void)state;
    struct cluster_options o = { .n_settings = 0 };
    assert_int_equal(cluster_options_add_setting(&o, "worker.kv_memory=64MiB", &err), ST_OK);
    assert_int_equal(cluster_options_add_setting(&o, "router.policy=random", &err), ST_OK);
    assert_int_equal(cluster_options_add_setting(&o, "all.log_level=", &err), ST_OK);
    assert_string_equal(o.settings[0].key, "kv_memory");
    assert_string_equal(o.settings[0].value, "64MiB");
    assert_true(cluster_setting_is_for(&o.settings[0], ROLE_PREFILL));
    assert_true(cluster_setting_is_for(&o.settings[0], ROLE_DECODE));
    assert_false(cluster_setting_is_for(&o.settings[0], ROLE_ROUTER));
    assert_true(cluster_setting_is_for(&o.settings[1], ROLE_ROUTER));
    assert_false(cluster_setting_is_for(&o.settings[1], ROLE_DECODE));
    assert_true(cluster_setting_is_for(&o.settings[2], ROLE_ROUTER));
    assert_false(cluster_setting_is_for(&o.settings[2], ROLE_ETCD));
    static const char *const wrong[] = { "kv_memory=1", "worker.=1", "worker.kv", "nobody.key=1", ".key=1", "a=b.c=d" };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_not_equal(cluster_options_add_setting(&o, wrong[i], &err), ST_OK);
    assert_int_equal(o.n_settings, 3);
    assert_int_equal(cluster_options_add_setting(&o, "kvbm.disk_size=1GiB", &err), ST_OK);
    assert_true(cluster_setting_is_for(&o.settings[3], ROLE_KVBM));
    assert_false(cluster_setting_is_for(&o.settings[3], ROLE_DECODE));
    assert_false(cluster_setting_is_for(&o.settings[0], ROLE_KVBM)); /* it is no worker */
}

static void who_may_be_scaled(void **state)
{
    (void)state;
    uint32_t least;
    assert_int_equal(role_most(ROLE_ETCD, &least), 0);
    assert_int_equal(role_most(role_parse("nobody"), &least), 0);
    assert_int_equal(role_most(role_parse("kvbm"), &least), 1); /* one for each host */
    assert_int_equal(least, 0);
    assert_int_equal(role_most(ROLE_ROUTER, &least), CLUSTER_MAX_REPLICAS);
    assert_int_equal(least, 1);
    assert_true(role_is_worker(ROLE_PREFILL) && role_is_worker(ROLE_DECODE));
    assert_false(role_is_worker(ROLE_KVBM) || role_is_worker(ROLE_ROUTER) || role_is_worker(ROLE_ETCD));
}

static void the_disk_is_absolute(void **state)
{
    (void)state;
    static struct cluster_options o;
    static char far[CONFIG_TEXT_BYTES + 1];
    assert_int_equal(cluster_options_set_disk(&o, "/d/kv", &err), ST_OK);
    assert_string_equal(o.kv_disk, "/d/kv");
    assert_int_equal(cluster_options_set_disk(&o, "kv", &err), ST_OK);
    assert_int_equal(o.kv_disk[0], '/');
    assert_string_equal(strrchr(o.kv_disk, '/'), "/kv");
    memset(far, 'f', sizeof far - 1);
    assert_int_equal(cluster_options_set_disk(&o, far, &err), ST_LIMIT);
}

static json_t *written(const struct cluster_options *o)
{
    struct text_buffer text;
    struct json_writer w;
    text_buffer_init(&text, 65536);
    json_writer_init(&w, &text);
    cluster_options_write(o, &w);
    json_t *root = json_loads(text_buffer_text(&text), 0, NULL);
    text_buffer_free(&text);
    return root;
}

static void the_same_options_match(void **state)
{
    (void)state;
    struct cluster_options a = { .n_models = 0, .port = 8000, .transfer = "auto" };
    a.replicas[ROLE_DECODE] = 2;
    assert_int_equal(cluster_options_add_models(&a, TINY, &err), ST_OK);
    assert_int_equal(cluster_options_add_setting(&a, "all.log_level=debug", &err), ST_OK);
    struct cluster_options b = a;
    json_t *root = written(&a);
    assert_true(cluster_options_match(&b, root));
    b.replicas[ROLE_DECODE] = 3;
    assert_false(cluster_options_match(&b, root));
    b = a;
    strcpy(b.settings[0].value, "info");
    assert_false(cluster_options_match(&b, root));
    b = a;
    b.port = 8001;
    assert_false(cluster_options_match(&b, root));
    b = a;
    strcpy(b.kv_disk, "/d/kv");
    assert_false(cluster_options_match(&b, root));
    assert_false(cluster_options_match(&a, NULL));
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_is_named_after_its_last_part),
        cmocka_unit_test(a_list_and_own_names),
        cmocka_unit_test(absent_models_say_what_to_do),
        cmocka_unit_test(settings_name_role_key_and_value),
        cmocka_unit_test(who_may_be_scaled),
        cmocka_unit_test(the_disk_is_absolute),
        cmocka_unit_test(the_same_options_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
