#include <msgpack.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/kv_events.h"

#define MANY 3u

static const struct kv_event_hash hashes[MANY] = { { 1, 2 }, { 3, UINT64_MAX }, { UINT64_MAX, 0 } };
static const uint32_t tokens[MANY * 2] = { 0, 1, 127, 128, 70000, UINT32_MAX };

/* An exact copy on the heap, so that AddressSanitizer sees a read past its end. */
struct message {
    uint8_t *data;
    size_t len;
};

static struct message copied(const void *data, size_t len)
{
    struct message m = { malloc(len ? len : 1), len };
    assert_non_null(m.data);
    memcpy(m.data, data, len);
    return m;
}

static status read_all(const uint8_t *data, size_t len, uint32_t *n_events)
{
    struct kv_batch_reader r;
    struct kv_event event;
    struct error err;
    kv_batch_reader_init(&r);
    *n_events = 0;
    status st = kv_batch_open(&r, data, len, &err);
    while (st == ST_OK && (st = kv_batch_next(&r, &event, &err)) == ST_OK)
        ++*n_events;
    kv_batch_reader_free(&r);
    return st;
}

static void assert_same_hash(struct kv_event_hash a, struct kv_event_hash b)
{
    assert_int_equal(a.low, b.low);
    assert_int_equal(a.high, b.high);
}

static struct message written(enum kv_hash_form form)
{
    struct kv_batch_writer w;
    const uint8_t *data;
    size_t len;
    kv_batch_writer_init(&w, form, 4096);
    struct kv_event stored = { .kind = KV_BLOCK_STORED,
                               .tier = KV_TIER_HOST,
                               .hashes = hashes,
                               .n_hashes = MANY,
                               .has_parent = true,
                               .parent = { 7, 8 },
                               .tokens = tokens,
                               .n_tokens = MANY * 2,
                               .block_size = 2,
                               .has_adapter = true,
                               .adapter = "poet",
                               .adapter_len = 4 };
    struct kv_event removed = { .kind = KV_BLOCK_REMOVED, .tier = KV_TIER_DISK, .hashes = hashes, .n_hashes = 1 };
    assert_int_equal(kv_batch_add(&w, &(struct kv_event){ .kind = KV_ALL_CLEARED }), ST_OK);
    assert_int_equal(kv_batch_add(&w, &stored), ST_OK);
    assert_int_equal(kv_batch_add(&w, &removed), ST_OK);
    assert_int_equal(kv_batch_finish(&w, 1234.5, 3, &data, &len), ST_OK);
    struct message m = copied(data, len);
    kv_batch_writer_free(&w);
    return m;
}

static void test_what_is_written_is_read(void **state)
{
    (void)state;
    struct message m = written(KV_HASH_AS_BYTES);
    struct kv_batch_reader r;
    struct kv_event event;
    kv_batch_reader_init(&r);
    assert_int_equal(kv_batch_open(&r, m.data, m.len, NULL), ST_OK);
    assert_true(r.ts == 1234.5 && r.rank == 3 && r.clears && r.n_events == 3);
    assert_int_equal(kv_batch_next(&r, &event, NULL), ST_OK);
    assert_int_equal(event.kind, KV_ALL_CLEARED);
    assert_int_equal(kv_batch_next(&r, &event, NULL), ST_OK);
    assert_true(event.kind == KV_BLOCK_STORED && event.tier == KV_TIER_HOST && event.n_hashes == MANY);
    for (uint32_t i = 0; i < MANY; i++)
        assert_same_hash(event.hashes[i], hashes[i]);
    assert_true(event.has_parent);
    assert_same_hash(event.parent, (struct kv_event_hash){ 7, 8 });
    assert_int_equal(event.n_tokens, MANY * 2);
    assert_memory_equal(event.tokens, tokens, sizeof tokens);
    assert_int_equal(event.block_size, 2);
    assert_true(event.has_adapter && event.adapter_len == 4 && !memcmp(event.adapter, "poet", 4));
    assert_false(event.has_extra_keys || event.has_group);
    assert_int_equal(kv_batch_next(&r, &event, NULL), ST_OK);
    assert_true(event.kind == KV_BLOCK_REMOVED && event.tier == KV_TIER_DISK && event.n_hashes == 1);
    assert_int_equal(kv_batch_next(&r, &event, NULL), ST_NOT_FOUND);
    kv_batch_reader_free(&r);
    free(m.data);
}

static void test_hashes_as_integers(void **state)
{
    (void)state;
    struct message m = written(KV_HASH_AS_INTEGER);
    struct kv_batch_reader r;
    struct kv_event event;
    kv_batch_reader_init(&r);
    assert_int_equal(kv_batch_open(&r, m.data, m.len, NULL), ST_OK);
    assert_int_equal(kv_batch_next(&r, &event, NULL), ST_OK);
    assert_int_equal(kv_batch_next(&r, &event, NULL), ST_OK);
    for (uint32_t i = 0; i < MANY; i++)
        assert_same_hash(event.hashes[i], (struct kv_event_hash){ hashes[i].low, 0 });
    kv_batch_reader_free(&r);
    free(m.data);
}

