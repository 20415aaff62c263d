#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "transfer/runs.h"

static const struct transfer_geometry geometry = { .n_layers = 5, .n_segments = 3, .block_tokens = 8, .slot_bytes = 4 };

/* The order that runs.h promises, byte by byte. */
static size_t naive(const struct transfer_span *spans, uint32_t n_spans, uint32_t first_layer, uint32_t n_layers,
                    size_t *offsets)
{
    size_t n = 0;
    for (uint32_t s = 0; s < n_spans; s++)
        for (uint32_t l = first_layer; l < first_layer + n_layers; l++)
            for (uint32_t g = 0; g < geometry.n_segments; g++)
                for (uint32_t t = spans[s].first; t < (uint32_t)spans[s].first + spans[s].n; t++)
                    for (uint32_t b = 0; b < geometry.slot_bytes; b++)
                        offsets[n++] =
                            s * 100000u +
                            ((l * geometry.n_segments + g) * geometry.block_tokens + t) * geometry.slot_bytes + b;
    return n;
}

static void test_order_and_ends_equal_the_naive_walk(void **state)
{
    (void)state;
    static size_t wanted[40000];
    srand(3);
    for (int round = 0; round < 2000; round++) {
        struct transfer_span spans[6];
        uint32_t n_spans = (uint32_t)rand() % 7, first_layer = (uint32_t)rand() % 5;
        uint32_t n_layers = 1 + (uint32_t)rand() % (5 - first_layer), layers = 0, ends = 0;
        for (uint32_t i = 0; i < n_spans; i++) {
            uint16_t first = (uint16_t)(rand() % 8);
            spans[i] = (struct transfer_span){ .first = first, .n = (uint16_t)(1 + rand() % (8 - first)) };
        }
        size_t n = naive(spans, n_spans, first_layer, n_layers, wanted), at = 0;
        assert_true(n == runs_bytes(&geometry, spans, n_spans, n_layers));
        struct run_cursor c;
        struct run run;
        run_cursor_init(&c, &geometry, spans, n_spans, first_layer, n_layers);
        while (run_cursor_next(&c, rand() % 2 ? SIZE_MAX : 1 + (size_t)rand() % 40, &run)) {
            for (size_t i = 0; i < run.bytes; i++)
                assert_true(at < n && wanted[at++] == run.span * 100000u + run.offset + i);
            bool layer_ends = at % ((size_t)spans[run.span].n * 12) == 0 || run.ends_layer;
            assert_true(!run.ends_span || run.ends_layer);
            assert_true(layer_ends || !run.ends_layer);
            layers += run.ends_layer;
            ends += run.ends_span;
        }
        assert_true(at == n);
        assert_int_equal(layers, n_spans * n_layers);
        assert_int_equal(ends, n_spans);
    }
}

static void test_a_whole_layer_is_one_piece(void **state)
{
    (void)state;
    struct transfer_span span = { .n = 8 };
    struct run_cursor c;
    struct run run;
    run_cursor_init(&c, &geometry, &span, 1, 2, 1);
    assert_true(run_cursor_next(&c, SIZE_MAX, &run));
    assert_int_equal(run.bytes, transfer_layer_bytes(&geometry));
    assert_int_equal(run.offset, 2 * transfer_layer_bytes(&geometry));
    assert_true(run.ends_span);
    assert_false(run_cursor_next(&c, SIZE_MAX, &run));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_ends_equal_the_naive_walk),
        cmocka_unit_test(test_a_whole_layer_is_one_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
