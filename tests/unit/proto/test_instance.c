#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/instance.h"

static status read_record(const char *json, struct instance *out)
{
    struct error err = { "" };
    status st = instance_read(json, strlen(json), out, &err);
    if (st != ST_OK)
        assert_true(err.text[0] != '\0');
    return st;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct instance in = { .incarnation = 0xfedcba9876543210,
                           .max_model_len = 8192,
                           .kv_tokens = 1ull << 40,
                           .weights = 0x0123456789abcdef,
                           .tokenizer = 5,
                           .block_tokens = 16,
                           .computes_all = true,
                           .pid = 4321 },
                    out;
    strcpy(in.id, "decode-1");
    strcpy(in.role, "decode");
    strcpy(in.model, "a \"quoted\" model");
    strcpy(in.kv_format, "f");
    strcpy(in.control, "tcp://[::1]:4000");
    strcpy(in.kv_events, "tcp://[::1]:4001");
    strcpy(in.kv_replay, "tcp://[::1]:4002");
    strcpy(in.rack, "r1");
    strcpy(in.adapters, "a@0123456789abcdef,b@0123456789abcdef");
    struct text_buffer text;
    text_buffer_init(&text, 4096);
    instance_write(&in, &text);
    memset(&out, 0xff, sizeof out);
    assert_int_equal(read_record(text_buffer_text(&text), &out), ST_OK);
    assert_string_equal(out.id, in.id);
    assert_string_equal(out.model, in.model);
    assert_string_equal(out.control, in.control);
    assert_string_equal(out.kv_events, in.kv_events);
    assert_string_equal(out.kv_replay, in.kv_replay);
    assert_string_equal(out.rack, "r1");
    assert_string_equal(out.adapters, in.adapters);
    assert_string_equal(out.zone, "");
    assert_true(out.incarnation == in.incarnation);
    assert_true(out.kv_tokens == in.kv_tokens);
    assert_int_equal(out.max_model_len, 8192);
    assert_true(out.weights == in.weights);
    assert_true(out.tokenizer == in.tokenizer);
    assert_int_equal(out.block_tokens, 16);
    assert_true(out.computes_all);
    assert_int_equal(out.pid, 4321);
    text_buffer_free(&text);
}

static void test_adapters(void **state)
{
    (void)state;
    struct instance in = { .adapters = "a@1,long-name@2," };
    const char *at = in.adapters;
    char one[INSTANCE_ADAPTER_BYTES];
    assert_true(instance_next_adapter(&at, one));
    assert_string_equal(one, "a@1");
    assert_true(instance_next_adapter(&at, one));
    assert_string_equal(one, "long-name@2");
    assert_int_equal(instance_adapter_name_len(one), 9);
    assert_false(instance_next_adapter(&at, one));
    assert_true(instance_has_adapter(&in, "long-name@2"));
    assert_false(instance_has_adapter(&in, "long-name@3"));
    assert_false(instance_has_adapter(&in, "a"));
    static const char *const bad[] = { "",  ",a@1",  "@1",
                                       "a", "a,b@1", "0123456789012345678901234567890123456789012345678901234567@1" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        at = bad[i];
        assert_false(instance_next_adapter(&at, one));
    }
}

#define REST "\"role\":\"decode\",\"control\":\"tcp://h:1\""

static void test_what_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "null",
        "[]",
        "{",
        "{" REST ",\"incarnation\":\"1\"}",
        "{\"id\":7," REST ",\"incarnation\":\"1\"}",
        "{\"id\":\"a\\nb\"," REST ",\"incarnation\":\"1\"}",
        "{\"id\":\"a\"," REST "}",
        "{\"id\":\"a\"," REST ",\"incarnation\":1}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"\"}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"0\"}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"-1\"}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\" 1\"}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"1 \"}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"00000000000000001\"}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"1\",\"model\":3}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"1\",\"weights\":3}",
        "{\"id\":\"a\"," REST ",\"incarnation\":\"1\",\"tokenizer\":\"x\"}",
    };
    struct instance out, before;
    memset(&out, 0x5a, sizeof out);
    before = out;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (read_record(bad[i], &out) != ST_INVALID)
            fail_msg("accepted: %s", bad[i]);
        assert_memory_equal(&out, &before, sizeof out);
    }
    assert_int_equal(read_record("{\"id\":\"a\"," REST ",\"incarnation\":\"1\",\"later\":[1]}", &out), ST_OK);
}

static void test_lengths_and_ranges(void **state)
{
    (void)state;
    struct instance out;
    char id[80], json[256];
    memset(id, 'x', sizeof id);
    id[63] = '\0';
    snprintf(json, sizeof json,
             "{\"id\":\"%s\"," REST ",\"incarnation\":\"1\",\"max_model_len\":4294967301,\"pid\":-5}", id);
    assert_int_equal(read_record(json, &out), ST_OK);
    assert_string_equal(out.id, id);
    assert_int_equal(out.max_model_len, UINT32_MAX);
    assert_int_equal(out.pid, 0);
    id[63] = 'x';
    id[64] = '\0';
    snprintf(json, sizeof json, "{\"id\":\"%s\"," REST ",\"incarnation\":\"1\"}", id);
    assert_int_equal(read_record(json, &out), ST_INVALID);
}

static void test_keys(void **state)
{
    (void)state;
    struct instance in = { .incarnation = 1 };
    char key[INSTANCE_MAX_KEY], id[64], small[3];
    strcpy(in.id, "p-7");
    strcpy(in.role, "prefill");
    assert_string_equal(instance_prefix(key, sizeof key, "c"), "/baton/v1/c/instances/");
    assert_string_equal(instance_key(key, sizeof key, "c", &in), "/baton/v1/c/instances/prefill/p-7");
    assert_true(instance_id_of_key(key, id, sizeof id));
    assert_string_equal(id, "p-7");
    assert_false(instance_id_of_key(key, small, sizeof small));
    assert_false(instance_id_of_key("/baton/v1/c/instances/", id, sizeof id));
    assert_false(instance_id_of_key("nothing", id, sizeof id));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_lengths_and_ranges),
        cmocka_unit_test(test_keys),
    };
    return cmocka_run_group_tests_name("instance records", tests, NULL, NULL);
}
