/* Whose name may be taken over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/claim.h"

#define LEASE 10000000u

static enum claim_answer judge(struct claim *c, const char *record, enum process_life life, uint64_t now_us)
{
    return claim_judge(c, record, 1, life, now_us, LEASE);
}

static void an_ended_process_has_no_name(void **state)
{
    (void)state;
    struct claim c = { 0 };
    assert_int_equal(judge(&c, "a", PROCESS_ENDED, 5), CLAIM_TAKE);
}

static void a_living_one_keeps_it(void **state)
{
    (void)state;
    struct claim c = { 0 };
    assert_int_equal(judge(&c, "a", PROCESS_LIVES, 5), CLAIM_WAIT); /* it may be dying */
    assert_int_equal(judge(&c, "a", PROCESS_LIVES, 4 + CLAIM_PATIENCE_US), CLAIM_WAIT);
    assert_int_equal(judge(&c, "a", PROCESS_LIVES, 5 + CLAIM_PATIENCE_US), CLAIM_REFUSE);
    assert_int_equal(judge(&c, "a", PROCESS_LIVES, 9 + CLAIM_PATIENCE_US), CLAIM_REFUSE);
    assert_int_equal(judge(&c, "a", PROCESS_ENDED, 9 + CLAIM_PATIENCE_US), CLAIM_TAKE);
}

static void elsewhere_the_lease_tells(void **state)
{
    (void)state;
    struct claim c = { 0 };
    assert_int_equal(judge(&c, "a", PROCESS_ELSEWHERE, 5), CLAIM_WAIT);
    assert_int_equal(judge(&c, "a", PROCESS_ELSEWHERE, LEASE), CLAIM_WAIT);
    assert_int_equal(judge(&c, "b", PROCESS_ELSEWHERE, LEASE + CLAIM_PATIENCE_US), CLAIM_WAIT); /* another one */
    assert_int_equal(judge(&c, "b", PROCESS_ELSEWHERE, 2 * LEASE + 2 * CLAIM_PATIENCE_US), CLAIM_REFUSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ended_process_has_no_name),
        cmocka_unit_test(a_living_one_keeps_it),
        cmocka_unit_test(elsewhere_the_lease_tells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
