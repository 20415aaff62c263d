#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/utf8.h"
#include "engine/gguf.h"
#include "engine/spm.h"
#include "engine/tokenizer_impl.h"
#include "model_files.h"

#define LLAMA2 BATON_SOURCE_DIR "/tests/unit/engine/data/spm/ggml-vocab-llama-spm.gguf"
#define MARK   "\xE2\x96\x81" /* U+2581 */

static struct tokenizer *load_file(const char *path, status wanted, struct error *err)
{
    struct gguf *file = NULL;
    struct tokenizer *tok = NULL;
    *err = (struct error){ "" };
    if (gguf_open(path, &file, err) != ST_OK)
        fail_msg("%s", err->text);
    status st = tokenizer_load_gguf(file, &tok, err);
    gguf_close(&file);
    if (st != wanted)
        fail_msg("status %d: %s", (int)st, err->text);
    return tok;
}

static void expect_ids(const struct tokenizer *tok, const char *text, size_t len, unsigned flags, const uint32_t *ids,
                       size_t n)
{
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(tok, text, len, flags, 0, &list), ST_OK);
    if (list.n != n || (n > 0 && memcmp(list.ids, ids, n * sizeof *ids) != 0)) {
        for (size_t i = 0; i < list.n; i++)
            print_message("%u ", list.ids[i]);
        fail_msg("are the %zu ids of: %.*s", list.n, (int)len, text);
    }
    token_list_free(&list);
}

#define EXPECT(tok, text, flags, ...)                                                                                  \
    do {                                                                                                               \
        const uint32_t ids_[] = { __VA_ARGS__ };                                                                       \
        expect_ids(tok, text, strlen(text), flags, ids_, sizeof ids_ / sizeof *ids_);                                  \
    } while (0)

/* Llama 2's vocabulary, and the ids that llama.cpp's own test wants */

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = calloc(1, 1 << 16);
    assert_non_null(f);
    assert_non_null(text);
    assert_in_range(fread(text, 1, (1 << 16) - 1, f), 1, (1 << 16) - 2);
    (void)fclose(f);
    return text;
}

static size_t read_ids(char **line, uint32_t *ids)
{
    size_t n = 0;
    char *end = strchr(*line, '\n');
    assert_non_null(end);
    while (strspn(*line, " ") < (size_t)(end - *line))
        ids[n++] = (uint32_t)strtoul(*line, line, 10);
    *line = end + 1;
    return n;
}

static void test_llama2_equals_llama_cpp(void **state)
{
    (void)state;
    static const char separator[] = "\n__ggml_vocab_test__\n";
    struct error err;
    struct tokenizer *tok = load_file(LLAMA2, ST_OK, &err);
    char *texts = read_text(LLAMA2 ".inp"), *rows = read_text(LLAMA2 ".out"), *line = rows;
    unsigned n = 0;
    for (char *text = texts, *end; (end = strstr(text, separator)) != NULL; text = end + strlen(separator), n++) {
        uint32_t ids[1024];
        size_t n_ids = read_ids(&line, ids);
        expect_ids(tok, text, (size_t)(end - text), TOKENIZE_SPECIAL, ids, n_ids);
    }
    assert_int_equal(n, 46);
    assert_string_equal(line, "");
    free(texts);
    free(rows);
    EXPECT(tok, "Hello", TOKENIZE_ADD_BOS, 1, 15043);
    assert_string_equal(tokenizer_bos_text(tok), "<s>");
    assert_string_equal(tokenizer_eos_text(tok), "</s>");
    tokenizer_destroy(&tok);
}

/* Quadratic work on a mebibyte takes minutes; near-linear work, even under sanitizers, seconds. */
static void test_hostile_texts_take_near_linear_time(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a", " ", "\n", "ab", " a", "\xC3\xA9", "\xF3\xA0\x80\x80", MARK, "\xFF", "<s"
    };
    struct error err;
    struct tokenizer *tok = load_file(LLAMA2, ST_OK, &err);
    char *text = malloc(1 << 20);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        struct token_list list = { 0 };
        struct timespec from, to;
        for (size_t at = 0; at < 1 << 20; at++)
            text[at] = units[i][at % strlen(units[i])];
        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from), 0);
        assert_int_equal(tokenizer_encode(tok, text, 1 << 20, 0, 0, &list), ST_OK);
        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to), 0);
        assert_true(to.tv_sec - from.tv_sec < 10);
        token_list_free(&list);
    }
    free(text);
    tokenizer_destroy(&tok);
}

