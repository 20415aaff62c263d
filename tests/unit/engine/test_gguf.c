#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/gguf.h"
#include "tests/unit/engine/model_files.h"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };
enum { GGML_F32 = 0, GGML_Q2_K = 10, GGML_Q8_0 = 8 };

static struct scratch scratch;

static void put_scalars(struct bytes *b)
{
    put_key(b, "t.u8", U8);
    put(b, "\xff", 1);
    put_key(b, "t.i8", I8);
    put(b, "\xff", 1);
    put_key(b, "t.u16", U16);
    put(b, "\xfe\xff", 2);
    put_key(b, "t.i32", I32);
    put_u32(b, 0x80000000u);
    put_key(b, "t.u64", U64);
    put_u64(b, UINT64_MAX);
    put_key(b, "t.i64", I64);
    put_u64(b, 7);
    put_key(b, "t.bool", BOOL);
    put(b, "\1", 1);
    put_key(b, "t.f64", F64);
    put(b, &(double){ 0.1 }, 8);
    put_key_f32(b, "t.f32", 1.5f);
    put_key_text(b, "t.text", "caf\xc3\xa9");
}

static void put_arrays(struct bytes *b)
{
    put_key_array(b, "a.text", STRING, 3);
    put_text(b, "one");
    put_text(b, "");
    put_text(b, "three");
    put_key_array(b, "a.i16", I16, 2);
    put(b, "\x01\x00\xff\xff", 4);
    put_key_array(b, "a.f32", F32, 2);
    put(b, (float[]){ 0.25f, -2.0f }, 8);
    put_key_array(b, "a.none", U32, 0);
}

/* 14 keys and two tensors: w [3, 64] in Q8_0 and v [5] in F32. */
static void put_good_file(struct bytes *b)
{
    b->n = 0;
    put_gguf_header(b, 2, 14);
    put_scalars(b);
    put_arrays(b);
    put_gguf_tensor(b, "w", 3, 64, GGML_Q8_0, 0);
    put_gguf_tensor(b, "v", 0, 5, GGML_F32, 224);
    put_padding(b, 32);
    for (uint32_t i = 0; i < 224; i++)
        put(b, &(uint8_t){ (uint8_t)i }, 1);
    put(b, (float[]){ 1, 2, 3, 4, 5 }, 20);
}

static struct gguf *open_good(void)
{
    static struct bytes b;
    struct gguf *file = NULL;
    struct error err = { "" };
    put_good_file(&b);
    status st = gguf_open(scratch_write(&scratch, "m.gguf", b.data, b.n), &file, &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
    return file;
}

static void test_plain_values(void **state)
{
    (void)state;
    struct gguf *f = open_good();
    uint64_t u = 0;
    double d = 0;
    bool truth = false;
    struct gguf_string text;
    assert_int_equal(gguf_get_u64(f, "t.u8", &u), ST_OK);
    assert_int_equal(u, 255);
    assert_int_equal(gguf_get_u64(f, "t.u16", &u), ST_OK);
    assert_int_equal(u, 65534);
    assert_int_equal(gguf_get_u64(f, "t.u64", &u), ST_OK);
    assert_true(u == UINT64_MAX);
    assert_int_equal(gguf_get_u64(f, "t.i64", &u), ST_OK);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_f64(f, "t.f32", &d), ST_OK);
    assert_true(d == 1.5);
    assert_int_equal(gguf_get_f64(f, "t.f64", &d), ST_OK);
    assert_true(d == 0.1);
    assert_int_equal(gguf_get_bool(f, "t.bool", &truth), ST_OK);
    assert_true(truth);
    assert_int_equal(gguf_get_string(f, "t.text", &text), ST_OK);
    assert_int_equal(text.len, 5);
    assert_memory_equal(text.data, "caf\xc3\xa9", 5);
    gguf_close(&f);
    assert_null(f);
}

static void test_values_of_another_type(void **state)
{
    (void)state;
    struct gguf *f = open_good();
    uint64_t u = 99;
    double d = 99;
    bool truth = true;
    struct gguf_string text = { NULL, 99 };
    assert_int_equal(gguf_get_u64(f, "t.missing", &u), ST_NOT_FOUND);
    assert_int_equal(gguf_get_u64(f, "t.u", &u), ST_NOT_FOUND);
    assert_int_equal(gguf_get_u64(f, "t.i8", &u), ST_INVALID); /* -1 */
    assert_int_equal(gguf_get_u64(f, "t.i32", &u), ST_INVALID);
    assert_int_equal(gguf_get_u64(f, "t.f32", &u), ST_INVALID);
    assert_int_equal(gguf_get_u64(f, "t.bool", &u), ST_INVALID);
    assert_int_equal(gguf_get_u64(f, "a.i16", &u), ST_INVALID);
    assert_int_equal(gguf_get_f64(f, "t.u8", &d), ST_INVALID);
    assert_int_equal(gguf_get_bool(f, "t.u8", &truth), ST_INVALID);
    assert_int_equal(gguf_get_string(f, "a.text", &text), ST_INVALID);
    assert_int_equal(gguf_array_len(f, "t.u8", &u), ST_INVALID);
    assert_int_equal(u, 99);
    assert_true(d == 99);
    assert_int_equal(text.len, 99);
    gguf_close(&f);
}

