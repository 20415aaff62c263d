/* A daemon's own record, and what it is told of others, with a server that speaks as etcd does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/log.h"
#include "proto/membership.h"
#include "tests/unit/common/fake_etcd.h"

#define INSTANCES "/baton/v1/c/instances/"

static struct daemon_config config;
static const struct instance self = { .id = "router-0", .role = "router", .incarnation = 7, .pid = 99 };

static struct seen {
    int members, gone, refused;
    struct instance last;
    char last_gone[64];
} seen;

static void on_member(void *arg, const struct instance *instance)
{
    struct seen *s = arg;
    s->members++;
    s->last = *instance;
}

static void on_gone(void *arg, const char *id)
{
    struct seen *s = arg;
    s->gone++;
    snprintf(s->last_gone, sizeof s->last_gone, "%s", id);
}

static void on_refused(void *arg)
{
    ((struct seen *)arg)->refused++;
}

static status create(struct membership **out, struct error *err)
{
    const struct membership_options options = { loop, &config, &self, on_member, on_gone, on_refused, &seen };
    return membership_create(&options, out, err);
}

static int open_all(void **state)
{
    (void)state;
    log_init("test", LOG_OFF);
    if (loop_create(&loop) != ST_OK)
        return -1;
    start_fake();
    seen = (struct seen){ 0 };
    config = (struct daemon_config){ .etcd_lease = MS(300), .etcd_timeout = MS(1000) };
    snprintf(config.cluster, sizeof config.cluster, "c");
    snprintf(config.etcd, sizeof config.etcd, "%s", fake.url);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    stop_fake();
    loop_destroy(&loop);
    return 0;
}

static void check_put(const char *key, const struct instance *wanted)
{
    size_t len;
    struct instance got;
    struct error err = { "" };
    char *text = etcd_json_text(fake.put, "key", &len);
    assert_string_equal(text, key);
    free(text);
    text = etcd_json_text(fake.put, "value", &len);
    if (instance_read(text, len, &got, &err) != ST_OK)
        fail_msg("%s", err.text);
    free(text);
    assert_memory_equal(&got, wanted, sizeof got);
}

static void test_registers_until_it_leaves(void **state)
{
    (void)state;
    struct membership *m = NULL;
    struct error err;
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.puts, 1, 5000));
    check_put(INSTANCES "router/router-0", &self);
    assert_true(reaches(&fake.keepalives, 1, 5000));
    assert_true(membership_etcd_up(m));
    assert_int_equal(fake.revokes, 0);
    membership_leave(m);
    membership_leave(m); /* a second drain is none */
    assert_true(reaches(&fake.revokes, 1, 5000));
    membership_destroy(&m);
    assert_null(m);
    membership_destroy(&m);
}

static void test_tells_of_others(void **state)
{
    (void)state;
    struct membership *m = NULL;
    struct error err;
    set_key(INSTANCES "decode/bad", "{\"role\":\"decode\"}"); /* no id */
    set_key(INSTANCES "decode/d0",
            "{\"id\":\"d0\",\"role\":\"decode\",\"incarnation\":\"5\",\"control\":\"tcp://h:1\"}");
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&seen.members, 1, 5000));
    assert_string_equal(seen.last.id, "d0");
    assert_string_equal(seen.last.control, "tcp://h:1");
    json_array_clear(fake.kvs);
    assert_true(reaches(&fake.watches, 1, 5000));
    assert_int_equal(seen.members, 1);                                            /* the bad one was no member */
    stream_line("{\"result\":{\"canceled\":true,\"compact_revision\":\"9\"}}\n"); /* it reads anew */
    assert_true(reaches(&seen.gone, 2, 5000));
    membership_leave(m);
    membership_destroy(&m);
}

static void test_goes_on_telling_after_it_left(void **state)
{
    (void)state;
    struct membership *m = NULL;
    struct error err;
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.watches, 1, 5000));
    membership_leave(m);
    set_key(INSTANCES "decode/d1",
            "{\"id\":\"d1\",\"role\":\"decode\",\"incarnation\":\"5\",\"control\":\"tcp://h:1\"}");
    assert_true(reaches(&seen.members, 1, 5000));
    json_array_clear(fake.kvs);
    fake.revision++;
    assert_true(reaches(&seen.gone, 1, 5000));
    assert_string_equal(seen.last_gone, "d1");
    membership_destroy(&m);
}

