/* The wear budget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvbm/disk_wear.h"

#define SECOND UINT64_C(1000000)

static void a_day_has_its_bytes(void **state)
{
    (void)state;
    struct disk_wear w;
    uint64_t written = 0;
    disk_wear_init(&w, 86400 * 1000, 1000, 0, 0, 0); /* 1000 bytes a second, an hour of them at most */
    for (uint64_t now = 0; now <= 86400 * SECOND; now += SECOND / 10)
        while (disk_wear_allows(&w, 700, 0, now)) {
            disk_wear_spend(&w, 700);
            written += 700;
        }
    assert_in_range(written, 86400 * 1000 - 90000, 86400 * 1000);
}

static void rest_is_kept_for_an_hour(void **state)
{
    (void)state;
    struct disk_wear w;
    disk_wear_init(&w, 24000, 10, INT64_MAX, 0, 0);
    assert_true(disk_wear_allows(&w, 1000, 0, 0));
    assert_false(disk_wear_allows(&w, 1001, 0, 0));
    assert_false(disk_wear_allows(&w, 999, 2, 0));
    disk_wear_spend(&w, 3000); /* in debt */
    assert_false(disk_wear_allows(&w, 1, 0, 2 * 3600 * SECOND));
    assert_true(disk_wear_allows(&w, 1, 0, 3 * 3600 * SECOND));
    assert_false(disk_wear_allows(&w, 1001, 0, 300 * 3600 * SECOND));
}

static void it_outlives_a_restart(void **state)
{
    (void)state;
    struct disk_wear w;
    disk_wear_init(&w, 24000, 10, -500, 1800, 77); /* half an hour is 500 bytes */
    assert_int_equal(w.left, 0);
    disk_wear_init(&w, 24000, 10, -500, UINT64_MAX, 77);
    assert_int_equal(w.left, 1000);
    disk_wear_init(&w, 24000, 50000, INT64_MAX, 0, 77);
    assert_int_equal(w.left, 50000);
}

static void none_is_no_limit(void **state)
{
    (void)state;
    struct disk_wear w;
    disk_wear_init(&w, 0, 10, 0, 0, 0);
    assert_true(disk_wear_allows(&w, UINT64_C(1) << 60, 0, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_day_has_its_bytes),
        cmocka_unit_test(rest_is_kept_for_an_hour),
        cmocka_unit_test(it_outlives_a_restart),
        cmocka_unit_test(none_is_no_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
