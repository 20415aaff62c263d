/* The command line of each process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cli/launch.h"

static struct launch launch; /* large */

static struct cluster_options two_models(void)
{
    struct cluster_options o = { .n_models = 2, .port = 8000, .transfer = "shm" };
    o.replicas[ROLE_PREFILL] = 3;
    o.replicas[ROLE_DECODE] = 4;
    strcpy(o.models[0].name, "a");
    strcpy(o.models[0].path, "/m/a.gguf");
    strcpy(o.models[1].name, "b");
    strcpy(o.models[1].path, "/m/b");
    return o;
}

static struct launch_plan plan_of(const struct cluster_options *o)
{
    return (struct launch_plan){ o,        "/bin/dir", "c", "http://127.0.0.1:5", "/s/etcd", 5, 6, "/s/weights.sock",
                                 "/s/key", "/s/salt" };
}

static bool has(const char *argument)
{
    for (size_t i = 0; i < launch.n; i++)
        if (!strcmp(launch.argv[i], argument))
            return true;
    return false;
}

static void workers_serve_one_model(void **state)
{
    (void)state;
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    struct member m = { .id = "decode-3", .role = ROLE_DECODE, .number = 3, .model = 1 };
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_string_equal(launch.argv[0], "/bin/dir/baton-decode");
    assert_true(has("--id=decode-3"));
    assert_true(has("--cluster=c"));
    assert_true(has("--etcd=http://127.0.0.1:5"));
    assert_true(has("--model=/m/b"));
    assert_true(has("--model-name=b"));
    assert_true(has("--transfer=shm"));
    assert_true(has("--weights-holder=/s/weights.sock"));
    assert_true(has("--cluster-key-file=/s/key"));
    assert_true(has("--host-workers=14")); /* of both models, and both roles: they share the memory */
    assert_null(launch.argv[launch.n]);
}

static void routers_serve_all_and_keep_their_port(void **state)
{
    (void)state;
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    struct member m = { .id = "router-1", .role = ROLE_ROUTER, .number = 1 };
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_true(has("--http-listen=127.0.0.1:8001"));
    assert_true(has("--models=a=/m/a.gguf,b=/m/b"));
    assert_true(has("--debug-extensions=true"));
    o.port = 0;
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_true(has("--http-listen=127.0.0.1:0"));
    m.ports[0] = (struct member_port){ "http", 4242 }; /* what it had before it was restarted */
    m.n_ports = 1;
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_true(has("--http-listen=127.0.0.1:4242"));
}

static void the_block_manager_gets_its_disk(void **state)
{
    (void)state;
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    struct member m = { .id = "kvbm-0", .role = ROLE_KVBM };
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_string_equal(launch.argv[0], "/bin/dir/baton-kvbm");
    assert_true(has("--cluster-key-file=/s/key"));
    assert_string_equal(launch.argv[launch.n - 1], "--transfer=shm"); /* nothing of models, and no disk */
    strcpy(o.kv_disk, "/d/kv");
    o.settings[o.n_settings++] = (struct cluster_setting){ "worker", "kv_memory", "1GiB" };
    o.settings[o.n_settings++] = (struct cluster_setting){ "kvbm", "kv_memory", "2GiB" };
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_true(has("--disk=/d/kv"));
    assert_true(has("--kv_memory=2GiB"));
    assert_false(has("--kv_memory=1GiB"));
}

static void settings_come_last(void **state)
{
    (void)state;
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    struct member m = { .id = "prefill-0", .role = ROLE_PREFILL };
    o.settings[o.n_settings++] = (struct cluster_setting){ "worker", "transfer", "tcp" };
    o.settings[o.n_settings++] = (struct cluster_setting){ "decode", "max_seqs", "4" };
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_string_equal(launch.argv[launch.n - 1], "--transfer=tcp");
    assert_false(has("--max_seqs=4"));
}

static void all_have_the_salt_key_of_routers(void **state)
{
    (void)state;
    static const struct member members[] = { { .id = "router-0", .role = ROLE_ROUTER },
                                             { .id = "prefill-0", .role = ROLE_PREFILL },
                                             { .id = "decode-0", .role = ROLE_DECODE },
                                             { .id = "kvbm-0", .role = ROLE_KVBM } };
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
        o.n_settings = 0;
        assert_int_equal(launch_arguments(&plan, &members[i], &launch), ST_OK);
        assert_true(has("--salt-key-file=/s/salt"));
        o.settings[o.n_settings++] = (struct cluster_setting){ "router", "salt_key_file", "/k/1" };
        o.settings[o.n_settings++] = (struct cluster_setting){ "router", "salt-key-file", "/k/2" };
        o.settings[o.n_settings++] = (struct cluster_setting){ "router", "salt_key_file_2", "/k/3" };
        assert_int_equal(launch_arguments(&plan, &members[i], &launch), ST_OK);
        assert_true(has("--salt-key-file=/k/2"));
        assert_false(has("--salt-key-file=/s/salt"));
    }
    o.settings[0].value[0] = o.settings[1].value[0] = '\0'; /* none is a choice, too */
    assert_int_equal(launch_arguments(&plan, &members[3], &launch), ST_OK);
    assert_true(has("--salt-key-file="));
}

static void etcd_listens_on_loopback(void **state)
{
    (void)state;
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    struct member m = { .id = "etcd", .role = ROLE_ETCD };
    o.settings[o.n_settings++] = (struct cluster_setting){ "all", "log_level", "debug" };
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_OK);
    assert_string_equal(launch.argv[0], "etcd");
    assert_true(has("--data-dir=/s/etcd"));
    assert_true(has("--listen-client-urls=http://127.0.0.1:5"));
    assert_true(has("--listen-peer-urls=http://127.0.0.1:6"));
    assert_false(has("--log_level=debug"));
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct cluster_options o = two_models();
    struct launch_plan plan = plan_of(&o);
    struct member m = { .id = "prefill-0", .role = ROLE_PREFILL };
    static char dir[LAUNCH_MAX_BYTES + 1];
    memset(dir, 'd', sizeof dir - 1);
    plan.bin_dir = dir;
    assert_int_equal(launch_arguments(&plan, &m, &launch), ST_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_serve_one_model),          cmocka_unit_test(routers_serve_all_and_keep_their_port),
        cmocka_unit_test(the_block_manager_gets_its_disk),  cmocka_unit_test(settings_come_last),
        cmocka_unit_test(all_have_the_salt_key_of_routers), cmocka_unit_test(etcd_listens_on_loopback),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
