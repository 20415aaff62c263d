/* What an index sees of requests: by hand, and that traces it has no room for are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bench/index_trace.h"

#define ID INDEX_TRACE_ID_BLOCKS

static status load(const char *text, uint32_t n_workers, uint32_t worker_tokens, struct index_trace *out,
                   struct error *err)
{
    char path[] = "/tmp/baton-index-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    (void)close(fd);
    const struct index_trace_options o = { path, n_workers, worker_tokens };
    status st = index_trace_load(&o, out, err);
    (void)unlink(path);
    return st;
}

static bool same(const struct index_trace *t, uint32_t a, uint32_t b)
{
    return t->hashes[a].low == t->hashes[b].low && t->hashes[a].high == t->hashes[b].high;
}

static void check(const struct index_trace *t, size_t i, struct index_operation wanted)
{
    const struct index_operation *o = &t->operations[i];
    assert_true(i < t->n_operations);
    assert_int_equal(o->kind, wanted.kind);
    assert_int_equal(o->worker, wanted.worker);
    assert_int_equal(o->first, wanted.first);
    assert_int_equal(o->n, wanted.n);
}

/* A worker with room for two ids: the second request finds the first id, and the end of the first one's chain goes. */
static void one_worker_by_hand(void **state)
{
    struct index_trace t;
    struct error err;
    (void)state;
    assert_int_equal(load("{\"hash_ids\": [0, 1]}\n{\"hash_ids\": [0, 2]}\n", 1, 1024, &t, &err), ST_OK);
    assert_int_equal(t.n_operations, 5);
    check(&t, 0, (struct index_operation){ INDEX_LOOKUP, 0, 0, 2 * ID });
    check(&t, 1, (struct index_operation){ INDEX_STORE, 0, 0, 2 * ID });
    check(&t, 2, (struct index_operation){ INDEX_LOOKUP, 0, 2 * ID, 2 * ID });
    check(&t, 3, (struct index_operation){ INDEX_REMOVE, 0, ID, ID });
    check(&t, 4, (struct index_operation){ INDEX_STORE, 0, 3 * ID, ID });
    assert_int_equal(t.n_hashes, 4 * ID);
    assert_true(same(&t, 0, 2 * ID) && !same(&t, ID, 3 * ID) && !same(&t, 0, 1));
    index_trace_free(&t);
}

/* By the length of a beginning that is held, and else in turn. */
static void workers_by_beginnings(void **state)
{
    static const uint32_t stored_at[] = { 1, 0 };
    struct index_trace t;
    struct error err;
    size_t stores = 0;
    (void)state;
    assert_int_equal(load("arrival_s,input_tokens,output_tokens,blocks\n0,1024,1,0 1\n1,1024,1,5 6\n2,1024,1,5 6\n", 2,
                          4096, &t, &err),
                     ST_OK);
    for (size_t i = 0; i < t.n_operations; i++) {
        if (t.operations[i].kind != INDEX_STORE)
            continue;
        assert_true(stores < 2);
        assert_int_equal(t.operations[i].worker, stored_at[stores % 2]);
        stores++;
    }
    assert_int_equal(stores, 2);
    check(&t, t.n_operations - 1, (struct index_operation){ INDEX_LOOKUP, 0, 4 * ID, 2 * ID });
    index_trace_free(&t);
}

static void what_has_no_room_is_refused(void **state)
{
    struct index_trace t;
    struct error err;
    (void)state;
    assert_int_equal(load("{\"hash_ids\": [16777216]}", 1, 1024, &t, &err), ST_LIMIT);
    assert_non_null(strstr(err.text, "16777217"));
    assert_int_equal(load("{\"hash_ids\": []}", 1, 1024, &t, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "line 1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(one_worker_by_hand), cmocka_unit_test(workers_by_beginnings),
                                        cmocka_unit_test(what_has_no_room_is_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
