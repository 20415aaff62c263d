#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "tokenizer_sample.h"

#define SPECIAL "{\"id\":256,\"content\":\"<s>\",\"special\":true},{\"id\":257,\"content\":\"\xE6\x97\xA5 t\"}"
#define R       UTF8_REPLACEMENT

static struct tokenizer *load(void)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    const struct sample sample = { .added = SPECIAL, .vocab = ",\"\xC3\xA9\xC4\xB9\":258" }; /* the bytes E9 97 */
    if (sample_load(&sample, &tok, &err) != ST_OK)
        fail_msg("%s", err.text);
    return tok;
}

struct stream {
    struct detokenizer d;
    char text[512];
    size_t n;
};

static void push(struct stream *s, uint32_t id, const char *wanted)
{
    char out[DETOKENIZER_MAX_BYTES(8)];
    size_t n = detokenizer_push(&s->d, id, out);
    assert_int_equal(n, strlen(wanted));
    assert_memory_equal(out, wanted, n);
}

static void finish(struct stream *s, const char *wanted)
{
    char out[DETOKENIZER_MAX_BYTES(0)];
    size_t n = detokenizer_finish(&s->d, out);
    assert_int_equal(n, strlen(wanted));
    assert_memory_equal(out, wanted, n);
    assert_int_equal(detokenizer_finish(&s->d, out), 0);
}

static void test_never_half_a_character(void **state)
{
    (void)state;
    struct tokenizer *tok = load();
    struct stream s = { .n = 0 };
    detokenizer_init(&s.d, tok, false);
    push(&s, 0xF0, "");
    push(&s, 0x9F, "");
    push(&s, 0x98, "");
    push(&s, 0x80, "\xF0\x9F\x98\x80");
    push(&s, 'a', "a");
    push(&s, 0xC3, "");
    push(&s, 'b', R "b");
    push(&s, 0xE6, "");
    push(&s, 258, R);
    push(&s, 0xA5, "\xE9\x97\xA5");
    push(&s, 0xFF, R);
    push(&s, 0xED, "");
    push(&s, 0xA0, R R);
    push(&s, 0xF4, "");
    finish(&s, R);
    push(&s, 257, "\xE6\x97\xA5 t");
    push(&s, 4711, "");
    finish(&s, "");
    tokenizer_destroy(&tok);
}

static void test_special_tokens(void **state)
{
    (void)state;
    struct tokenizer *tok = load();
    struct stream s = { .n = 0 };
    detokenizer_init(&s.d, tok, false);
    push(&s, 0xC3, "");
    push(&s, 256, "");
    push(&s, 0xA9, "\xC3\xA9");
    detokenizer_init(&s.d, tok, true);
    push(&s, 0xC3, "");
    push(&s, 256, R "<s>");
    tokenizer_destroy(&tok);
}

static struct tokenizer *load_spm(const char *decoder)
{
    struct tokenizer *tok = NULL;
    struct error err = { "" };
    const struct sample sample = { .spm = true,
                                   .decoder = decoder,
                                   .vocab = ",\"\u2581\":257,\"\u2581a\":258",
                                   .added = "{\"id\":256,\"content\":\"<s>\",\"special\":true},"
                                            "{\"id\":259,\"content\":\"<\u2581>\"}" };
    if (sample_load(&sample, &tok, &err) != ST_OK)
        fail_msg("%s", err.text);
    return tok;
}

/* One space, of the first that has a text, and only where a text begins. */
static void test_leading_space(void **state)
{
    (void)state;
    struct tokenizer *tok = load_spm(NULL);
    struct stream s = { .n = 0 };
    detokenizer_init(&s.d, tok, false);
    push(&s, 258, " a");
    detokenizer_at_start(&s.d);
    push(&s, 256, "");
    push(&s, 258, "a");
    push(&s, 258, " a");
    push(&s, '\n', "\n");
    push(&s, 259, "< >");
    detokenizer_init(&s.d, tok, false);
    detokenizer_at_start(&s.d);
    push(&s, 257, "");
    push(&s, 257, " ");
    detokenizer_init(&s.d, tok, false);
    detokenizer_at_start(&s.d);
    push(&s, 0xC3, "");
    push(&s, 257, R " ");
    detokenizer_init(&s.d, tok, true);
    detokenizer_at_start(&s.d);
    push(&s, 256, "<s>");
    push(&s, 258, " a");
    tokenizer_destroy(&tok);
    tok = load_spm(SAMPLE_DECODERS(SAMPLE_FUSED));
    detokenizer_init(&s.d, tok, false);
    detokenizer_at_start(&s.d);
    push(&s, 258, " a");
    tokenizer_destroy(&tok);
}

/* Any cut of any bytes yields what the whole yields at once. */
static void test_equals_decoding_at_once(void **state)
{
    (void)state;
    static const uint8_t pool[] = { 0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2,
                                    0xC3, 0xE0, 0xE6, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF };
    struct tokenizer *tok = load();
    srand(5);
    for (int round = 0; round < 20000; round++) {
        struct stream s = { .n = 0 };
        char bytes[24], *wanted = NULL;
        size_t len = (size_t)rand() % sizeof bytes, wanted_len = 0;
        detokenizer_init(&s.d, tok, false);
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (char)pool[(size_t)rand() % sizeof pool];
            s.n += detokenizer_push(&s.d, (uint8_t)bytes[i], s.text + s.n);
            assert_int_equal(utf8_valid_prefix(s.text, s.n), s.n);
        }
        s.n += detokenizer_finish(&s.d, s.text + s.n);
        assert_int_equal(utf8_replace(bytes, len, &wanted, &wanted_len), ST_OK);
        assert_int_equal(s.n, wanted_len);
        assert_memory_equal(s.text, wanted, wanted_len);
        free(wanted);
    }
    tokenizer_destroy(&tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_half_a_character),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_leading_space),
        cmocka_unit_test(test_equals_decoding_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