/* Against the definition: one merge at a time, on texts */

#define MAX_TOKENS 100
#define MAX_TEXT   240

struct token {
    char text[16]; /* with spaces */
    double score;
};

struct random_spm {
    struct tokenizer *tok;
    struct token tokens[MAX_TOKENS]; /* by id; then 256 of bytes, or one that is unknown */
    uint32_t n;
    bool bytes, fuse, drop;
};

static uint64_t random_state = 7;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

static const char *const characters[] = { " ", "a", "b", "\xC3\xA9", "\xE6\x97\xA5" };
enum { N_CHARACTERS = sizeof characters / sizeof *characters };

static uint32_t naive_find(const struct random_spm *r, const char *text, size_t len)
{
    for (uint32_t id = 0; id < r->n; id++)
        if (strlen(r->tokens[id].text) == len && memcmp(r->tokens[id].text, text, len) == 0)
            return id;
    return BPE_NO_ID;
}

static void add_token(struct random_spm *r, const char *text)
{
    char written[3 * sizeof r->tokens->text];
    size_t n = 0;
    if (r->n == MAX_TOKENS || strlen(text) >= sizeof r->tokens->text || naive_find(r, text, strlen(text)) != BPE_NO_ID)
        return;
    struct token *token = &r->tokens[r->n];
    strcpy(token->text, text);
    token->score = -(double)random_below(15);
    for (const char *c = text; *c; c++) {
        memcpy(written + n, *c == ' ' ? MARK : c, *c == ' ' ? 3 : 1);
        n += *c == ' ' ? 3 : 1;
    }
    assert_int_equal(tokenizer_add_token(r->tok, r->n++, written, n, true), ST_OK);
}

static void add_pair(struct random_spm *r, bool inner_spaces)
{
    char both[32];
    snprintf(both, sizeof both, "%s%s", r->tokens[random_below(r->n)].text, r->tokens[random_below(r->n)].text);
    const char *space = strrchr(both, ' ');
    if (inner_spaces || !space || strspn(both, " ") > (size_t)(space - both))
        add_token(r, both);
}

static void make_random(struct random_spm *r, unsigned round)
{
    memset(r, 0, sizeof *r);
    r->bytes = round & 1;
    r->fuse = round & 2;
    r->drop = !r->bytes && (round & 8);
    assert_int_equal(tokenizer_new(&r->tok), ST_OK);
    tokenizer_use_spm(r->tok, SPM_NORMALIZED);
    add_token(r, "a");
    for (size_t i = 0; i < N_CHARACTERS; i++)
        if (random_below(6) > 0)
            add_token(r, characters[i]);
    for (int i = 0; i < 150; i++)
        add_pair(r, round & 4);
    for (uint32_t byte = 0; r->bytes && byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        assert_int_equal(tokenizer_add_token(r->tok, r->n + byte, text, 6, true), ST_OK);
    }
    if (!r->bytes)
        assert_int_equal(tokenizer_add_token(r->tok, r->n, "<unk>", 5, false), ST_OK);
    r->tok->bpe.unknown = r->bytes || r->drop ? BPE_NO_ID : r->n;
    r->tok->bpe.fuse_unknown = r->fuse;
    double scores[MAX_TOKENS + 256] = { 0 };
    for (uint32_t id = 0; id < r->n; id++)
        scores[id] = r->tokens[id].score;
    assert_int_equal(spm_add_merges(&r->tok->bpe, scores), ST_OK);
    assert_int_equal(tokenizer_finish(r->tok), ST_OK);
}

struct spans {
    const char *text;
    size_t ends[MAX_TEXT];
    size_t n;
};

static size_t start_of(const struct spans *s, size_t i)
{
    return i > 0 ? s->ends[i - 1] : 0;
}

static uint32_t id_of(const struct random_spm *r, const struct spans *s, size_t first, size_t last)
{
    size_t start = start_of(s, first);
    return naive_find(r, s->text + start, s->ends[last] - start);
}

