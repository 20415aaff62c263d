#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "engine/pretokenizer_syntax.h"
#include "tokenizer_sample.h"

#define SPLIT(rest)      "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"}," rest "}"
#define TEMPLATE(single) "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[],\"special_tokens\":{}}"
#define TEXT_A           "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TOKEN_S          "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"

static const struct refusal {
    struct sample sample;
    status st;
    const char *says; /* part of the sentence */
} refusals[] = {
    { { .type = "Unigram" }, ST_UNSUPPORTED, "model: Unigram" },
    { { .type = "WordPiece" }, ST_UNSUPPORTED, "model: WordPiece" },
    { { .model = ",\"dropout\":0.1" }, ST_UNSUPPORTED, "dropout" },
    { { .model = ",\"continuing_subword_prefix\":\"##\"" }, ST_UNSUPPORTED, "continuing_subword_prefix" },
    { { .model = ",\"end_of_word_suffix\":\"</w>\"" }, ST_UNSUPPORTED, "end_of_word_suffix" },
    { { .model = ",\"byte_fallback\":true" }, ST_UNSUPPORTED, "byte_fallback" },
    { { .model = ",\"unk_token\":\"<unk>\"" }, ST_UNSUPPORTED, "unk_token" },
    { { .model = ",\"novelty\":1" }, ST_UNSUPPORTED, "novelty" },
    { { .model = ",\"ignore_merges\":1" }, ST_INVALID, "ignore_merges is not a boolean" },
    { { .top = ",\"novelty\":1" }, ST_UNSUPPORTED, "novelty" },
    { { .top = ",\"version\":\"2\"" }, ST_INVALID, "duplicate" },
    { { .top = "}" }, ST_INVALID, "line 1" },
    { { .vocab = ",\"ab\":255" }, ST_INVALID, "id of another token" },
    { { .vocab = ",\"ab\":-1" }, ST_INVALID, "out of range" },
    { { .vocab = ",\"ab\":1048576" }, ST_INVALID, "out of range" },
    { { .vocab = ",\"ab\":\"x\"" }, ST_INVALID, "out of range" },
    { { .merges = "\"a b\"" }, ST_INVALID, "merge 0 is not of tokens" },
    { { .merges = "\"a\"" }, ST_INVALID, "merge 0 is not a pair" },
    { { .merges = "\"a b c\"" }, ST_INVALID, "merge 0 is not a pair" },
    { { .merges = "[\"a\"]" }, ST_INVALID, "merge 0 is not a pair" },
    { { .merges = "[\"a\",\"b\",\"c\"]" }, ST_INVALID, "merge 0 is not a pair" },
    { { .merges = "[1,2]" }, ST_INVALID, "merge 0 is not a pair" },
    { { .normalizer = "{\"type\":\"NFKC\"}" }, ST_UNSUPPORTED, "normalizer: NFKC" },
    { { .normalizer = "{\"type\":\"Prepend\",\"prepend\":\"x\"}" }, ST_UNSUPPORTED, "normalizer: Prepend" },
    { { .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}" },
      ST_UNSUPPORTED,
      "Lowercase" },
    { { .pre = "null" }, ST_UNSUPPORTED, "neither ByteLevel" },
    { { .pre = "{\"type\":\"Whitespace\"}" }, ST_UNSUPPORTED, "pre_tokenizer: Whitespace" },
    { { .pre = "{\"type\":\"Metaspace\"}" }, ST_UNSUPPORTED, "pre_tokenizer: Metaspace" },
    { { .pre = "{\"type\":\"Digits\",\"individual_digits\":true}" }, ST_UNSUPPORTED, "neither ByteLevel" },
    { { .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" SAMPLE_RAW "," SPLIT("\"behavior\":\"Isolated\"") "]}" },
      ST_UNSUPPORTED,
      "behind ByteLevel" },
    { { .pre = SPLIT("\"behavior\":\"Sideways\"") }, ST_UNSUPPORTED, "Sideways" },
    { { .pre = SPLIT("\"behavior\":\"Isolated\",\"novelty\":1") }, ST_UNSUPPORTED, "novelty" },
    { { .pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":1},\"behavior\":\"Isolated\"}" }, ST_INVALID, "pattern" },
    { { .pre = SAMPLE_SPLIT("(a") }, ST_UNSUPPORTED, "does not compile" },
    { { .pre = SAMPLE_SPLIT("[a&&b]") }, ST_UNSUPPORTED, "intersection" },
    { { .pre = SAMPLE_SPLIT("\\\\p{Han}") }, ST_UNSUPPORTED, "\\p{Han}" },
    { { .post = TEMPLATE(TEXT_A "," TOKEN_S) }, ST_UNSUPPORTED, "one token before the text" },
    { { .post = TEMPLATE(TOKEN_S "," TOKEN_S "," TEXT_A) }, ST_UNSUPPORTED, "one token before the text" },
    { { .post = TEMPLATE(TOKEN_S "," TEXT_A) }, ST_UNSUPPORTED, "not one id" },
    { { .post = "{\"type\":\"BertProcessing\"}" }, ST_UNSUPPORTED, "BertProcessing" },
    { { .decoder = "null" }, ST_UNSUPPORTED, "decoder" },
    { { .decoder = "{\"type\":\"Metaspace\"}" }, ST_UNSUPPORTED, "decoder: Metaspace" },
    { { .spm = true, .model = "" }, ST_UNSUPPORTED, "without byte_fallback" },
    { { .spm = true, .model = ",\"byte_fallback\":1" }, ST_INVALID, "byte_fallback is not a boolean" },
    { { .spm = true, .model = ",\"byte_fallback\":true,\"ignore_merges\":true" }, ST_UNSUPPORTED, "ignore_merges" },
    { { .spm = true, .normalizer = SAMPLE_PREPEND }, ST_UNSUPPORTED, "Prepend without Replace" },
    { { .spm = true, .normalizer = SAMPLE_NORMALIZERS(SAMPLE_PREPEND "," SAMPLE_PREPEND "," SAMPLE_REPLACE) },
      ST_UNSUPPORTED,
      "normalizer: Prepend" },
    { { .spm = true, .normalizer = SAMPLE_NORMALIZERS("{\"type\":\"NFC\"}," SAMPLE_REPLACE) }, ST_UNSUPPORTED, "NFC" },
    { { .spm = true, .normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}" },
      ST_UNSUPPORTED,
      "normalizer: Replace" },
    { { .spm = true, .pre = SAMPLE_RAW }, ST_UNSUPPORTED, "U+2581" },
    { { .spm = true, .pre = SAMPLE_METASPACE("first") }, ST_UNSUPPORTED, "U+2581" },
    { { .spm = true, .normalizer = "{\"type\":\"NFC\"}", .pre = SAMPLE_METASPACE("first") }, ST_UNSUPPORTED, "U+2581" },
    { { .spm = true, .normalizer = "null", .pre = SAMPLE_METASPACE("last") }, ST_UNSUPPORTED, "prepend_scheme: last" },
    { { .spm = true,
        .normalizer = "null",
        .pre = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\"}" },
      ST_UNSUPPORTED,
      "Metaspace: split" },
    { { .spm = true,
        .normalizer = "null",
        .pre = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":false}" },
      ST_UNSUPPORTED,
      "another replacement" },
    { { .spm = true,
        .normalizer = "null",
        .pre = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"add_prefix_space\":true,\"split\":false}" },
      ST_UNSUPPORTED,
      "add_prefix_space" },
    { { .spm = true, .decoder = SAMPLE_RAW }, ST_UNSUPPORTED, "decoder: ByteLevel" },
    { { .spm = true, .decoder = SAMPLE_DECODERS(SAMPLE_SPACES ",{\"type\":\"Fuse\"}") },
      ST_UNSUPPORTED,
      "decoder: Fuse" },
    { { .spm = true, .decoder = SAMPLE_DECODERS(SAMPLE_SPACES) }, ST_UNSUPPORTED, "ends before Fuse" },
    { { .spm = true, .decoder = SAMPLE_DECODERS(SAMPLE_FUSED "," SAMPLE_STRIP "," SAMPLE_STRIP) },
      ST_UNSUPPORTED,
      "decoder: Strip" },
    { { .spm = true, .added = "{\"id\":256,\"content\":\"<s>\",\"normalized\":true,\"rstrip\":true}" },
      ST_UNSUPPORTED,
      "lstrip or rstrip" },
    { { .spm = true, .added = "{\"id\":65,\"content\":\"A\"}" }, ST_INVALID, "disagrees" },
    { { .added = "{\"id\":256}" }, ST_INVALID, "without content" },
    { { .added = "{\"id\":1048576,\"content\":\"x\"}" }, ST_INVALID, "out of range" },
    { { .added = "{\"id\":65,\"content\":\"<s>\"}" }, ST_INVALID, "disagrees" },
    { { .added = "{\"id\":256,\"content\":\"A\"}" }, ST_INVALID, "disagrees" },
    { { .added = "{\"id\":256,\"content\":\"<s>\",\"novelty\":true}" }, ST_UNSUPPORTED, "novelty" },
    { { .added = "{\"id\":256,\"content\":\"<s>\",\"special\":1}" }, ST_INVALID, "special is not a boolean" },
};

