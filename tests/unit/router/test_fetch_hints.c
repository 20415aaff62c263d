/* Which holders of a prompt's beginning a request names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "router/fetch_hints.h"

#define N_TOKENS 1000u
#define WORKERS  "0123456789abcdef-0123456789abcdef-BF16-lsht-l2h2d16-b16-tp1-portable"
#define BLOCKS   "BF16-lsht-l2h2d16-b16-tp1-portable"

static const struct instance decode = { .id = "d", .host = "h1", .kv_format = WORKERS, .weights = 9 };
static const struct instance prefill = { .id = "p", .host = "h2", .kv_format = WORKERS, .weights = 9 };

/* All in one tier and in no faster one. */
static struct kv_match match(const char *id, const char *host, enum kv_tier tier, uint32_t tokens)
{
    struct kv_match m = {
        .id = id, .role = "prefill", .host = host, .address = "tcp://a:1", .format = BLOCKS, .weights = 9
    };
    for (int i = (int)tier; i < KV_TIER_COUNT; i++)
        m.tokens[i] = tokens;
    return m;
}

static uint32_t choose(const struct kv_match *matches, uint32_t n, const struct instance *helper,
                       struct fetch_hint out[FETCH_HINTS_MAX])
{
    const struct fetch_ask ask = { matches, n, N_TOKENS, &decode, helper };
    return fetch_hints_choose(&ask, out);
}

static void test_best_first_and_no_more(void **state)
{
    (void)state;
    struct fetch_hint out[FETCH_HINTS_MAX];
    const struct kv_match m[] = {
        match("short", "h2", KV_TIER_DEVICE, 160),  match("disk", "h2", KV_TIER_DISK, 320),
        match("far", "h1", KV_TIER_HOST, 320),      match("near", "h2", KV_TIER_HOST, 320),
        match("nearer", "h2", KV_TIER_HOST, 320),   match("long", "h3", KV_TIER_DISK, 640),
        match("shorter", "h2", KV_TIER_DEVICE, 80),
    };
    const char *expected[] = { "long", "near", "nearer", "far" };
    assert_int_equal(choose(m, sizeof m / sizeof *m, &prefill, out), FETCH_HINTS_MAX);
    for (uint32_t i = 0; i < FETCH_HINTS_MAX; i++)
        assert_string_equal(out[i].holder->id, expected[i]);
    assert_int_equal(out[0].tokens, 640);
    assert_int_equal(out[0].tier, KV_TIER_DISK);
    assert_int_equal(out[1].tier, KV_TIER_HOST);
    assert_int_equal(choose(m, sizeof m / sizeof *m, NULL, out), FETCH_HINTS_MAX);
    assert_string_equal(out[1].holder->id, "far"); /* decode computes, on h1 */
    assert_int_equal(choose(m, 0, &prefill, out), 0);
}

/* Only what is longer than what both that are asked have in the device; neither is named itself. */
static void test_longer_than_what_is_there(void **state)
{
    (void)state;
    struct fetch_hint out[FETCH_HINTS_MAX];
    struct kv_match m[] = { match("d", "h1", KV_TIER_DEVICE, 160), match("p", "h2", KV_TIER_DEVICE, 320),
                            match("equal", "h1", KV_TIER_DEVICE, 320), match("longer", "h1", KV_TIER_DEVICE, 336) };
    assert_int_equal(choose(m, 4, &prefill, out), 1);
    assert_string_equal(out[0].holder->id, "longer");
    assert_int_equal(choose(m, 4, NULL, out), 3); /* p is another like any */
    m[0].tokens[KV_TIER_DEVICE] = 480;
    assert_int_equal(choose(m, 4, NULL, out), 0);
    m[0] = match("d", "h1", KV_TIER_HOST, 480); /* what it has to fetch, it may fetch from others */
    assert_int_equal(choose(m, 4, &prefill, out), 1);
}

/* The last token is computed anyway. */
static void test_the_whole_prompt(void **state)
{
    (void)state;
    struct fetch_hint out[FETCH_HINTS_MAX];
    const struct kv_match m[] = { match("a", "h2", KV_TIER_DEVICE, N_TOKENS),
                                  match("d", "h1", KV_TIER_DEVICE, N_TOKENS) };
    assert_int_equal(choose(m, 1, &prefill, out), 1);
    assert_int_equal(out[0].tokens, N_TOKENS - 1);
    assert_int_equal(choose(m, 2, &prefill, out), 0);
}

/* Blocks of another form, of other weights, or of somebody who cannot be asked are of no use. */
static void test_only_what_fits(void **state)
{
    (void)state;
    struct fetch_hint out[FETCH_HINTS_MAX];
    struct kv_match m = match("k", "h2", KV_TIER_HOST, 160);
    assert_int_equal(choose(&m, 1, &prefill, out), 1);
    m.format = "F16-lsht-l2h2d16-b16-tp1-portable";
    assert_int_equal(choose(&m, 1, &prefill, out), 0);
    m.format = BLOCKS;
    m.weights = 8;
    assert_int_equal(choose(&m, 1, &prefill, out), 0);
    m.weights = 9;
    m.address = "";
    assert_int_equal(choose(&m, 1, &prefill, out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_first_and_no_more),
        cmocka_unit_test(test_longer_than_what_is_there),
        cmocka_unit_test(test_the_whole_prompt),
        cmocka_unit_test(test_only_what_fits),
    };
    return cmocka_run_group_tests_name("fetch_hints", tests, NULL, NULL);
}
