#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <time.h>

#include "tokenizer_sample.h"

#define TINY   BATON_SOURCE_DIR "/models/baton-tiny"
#define GOLDEN BATON_SOURCE_DIR "/tests/golden/"

static void expect_ids(const struct tokenizer *tok, const char *text, unsigned flags, const uint32_t *ids, size_t n)
{
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(tok, text, strlen(text), flags, 0, &list), ST_OK);
    assert_int_equal(list.n, n);
    if (n > 0)
        assert_memory_equal(list.ids, ids, n * sizeof *ids);
    token_list_free(&list);
}

#define EXPECT(tok, text, flags, ...)                                                                                  \
    do {                                                                                                               \
        const uint32_t ids_[] = { __VA_ARGS__ };                                                                       \
        expect_ids(tok, text, flags, ids_, sizeof ids_ / sizeof *ids_);                                                \
    } while (0)

static struct tokenizer *load(const struct sample *sample)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    if (sample_load(sample, &tok, &err) != ST_OK)
        fail_msg("%s", err.text);
    return tok;
}

static void compare_row(const struct tokenizer *tok, const json_t *row)
{
    const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
    struct token_list list = { 0 };
    assert_int_equal(
        tokenizer_encode(tok, json_string_value(text), json_string_length(text), TOKENIZE_SPECIAL, 0, &list), ST_OK);
    assert_int_equal(list.n, json_array_size(ids));
    for (size_t i = 0; i < list.n; i++)
        assert_int_equal(list.ids[i], json_integer_value(json_array_get(ids, i)));
    token_list_free(&list);
}

static size_t compare_golden(const struct tokenizer *tok, const char *path)
{
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t rows = 0;
    json_t *row;
    while ((row = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL)) != NULL) {
        compare_row(tok, row);
        json_decref(row);
        rows++;
    }
    (void)fclose(file);
    return rows;
}

static void test_builtin_model_equals_reference(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    struct error err;
    assert_int_equal(tokenizer_load_folder(TINY, &tok, &err), ST_OK);
    assert_int_equal(compare_golden(tok, GOLDEN "baton-tiny/tokenize.jsonl"), 113);
    tokenizer_destroy(&tok);
    assert_null(tok);
    tokenizer_destroy(&tok);
}

static void test_builtin_model_ends(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    struct error err;
    assert_int_equal(tokenizer_load_folder(TINY, &tok, &err), ST_OK);
    size_t n, len;
    const uint32_t *eos = tokenizer_eos(tok, &n);
    assert_int_equal(n, 2);
    assert_int_equal(eos[0], 1023);
    assert_int_equal(eos[1], 1021);
    assert_string_equal(tokenizer_eos_text(tok), "<|im_end|>");
    assert_string_equal(tokenizer_bos_text(tok), "");
    assert_int_equal(tokenizer_bos(tok), TOKENIZER_NONE);
    assert_false(tokenizer_adds_bos(tok));
    assert_int_equal(tokenizer_vocab_size(tok), 1024);
    assert_int_equal(tokenizer_id(tok, "<|im_start|>", 12), 1022);
    assert_int_equal(tokenizer_id(tok, "<|im_start", 10), TOKENIZER_NONE);
    assert_true(tokenizer_is_special(tok, 1021));
    assert_false(tokenizer_is_special(tok, 0));
    assert_false(tokenizer_is_special(tok, 1024));
    uint32_t the = tokenizer_id(tok, " the", 4);
    assert_int_not_equal(the, TOKENIZER_NONE);
    assert_memory_equal(tokenizer_bytes(tok, the, &len), " the", 4);
    assert_int_equal(len, 4);
    assert_string_equal(tokenizer_bytes(tok, 5000, &len), "");
    assert_int_equal(len, 0);
    tokenizer_destroy(&tok);
}

static void test_absent_folder(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    struct error err;
    assert_int_equal(tokenizer_load_folder(BATON_SOURCE_DIR "/docs/none", &tok, &err), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "docs/none/tokenizer.json"));
    assert_null(tok);
}

#define ADDED(id, text, flags) "{\"id\":" id ",\"content\":\"" text "\"" flags "}"

static void test_special_tokens_only_when_asked(void **state)
{
    (void)state;
    struct tokenizer *tok = load(&(struct sample){ .added = ADDED("256", "<s>", ",\"special\":true") "," //
                                                   ADDED("257", "<t>", ",\"special\":false") });
    EXPECT(tok, "a<s>b<t>", TOKENIZE_SPECIAL, 'a', 256, 'b', 257);
    EXPECT(tok, "a<s>b<t>", 0, 'a', '<', 's', '>', 'b', 257);
    EXPECT(tok, "<s", TOKENIZE_SPECIAL, '<', 's');
    expect_ids(tok, "", TOKENIZE_SPECIAL, NULL, 0);
    tokenizer_destroy(&tok);
}

