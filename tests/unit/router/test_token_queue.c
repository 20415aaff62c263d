/* The queue of tokens against a plain array, and tokens read from messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "router/token_queue.h"

#define MOST 5000u

/* The i-th token ever pushed: everything in it follows from i. */
static struct token_view token(uint32_t i)
{
    struct token_view v = { .record = { .id = i, .logprob = (float)i, .chars = 3 * i, .offset = 7 * (size_t)i } };
    v.record.n_top = i % 4;
    for (uint32_t k = 0; k < v.record.n_top; k++)
        v.top[k] = (struct token_logprob){ 100 * i + k, -(float)k };
    return v;
}

static void check(const struct token_record *r, const struct token_logprob *tops, uint32_t i, uint32_t stride)
{
    struct token_view want = token(i);
    uint32_t n_top = want.record.n_top < stride ? want.record.n_top : stride;
    assert_int_equal(r->id, i);
    assert_true(r->logprob == want.record.logprob);
    assert_int_equal(r->chars, want.record.chars);
    assert_int_equal(r->offset, want.record.offset);
    assert_int_equal(r->n_top, n_top);
    for (uint32_t k = 0; k < n_top; k++) {
        assert_int_equal(tops[k].id, want.top[k].id);
        assert_true(tops[k].logprob == want.top[k].logprob);
    }
}

/* Tokens from..to-1 are in the queue. */
static void check_all(const struct token_queue *q, uint32_t from, uint32_t to, uint32_t stride)
{
    const struct token_logprob *tops;
    assert_int_equal(q->n, to - from);
    for (uint32_t i = from; i < to; i++) {
        const struct token_record *r = token_queue_at(q, i - from, &tops);
        check(r, tops, i, stride);
    }
}

static void run_random(unsigned seed, uint32_t stride)
{
    struct token_queue q;
    uint32_t from = 0, to = 0;
    srand(seed);
    token_queue_init(&q, stride);
    while (to < MOST) {
        int what = rand() % 8;
        struct token_view v;
        if (what < 5) {
            v = token(to++);
            assert_int_equal(token_queue_push(&q, &v), ST_OK);
        } else if (what < 7 && from < to) {
            token_queue_pop(&q, &v);
            check(&v.record, v.top, from++, stride);
        } else if (from < to && rand() % 4 == 0) {
            uint32_t n = 1 + (uint32_t)rand() % (to - from);
            token_queue_drop(&q, n);
            from += n;
        }
        if (to % 16 == 0)
            check_all(&q, from, to, stride);
    }
    check_all(&q, from, to, stride);
    token_queue_free(&q);
    assert_int_equal(q.n, 0);
}

static void test_random(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 10; seed++)
        run_random(seed, seed % 4);
}

/* A client that keeps up leaves the queue short: its memory does not grow with the answer. */
static void test_room_is_used_again(void **state)
{
    (void)state;
    struct token_queue q;
    token_queue_init(&q, 1);
    for (uint32_t i = 0; i < MOST; i++) {
        struct token_view v = token(i), got;
        assert_int_equal(token_queue_push(&q, &v), ST_OK);
        if (i < 4)
            continue;
        token_queue_pop(&q, &got);
        check(&got.record, got.top, i - 4, 1);
    }
    assert_true(q.capacity <= 16);
    token_queue_drop(&q, q.n);
    assert_int_equal(q.first, 0);
    token_queue_free(&q);
}

static void test_stride_is_bounded(void **state)
{
    (void)state;
    struct token_queue q;
    token_queue_init(&q, 1000);
    assert_int_equal(q.stride, SAMPLING_MAX_TOP_LOGPROBS);
    token_queue_free(&q);
}

/* Messages come from outside: lists of different lengths, too long ones, hashes that are none. */
static void test_read(void **state)
{
    (void)state;
    uint32_t ids[SAMPLING_MAX_TOP_LOGPROBS + 5];
    float logprobs[SAMPLING_MAX_TOP_LOGPROBS + 5];
    uint8_t hash[TOKEN_HASH_BYTES + 1];
    for (uint32_t i = 0; i < SAMPLING_MAX_TOP_LOGPROBS + 5; i++) {
        ids[i] = i + 1;
        logprobs[i] = -(float)i;
    }
    memset(hash, 0xab, sizeof hash);
    Baton__Token t = BATON__TOKEN__INIT;
    struct token_view v;
    t.id = 9;
    t.logprob = -0.5f;
    token_view_read(&t, &v);
    assert_int_equal(v.record.id, 9);
    assert_true(v.record.logprob == -0.5f);
    assert_int_equal(v.record.n_top, 0);
    assert_false(v.record.has_hash);
    t.top_ids = ids;
    t.top_logprobs = logprobs;
    t.n_top_ids = 3;
    t.n_top_logprobs = 2;
    t.hash = (ProtobufCBinaryData){ TOKEN_HASH_BYTES, hash };
    token_view_read(&t, &v);
    assert_int_equal(v.record.n_top, 2);
    assert_int_equal(v.top[1].id, 2);
    assert_true(v.top[1].logprob == -1);
    assert_true(v.record.has_hash);
    assert_memory_equal(v.record.hash, hash, TOKEN_HASH_BYTES);
    t.n_top_ids = t.n_top_logprobs = SAMPLING_MAX_TOP_LOGPROBS + 5;
    t.hash.len = TOKEN_HASH_BYTES + 1;
    token_view_read(&t, &v);
    assert_int_equal(v.record.n_top, SAMPLING_MAX_TOP_LOGPROBS);
    assert_false(v.record.has_hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_room_is_used_again),
        cmocka_unit_test(test_stride_is_bounded),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
