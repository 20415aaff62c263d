/* Token ids as people write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/kv_chain.h"

static void lists_of_ids(void **state)
{
    (void)state;
    json_t *tokens = kv_chain_tokens("0,17,4294967295");
    assert_int_equal(json_array_size(tokens), 3);
    assert_int_equal(json_integer_value(json_array_get(tokens, 1)), 17);
    assert_int_equal(json_integer_value(json_array_get(tokens, 2)), UINT32_MAX);
    json_decref(tokens);
    static const char *const wrong[] = { "", "1,", ",1", "1,,2", "1 2", "-1", "1,+2", "x", "4294967296", "1;2" };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_null(kv_chain_tokens(wrong[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(lists_of_ids) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