static void test_arrays(void **state)
{
    (void)state;
    struct gguf *f = open_good();
    uint64_t n = 0;
    int64_t i = 0;
    double d = 0;
    struct gguf_string text;
    assert_int_equal(gguf_array_len(f, "a.text", &n), ST_OK);
    assert_int_equal(n, 3);
    assert_int_equal(gguf_array_string(f, "a.text", 2, &text), ST_OK);
    assert_int_equal(text.len, 5);
    assert_memory_equal(text.data, "three", 5);
    assert_int_equal(gguf_array_string(f, "a.text", 1, &text), ST_OK);
    assert_int_equal(text.len, 0);
    assert_int_equal(gguf_array_string(f, "a.text", 3, &text), ST_NOT_FOUND);
    assert_int_equal(gguf_array_string(f, "a.i16", 0, &text), ST_INVALID);
    assert_int_equal(gguf_array_i64(f, "a.i16", 1, &i), ST_OK);
    assert_int_equal(i, -1);
    assert_int_equal(gguf_array_i64(f, "a.text", 1, &i), ST_INVALID);
    assert_int_equal(gguf_array_f64(f, "a.f32", 1, &d), ST_OK);
    assert_true(d == -2);
    assert_int_equal(gguf_array_f64(f, "a.text", 1, &d), ST_INVALID);
    assert_int_equal(gguf_array_len(f, "a.none", &n), ST_OK);
    assert_int_equal(n, 0);
    assert_int_equal(gguf_array_i64(f, "a.none", 0, &i), ST_NOT_FOUND);
    gguf_close(&f);
}

static void test_keys_in_order(void **state)
{
    (void)state;
    struct gguf *f = open_good();
    assert_int_equal(gguf_key_count(f), 14);
    assert_memory_equal(gguf_key_at(f, 1).data, "t.i8", gguf_key_at(f, 1).len);
    assert_memory_equal(gguf_key_at(f, 13).data, "a.none", gguf_key_at(f, 13).len);
    gguf_close(&f);
}

static void test_tensors(void **state)
{
    (void)state;
    struct gguf *f = open_good();
    assert_int_equal(gguf_tensor_count(f), 2);
    const struct tensor *w = gguf_tensor(f, "w"), *v = gguf_tensor(f, "v");
    assert_null(gguf_tensor(f, "ww"));
    assert_ptr_equal(w, gguf_tensor_at(f, 0));
    assert_string_equal(v->name, "v");
    assert_int_equal(w->n_dims, 2);
    assert_int_equal(w->shape[0], 3); /* outermost first */
    assert_int_equal(w->shape[1], 64);
    assert_int_equal(w->type, DTYPE_Q8_0);
    assert_int_equal(w->bytes, 3 * 2 * 34);
    assert_int_equal(((const uint8_t *)w->data)[203], 203);
    assert_int_equal(v->n_dims, 1);
    assert_int_equal(v->bytes, 20);
    assert_int_equal((uintptr_t)v->data % 32, 0);
    assert_true(((const float *)v->data)[4] == 5.0f);
    gguf_close(&f);
}

/* Each proper beginning of a good file is refused. */
static void test_truncations(void **state)
{
    (void)state;
    static struct bytes b;
    put_good_file(&b);
    for (size_t n = 0; n < b.n; n++) {
        struct gguf *f = NULL;
        struct error err = { "" };
        status st = gguf_open(scratch_write(&scratch, "m.gguf", b.data, n), &f, &err);
        assert_int_not_equal(st, ST_OK);
        assert_null(f);
        assert_non_null(strstr(err.text, "m.gguf"));
    }
}

/* Any byte changed: an error or a file whose tensors can all be read. */
static void test_changed_bytes(void **state)
{
    (void)state;
    static struct bytes b;
    put_good_file(&b);
    static const uint8_t changes[] = { 0x01, 0x80, 0xff };
    for (size_t i = 0; i < 3 * b.n; i++) {
        struct gguf *f = NULL;
        b.data[i / 3] ^= changes[i % 3];
        status st = gguf_open(scratch_write(&scratch, "m.gguf", b.data, b.n), &f, NULL);
        for (uint64_t t = 0; st == ST_OK && t < gguf_tensor_count(f); t++) {
            const struct tensor *x = gguf_tensor_at(f, t);
            const volatile uint8_t *data = x->data;
            (void)data[0];
            (void)data[x->bytes - 1];
        }
        gguf_close(&f);
        b.data[i / 3] ^= changes[i % 3];
    }
}

