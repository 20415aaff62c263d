/* The table against a naive one, with random operations and colliding keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/request_table.h"

#define NODES 3000u

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static void test_random_operations(void **state)
{
    (void)state;
    struct request_table *table = calloc(1, sizeof *table);
    struct request_node *nodes = calloc(NODES, sizeof *nodes);
    uint8_t *present = calloc(NODES, 1);
    uint32_t n = 0;
    assert_true(table && nodes && present);
    for (uint32_t i = 0; i < NODES; i++)
        nodes[i].key = (struct request_key){ 77 + i % 3, i / 3 };
    for (uint32_t step = 0; step < 300000; step++) {
        uint32_t i = draw(NODES);
        if (present[i])
            request_table_remove(table, &nodes[i]);
        else
            request_table_add(table, &nodes[i]);
        present[i] = !present[i];
        n += present[i] ? 1 : UINT32_MAX;
        uint32_t k = draw(NODES);
        assert_ptr_equal(request_table_find(table, nodes[k].key), present[k] ? &nodes[k] : NULL);
        assert_int_equal(table->n, n);
    }
    free(present);
    free(nodes);
    free(table);
}

/* Both halves of a key count, also where their XOR, and so the bucket, is one. */
static void test_keys_of_one_bucket(void **state)
{
    (void)state;
    struct request_table *table = calloc(1, sizeof *table);
    struct request_node a = { .key = { 1, 2 } }, b = { .key = { 2, 1 } };
    assert_non_null(table);
    request_table_add(table, &a);
    assert_null(request_table_find(table, b.key));
    request_table_add(table, &b);
    assert_ptr_equal(request_table_find(table, a.key), &a);
    request_table_remove(table, &a);
    assert_null(request_table_find(table, a.key));
    assert_ptr_equal(request_table_find(table, b.key), &b);
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_keys_of_one_bucket),
    };
    return cmocka_run_group_tests_name("request table", tests, NULL, NULL);
}
