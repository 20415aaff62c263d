#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "router/kv_view.h"
#include "tests/unit/effort.h"

#define BLOCK    16u
#define N_TOKENS 200u
#define MAX      8u

static uint32_t tokens[N_TOKENS];
static const struct block_hash no_salt = { 0, 0 };

static struct kv_view *created(size_t max_bytes, uint32_t max_holders)
{
    struct kv_view *v;
    const struct kv_view_options o = { max_bytes, max_holders };
    assert_int_equal(kv_view_create(&o, &v), ST_OK);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = i * 7 + 1;
    return v;
}

static struct kv_holder worker(const char *id, uint64_t weights, uint32_t block_tokens)
{
    return (struct kv_holder){ id, "decode", "h", "tcp://a:1", "f", "m", weights, 5, block_tokens };
}

static uint32_t add(struct kv_view *v, struct kv_holder holder)
{
    struct error err;
    uint32_t number = KV_VIEW_NOBODY;
    if (kv_view_add(v, &holder, &number, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(kv_view_number(v, holder.id), number);
    return number;
}

/* Tells that a holder has the first n blocks of the prompt, in blocks of so many tokens. */
static void hold(struct kv_view *v, uint32_t number, enum kv_tier tier, struct block_seed_parts parts, uint32_t block,
                 uint32_t n)
{
    struct block_hasher hasher;
    struct block_hash hashes[N_TOKENS];
    block_hasher_init(&hasher, block_seed(&parts), block);
    assert_int_equal(block_hasher_grow(&hasher, tokens, n * block, hashes, n), n);
    kv_view_store(v, number, tier, hashes, n);
}

static uint32_t find(struct kv_view *v, const char *adapter, struct block_hash salt, uint32_t n_tokens,
                     struct kv_match out[])
{
    const struct kv_prompt p = { "m", adapter, salt, tokens, n_tokens };
    return kv_view_find(v, &p, out, MAX);
}

static const struct block_seed_parts plain = { .weights = 9, .tokenizer = 5 };

static void test_nothing_is_taken_before_the_first_holder(void **state)
{
    (void)state;
    struct kv_view *v = created(4u << 20, 100);
    struct prefix_index_stats s;
    struct kv_match m[MAX];
    kv_view_stats(v, &s);
    assert_int_equal(s.bytes, 0);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 0);
    assert_int_equal(kv_view_number(v, "a"), KV_VIEW_NOBODY);
    assert_false(kv_view_sweep(v));
    add(v, worker("a", 9, BLOCK));
    kv_view_stats(v, &s);
    assert_true(s.bytes > 0 && s.bytes <= 4u << 20);
    assert_int_equal(kv_view_number(NULL, "a"), KV_VIEW_NOBODY);
    assert_int_equal(find(NULL, "", no_salt, N_TOKENS, m), 0);
    kv_view_destroy(&v);
    kv_view_destroy(&v);
}

static size_t resident_bytes(void)
{
    size_t size, resident;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%zu %zu", &size, &resident), 2);
    (void)fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* A large index in a small cluster costs next to nothing. */
static void test_a_few_blocks_take_little_memory(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    size_t before = resident_bytes();
    struct kv_view *v = created(128u << 20, 8192);
    struct kv_match m[MAX];
    hold(v, add(v, worker("a", 9, BLOCK)), KV_TIER_DEVICE, plain, BLOCK, N_TOKENS / BLOCK);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 1);
    assert_true(resident_bytes() < before + (4u << 20));
    kv_view_destroy(&v);
}

static void test_tiers_and_order(void **state)
{
    (void)state;
    struct kv_view *v = created(4u << 20, 100);
    struct kv_match m[MAX];
    uint32_t a = add(v, worker("a", 9, BLOCK)), b = add(v, worker("b", 9, BLOCK));
    hold(v, a, KV_TIER_DEVICE, plain, BLOCK, 3);
    hold(v, b, KV_TIER_DEVICE, plain, BLOCK, 2);
    hold(v, b, KV_TIER_DISK, plain, BLOCK, 5);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 2);
    assert_string_equal(m[0].id, "b");
    assert_string_equal(m[0].role, "decode");
    assert_string_equal(m[0].host, "h");
    assert_int_equal(m[0].number, b);
    assert_true(m[0].weights == 9);
    assert_int_equal(m[0].tokens[KV_TIER_DEVICE], 2 * BLOCK);
    assert_int_equal(m[0].tokens[KV_TIER_HOST], 2 * BLOCK);
    assert_int_equal(m[0].tokens[KV_TIER_DISK], 5 * BLOCK);
    assert_int_equal(m[1].tokens[KV_TIER_DEVICE], 3 * BLOCK);
    /* Only full blocks of the prompt, and what was taken back no more. */
    assert_int_equal(find(v, "", no_salt, 2 * BLOCK - 1, m), 2);
    assert_int_equal(m[0].tokens[KV_TIER_REMOTE], BLOCK);
    assert_int_equal(find(v, "", no_salt, BLOCK - 1, m), 0);
    kv_view_clear(v, b);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 1);
    assert_string_equal(m[0].id, "a");
    kv_view_destroy(&v);
}