static void check_refused(const struct bytes *b, status want, const char *words)
{
    struct gguf *f = NULL;
    struct error err = { "" };
    status st = gguf_open(scratch_write(&scratch, "m.gguf", b->data, b->n), &f, &err);
    assert_null(f);
    if (st != want || !strstr(err.text, words) || !strstr(err.text, "m.gguf"))
        fail_msg("wanted %s with \"%s\", got %s: %s", status_text(want), words, status_text(st), err.text);
}

static void test_bad_headers(void **state)
{
    (void)state;
    static struct bytes b;
    put_good_file(&b);
    b.data[0] = 'g';
    check_refused(&b, ST_INVALID, "not a GGUF file");
    put_good_file(&b);
    b.data[4] = 2;
    check_refused(&b, ST_UNSUPPORTED, "GGUF version 2 is not supported");
    memcpy(b.data + 4, "\0\0\0\3", 4);
    check_refused(&b, ST_UNSUPPORTED, "big-endian");
    put_good_file(&b);
    memset(b.data + 8, 0xff, 8);
    check_refused(&b, ST_INVALID, "do not fit in the file");
    put_good_file(&b);
    memset(b.data + 16, 0xff, 8);
    check_refused(&b, ST_INVALID, "do not fit in the file");
    b.n = 0;
    check_refused(&b, ST_INVALID, "empty");
}

/* One key and nothing else, then room that the counts may claim. */
static void check_bad_key(void (*put_bad)(struct bytes *b), status want, const char *words)
{
    static struct bytes b;
    b.n = 0;
    put_gguf_header(&b, 0, 1);
    put_bad(&b);
    for (int i = 0; i < 64; i++)
        put_u64(&b, 0);
    check_refused(&b, want, words);
}

static void put_long_string(struct bytes *b)
{
    put_key(b, "k", STRING);
    put_u64(b, UINT64_MAX - 7);
}

static void put_long_array(struct bytes *b)
{
    put_key_array(b, "k", U64, UINT64_MAX / 4);
}

static void put_long_string_array(struct bytes *b)
{
    put_key_array(b, "k", STRING, UINT64_MAX / 8);
}

static void put_string_array_past_end(struct bytes *b)
{
    put_key_array(b, "k", STRING, 2);
    put_text(b, "x");
    put_u64(b, 100000);
}

static void put_nested_array(struct bytes *b)
{
    put_key_array(b, "k", ARRAY, 1);
}

static void put_unknown_type(struct bytes *b)
{
    put_key(b, "k", 13);
}

static void put_bad_bool(struct bytes *b)
{
    put_key(b, "k", BOOL);
    put(b, "\2", 1);
}

static void put_empty_key(struct bytes *b)
{
    put_key_u32(b, "", 1);
}

static void put_key_with_nul(struct bytes *b)
{
    put_u64(b, 2);
    put(b, "a\0", 2);
    put_u32(b, U32);
}

static void put_odd_alignment(struct bytes *b)
{
    put_key_u32(b, "general.alignment", 48);
}

static void put_text_alignment(struct bytes *b)
{
    put_key_text(b, "general.alignment", "32");
}

static void test_bad_keys(void **state)
{
    (void)state;
    check_bad_key(put_long_string, ST_INVALID, "key k: its string ends past the end");
    check_bad_key(put_long_array, ST_INVALID, "key k: its value ends past the end");
    check_bad_key(put_long_string_array, ST_INVALID, "key k: its array ends past the end");
    check_bad_key(put_string_array_past_end, ST_INVALID, "key k: a string of its array ends past the end");
    check_bad_key(put_nested_array, ST_UNSUPPORTED, "key k: arrays of arrays");
    check_bad_key(put_unknown_type, ST_INVALID, "key k: its value type is unknown");
    check_bad_key(put_bad_bool, ST_INVALID, "key k: a truth value");
    check_bad_key(put_empty_key, ST_INVALID, "is empty, too long or holds a NUL");
    check_bad_key(put_key_with_nul, ST_INVALID, "is empty, too long or holds a NUL");
    check_bad_key(put_odd_alignment, ST_INVALID, "general.alignment: not a power of two");
    check_bad_key(put_text_alignment, ST_INVALID, "general.alignment: not a power of two");
}