/* The pair to merge, or s->n. */
static size_t best_pair(const struct random_spm *r, const struct spans *s)
{
    size_t best = s->n;
    double best_score = 0;
    for (size_t i = 0; i + 1 < s->n; i++) {
        uint32_t id = id_of(r, s, i, i + 1);
        if (id == BPE_NO_ID || id_of(r, s, i, i) == BPE_NO_ID || id_of(r, s, i + 1, i + 1) == BPE_NO_ID)
            continue;
        if (best < s->n && r->tokens[id].score <= best_score)
            continue;
        best = i;
        best_score = r->tokens[id].score;
    }
    return best;
}

static size_t naive_ids(const struct random_spm *r, const struct spans *s, uint32_t *ids)
{
    size_t n = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < s->n; i++) {
        uint32_t id = id_of(r, s, i, i);
        bool unknown = id == BPE_NO_ID && !r->bytes;
        for (size_t at = start_of(s, i); id == BPE_NO_ID && r->bytes && at < s->ends[i]; at++)
            ids[n++] = r->n + (uint8_t)s->text[at];
        if (id != BPE_NO_ID)
            ids[n++] = id;
        else if (unknown && !(r->fuse && after_unknown))
            ids[n++] = r->n;
        after_unknown = unknown;
    }
    return n;
}

static size_t naive_encode(const struct random_spm *r, const char *text, size_t len, uint32_t *ids)
{
    struct spans s = { .text = text };
    for (size_t i = 1; i <= len; i++)
        if (i == len || ((uint8_t)text[i] & 0xC0) != 0x80)
            s.ends[s.n++] = i;
    for (size_t pair; (pair = best_pair(r, &s)) < s.n;) {
        memmove(s.ends + pair, s.ends + pair + 1, (s.n - pair - 1) * sizeof *s.ends);
        s.n--;
    }
    return naive_ids(r, &s, ids);
}

/* Without the characters that are no tokens. */
static void drop_unknown(const struct random_spm *r, const char *text, char *out)
{
    for (size_t i = 0, n; text[i]; i += n) {
        n = utf8_sequence(text + i, strlen(text + i));
        if (naive_find(r, text + i, n) != BPE_NO_ID)
            strncat(out, text + i, n);
    }
}

static void compare_random_text(const struct random_spm *r)
{
    char text[MAX_TEXT + 8] = "";
    uint32_t ids[MAX_TEXT];
    uint32_t len = 1 + random_below(random_below(3) ? 60 : MAX_TEXT - 4), few = 1 + random_below(N_CHARACTERS);
    while (strlen(text) < len)
        strcat(text, characters[random_below(few)]);
    char known[sizeof text] = "";
    if (r->drop)
        drop_unknown(r, text, known);
    const char *seen = r->drop ? known : text;
    expect_ids(r->tok, text, strlen(text), 0, ids, naive_encode(r, seen, strlen(seen), ids));
}

static void test_equals_the_definition(void **state)
{
    (void)state;
    struct random_spm *r = malloc(sizeof *r);
    assert_non_null(r);
    for (unsigned round = 0; round < 160; round++) {
        make_random(r, round);
        for (int i = 0; i < 40; i++)
            compare_random_text(r);
        tokenizer_destroy(&r->tok);
    }
    free(r);
}

/* A small file */

enum { U32 = 4, I32 = 5, F32 = 6, BOOL = 7, STRING = 8 };
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

/* 0 to 255 are the bytes. */
static const struct row {
    const char *text;
    int32_t type;
    float score;
} rows[] = {
    { "<unk>", UNKNOWN, 0 },               /* 256 */
    { "<s>", CONTROL, 0 },                 /* 257 */
    { "</s>", CONTROL, 0 },                /* 258 */
    { MARK, NORMAL, -9 },                  /* 259 */
    { "a", NORMAL, -9 },                   /* 260 */
    { "b", NORMAL, -9 },                   /* 261 */
    { MARK "a", NORMAL, -2 },              /* 262 */
    { "ab", NORMAL, -1 },                  /* 263 */
    { MARK "ab", NORMAL, -3 },             /* 264 */
    { "<user" MARK ">", USER_DEFINED, 0 }, /* 265 */
    { "ba", UNUSED, 0 },                   /* 266 */
    { "<0x0A>", CONTROL, 0 },              /* 267 */
    { "bb", NORMAL, -2 },                  /* 268 */
    { "aa", NORMAL, -2 },                  /* 269 */
};
enum { N_ROWS = sizeof rows / sizeof *rows, N_TOKENS = 256 + N_ROWS };