static void test_who_may_share(void **state)
{
    (void)state;
    struct kv_view *v = created(4u << 20, 100);
    struct kv_match m[MAX];
    const struct block_hash salt = { 1, 2 };
    struct block_seed_parts parts = plain;
    uint32_t a = add(v, worker("a", 9, BLOCK));
    hold(v, a, KV_TIER_DEVICE, parts, BLOCK, 1);
    parts.salt = salt;
    hold(v, a, KV_TIER_DEVICE, parts, BLOCK, 2);
    parts.adapter = 0x12ab;
    hold(v, a, KV_TIER_DEVICE, parts, BLOCK, 3);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 1);
    assert_int_equal(m[0].tokens[0], BLOCK);
    assert_int_equal(find(v, "", salt, N_TOKENS, m), 1);
    assert_int_equal(m[0].tokens[0], 2 * BLOCK);
    assert_int_equal(find(v, "poet@00000000000012ab", salt, N_TOKENS, m), 1);
    assert_int_equal(m[0].tokens[0], 3 * BLOCK);
    assert_int_equal(find(v, "poet@00000000000012ab", no_salt, N_TOKENS, m), 0);
    assert_int_equal(find(v, "poet", no_salt, N_TOKENS, m), 0); /* not as the plain model */
    const struct kv_prompt other = { "n", "", no_salt, tokens, N_TOKENS };
    assert_int_equal(kv_view_find(v, &other, m, MAX), 0);
    kv_view_destroy(&v);
}

/* Two versions of a model, other blocks, and a manager that has KV of all. */
static void test_kinds(void **state)
{
    (void)state;
    struct kv_view *v = created(4u << 20, 100);
    struct kv_match m[MAX];
    struct block_seed_parts newer = plain;
    newer.weights = 10;
    const struct kv_holder manager = { "k", "kvbm", "h2", "tcp://k:1", "f2", "", 0, 0, 0 };
    uint32_t a = add(v, worker("a", 9, BLOCK)), b = add(v, worker("b", 10, 32)), k = add(v, manager);
    hold(v, a, KV_TIER_DEVICE, plain, BLOCK, 3);
    hold(v, b, KV_TIER_DEVICE, newer, 32, 4);
    hold(v, k, KV_TIER_HOST, plain, BLOCK, 5);
    hold(v, k, KV_TIER_HOST, newer, 32, 1);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 4);
    assert_string_equal(m[0].id, "k");
    assert_true(m[0].weights == 9);
    assert_int_equal(m[0].tokens[KV_TIER_DEVICE], 0);
    assert_int_equal(m[0].tokens[KV_TIER_HOST], 5 * BLOCK);
    assert_int_equal(m[1].tokens[KV_TIER_DEVICE], 3 * BLOCK);
    assert_string_equal(m[2].id, "b");
    assert_int_equal(m[2].tokens[KV_TIER_DEVICE], 4 * 32);
    assert_string_equal(m[3].id, "k");
    assert_string_equal(m[3].role, "kvbm");
    assert_string_equal(m[3].host, "h2");
    assert_string_equal(m[3].address, "tcp://k:1");
    assert_string_equal(m[3].format, "f2");
    assert_true(m[3].weights == 10);
    assert_int_equal(m[3].tokens[KV_TIER_HOST], 32);
    const struct kv_prompt p = { "m", "", no_salt, tokens, N_TOKENS };
    assert_int_equal(kv_view_find(v, &p, m, 3), 3);
    assert_int_equal(kv_view_find(v, &p, m, 1), 1);
    /* Without a worker of it a kind is not asked for. */
    kv_view_drop(v, b);
    assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 2);
    kv_view_destroy(&v);
}

