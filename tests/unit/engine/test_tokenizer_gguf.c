#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "common/utf8.h"
#include "engine/gguf.h"
#include "engine/tokenizer_impl.h"
#include "model_files.h"

#define SMOLLM2_TEXTS BATON_SOURCE_DIR "/tests/golden/smollm2/tokenize.jsonl"

enum { U32 = 4, I32 = 5, BOOL = 7, STRING = 8 };

/* A vocabulary: the 256 bytes, then these. */
static const struct row {
    const char *text;
    int32_t type;
} rows[] = {
    { "ab", 1 },        /* 256 */
    { "<s>", 3 },       /* 257 */
    { "</s>", 3 },      /* 258 */
    { "<user>", 4 },    /* 259 */
    { "[PAD260]", 5 },  /* 260 */
    { "xyz", 1 },       /* 261 */
    { "12", 1 },        /* 262 */
    { "e\xC3\x8C", 1 }, /* 263: e and the byte CC */
};
enum { N_ROWS = sizeof rows / sizeof *rows, N_TOKENS = 256 + N_ROWS };

struct file {
    const char *model, *pre;
    const char *merge; /* in place of "1 2" */
    uint32_t n_types, bos, eos;
    int add_bos, add_eos; /* -1: the key is absent */
    bool same_text;       /* token 261 is "ab" again */
};

static const struct file usual = { .model = "gpt2",
                                   .pre = "gpt-2",
                                   .merge = "1 2",
                                   .n_types = N_TOKENS,
                                   .bos = 257,
                                   .eos = 258,
                                   .add_bos = -1,
                                   .add_eos = -1 };

static void put_tokens(struct bytes *b, const struct file *f)
{
    put_key_array(b, "tokenizer.ggml.tokens", STRING, N_TOKENS);
    unsigned other = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool itself = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        char text[5] = "";
        text[utf8_put(itself ? byte : other++, text)] = '\0';
        put_text(b, text);
    }
    for (size_t i = 0; i < N_ROWS; i++)
        put_text(b, f->same_text && i == 5 ? "ab" : rows[i].text);
    put_key_array(b, "tokenizer.ggml.token_type", I32, f->n_types);
    for (uint32_t i = 0; i < f->n_types; i++)
        put_u32(b, i < 256 ? 1 : (uint32_t)rows[i - 256].type);
}

static void put_switch(struct bytes *b, const char *key, int value)
{
    put_key(b, key, value < 0 ? STRING : BOOL);
    put(b, &(uint8_t){ (uint8_t)value }, 1);
}

static status load(const struct file *f, struct tokenizer **tok, struct error *err)
{
    static struct bytes b;
    b.n = 0;
    put_gguf_header(&b, 0, 7u + (f->pre != NULL) + (f->add_bos >= 0) + (f->add_eos >= 0));
    put_key_text(&b, "general.architecture", "llama");
    put_key_text(&b, "tokenizer.ggml.model", f->model);
    if (f->pre)
        put_key_text(&b, "tokenizer.ggml.pre", f->pre);
    put_tokens(&b, f);
    put_key_array(&b, "tokenizer.ggml.merges", STRING, 3);
    put_text(&b, "a b");
    put_text(&b, f->merge);
    put_text(&b, "e \xC3\x8C");
    put_key_u32(&b, "tokenizer.ggml.bos_token_id", f->bos);
    put_key_u32(&b, "tokenizer.ggml.eos_token_id", f->eos);
    if (f->add_bos >= 0)
        put_switch(&b, "tokenizer.ggml.add_bos_token", f->add_bos);
    if (f->add_eos >= 0)
        put_switch(&b, "tokenizer.ggml.add_eos_token", f->add_eos);
    struct scratch s;
    struct gguf *file = NULL;
    scratch_make(&s);
    status st = gguf_open(scratch_write(&s, "m.gguf", b.data, b.n), &file, err);
    if (st == ST_OK)
        st = tokenizer_load_gguf(file, tok, err);
    gguf_close(&file);
    scratch_remove(&s, (const char *const[]){ "m.gguf" }, 1);
    return st;
}

static struct tokenizer *load_good(const struct file *f)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    if (load(f, &tok, &err) != ST_OK)
        fail_msg("%s", err.text);
    return tok;
}

static void expect_ids(const struct tokenizer *tok, const char *text, unsigned flags, const uint32_t *ids, size_t n)
{
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(tok, text, strlen(text), flags, 0, &list), ST_OK);
    assert_int_equal(list.n, n);
    assert_memory_equal(list.ids, ids, n * sizeof *ids);
    token_list_free(&list);
}

#define EXPECT(tok, text, flags, ...)                                                                                  \
    do {                                                                                                               \
        const uint32_t ids_[] = { __VA_ARGS__ };                                                                       \
        expect_ids(tok, text, flags, ids_, sizeof ids_ / sizeof *ids_);                                                \
    } while (0)