static void test_added_tokens_strip_and_stand_alone(void **state)
{
    (void)state;
    struct tokenizer *tok = load(&(struct sample){
        .added = ADDED("256", "<l>", ",\"lstrip\":true") "," ADDED("257", "<r>", ",\"rstrip\":true") "," //
        ADDED("258", "no", ",\"single_word\":true") "," ADDED("259", "<l>x", "") });
    EXPECT(tok, "a \t<l> b", 0, 'a', 256, ' ', 'b');
    EXPECT(tok, "a <r>\xC2\xA0 b", 0, 'a', ' ', 257, 'b');
    EXPECT(tok, "a<l>x", 0, 'a', 259);
    EXPECT(tok, "no, not no", 0, 258, ',', ' ', 'n', 'o', 't', ' ', 258);
    EXPECT(tok, "no\xCC\x81", 0, 'n', 'o', 0xCC, 0x81);
    tokenizer_destroy(&tok);
}

static void test_normalizer_and_normalized_tokens(void **state)
{
    (void)state;
    struct tokenizer *tok = load(&(struct sample){
        .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}",
        .added = ADDED("256", "e\\u0301t", ",\"normalized\":true") "," ADDED("257", "e\\u0301s", "") });
    EXPECT(tok, "e\xCC\x81", 0, 0xC3, 0xA9);
    EXPECT(tok, "\xC3\xA9t", 0, 256);
    EXPECT(tok, "e\xCC\x81t", 0, 256);
    EXPECT(tok, "e\xCC\x81s", 0, 257);
    EXPECT(tok, "\xC3\xA9s", 0, 0xC3, 0xA9, 's');
    tokenizer_destroy(&tok);
}

#define TEMPLATE                                                                                                       \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"                  \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\","            \
    "\"ids\":[256],\"tokens\":[\"<s>\"]}}}"

static void test_bos_from_template(void **state)
{
    (void)state;
    struct tokenizer *tok =
        load(&(struct sample){ .added = ADDED("256", "<s>", ",\"special\":true"),
                               .post = "{\"type\":\"Sequence\",\"processors\":[" SAMPLE_RAW "," TEMPLATE "]}" });
    assert_true(tokenizer_adds_bos(tok));
    assert_int_equal(tokenizer_bos(tok), 256);
    EXPECT(tok, "a", TOKENIZE_ADD_BOS, 256, 'a');
    EXPECT(tok, "a", 0, 'a');
    EXPECT(tok, "", TOKENIZE_ADD_BOS, 256);
    tokenizer_destroy(&tok);
}

static void test_merges_as_strings_and_pairs(void **state)
{
    (void)state;
    const char *const merges[] = { "\"a b\",\"ab c\"", "[\"a\",\"b\"],[\"ab\",\"c\"]" };
    for (size_t i = 0; i < 2; i++) {
        struct tokenizer *tok = load(&(struct sample){ .vocab = ",\"ab\":256,\"abc\":257", .merges = merges[i] });
        EXPECT(tok, "abcab", 0, 257, 256);
        tokenizer_destroy(&tok);
    }
}

static void test_ignore_merges(void **state)
{
    (void)state;
    struct sample sample = { .vocab = ",\"ab\":256,\"xyz\":257", .merges = "\"a b\"", .pre = SAMPLE_GPT2 };
    struct tokenizer *tok = load(&sample);
    EXPECT(tok, "xyz", 0, 'x', 'y', 'z');
    tokenizer_destroy(&tok);
    sample.model = ",\"ignore_merges\":true";
    tok = load(&sample);
    EXPECT(tok, "xyz", 0, 257);
    EXPECT(tok, "xyzw", 0, 'x', 'y', 'z', 'w');
    tokenizer_destroy(&tok);
}

static void test_prefix_space(void **state)
{
    (void)state;
    struct tokenizer *tok = load(&(struct sample){
        .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}",
        .added = ADDED("256", "<s>", "") });
    EXPECT(tok, "a b", 0, ' ', 'a', ' ', 'b');
    EXPECT(tok, " a<s>b", 0, ' ', 'a', 256, ' ', 'b');
    tokenizer_destroy(&tok);
}

static void test_mongolian_separator_is_no_space(void **state)
{
    (void)state;
    struct tokenizer *tok = load(
        &(struct sample){ .pre = SAMPLE_SPLIT("\\\\s"), .vocab = ",\"a\xC3\xA1\":256", .merges = "\"a \xC3\xA1\"" });
    /* a and U+180E (E1 A0 8E) stay in one piece, so that a and E1 merge. */
    EXPECT(tok, "a\xE1\xA0\x8E", 0, 256, 0xA0, 0x8E);
    tokenizer_destroy(&tok);
}

static void test_invalid_utf8_is_replaced(void **state)
{
    (void)state;
    struct tokenizer *tok = load(&(struct sample){ .top = NULL });
    EXPECT(tok, "a\xFFz", 0, 'a', 0xEF, 0xBF, 0xBD, 'z');
    EXPECT(tok, "\xF0\x9F\x98", 0, 0xEF, 0xBF, 0xBD);
    EXPECT(tok, "\xED\xA0\x80", 0, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD);
    tokenizer_destroy(&tok);
}