static void test_numbers_are_used_again(void **state)
{
    (void)state;
    struct kv_view *v = created(4u << 20, 3);
    struct kv_match m[MAX];
    struct prefix_index_stats s;
    for (uint32_t round = 0; round < 50; round++) {
        char id[16];
        snprintf(id, sizeof id, "w-%u", round);
        uint32_t number = add(v, worker(id, 9, BLOCK));
        assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 0); /* what its last holder had is not its own */
        hold(v, number, KV_TIER_DEVICE, plain, BLOCK, 1 + round % 12);
        assert_int_equal(find(v, "", no_salt, N_TOKENS, m), 1);
        assert_string_equal(m[0].id, id);
        kv_view_drop(v, number);
        assert_int_equal(kv_view_number(v, id), KV_VIEW_NOBODY);
    }
    while (kv_view_sweep(v))
        ;
    kv_view_stats(v, &s);
    assert_int_equal(s.blocks, 0);
    kv_view_destroy(&v);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    struct kv_view *v = created(4u << 20, 80);
    struct error err;
    struct kv_holder h = worker("a", 9, BLOCK);
    char id[16];
    uint32_t number;
    add(v, h);
    assert_int_equal(kv_view_add(v, &h, &number, &err), ST_INVALID);
    h.id = "b";
    h.block_tokens = 0;
    assert_int_equal(kv_view_add(v, &h, &number, &err), ST_INVALID);
    h.block_tokens = BLOCK_TOKENS_MAX + 1;
    assert_int_equal(kv_view_add(v, &h, &number, &err), ST_INVALID);
    assert_int_equal(kv_view_number(v, "b"), KV_VIEW_NOBODY);
    h.id = id;
    for (uint32_t i = 1; i < KV_VIEW_KINDS; i++) {
        snprintf(id, sizeof id, "k-%u", i);
        add(v, worker(id, 9 + i, BLOCK));
    }
    snprintf(id, sizeof id, "one-more");
    h = worker(id, 1000, BLOCK);
    assert_int_equal(kv_view_add(v, &h, &number, &err), ST_LIMIT);
    for (uint32_t i = KV_VIEW_KINDS; i < 80; i++) {
        snprintf(id, sizeof id, "k-%u", i);
        add(v, worker(id, 9, BLOCK));
    }
    h = worker("one-more", 9, BLOCK);
    assert_int_equal(kv_view_add(v, &h, &number, &err), ST_LIMIT);
    kv_view_destroy(&v);
    v = created(100, 80);
    assert_int_equal(kv_view_add(v, &h, &number, &err), ST_INVALID);
    kv_view_destroy(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_taken_before_the_first_holder),
        cmocka_unit_test(test_a_few_blocks_take_little_memory),
        cmocka_unit_test(test_tiers_and_order),
        cmocka_unit_test(test_who_may_share),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_numbers_are_used_again),
        cmocka_unit_test(test_what_is_refused),
    };
    return cmocka_run_group_tests_name("view of KV", tests, NULL, NULL);
}
