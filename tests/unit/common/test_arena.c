#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "common/arena.h"

static void test_pieces_are_aligned_zeroed_and_apart(void **state)
{
    (void)state;
    struct arena *arena = arena_create(1 << 20);
    unsigned char *pieces[300];
    for (size_t i = 0; i < 300; i++) {
        pieces[i] = arena_take(arena, i);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % _Alignof(max_align_t), 0);
        for (size_t j = 0; j < i; j++)
            assert_int_equal(pieces[i][j], 0);
        memset(pieces[i], (int)(i % 255 + 1), i);
    }
    for (size_t i = 0; i < 300; i++)
        for (size_t j = 0; j < i; j++)
            assert_int_equal(pieces[i][j], i % 255 + 1);
    arena_destroy(&arena);
    assert_null(arena);
    arena_destroy(&arena);
}

static void test_the_bound(void **state)
{
    (void)state;
    struct arena *arena = arena_create(100000);
    assert_non_null(arena_take(arena, 60000)); /* larger than a chunk */
    assert_null(arena_take(arena, 50000));
    assert_non_null(arena_take(arena, 40000));
    assert_int_equal(arena_used(arena), 100000);
    assert_null(arena_take(arena, 1));
    assert_null(arena_take(arena, SIZE_MAX));
    arena_destroy(&arena);
}

static void test_copies(void **state)
{
    (void)state;
    struct arena *arena = arena_create(1000);
    assert_string_equal(arena_copy(arena, "text and more", 4), "text");
    assert_string_equal(arena_copy(arena, "", 0), "");
    assert_null(arena_copy(arena, "", SIZE_MAX));
    arena_destroy(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_are_aligned_zeroed_and_apart),
        cmocka_unit_test(test_the_bound),
        cmocka_unit_test(test_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