static void test_refusals_name_file_and_construct(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct tokenizer *tok = NULL;
        struct error err = { "" };
        status st = sample_load(&refusals[i].sample, &tok, &err);
        if (st != refusals[i].st || !strstr(err.text, refusals[i].says) || !strstr(err.text, "sample/tokenizer.json"))
            fail_msg("case %zu (%s): status %d, \"%s\"", i, refusals[i].says, (int)st, err.text);
        assert_null(tok);
    }
}

static void test_every_truncation_is_refused(void **state)
{
    (void)state;
    char text[16384];
    int n = sample_text(&(struct sample){ .added = "{\"id\":256,\"content\":\"<s>\"}" }, text, sizeof text);
    for (int len = 0; len < n; len += 7) {
        struct tokenizer *tok = NULL;
        struct error err;
        assert_int_equal(tokenizer_load_json("cut", text, (size_t)len, &tok, &err), ST_INVALID);
        assert_null(tok);
    }
}

static void expect_translation(const char *pattern, const char *wanted)
{
    char *out = NULL;
    struct error err = { "" };
    status st = pattern_translate(pattern, strlen(pattern), &out, &err);
    if (!wanted) {
        assert_int_not_equal(st, ST_OK);
        assert_null(out);
        return;
    }
    if (st != ST_OK)
        fail_msg("%s: %s", pattern, err.text);
    assert_string_equal(out, wanted);
    free(out);
}

