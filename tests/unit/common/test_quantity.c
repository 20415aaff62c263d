#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/quantity.h"

struct row {
    const char *text;
    uint64_t value;
    status st;
};

static void test_sizes(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "0", 0, ST_OK },
        { "17", 17, ST_OK },
        { "17B", 17, ST_OK },
        { "512M", MIB(512), ST_OK },
        { "512MB", MIB(512), ST_OK },
        { "4GiB", GIB(4), ST_OK },
        { "1.5g", GIB(3) / 2, ST_OK },
        { "2T", TIB(2), ST_OK },
        { "1k", 1024, ST_OK },
        { "18446744073709551615", UINT64_MAX, ST_OK },
        { "18446744073709551616", 0, ST_INVALID },
        { "16777216T", 0, ST_INVALID },
        { "", 0, ST_INVALID },
        { "G", 0, ST_INVALID },
        { "-1", 0, ST_INVALID },
        { "1.", 0, ST_INVALID },
        { ".G", 0, ST_INVALID },
        { "1.2.3G", 0, ST_INVALID },
        { "1X", 0, ST_INVALID },
        { "1Gi", 0, ST_INVALID },
        { "1 G", 0, ST_INVALID },
        { "1GiBx", 0, ST_INVALID },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t v = 99;
        status st = quantity_parse_size(rows[i].text, &v);
        if (st != rows[i].st || (st == ST_OK && v != rows[i].value))
            fail_msg("\"%s\" gives %s, %llu", rows[i].text, status_text(st), (unsigned long long)v);
    }
}

static void test_times(void **state)
{
    (void)state;
    static const struct row rows[] = {
        { "0", 0, ST_OK },           { "80us", 80, ST_OK },          { "250ms", MS(250), ST_OK },
        { "3s", SECONDS(3), ST_OK }, { "1.5m", SECONDS(90), ST_OK }, { "2h", HOURS(2), ST_OK },
        { "0s", 0, ST_OK },          { "250", 0, ST_INVALID },       { "", 0, ST_INVALID },
        { "s", 0, ST_INVALID },      { "1d", 0, ST_INVALID },        { "-1s", 0, ST_INVALID },
        { "1 s", 0, ST_INVALID },    { "00", 0, ST_INVALID },        { "6000000000h", 0, ST_INVALID },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t v = 99;
        status st = quantity_parse_time(rows[i].text, &v);
        if (st != rows[i].st || (st == ST_OK && v != rows[i].value))
            fail_msg("\"%s\" gives %s, %llu", rows[i].text, status_text(st), (unsigned long long)v);
    }
}

static void test_formats_read_back(void **state)
{
    (void)state;
    char buf[32];
    assert_string_equal(quantity_format_size(buf, sizeof buf, MIB(512)), "512M");
    assert_string_equal(quantity_format_size(buf, sizeof buf, 1536), "1536");
    assert_string_equal(quantity_format_time(buf, sizeof buf, SECONDS(90)), "90s");
    assert_string_equal(quantity_format_time(buf, sizeof buf, MINUTES(2)), "2m");
    assert_string_equal(quantity_format_time(buf, sizeof buf, 1500), "1500us");
    uint64_t v = 1, back;
    for (int i = 0; i < 64; i++, v = v * 3 + (uint64_t)i) {
        assert_int_equal(quantity_parse_size(quantity_format_size(buf, sizeof buf, v), &back), ST_OK);
        assert_true(back == v);
        assert_int_equal(quantity_parse_time(quantity_format_time(buf, sizeof buf, v), &back), ST_OK);
        assert_true(back == v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_formats_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