struct file {
    uint32_t n_scores;
    float score;           /* of "ab" */
    const char *byte_name; /* of byte 255 */
    int32_t byte_type;
    int prefix, add_bos; /* -1: the key is absent */
};
static const struct file usual = {
    .n_scores = N_TOKENS, .score = -1, .byte_name = "<0xFF>", .byte_type = BYTE, .prefix = -1, .add_bos = -1
};

static void put_tokens(struct bytes *b, const struct file *f)
{
    put_key_array(b, "tokenizer.ggml.tokens", STRING, N_TOKENS);
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        put_text(b, byte == 255 ? f->byte_name : text);
    }
    for (size_t i = 0; i < N_ROWS; i++)
        put_text(b, rows[i].text);
    put_key_array(b, "tokenizer.ggml.token_type", I32, N_TOKENS);
    for (uint32_t i = 0; i < N_TOKENS; i++)
        put_u32(b, i < 255 ? BYTE : (uint32_t)(i == 255 ? f->byte_type : rows[i - 256].type));
    put_key_array(b, "tokenizer.ggml.scores", F32, f->n_scores);
    for (uint32_t i = 0; i < f->n_scores; i++) {
        float score = i == 263 ? f->score : i >= 256 ? rows[i - 256].score : 0;
        put(b, &score, sizeof score);
    }
}

static void put_switch(struct bytes *b, const char *key, int value)
{
    put_key(b, key, value > 1 ? STRING : BOOL);
    put(b, &(uint64_t){ (uint64_t)value & 1 }, value > 1 ? 8 : 1);
}

static struct tokenizer *load(const struct file *f, status wanted, struct error *err)
{
    static struct bytes b;
    b.n = 0;
    put_gguf_header(&b, 0, 7u + (f->prefix >= 0) + (f->add_bos >= 0));
    put_key_text(&b, "tokenizer.ggml.model", "llama");
    put_key_u32(&b, "tokenizer.ggml.unknown_token_id", 256);
    put_key_u32(&b, "tokenizer.ggml.bos_token_id", 257);
    put_key_u32(&b, "tokenizer.ggml.eos_token_id", 258);
    put_tokens(&b, f);
    if (f->prefix >= 0)
        put_switch(&b, "tokenizer.ggml.add_space_prefix", f->prefix);
    if (f->add_bos >= 0)
        put_switch(&b, "tokenizer.ggml.add_bos_token", f->add_bos);
    struct scratch s;
    scratch_make(&s);
    struct tokenizer *tok = load_file(scratch_write(&s, "m.gguf", b.data, b.n), wanted, err);
    scratch_remove(&s, (const char *const[]){ "m.gguf" }, 1);
    return tok;
}

static void test_kinds_of_token(void **state)
{
    (void)state;
    struct error err;
    struct tokenizer *tok = load(&usual, ST_OK, &err);
    EXPECT(tok, "ab", TOKENIZE_ADD_BOS, 257, 264); /* "ab" before " a" */
    EXPECT(tok, "aab", 0, 262, 263);
    EXPECT(tok, "bbb", 0, 259, 268, 261); /* of equals the leftmost */
    EXPECT(tok, "a<s>ab</s>", TOKENIZE_SPECIAL, 262, 257, 264, 258);
    EXPECT(tok, "<s>", 0, 259, '<', 's', '>');
    EXPECT(tok, "a<user" MARK ">b", 0, 262, 265, 259, 261);
    EXPECT(tok, "ba", 0, 259, 261, 260); /* unused tokens are not made */
    EXPECT(tok, " a" MARK "a", 0, 259, 262, 262);
    EXPECT(tok, "\n\xC3\xA9", 0, 259, '\n', 0xC3, 0xA9);
    EXPECT(tok, "<0xFF>", TOKENIZE_SPECIAL, 259, '<', '0', 'x', 'F', 'F', '>');
    EXPECT(tok, "\xFF", 0, 259, 0xEF, 0xBF, 0xBD); /* replaced by U+FFFD */
    expect_ids(tok, "", 0, 0, NULL, 0);
    size_t len;
    assert_string_equal(tokenizer_bytes(tok, 264, &len), " ab");
    assert_string_equal(tokenizer_bytes(tok, '\n', &len), "\n");
    assert_string_equal(tokenizer_bytes(tok, 267, &len), "<0x0A>");
    assert_string_equal(tokenizer_bytes(tok, 0, &len), "");
    assert_int_equal(len, 1);
    assert_int_equal(tokenizer_id(tok, " ab", 3), 264);
    assert_int_equal(tokenizer_id(tok, "\n", 1), TOKENIZER_NONE);
    assert_true(tokenizer_is_special(tok, 257));
    assert_false(tokenizer_is_special(tok, 265));
    tokenizer_destroy(&tok);
}