static void test_a_batch_that_grows_too_long(void **state)
{
    (void)state;
    struct kv_batch_writer w;
    const uint8_t *data;
    size_t len;
    uint32_t n;
    kv_batch_writer_init(&w, KV_HASH_AS_BYTES, 100);
    struct kv_event removed = { .kind = KV_BLOCK_REMOVED, .hashes = hashes, .n_hashes = MANY };
    assert_int_equal(kv_batch_add(&w, &removed), ST_OK);
    assert_int_equal(kv_batch_add(&w, &removed), ST_LIMIT);
    assert_int_equal(kv_batch_finish(&w, 1, -1, &data, &len), ST_OK);
    assert_int_equal(read_all(data, len, &n), ST_NOT_FOUND);
    assert_int_equal(n, 1);
    assert_int_equal(kv_batch_finish(&w, 1, -1, &data, &len), ST_OK);
    assert_int_equal(read_all(data, len, &n), ST_NOT_FOUND);
    assert_int_equal(n, 0);
    kv_batch_writer_free(&w);
}

/* --- as others write --- */

struct foreign {
    msgpack_sbuffer buffer;
    msgpack_packer p;
};

static void foreign_init(struct foreign *f)
{
    msgpack_sbuffer_init(&f->buffer);
    msgpack_packer_init(&f->p, &f->buffer, msgpack_sbuffer_write);
}

static void text(struct foreign *f, const char *s)
{
    msgpack_pack_str(&f->p, strlen(s));
    msgpack_pack_str_body(&f->p, s, strlen(s));
}

static void bytes(struct foreign *f, size_t n)
{
    uint8_t content[100] = { 0xab };
    msgpack_pack_bin(&f->p, n);
    msgpack_pack_bin_body(&f->p, content, n);
}

static void numbers(struct foreign *f, uint32_t n)
{
    msgpack_pack_array(&f->p, n);
    for (uint32_t i = 0; i < n; i++)
        msgpack_pack_uint32(&f->p, i);
}

static status foreign_first(struct foreign *f, struct kv_batch_reader *r, struct kv_event *event)
{
    struct error err;
    kv_batch_reader_init(r);
    status st = kv_batch_open(r, (const uint8_t *)f->buffer.data, f->buffer.size, &err);
    return st == ST_OK ? kv_batch_next(r, event, &err) : st;
}

static void done(struct foreign *f, struct kv_batch_reader *r)
{
    kv_batch_reader_free(r);
    msgpack_sbuffer_destroy(&f->buffer);
}

static void test_maps_and_what_is_not_known(void **state)
{
    (void)state;
    struct foreign f;
    struct kv_batch_reader r;
    struct kv_event event;
    foreign_init(&f);
    msgpack_pack_map(&f.p, 3);
    text(&f, "ts"), msgpack_pack_double(&f.p, 2);
    text(&f, "future"), msgpack_pack_map(&f.p, 1), text(&f, "a"), numbers(&f, 3);
    text(&f, "events"), msgpack_pack_array(&f.p, 2);
    msgpack_pack_map(&f.p, 2), text(&f, "type"), text(&f, "BlockMigrated"), text(&f, "x"), numbers(&f, 2);
    msgpack_pack_map(&f.p, 6);
    text(&f, "extra_keys"), msgpack_pack_array(&f.p, 2), msgpack_pack_nil(&f.p), numbers(&f, 1);
    text(&f, "type"), text(&f, "BlockStored");
    text(&f, "block_hashes"), msgpack_pack_array(&f.p, 2), bytes(&f, 32), msgpack_pack_int64(&f.p, -5);
    text(&f, "parent_block_hash"), msgpack_pack_nil(&f.p);
    text(&f, "block_size"), msgpack_pack_int(&f.p, 4);
    text(&f, "token_ids"), numbers(&f, 8);
    assert_int_equal(foreign_first(&f, &r, &event), ST_OK);
    assert_true(r.ts == 2 && r.rank == -1 && r.n_unknown == 1);
    assert_true(event.n_hashes == 2 && event.n_tokens == 8 && !event.has_parent && event.has_extra_keys);
    assert_int_equal(event.tier, KV_TIER_DEVICE);
    assert_same_hash(event.hashes[1], (struct kv_event_hash){ (uint64_t)-5, UINT64_MAX });
    done(&f, &r);
}