static void test_max_tokens(void **state)
{
    (void)state;
    struct tokenizer *tok =
        load(&(struct sample){ .post = TEMPLATE, .added = ADDED("256", "<s>", ",\"special\":true") });
    struct token_list list = { 0 };
    assert_int_equal(token_list_push(&list, 7), ST_OK);
    assert_int_equal(tokenizer_encode(tok, "abc", 3, TOKENIZE_ADD_BOS, 3, &list), ST_LIMIT);
    assert_int_equal(list.n, 4);
    assert_int_equal(list.ids[3], 'b');
    list.n = 0;
    assert_int_equal(tokenizer_encode(tok, "abc", 3, TOKENIZE_ADD_BOS, 4, &list), ST_OK);
    assert_int_equal(list.n, 4);
    token_list_free(&list);
    tokenizer_destroy(&tok);
}

static void test_fingerprint_covers_what_decides_ids(void **state)
{
    (void)state;
    const struct sample samples[] = {
        { .top = NULL },
        { .pre = SAMPLE_GPT2 },
        { .normalizer = "{\"type\":\"NFC\"}" },
        { .vocab = ",\"ab\":256" },
        { .vocab = ",\"ab\":256", .merges = "\"a b\"" },
        { .vocab = ",\"ba\":256" },
        { .added = ADDED("256", "ab", "") },
        { .added = ADDED("256", "ab", ",\"special\":true") },
        { .added = ADDED("256", "ab", ",\"lstrip\":true") },
        { .model = ",\"ignore_merges\":true" },
        { .model = ",\"unk_token\":\"!\"" },
    };
    enum { N = sizeof samples / sizeof *samples };
    uint64_t seen[N];
    for (size_t i = 0; i < N; i++) {
        struct tokenizer *tok = load(&samples[i]), *again = load(&samples[i]);
        seen[i] = tokenizer_fingerprint(tok);
        assert_true(seen[i] == tokenizer_fingerprint(again));
        for (size_t k = 0; k < i; k++)
            assert_true(seen[i] != seen[k]);
        tokenizer_destroy(&tok);
        tokenizer_destroy(&again);
    }
}

/* Processor seconds for unit, repeated up to size bytes. */
static double seconds_for(const struct tokenizer *tok, const char *unit, size_t size)
{
    size_t len = strlen(unit), n = size / len * len;
    char *text = malloc(n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = unit[i % len];
    struct token_list list = { 0 };
    struct timespec from, to;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from), 0);
    assert_int_equal(tokenizer_encode(tok, text, n, 0, 0, &list), ST_OK);
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to), 0);
    assert_true(list.n > 0);
    token_list_free(&list);
    free(text);
    return (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) * 1e-9;
}

/* Quadratic work on a mebibyte takes minutes; near-linear work, even under sanitizers, seconds. */
static void test_hostile_texts_take_near_linear_time(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    struct error err;
    struct tokenizer *runs =
        load(&(struct sample){ .vocab = ",\"aa\":256,\"aaaa\":257,\"aaaaaaaa\":258,\"aaaaaaaaaaaaaaaa\":259",
                               .merges = "\"a a\",\"aa aa\",\"aaaa aaaa\",\"aaaaaaaa aaaaaaaa\"" });
    assert_int_equal(tokenizer_load_folder(TINY, &tok, &err), ST_OK);
    static const char *const units[] = {
        "a", " ", "\n", " \n", "1", "<|im_start", "\xCC\x81\xCC\x96", "\xFF", "'", "ab"
    };
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        assert_true(seconds_for(tok, units[i], 1 << 20) < 10);
        assert_true(seconds_for(runs, units[i], 1 << 20) < 10);
    }
    tokenizer_destroy(&tok);
    tokenizer_destroy(&runs);
}

static void test_texts_are_bounded(void **state)
{
    (void)state;
    struct tokenizer *tok = load(&(struct sample){ .top = NULL });
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(tok, "", TOKENIZER_MAX_TEXT_BYTES + 1u, 0, 0, &list), ST_LIMIT);
    assert_int_equal(list.n, 0);
    tokenizer_destroy(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builtin_model_equals_reference),
        cmocka_unit_test(test_builtin_model_ends),
        cmocka_unit_test(test_absent_folder),
        cmocka_unit_test(test_special_tokens_only_when_asked),
        cmocka_unit_test(test_added_tokens_strip_and_stand_alone),
        cmocka_unit_test(test_normalizer_and_normalized_tokens),
        cmocka_unit_test(test_bos_from_template),
        cmocka_unit_test(test_merges_as_strings_and_pairs),
        cmocka_unit_test(test_ignore_merges),
        cmocka_unit_test(test_prefix_space),
        cmocka_unit_test(test_mongolian_separator_is_no_space),
        cmocka_unit_test(test_invalid_utf8_is_replaced),
        cmocka_unit_test(test_max_tokens),
        cmocka_unit_test(test_fingerprint_covers_what_decides_ids),
        cmocka_unit_test(test_hostile_texts_take_near_linear_time),
        cmocka_unit_test(test_texts_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