static void test_switches(void **state)
{
    (void)state;
    struct error err;
    struct file f = usual;
    f.prefix = f.add_bos = 0;
    struct tokenizer *tok = load(&f, ST_OK, &err), *prefixed;
    EXPECT(tok, "ab ab", TOKENIZE_ADD_BOS, 263, 264);
    EXPECT(tok, "<s>a", TOKENIZE_SPECIAL, 257, 260);
    f.prefix = f.add_bos = 1;
    prefixed = load(&f, ST_OK, &err);
    EXPECT(prefixed, "ab ab", TOKENIZE_ADD_BOS, 257, 264, 264);
    assert_int_not_equal(tokenizer_fingerprint(tok), tokenizer_fingerprint(prefixed));
    tokenizer_destroy(&tok);
    tokenizer_destroy(&prefixed);
}

static void test_unknown_without_bytes(void **state)
{
    (void)state;
    struct tokenizer *tok = NULL;
    assert_int_equal(tokenizer_new(&tok), ST_OK);
    tokenizer_use_spm(tok, SPM_NORMALIZED);
    assert_int_equal(tokenizer_add_token(tok, 0, "<unk>", 5, false), ST_OK);
    assert_int_equal(tokenizer_add_token(tok, 1, "a", 1, true), ST_OK);
    tok->bpe.unknown = 0;
    tok->bpe.fuse_unknown = true;
    assert_int_equal(spm_add_merges(&tok->bpe, (double[2]){ 0 }), ST_OK);
    assert_int_equal(tokenizer_finish(tok), ST_OK);
    EXPECT(tok, "axy zba", 0, 1, 0, 1);
    tokenizer_destroy(&tok);
}

static void expect_refusal(const struct file *f, status wanted, const char *says)
{
    struct error err;
    struct tokenizer *tok = load(f, wanted, &err);
    if (!strstr(err.text, says))
        fail_msg("%s: \"%s\"", says, err.text);
    assert_null(tok);
}

static void test_refusals(void **state)
{
    (void)state;
    struct file f = usual;
    f.n_scores--;
    expect_refusal(&f, ST_INVALID, "scores: not one for each token");
    f = usual;
    f.score = NAN;
    expect_refusal(&f, ST_INVALID, "scores: element 263");
    f = usual;
    f.byte_name = "<0xG0>";
    expect_refusal(&f, ST_INVALID, "tokens: element 255 is no byte");
    f.byte_type = NORMAL;
    expect_refusal(&f, ST_UNSUPPORTED, "255 of 256 bytes");
    f.byte_name = "<0x0A>";
    expect_refusal(&f, ST_INVALID, "tokens: element 255 is too long, or stands there twice");
    f.byte_name = "ab";
    expect_refusal(&f, ST_INVALID, "tokens: element 263 is too long, or stands there twice");
    f = usual;
    f.prefix = 2;
    expect_refusal(&f, ST_INVALID, "add_space_prefix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama2_equals_llama_cpp),
        cmocka_unit_test(test_hostile_texts_take_near_linear_time),
        cmocka_unit_test(test_equals_the_definition),
        cmocka_unit_test(test_kinds_of_token),
        cmocka_unit_test(test_switches),
        cmocka_unit_test(test_unknown_without_bytes),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
