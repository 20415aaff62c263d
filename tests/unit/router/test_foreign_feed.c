#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/foreign_feed.h"

#define BLOCK 16u
#define N     8u

static uint32_t tokens[N * BLOCK];

static void check_address(const struct foreign_address *a, const char *model, const char *pub, const char *replay)
{
    assert_string_equal(a->model, model);
    assert_string_equal(a->pub, pub);
    assert_string_equal(a->replay, replay);
}

static void test_addresses(void **state)
{
    (void)state;
    struct foreign_address a;
    struct error err;
    const char *at = ",tcp://h:1,m=tcp://[::1]:2+tcp://[::1]:3,,tcp://a.b:4+tcp://a.b:5,";
    assert_int_equal(foreign_address_next(&at, &a, &err), ST_OK);
    check_address(&a, "", "tcp://h:1", "");
    assert_int_equal(foreign_address_next(&at, &a, &err), ST_OK);
    check_address(&a, "m", "tcp://[::1]:2", "tcp://[::1]:3");
    assert_int_equal(foreign_address_next(&at, &a, &err), ST_OK);
    check_address(&a, "", "tcp://a.b:4", "tcp://a.b:5");
    assert_int_equal(foreign_address_next(&at, &a, &err), ST_NOT_FOUND);
    static const char *const bad[] = { "h:1",           "=tcp://h:1", "tcp://h",   "tcp://h:1+",
                                       "tcp://h:1+h:2", "m=",         "ipc://x:1", "tcp://:1" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        at = bad[i];
        if (foreign_address_next(&at, &a, &err) != ST_INVALID)
            fail_msg("accepted: %s", bad[i]);
        assert_non_null(strstr(err.text, bad[i]));
    }
    char longer[400] = "tcp://";
    memset(longer + 6, 'h', sizeof longer - 9);
    memcpy(longer + sizeof longer - 3, ":1", 3);
    at = longer;
    assert_int_equal(foreign_address_next(&at, &a, &err), ST_INVALID);
}

static bool adapter(void *ctx, const char *model, const char *name, size_t len, uint64_t *fingerprint)
{
    (void)ctx;
    assert_string_equal(model, "m");
    *fingerprint = 0xab;
    return len == 4 && !memcmp(name, "poet", 4);
}

struct world {
    struct kv_view *view;
    struct foreign_feed *feed;
};

static void set_up(struct world *w)
{
    const struct kv_view_options view = { 4u << 20, 8 };
    const struct kv_holder holder = { "tcp://h:1", "foreign", "", "", "", "m", 9, 5, BLOCK };
    struct error err;
    assert_int_equal(kv_view_create(&view, &w->view), ST_OK);
    const struct foreign_feed_options o = { w->view, &holder, 1u << 20, adapter, NULL };
    assert_int_equal(foreign_feed_create(&o, &w->feed, &err), ST_OK);
    for (uint32_t i = 0; i < N * BLOCK; i++)
        tokens[i] = 3 * i;
}

static void tear_down(struct world *w)
{
    foreign_feed_destroy(&w->feed);
    assert_int_equal(kv_view_number(w->view, "tcp://h:1"), KV_VIEW_NOBODY);
    kv_view_destroy(&w->view);
}

/* n blocks of theirs, named from `name` on. */
static status store(struct world *w, uint64_t name, uint32_t n, uint32_t block, const char *lora)
{
    struct kv_event_hash hashes[N];
    for (uint32_t i = 0; i < n; i++)
        hashes[i] = (struct kv_event_hash){ name + i, 0 };
    const struct kv_event event = { .kind = KV_BLOCK_STORED,
                                    .hashes = hashes,
                                    .n_hashes = n,
                                    .tokens = tokens,
                                    .n_tokens = n * block,
                                    .block_size = block,
                                    .has_adapter = lora != NULL,
                                    .adapter = lora,
                                    .adapter_len = lora ? (uint32_t)strlen(lora) : 0 };
    return foreign_feed_apply(w->feed, &event);
}

static uint32_t held(struct world *w, const char *lora)
{
    struct kv_match m[2];
    const struct kv_prompt p = { "m", lora, { 0, 0 }, tokens, N * BLOCK };
    uint32_t n = kv_view_find(w->view, &p, m, 2);
    assert_true(n < 2);
    return n ? m[0].tokens[KV_TIER_DEVICE] : 0;
}

static void test_their_blocks_are_found_as_ours(void **state)
{
    (void)state;
    struct world w;
    set_up(&w);
    assert_int_equal(store(&w, 100, 3, BLOCK, NULL), ST_OK);
    assert_int_equal(held(&w, ""), 3 * BLOCK);
    const struct kv_event_hash last = { 102, 0 };
    const struct kv_event removed = { .kind = KV_BLOCK_REMOVED, .hashes = &last, .n_hashes = 1 };
    assert_int_equal(foreign_feed_apply(w.feed, &removed), ST_OK);
    assert_int_equal(held(&w, ""), 2 * BLOCK);
    assert_int_equal(store(&w, 200, 4, BLOCK, "poet"), ST_OK);
    assert_int_equal(held(&w, "poet@00000000000000ab"), 4 * BLOCK);
    assert_int_equal(foreign_feed_left_out(w.feed), 0);
    assert_int_equal(store(&w, 300, 2, BLOCK, "cook"), ST_OK);
    assert_int_equal(store(&w, 400, 2, BLOCK, ""), ST_OK); /* some adapter, which is not named */
    assert_int_equal(foreign_feed_left_out(w.feed), 4);
    assert_int_equal(store(&w, 500, 2, BLOCK + 1, NULL), ST_LIMIT);
    assert_int_equal(foreign_feed_apply(w.feed, &(struct kv_event){ .kind = KV_ALL_CLEARED }), ST_OK);
    assert_int_equal(held(&w, ""), 0);
    const struct kv_event_hash child = { 600, 0 };
    const struct kv_event orphan = { .kind = KV_BLOCK_STORED,
                                     .hashes = &child,
                                     .n_hashes = 1,
                                     .has_parent = true,
                                     .parent = { 100, 0 },
                                     .tokens = tokens,
                                     .n_tokens = BLOCK,
                                     .block_size = BLOCK };
    assert_int_equal(foreign_feed_apply(w.feed, &orphan), ST_OK);
    assert_int_equal(foreign_feed_left_out(w.feed), 5);
    assert_int_equal(store(&w, 100, 1, BLOCK, NULL), ST_OK);
    assert_int_equal(held(&w, ""), BLOCK);
    tear_down(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_their_blocks_are_found_as_ours),
    };
    return cmocka_run_group_tests_name("foreign feed", tests, NULL, NULL);
}