/* Another process's record under this one's name. */
static void hold_name(uint64_t incarnation, const char *process)
{
    struct instance holder = self;
    struct text_buffer record;
    holder.incarnation = incarnation;
    snprintf(holder.process, sizeof holder.process, "%s", process);
    text_buffer_init(&record, 4096);
    instance_write(&holder, &record);
    hold_key(text_buffer_text(&record));
    text_buffer_free(&record);
}

static void test_takes_the_name_of_one_that_ended(void **state)
{
    (void)state;
    char process[PROCESS_NAME_BYTES];
    struct membership *m = NULL;
    struct error err;
    process_name(process);
    strcat(process, "0"); /* same host, and there is no such process */
    config.etcd_lease = HOURS(1);
    hold_name(6, process);
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.puts, 1, 5000));
    check_put(INSTANCES "router/router-0", &self);
    membership_destroy(&m);
    hold_name(self.incarnation, ""); /* its own, under a lease that it no longer knows */
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.puts, 2, 5000));
    membership_destroy(&m);
    hold_key("no record");
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.puts, 3, 5000));
    assert_false(membership_name_is_taken(m));
    assert_int_equal(seen.refused, 0);
    membership_destroy(&m);
}

static void test_leaves_the_name_of_one_that_lives(void **state)
{
    (void)state;
    char process[PROCESS_NAME_BYTES];
    struct membership *m = NULL;
    struct error err;
    hold_name(6, process_name(process));
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&seen.refused, 1, 20000));
    assert_true(membership_name_is_taken(m));
    assert_int_equal(fake.puts, 0);
    membership_destroy(&m);
    /* One of whom only the lease tells gets that much longer. */
    hold_name(6, "another-boot/pid:[1]/2/3");
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&seen.refused, 2, 20000));
    assert_int_equal(fake.puts, 0);
    hold_key(NULL); /* it leaves in the end */
    assert_true(reaches(&fake.puts, 1, 20000));
    assert_false(membership_name_is_taken(m));
    membership_destroy(&m);
}

static void test_keeps_its_work_when_it_loses_its_name(void **state)
{
    (void)state;
    char process[PROCESS_NAME_BYTES];
    struct membership *m = NULL;
    struct error err;
    int never = 0;
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.puts, 1, 5000));
    hold_name(6, process_name(process));
    for (int i = 0; i < 1000 && !membership_name_is_taken(m); i++)
        (void)reaches(&never, 1, 20);
    assert_true(membership_name_is_taken(m));
    assert_int_equal(seen.refused, 0);
    assert_int_equal(fake.puts, 1);
    hold_key(NULL);
    assert_true(reaches(&fake.puts, 2, 20000));
    assert_false(membership_name_is_taken(m));
    membership_destroy(&m);
}

static void test_puts_a_deleted_record_back_at_once(void **state)
{
    (void)state;
    struct membership *m = NULL;
    struct error err;
    char line[256];
    config.etcd_lease = HOURS(1);
    set_key(INSTANCES "router/router-0", "{\"id\":\"router-0\",\"role\":\"router\",\"incarnation\":\"7\"}");
    assert_int_equal(create(&m, &err), ST_OK);
    assert_true(reaches(&fake.puts, 1, 5000));
    assert_true(reaches(&fake.watches, 1, 5000));
    hold_key(NULL);
    json_t *key = etcd_json_bytes(INSTANCES "router/router-0", strlen(INSTANCES "router/router-0"));
    snprintf(line, sizeof line, "{\"result\":{\"events\":[{\"type\":\"DELETE\",\"kv\":{\"key\":\"%s\"}}]}}\n",
             json_string_value(key));
    json_decref(key);
    stream_line(line);
    assert_true(reaches(&fake.puts, 2, 5000)); /* its next renewal is twenty minutes away */
    check_put(INSTANCES "router/router-0", &self);
    membership_destroy(&m);
}

static void test_refusals(void **state)
{
    (void)state;
    struct membership *m = NULL;
    struct error err = { "" };
    snprintf(config.etcd, sizeof config.etcd, "ftp://x");
    assert_int_equal(create(&m, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "ftp://x"));
    config.etcd[0] = '\0';
    assert_int_equal(create(&m, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "--etcd is empty"));
    assert_null(m);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, open_all, close_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_registers_until_it_leaves),          TEST(test_tells_of_others),
        TEST(test_goes_on_telling_after_it_left),      TEST(test_takes_the_name_of_one_that_ended),
        TEST(test_leaves_the_name_of_one_that_lives),  TEST(test_keeps_its_work_when_it_loses_its_name),
        TEST(test_puts_a_deleted_record_back_at_once), TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
