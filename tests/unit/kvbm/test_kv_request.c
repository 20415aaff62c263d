/* What `baton kv` may ask of a manager. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "kvbm/kv_request.h"

#define ALL_BITS ((1u << KV_REQUEST_MEMBER_COUNT) - 1)
#define BIT(m)   (1u << KV_REQUEST_##m)

static const struct salt_key key = { .len = 3, .bytes = "abc" }, no_key = { .len = 0 };
static struct error err;

static status read_all(const char *json, struct kv_request *out)
{
    return kv_request_read(json, strlen(json), ALL_BITS, 0, &key, out, &err);
}

static void every_member_is_read(void **state)
{
    (void)state;
    struct kv_request r;
    struct block_hash salt;
    assert_int_equal(read_all("{\"tokens\":[0,7,4294967295],\"model\":\"m\",\"adapter\":\"a@b@00000000000000ff\","
                              "\"salt\":\"S\",\"seconds\":60,\"all\":true}",
                              &r),
                     ST_OK);
    assert_int_equal(r.given, ALL_BITS);
    assert_int_equal(r.n_tokens, 3);
    assert_int_equal(r.tokens[1], 7);
    assert_int_equal(r.tokens[2], UINT32_MAX);
    assert_string_equal(r.model, "m");
    assert_int_equal(r.adapter, 255);
    assert_int_equal(r.seconds, 60);
    assert_int_equal(block_salt(key.bytes, key.len, "S", 1, &salt), ST_OK);
    assert_true(block_hash_equal(salt, r.salt));
    kv_request_free(&r);
}

static void what_is_left_out_is_none(void **state)
{
    (void)state;
    struct kv_request r;
    assert_int_equal(read_all("{}", &r), ST_OK);
    assert_int_equal(r.given, 0);
    assert_null(r.tokens);
    assert_string_equal(r.model, "");
    assert_true(block_hash_equal(r.salt, (struct block_hash){ 0, 0 }));
    kv_request_free(&r);
}

static void the_key_makes_the_salt(void **state)
{
    (void)state;
    struct kv_request with, without;
    const char *json = "{\"salt\":\"S\"}";
    assert_int_equal(read_all(json, &with), ST_OK);
    assert_int_equal(kv_request_read(json, strlen(json), ALL_BITS, 0, &no_key, &without, &err), ST_OK);
    assert_false(block_hash_equal(with.salt, without.salt));
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = { "",
                                         "[]",
                                         "{\"tokens\":[]}",
                                         "{\"tokens\":[1,-1]}",
                                         "{\"tokens\":[4294967296]}",
                                         "{\"tokens\":[1.5]}",
                                         "{\"tokens\":\"1\"}",
                                         "{\"tokens\":[1],\"tokens\":[2]}",
                                         "{\"model\":7}",
                                         "{\"adapter\":\"a\"}",
                                         "{\"adapter\":\"a@ff\"}",
                                         "{\"adapter\":\"a@00000000000000fg\"}",
                                         "{\"salt\":\"\"}",
                                         "{\"salt\":null}",
                                         "{\"seconds\":0}",
                                         "{\"seconds\":\"60\"}",
                                         "{\"all\":false}",
                                         "{\"salts\":\"S\"}" };
    struct kv_request r = { .given = 77 };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        err.text[0] = '\0';
        assert_int_equal(read_all(wrong[i], &r), ST_INVALID);
        assert_true(err.text[0]);
    }
    assert_int_equal(r.given, 77);
}

static void an_operation_takes_its_own_members(void **state)
{
    (void)state;
    struct kv_request r;
    const char *json = "{\"salt\":\"S\"}";
    assert_int_equal(kv_request_read(json, strlen(json), BIT(TOKENS), 0, &key, &r, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "no member \"salt\""));
    assert_int_equal(kv_request_read(json, strlen(json), ALL_BITS, BIT(TOKENS) | BIT(SALT), &key, &r, &err),
                     ST_INVALID);
    assert_string_equal(err.text, "\"tokens\" is missing");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_is_read),
        cmocka_unit_test(what_is_left_out_is_none),
        cmocka_unit_test(the_key_makes_the_salt),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(an_operation_takes_its_own_members),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