static void test_duplicate_keys(void **state)
{
    (void)state;
    static struct bytes b;
    b.n = 0;
    put_gguf_header(&b, 0, 3);
    put_key_u32(&b, "same", 1);
    put_key_u32(&b, "samer", 1);
    put_key_u32(&b, "same", 1);
    check_refused(&b, ST_INVALID, "key same: it is there twice");
}

struct bad_tensor {
    const char *name;
    uint64_t outer, inner;
    uint32_t type;
    uint64_t offset;
    status want;
    const char *words;
};

static void test_bad_tensors(void **state)
{
    (void)state;
    static const struct bad_tensor cases[] = {
        { "t", 2, 64, GGML_Q2_K, 0, ST_UNSUPPORTED, "tensor t: number format Q2_K is not supported" },
        { "t", 2, 64, 26, 0, ST_UNSUPPORTED, "tensor t: number format I32 is not supported" },
        { "t", 2, 64, 999, 0, ST_INVALID, "tensor t: unknown number format 999" },
        { "t", 2, 64, 4, 0, ST_INVALID, "tensor t: unknown number format 4" },
        { "t", 2, 65, GGML_Q8_0, 0, ST_INVALID, "rows of 65 values do not fill blocks of Q8_0" },
        { "t", 0, 0, GGML_F32, 0, ST_INVALID, "a dimension is zero" },
        { "t", UINT64_MAX, 64, GGML_F32, 0, ST_INVALID, "overflows" },
        { "t", 1ull << 32, 1ull << 30, GGML_F32, 0, ST_INVALID, "overflows" },
        { "t", 2, 64, GGML_F32, 31, ST_INVALID, "its offset is not aligned" },
        { "t", 2, 64, GGML_F32, 32, ST_INVALID, "512 bytes at offset 32 end past the end of the file" },
        { "t", 2, 64, GGML_F32, UINT64_MAX - 31, ST_INVALID, "end past the end of the file" },
        { "t", 3, 64, GGML_F32, 0, ST_INVALID, "end past the end of the file" },
        { "", 2, 64, GGML_F32, 0, ST_INVALID, "name of 0 bytes" },
    };
    static struct bytes b;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        b.n = 0;
        put_gguf_header(&b, 1, 0);
        put_gguf_tensor(&b, cases[i].name, cases[i].outer, cases[i].inner, cases[i].type, cases[i].offset);
        put_padding(&b, 32);
        for (int n = 0; n < 64; n++)
            put_u64(&b, 0);
        check_refused(&b, cases[i].want, cases[i].words);
    }
}

static void test_bad_dimension_counts(void **state)
{
    (void)state;
    static struct bytes b;
    for (uint32_t n_dims = 0; n_dims < 7; n_dims++) {
        if (n_dims >= 1 && n_dims <= 4)
            continue;
        b.n = 0;
        put_gguf_header(&b, 1, 0);
        put_text(&b, "t");
        put_u32(&b, n_dims);
        for (int n = 0; n < 64; n++)
            put_u64(&b, 1);
        check_refused(&b, ST_INVALID, "dimensions, not 1 to 4");
    }
}

static void check_two_tensors(const char *second, uint64_t offset, const char *words)
{
    static struct bytes b;
    b.n = 0;
    put_gguf_header(&b, 2, 0);
    put_gguf_tensor(&b, "first", 2, 64, GGML_F32, 0);
    put_gguf_tensor(&b, second, 2, 64, GGML_F32, offset);
    put_padding(&b, 32);
    for (int n = 0; n < 128; n++)
        put_u64(&b, 0);
    check_refused(&b, ST_INVALID, words);
}

static void test_tensors_in_each_others_way(void **state)
{
    (void)state;
    check_two_tensors("first", 512, "tensor first is there twice");
    check_two_tensors("second", 480, "the data of tensors first and second overlaps");
    check_two_tensors("second", 0, "overlaps");
}

static void test_no_file(void **state)
{
    (void)state;
    struct gguf *f = NULL;
    struct error err;
    assert_int_equal(gguf_open("/nowhere/m.gguf", &f, &err), ST_NOT_FOUND);
    assert_int_equal(gguf_open(scratch.dir, &f, &err), ST_INVALID);
    assert_int_equal(gguf_open("/dev/zero", &f, &err), ST_INVALID);
    gguf_close(&f);
}

static int setup(void **state)
{
    (void)state;
    scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove(&scratch, (const char *const[]){ "m.gguf" }, 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_values),
        cmocka_unit_test(test_values_of_another_type),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_keys_in_order),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_changed_bytes),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_keys),
        cmocka_unit_test(test_duplicate_keys),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_bad_dimension_counts),
        cmocka_unit_test(test_tensors_in_each_others_way),
        cmocka_unit_test(test_no_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