static void test_pattern_translation(void **state)
{
    (void)state;
    expect_translation("\\s+(?!\\S)", "\\p{White_Space}+(?!\\P{White_Space})");
    expect_translation("[^\\s\\r]", "[^\\p{White_Space}\\r]");
    expect_translation("a{,3}b{2}c{1,}?", "a{0,3}b{2}c{1,}?");
    expect_translation("{x}{", "\\{x\\}\\{");
    expect_translation(".\\v\\x41\\u4e00\\x{1F600}", "[^\\n]\\x{B}\\x{41}\\x{4E00}\\x{1F600}");
    expect_translation("(?i:'s)|(?<!a)b++", "(?i:'s)|(?<!a)b++");
    expect_translation("\\p{Zs}", "[\\p{Zs}]");
    expect_translation("\xE4\xB8\x80\\-", "\xE4\xB8\x80\\-");
    static const char *const refused[] = { "^a",       "a$",          "\\w",    "\\b",   "\\h",   "(?i)a",
                                           "(?<n>a)",  "[[:alpha:]]", "[a[b]]", "[]a]",  "\\p{L", "\\p{Mn}",
                                           "[\\P{L}]", "[\\D]",       "a{2}+",  "a{2}?", "\\x80", "\\xZZ",
                                           "\\uD800",  "\\x{110000}", "\\1",    "a\\",   "[a",    "(*UTF)",
                                           "(?#c)",    "\\p{^L}",     "\\K" };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        expect_translation(refused[i], NULL);
}

static void test_pattern_length_is_bounded(void **state)
{
    (void)state;
    char *pattern = malloc(PATTERN_MAX_BYTES + 1), *out = NULL;
    assert_non_null(pattern);
    memset(pattern, 'a', PATTERN_MAX_BYTES + 1);
    struct error err;
    assert_int_equal(pattern_translate(pattern, PATTERN_MAX_BYTES + 1, &out, &err), ST_LIMIT);
    assert_int_equal(pattern_translate(pattern, PATTERN_MAX_BYTES, &out, &err), ST_OK);
    free(out);
    for (size_t i = 0; i + 5 <= PATTERN_MAX_BYTES; i += 5)
        memcpy(pattern + i, "\\p{L}", 5);
    assert_int_equal(pattern_translate(pattern, PATTERN_MAX_BYTES - 2, &out, &err), ST_LIMIT);
    free(pattern);
}

/* Nested groups take a frame each: more than compiled code has stack for, and in the end more than is allowed. */
static void test_deep_matches_fall_back_and_end(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    struct error err;
    const struct sample sample = { .pre = SAMPLE_SPLIT("(?:a|b|ab)+c?"), .vocab = ",\"xa\":256", .merges = "\"x a\"" };
    assert_int_equal(sample_load(&sample, &tok, &err), ST_OK);
    size_t n = 200000;
    char *text = malloc(n + 1);
    assert_non_null(text);
    for (size_t i = 0; i <= n; i++)
        text[i] = i == 0 ? 'x' : i % 2 ? 'a' : 'b';
    struct token_list list = { 0 };
    status st = tokenizer_encode(tok, text, n + 1, 0, 0, &list);
    assert_true(st == ST_OK || st == ST_UNSUPPORTED);
    if (st == ST_OK)
        assert_int_equal(list.n, n + 1);
    free(text);
    token_list_free(&list);
    tokenizer_destroy(&tok);
}

static void test_exponential_pattern_ends(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    struct error err;
    assert_int_equal(sample_load(&(struct sample){ .pre = SAMPLE_SPLIT("(?:a|aa)+c") }, &tok, &err), ST_OK);
    char text[60];
    memset(text, 'a', sizeof text);
    /* With a c to hope for, the search is not given up at once. */
    memcpy(text + sizeof text - 2, "xc", 2);
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(tok, text, sizeof text, 0, 0, &list), ST_UNSUPPORTED);
    token_list_free(&list);
    tokenizer_destroy(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals_name_file_and_construct),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_pattern_translation),
        cmocka_unit_test(test_pattern_length_is_bounded),
        cmocka_unit_test(test_deep_matches_fall_back_and_end),
        cmocka_unit_test(test_exponential_pattern_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
