#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/rows.h"

static uint32_t kept[3];

static uint32_t keep(const struct row_span *span)
{
    return kept[span->first_pos / 100];
}

static void begin(struct rows *rows, struct step_seq seqs[3])
{
    const uint32_t counts[] = { 2, 3, 1 };
    for (uint32_t i = 0; i < 3; i++)
        seqs[i] = (struct step_seq){ .n_rows = counts[i], .first_pos = i * 100, .done = true };
    rows_begin(rows, &(struct step){ .seqs = seqs, .n_seqs = 3 });
}

static void test_positions(void **state)
{
    (void)state;
    const uint32_t expected[] = { 0, 1, 100, 101, 102, 200 };
    struct rows rows;
    struct step_seq seqs[3];
    assert_int_equal(rows_create(6, 3, &rows), ST_OK);
    begin(&rows, seqs);
    assert_int_equal(rows.n_rows, 6);
    for (uint32_t r = 0; r < 6; r++)
        assert_int_equal(rows_position(&rows, r), expected[r]);
    for (uint32_t i = 0; i < 3; i++)
        assert_false(seqs[i].done);
    rows_release(&rows);
}

/* Whatever is kept, the buffers' rows and the positions move together. */
static void test_compact(void **state)
{
    (void)state;
    struct rows rows;
    struct step_seq seqs[3];
    assert_int_equal(rows_create(6, 3, &rows), ST_OK);
    for (uint32_t mask = 0; mask < 3 * 4 * 2; mask++) {
        float data[6][2];
        float other[6][1];
        kept[0] = mask % 3;
        kept[1] = mask / 3 % 4;
        kept[2] = mask / 12;
        begin(&rows, seqs);
        for (uint32_t r = 0; r < 6; r++) {
            data[r][0] = other[r][0] = (float)rows_position(&rows, r);
            data[r][1] = -data[r][0];
        }
        const struct row_buffer buffers[] = { { &data[0][0], 2 }, { &other[0][0], 1 } };
        uint32_t left = kept[0] + kept[1] + kept[2];
        assert_int_equal(rows_compact(&rows, keep, buffers, 2, NULL), left != 6);
        assert_int_equal(rows.n_rows, left);
        for (uint32_t r = 0; r < left; r++) {
            assert_true(data[r][0] == (float)rows_position(&rows, r));
            assert_true(data[r][1] == -data[r][0]);
            assert_true(other[r][0] == data[r][0]);
        }
        for (uint32_t s = 0; s < rows.n_spans; s++)
            assert_int_equal(rows.spans[s].n_rows, kept[rows.spans[s].seq->first_pos / 100]);
    }
    rows_release(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions),
        cmocka_unit_test(test_compact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
