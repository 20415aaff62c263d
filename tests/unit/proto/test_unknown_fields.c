#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/baton.pb-c.h"

/* What a newer release would send: Grant { from_token = 1 } extended by
 *   uint64 lease_us = 700;  string reason = 701;  Live nested = 702;  fixed32 mark = 703;
 * written out as protobuf encodes it (tag = number << 3 | wire type, as a varint). */
static const uint8_t newer_grant[] = {
    0x08, 0x2a,                                   /* from_token: 42           */
    0xe0, 0x2b, 0xd0, 0x86, 0x03,                 /* 700, varint: 50000       */
    0xea, 0x2b, 0x05, 'l',  'a',  't',  'e', 'r', /* 701, bytes: "later"      */
    0xf2, 0x2b, 0x02, 0x18, 0x07,                 /* 702, message: attempt 7  */
    0xfd, 0x2b, 0xef, 0xbe, 0xad, 0xde,           /* 703, fixed32: 0xdeadbeef */
};

static void unknown_fields_survive_a_round_trip(void **state)
{
    (void)state;
    Baton__Grant *grant = baton__grant__unpack(NULL, sizeof newer_grant, newer_grant);
    assert_non_null(grant);
    assert_int_equal(grant->from_token, 42);
    assert_int_equal(grant->base.n_unknown_fields, 4);
    uint8_t again[sizeof newer_grant];
    assert_int_equal(baton__grant__get_packed_size(grant), sizeof again);
    baton__grant__pack(grant, again);
    assert_memory_equal(again, newer_grant, sizeof again);
    baton__grant__free_unpacked(grant, NULL);
}

/* An older release changes what it knows and passes the rest on. */
static void they_survive_a_change_of_what_is_known(void **state)
{
    (void)state;
    Baton__Grant *grant = baton__grant__unpack(NULL, sizeof newer_grant, newer_grant);
    assert_non_null(grant);
    grant->from_token = 43;
    uint8_t again[sizeof newer_grant];
    assert_int_equal(baton__grant__pack(grant, again), sizeof again);
    assert_int_equal(again[1], 43);
    assert_memory_equal(again + 2, newer_grant + 2, sizeof again - 2);
    baton__grant__free_unpacked(grant, NULL);
}

/* In a message inside another one, and in one of a list. */
static void they_survive_in_nested_messages(void **state)
{
    (void)state;
    static const uint8_t hello[] = {
        0x0a, 0x01, 'x',                          /* id                                */
        0x42, 0x05, 0x18, 0x01, 0xe0, 0x2b, 0x09, /* live { attempt: 1, 700: 9 }       */
        0x42, 0x02, 0x18, 0x02,                   /* live { attempt: 2 }               */
        0xe0, 0x2b, 0x01,                         /* 700: 1                            */
    };
    Baton__Hello *got = baton__hello__unpack(NULL, sizeof hello, hello);
    assert_non_null(got);
    assert_int_equal(got->n_live, 2);
    assert_int_equal(got->live[0]->base.n_unknown_fields, 1);
    assert_int_equal(got->live[1]->attempt, 2);
    uint8_t again[sizeof hello];
    assert_int_equal(baton__hello__get_packed_size(got), sizeof again);
    baton__hello__pack(got, again);
    assert_memory_equal(again, hello, sizeof again);
    baton__hello__free_unpacked(got, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_fields_survive_a_round_trip),
        cmocka_unit_test(they_survive_a_change_of_what_is_known),
        cmocka_unit_test(they_survive_in_nested_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