static void test_kinds_of_token(void **state)
{
    (void)state;
    struct tokenizer *tok = load_good(&usual);
    size_t n;
    EXPECT(tok, "ab<s>x", TOKENIZE_SPECIAL, 256, 257, 'x');
    EXPECT(tok, "ab<s>x", 0, 256, '<', 's', '>', 'x');
    EXPECT(tok, "a<user>b", 0, 'a', 259, 'b');
    EXPECT(tok, "[PAD260]", TOKENIZE_SPECIAL, '[', 'P', 'A', 'D', '2', '6', '0', ']');
    assert_true(tokenizer_is_special(tok, 257));
    assert_false(tokenizer_is_special(tok, 259));
    assert_int_equal(tokenizer_vocab_size(tok), N_TOKENS);
    assert_int_equal(tokenizer_eos(tok, &n)[0], 258);
    assert_int_equal(n, 1);
    assert_string_equal(tokenizer_eos_text(tok), "</s>");
    assert_string_equal(tokenizer_bos_text(tok), "<s>");
    assert_false(tokenizer_adds_bos(tok));
    tokenizer_destroy(&tok);
}

static void test_families(void **state)
{
    (void)state;
    struct file f = usual;
    struct tokenizer *tok = load_good(&f);
    EXPECT(tok, "12 xyz", TOKENIZE_ADD_BOS, 262, ' ', 'x', 'y', 'z');
    tokenizer_destroy(&tok);
    f.pre = "smollm"; /* digits one by one */
    tok = load_good(&f);
    EXPECT(tok, "12", 0, '1', '2');
    tokenizer_destroy(&tok);
    f.pre = "llama-bpe"; /* whole pieces, and BOS */
    tok = load_good(&f);
    EXPECT(tok, "xyz12", TOKENIZE_ADD_BOS, 257, 261, 262);
    EXPECT(tok, "1112", 0, '1', '1', '1', '2');
    tokenizer_destroy(&tok);
    f.pre = "qwen2"; /* NFC */
    tok = load_good(&f);
    EXPECT(tok, "12e\xCC\x81", TOKENIZE_ADD_BOS, '1', '2', 0xC3, 0xA9);
    tokenizer_destroy(&tok);
    f.pre = NULL; /* no normaliser: e and CC merge */
    tok = load_good(&f);
    EXPECT(tok, "12 e\xCC\x81", 0, 262, ' ', 'e', 0xCC, 0x81);
    EXPECT(tok, "+e", 0, '+', 'e');
    tokenizer_destroy(&tok);
}

static void test_bos_switch(void **state)
{
    (void)state;
    struct file f = usual;
    f.add_bos = 1;
    struct tokenizer *tok = load_good(&f);
    EXPECT(tok, "a", TOKENIZE_ADD_BOS, 257, 'a');
    tokenizer_destroy(&tok);
    f.pre = "llama-bpe";
    f.add_bos = 0;
    tok = load_good(&f);
    EXPECT(tok, "a", TOKENIZE_ADD_BOS, 'a');
    tokenizer_destroy(&tok);
}

static void expect_refusal(const struct file *f, status wanted, const char *says)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    status st = load(f, &tok, &err);
    if (st != wanted || !strstr(err.text, says))
        fail_msg("%s: status %d, \"%s\"", says, (int)st, err.text);
    assert_null(tok);
}

static void test_refusals(void **state)
{
    (void)state;
    struct file f = usual;
    f.model = "bert";
    expect_refusal(&f, ST_UNSUPPORTED, "tokenizer.ggml.model: bert");
    f = usual;
    f.pre = "chatglm-bpe";
    expect_refusal(&f, ST_UNSUPPORTED, "tokenizer.ggml.pre: chatglm-bpe");
    f = usual;
    f.n_types = N_TOKENS - 1;
    expect_refusal(&f, ST_INVALID, "token_type");
    f = usual;
    f.merge = "12";
    expect_refusal(&f, ST_INVALID, "tokenizer.ggml.merges: element 1");
    f = usual;
    f.merge = "a z";
    expect_refusal(&f, ST_INVALID, "tokenizer.ggml.merges: element 1");
    f = usual;
    f.bos = N_TOKENS;
    expect_refusal(&f, ST_INVALID, "bos_token_id");
    f = usual;
    f.eos = N_TOKENS;
    expect_refusal(&f, ST_INVALID, "eos_token_id");
    f = usual;
    f.add_eos = 1;
    expect_refusal(&f, ST_UNSUPPORTED, "add_eos_token");
    f = usual;
    f.same_text = true;
    expect_refusal(&f, ST_INVALID, "tokenizer.ggml.tokens: element 261");
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

static void test_smollm2_equals_reference(void **state)
{
    (void)state;
    const char *path = getenv("BATON_TEST_SMOLLM2");
    if (!path) {
        print_message("skipped: BATON_TEST_SMOLLM2 does not name the SmolLM2 GGUF file\n");
        skip();
    }
    struct gguf *file = NULL;
    struct tokenizer *tok = NULL;
    struct error err;
    assert_int_equal(gguf_open(path, &file, &err), ST_OK);
    assert_int_equal(tokenizer_load_gguf(file, &tok, &err), ST_OK);
    gguf_close(&file);
    FILE *texts = fopen(SMOLLM2_TEXTS, "r");
    assert_non_null(texts);
    size_t n = 0;
    for (json_t *row; (row = json_loadf(texts, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL)) != NULL; n++) {
        compare_row(tok, row);
        json_decref(row);
    }
    (void)fclose(texts);
    assert_int_equal(n, 221);
    assert_string_equal(tokenizer_eos_text(tok), "<|im_end|>");
    assert_false(tokenizer_adds_bos(tok));
    tokenizer_destroy(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds_of_token),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_bos_switch),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_smollm2_equals_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