/* An array with fields behind those that we know, of types that we do not expect. */
static void test_trailing_fields(void **state)
{
    (void)state;
    struct foreign f;
    struct kv_batch_reader r;
    struct kv_event event;
    foreign_init(&f);
    msgpack_pack_array(&f.p, 5), msgpack_pack_int(&f.p, 7);
    msgpack_pack_array(&f.p, 1), msgpack_pack_array(&f.p, 6), text(&f, "BlockRemoved"), numbers(&f, 2);
    text(&f, "CPU_TIER2"), msgpack_pack_int(&f.p, 1), numbers(&f, 4), msgpack_pack_true(&f.p);
    msgpack_pack_nil(&f.p), text(&f, "later"), numbers(&f, 1);
    assert_int_equal(foreign_first(&f, &r, &event), ST_OK);
    assert_true(event.kind == KV_BLOCK_REMOVED && event.n_hashes == 2 && event.tier == KV_TIER_DISK);
    assert_true(event.has_group && event.group == 1 && r.ts == 7);
    done(&f, &r);
}

static void stored(struct foreign *f, uint32_t n_hashes, uint32_t n_tokens)
{
    msgpack_pack_array(&f->p, 2), msgpack_pack_int(&f->p, 0), msgpack_pack_array(&f->p, 1);
    msgpack_pack_array(&f->p, 5), text(f, "BlockStored"), numbers(f, n_hashes), msgpack_pack_nil(&f->p);
    numbers(f, n_tokens), msgpack_pack_int(&f->p, 4);
}

static void test_tokens_that_do_not_fit_the_blocks(void **state)
{
    (void)state;
    for (uint32_t n_tokens = 7; n_tokens <= 9; n_tokens++) {
        struct foreign f;
        struct kv_batch_reader r;
        struct kv_event event;
        foreign_init(&f);
        stored(&f, 2, n_tokens);
        assert_int_equal(foreign_first(&f, &r, &event), n_tokens == 8 ? ST_OK : ST_CORRUPT);
        done(&f, &r);
    }
}

static void test_bounds(void **state)
{
    (void)state;
    struct foreign f;
    struct kv_batch_reader r;
    struct kv_event event;
    foreign_init(&f);
    stored(&f, KV_EVENT_MAX_HASHES + 1, 0);
    assert_int_equal(foreign_first(&f, &r, &event), ST_LIMIT);
    done(&f, &r);
    for (size_t n = 0; n <= KV_HASH_LONGEST + 1; n += 13) {
        foreign_init(&f);
        msgpack_pack_array(&f.p, 2), msgpack_pack_int(&f.p, 0), msgpack_pack_array(&f.p, 1),
            msgpack_pack_array(&f.p, 2);
        text(&f, "BlockRemoved"), msgpack_pack_array(&f.p, 1), bytes(&f, n);
        assert_int_equal(foreign_first(&f, &r, &event), n && n <= KV_HASH_LONGEST ? ST_OK : ST_CORRUPT);
        done(&f, &r);
    }
}

/* Counts that promise more than there is, and containers in containers. */
static void test_lies(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        size_t len;
    } lies[] = { { "\xdd\xff\xff\xff\xff\x01", 6 },
                 { "\x93\x01\xdd\x7f\xff\xff\xff\xc0", 8 },
                 { "\x92\x01\x91\x92\xacXlockRemoved\xdd\x00\x00\xff\xff", 21 },
                 { "\x92\x01\x91\x92\xac"
                   "BlockRemoved\xdb\xff\xff\xff\xff",
                   22 },
                 { "\x92\x01\xdf\x80\x00\x00\x00", 7 },
                 { "\xc1", 1 },
                 { "", 0 } };
    uint32_t n;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct message m = copied(lies[i].data, lies[i].len);
        assert_int_equal(read_all(m.data, m.len, &n), ST_CORRUPT);
        free(m.data);
    }
    uint8_t deep[200];
    memset(deep, 0x91, sizeof deep);
    deep[0] = 0x93, deep[1] = 1, deep[2] = 0x90, deep[sizeof deep - 1] = 0xc0;
    assert_int_equal(read_all(deep, sizeof deep, &n), ST_CORRUPT);
}

static void test_every_cut_is_noticed(void **state)
{
    (void)state;
    struct message whole = written(KV_HASH_AS_BYTES);
    for (size_t len = 0; len < whole.len; len++) {
        struct message m = copied(whole.data, len);
        uint32_t n;
        assert_int_equal(read_all(m.data, m.len, &n), ST_CORRUPT);
        free(m.data);
    }
    free(whole.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_hashes_as_integers),
        cmocka_unit_test(test_a_batch_that_grows_too_long),
        cmocka_unit_test(test_maps_and_what_is_not_known),
        cmocka_unit_test(test_trailing_fields),
        cmocka_unit_test(test_tokens_that_do_not_fit_the_blocks),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_every_cut_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
