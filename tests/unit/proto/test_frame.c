#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/frame.h"

static struct frame example(const uint8_t *payload, uint32_t len)
{
    struct frame f = {
        .type = FRAME_PREFILL,
        .key = { 0x1122334455667788u, 0x99aabbccddeeff00u },
        .attempt = 0x01020304,
        .leg = 0x0a0b0c0d,
        .incarnation = 0xfedcba9876543210u,
        .message_id = 0x0123456789abcdefu,
        .deadline_left_us = 2500000,
        .payload = payload,
        .payload_len = len,
    };
    for (int i = 0; i < 16; i++)
        f.trace.trace_id[i] = (uint8_t)(i + 1);
    for (int i = 0; i < 8; i++)
        f.trace.span_id[i] = (uint8_t)(0xf0 + i);
    return f;
}

static void assert_same(const struct frame *a, const struct frame *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->key.router, b->key.router);
    assert_int_equal(a->key.seq, b->key.seq);
    assert_int_equal(a->attempt, b->attempt);
    assert_int_equal(a->leg, b->leg);
    assert_int_equal(a->incarnation, b->incarnation);
    assert_int_equal(a->message_id, b->message_id);
    assert_int_equal(a->deadline_left_us, b->deadline_left_us);
    assert_memory_equal(&a->trace, &b->trace, sizeof a->trace);
    assert_int_equal(a->payload_len, b->payload_len);
    if (a->payload_len)
        assert_memory_equal(a->payload, b->payload, a->payload_len);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    for (uint32_t len = 0; len < 600; len += 37) {
        uint8_t payload[600], buf[FRAME_HEADER_BYTES + 600];
        for (uint32_t i = 0; i < len; i++)
            payload[i] = (uint8_t)(i * 7 + len);
        struct frame f = example(payload, len), g;
        frame_write(&f, buf);
        assert_int_equal(frame_read(buf, FRAME_HEADER_BYTES + len, &g, NULL), ST_OK);
        assert_same(&f, &g);
        assert_ptr_equal(g.payload, buf + FRAME_HEADER_BYTES);
    }
}

static void frames_behind_one_another_are_read(void **state)
{
    (void)state;
    uint8_t buf[3 * FRAME_HEADER_BYTES + 100] = { 0 };
    struct frame a = example((const uint8_t *)"0123456789", 10), b = example(NULL, 0), got;
    struct error err;
    size_t used;
    frame_write(&a, buf);
    frame_write(&b, buf + FRAME_HEADER_BYTES + 10);
    size_t len = 2 * FRAME_HEADER_BYTES + 10;
    assert_int_equal(frame_read_first(buf, len, &got, &used, NULL), ST_OK);
    assert_int_equal(used, FRAME_HEADER_BYTES + 10);
    assert_same(&a, &got);
    assert_int_equal(frame_read_first(buf + used, len - used, &got, &used, NULL), ST_OK);
    assert_same(&b, &got);
    assert_int_equal(frame_read(buf, len, &got, &err), ST_CORRUPT);
    assert_non_null(strstr(err.text, "more behind it"));
}

static void payload_may_lie_in_place(void **state)
{
    (void)state;
    uint8_t buf[FRAME_HEADER_BYTES + 4], other[FRAME_HEADER_BYTES + 4];
    memcpy(buf + FRAME_HEADER_BYTES, "abcd", 4);
    struct frame f = example(buf + FRAME_HEADER_BYTES, 4), g = example((const uint8_t *)"abcd", 4);
    frame_write(&f, buf);
    frame_write(&g, other);
    assert_memory_equal(buf, other, sizeof buf);
}

/* Another language, or another version of this code, must find each field where the header file says. */
static void bytes_lie_where_the_contract_says(void **state)
{
    (void)state;
    uint8_t buf[FRAME_HEADER_BYTES + 2];
    struct frame f = example((const uint8_t *)"xy", 2);
    frame_write(&f, buf);
    static const uint8_t expected[88] = {
        'B',  'T',  'N',  '1',  1,    20,   0,    0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0xff,
        0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 4,    3,    2,    1,    0x0d, 0x0c, 0x0b, 0x0a, 0x10, 0x32, 0x54, 0x76,
        0x98, 0xba, 0xdc, 0xfe, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0xa0, 0x25, 0x26, 0,    0,    0,
        0,    0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,   16,
        0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 2,    0,    0,    0,    0,    0,    0,    0,
    };
    assert_memory_equal(buf, expected, sizeof expected);
    assert_memory_equal(buf + FRAME_HEADER_BYTES, "xy", 2);
}

static void every_flipped_bit_is_found(void **state)
{
    (void)state;
    uint8_t buf[FRAME_HEADER_BYTES + 32], payload[32] = { 3, 1, 4, 1, 5 };
    struct frame f = example(payload, sizeof payload), g;
    frame_write(&f, buf);
    for (size_t bit = 0; bit < 8 * sizeof buf; bit++) {
        buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
        struct error err = { "" };
        assert_int_equal(frame_read(buf, sizeof buf, &g, &err), ST_CORRUPT);
        assert_true(err.text[0]);
        buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(frame_read(buf, sizeof buf, &g, NULL), ST_OK);
}

static void every_other_length_is_refused(void **state)
{
    (void)state;
    uint8_t buf[FRAME_HEADER_BYTES + 40] = { 0 };
    struct frame f = example((const uint8_t *)"0123456789", 10), g;
    frame_write(&f, buf);
    for (size_t len = 0; len <= sizeof buf; len++) {
        /* An exact copy, so that a read past its end is seen by the sanitizer. */
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, buf, len);
        assert_int_equal(frame_read(copy, len, &g, NULL), len == FRAME_HEADER_BYTES + 10 ? ST_OK : ST_CORRUPT);
        free(copy);
    }
}

static void the_error_names_what_is_wrong(void **state)
{
    (void)state;
    uint8_t buf[FRAME_HEADER_BYTES];
    struct frame f = example(NULL, 0), g;
    struct error err;
    static const struct {
        size_t at;
        const char *word;
    } cases[] = { { 0, "magic" }, { 4, "version" }, { 80, "payload" }, { 84, "reserved" }, { 90, "checksum" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        frame_write(&f, buf);
        buf[cases[i].at]++;
        assert_int_equal(frame_read(buf, sizeof buf, &g, &err), ST_CORRUPT);
        assert_non_null(strstr(err.text, cases[i].word));
    }
}

static void unknown_types_are_for_the_caller(void **state)
{
    (void)state;
    uint8_t buf[FRAME_HEADER_BYTES];
    struct frame f = example(NULL, 0), g;
    f.type = (enum frame_type)200;
    frame_write(&f, buf);
    assert_int_equal(frame_read(buf, sizeof buf, &g, NULL), ST_OK);
    assert_int_equal(g.type, 200);
    assert_string_equal(frame_type_name(200), "?");
    assert_string_equal(frame_type_name(1000), "?");
    assert_string_equal(frame_type_name(FRAME_GRANT_ASK), "GRANT_ASK");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(payload_may_lie_in_place),
        cmocka_unit_test(bytes_lie_where_the_contract_says),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(frames_behind_one_another_are_read),
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(the_error_names_what_is_wrong),
        cmocka_unit_test(unknown_types_are_for_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
