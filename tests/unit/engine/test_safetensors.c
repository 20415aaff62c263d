#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/safetensors.h"
#include "tests/unit/engine/model_files.h"

static struct scratch scratch;

static const char good_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                  "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
                                  "\"a\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},"
                                  "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[32,32]},"
                                  "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[32,34]}}";

/* The header, padded with spaces so that the data is aligned, then data of counting bytes. */
static const char *write_file(const char *header, size_t data_bytes)
{
    static struct bytes b;
    size_t len = strlen(header), padded = (len + 7) / 8 * 8;
    b.n = 0;
    put_u64(&b, padded);
    put(&b, header, len);
    for (size_t i = len; i < padded; i++)
        put(&b, " ", 1);
    for (size_t i = 0; i < data_bytes; i++)
        put(&b, &(uint8_t){ (uint8_t)i }, 1);
    return scratch_write(&scratch, "m.safetensors", b.data, b.n);
}

static void check_refused(const char *path, status want, const char *words)
{
    struct safetensors *f = NULL;
    struct error err = { "" };
    status st = safetensors_open(path, &f, &err);
    assert_null(f);
    if (st != want || !strstr(err.text, words) || !strstr(err.text, "m.safetensors"))
        fail_msg("wanted %s with \"%s\", got %s: %s", status_text(want), words, status_text(st), err.text);
}

static void test_good_file(void **state)
{
    (void)state;
    struct safetensors *f = NULL;
    struct error err = { "" };
    if (safetensors_open(write_file(good_header, 34), &f, &err) != ST_OK)
        fail_msg("%s", err.text);
    const struct model_index *index = safetensors_index(f);
    assert_int_equal(index->n, 4);
    assert_string_equal(index->by_name[0]->name, "a");
    const struct tensor *b = model_index_find(index, "b");
    assert_int_equal(b->type, DTYPE_F32);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(((const uint8_t *)b->data)[0], 8);
    assert_int_equal(((const uint8_t *)b->data)[23], 31);
    assert_int_equal(model_index_find(index, "empty")->bytes, 0);
    assert_int_equal(model_index_find(index, "scalar")->bytes, 2);
    assert_null(model_index_find(index, "__metadata__"));
    model_map_will_need(safetensors_map(f));
    safetensors_close(&f);
    assert_null(f);
}

static void test_builtin_model(void **state)
{
    (void)state;
    struct safetensors *f = NULL;
    struct error err = { "" };
    if (safetensors_open(BATON_SOURCE_DIR "/models/baton-tiny/model.safetensors", &f, &err) != ST_OK)
        fail_msg("%s", err.text);
    const struct tensor *t = model_index_find(safetensors_index(f), "model.layers.3.mlp.down_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->shape[0], 256);
    assert_int_equal(t->shape[1], 512);
    safetensors_close(&f);
}

#define ONE(entry) "{\"t\":" entry "}"

static void test_bad_entries(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        status want;
        const char *words;
    } cases[] = {
        { ONE("{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[0,8]}"), ST_UNSUPPORTED,
          "tensor t: dtype I8 is not supported" },
        { ONE("{\"dtype\":5,\"shape\":[8],\"data_offsets\":[0,8]}"), ST_INVALID, "tensor t: dtype is not a string" },
        { ONE("{\"dtype\":\"F16\",\"shape\":4,\"data_offsets\":[0,8]}"), ST_INVALID, "shape is not an array" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[-4],\"data_offsets\":[0,8]}"), ST_INVALID, "a dimension is not a count" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4.0],\"data_offsets\":[0,8]}"), ST_INVALID, "a dimension is not a count" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[1,1,1,1,4],\"data_offsets\":[0,8]}"), ST_UNSUPPORTED,
          "5 dimensions, more than 4" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}"), ST_INVALID,
          "its size overflows" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,8]}"), ST_INVALID,
          "8 bytes of data, but its shape takes 6" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,0]}"), ST_INVALID, "data_offsets is not" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[-8,0]}"), ST_INVALID, "data_offsets is not" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8]}"), ST_INVALID, "data_offsets is not" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8,8]}"), ST_INVALID, "data_offsets is not" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[8],\"data_offsets\":[0,16]}"), ST_INVALID, "past the end of the file" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[9223372036854775799,9223372036854775807]}"),
          ST_INVALID, "past the end of the file" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8],\"more\":1}"), ST_INVALID,
          "its entry is not {dtype, shape, data_offsets}" },
        { ONE("7"), ST_INVALID, "its entry is not {dtype, shape, data_offsets}" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,6]}"), ST_INVALID,
          "its tensors take 6 bytes of the 8 after the header" },
        { ONE("{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[1,7]}"), ST_UNSUPPORTED, "not aligned" },
        { "{\"a\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,6]},"
          "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}",
          ST_INVALID, "the data of tensors a and b overlaps" },
        { "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},"
          "\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[4,8]}}",
          ST_INVALID, "duplicate" },
        { "{\"\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]}}", ST_INVALID, "name has 0 bytes" },
        { "[]", ST_INVALID, "the header is not an object" },
        { "{\"a\":", ST_INVALID, "header: " },
        { "{}", ST_INVALID, "take 0 bytes of the 8" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(write_file(cases[i].header, 8), cases[i].want, cases[i].words);
}

static void test_bad_lengths(void **state)
{
    (void)state;
    struct bytes *b = calloc(1, sizeof *b);
    put_u64(b, UINT64_MAX);
    check_refused(scratch_write(&scratch, "m.safetensors", b->data, 7), ST_INVALID, "shorter than the length");
    check_refused(scratch_write(&scratch, "m.safetensors", b->data, 8), ST_INVALID, "ends past the end");
    check_refused(scratch_write(&scratch, "m.safetensors", b->data, 100), ST_INVALID, "ends past the end");
    b->n = 0;
    put_u64(b, 92);
    check_refused(scratch_write(&scratch, "m.safetensors", b->data, 100), ST_INVALID, "header: ");
    b->n = 0;
    put_u64(b, SAFETENSORS_MAX_HEADER_BYTES + 1ull);
    const char *path = scratch_write(&scratch, "m.safetensors", b->data, 8);
    assert_int_equal(truncate(path, (off_t)SAFETENSORS_MAX_HEADER_BYTES + 100), 0); /* a hole, no real bytes */
    check_refused(path, ST_LIMIT, "more than 100000000");
    free(b);
}

static void test_truncations_and_changes(void **state)
{
    (void)state;
    static struct bytes b;
    size_t len = strlen(good_header);
    b.n = 0;
    put_u64(&b, len);
    put(&b, good_header, len);
    size_t start = b.n;
    put(&b, good_header, 34);
    for (size_t n = 0; n < b.n; n++) {
        struct safetensors *f = NULL;
        assert_int_not_equal(safetensors_open(scratch_write(&scratch, "m.safetensors", b.data, n), &f, NULL), ST_OK);
        assert_null(f);
    }
    for (size_t i = 0; i < start; i++) { /* must not crash; most are refused */
        struct safetensors *f = NULL;
        b.data[i] ^= 1;
        if (safetensors_open(scratch_write(&scratch, "m.safetensors", b.data, b.n), &f, NULL) == ST_OK)
            safetensors_close(&f);
        b.data[i] ^= 1;
    }
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
    scratch_remove(&scratch, (const char *const[]){ "m.safetensors" }, 1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_builtin_model),
        cmocka_unit_test(test_bad_entries),
        cmocka_unit_test(test_bad_lengths),
        cmocka_unit_test(test_truncations_and_changes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
