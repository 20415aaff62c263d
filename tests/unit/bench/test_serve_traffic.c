/* What is asked, and when, follows from the seed alone; what is shared is equal, and what is not differs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench/serve_traffic.h"

static struct prompt_words words;

static struct distribution fixed(double n)
{
    return (struct distribution){ .kind = DIST_FIXED, .a = n };
}

static struct serve_traffic traffic_of(enum serve_arrivals arrivals)
{
    return (struct serve_traffic){ .arrivals = arrivals,
                                   .users = 4,
                                   .rate = 50,
                                   .speed = 1,
                                   .length_scale = 1,
                                   .input = fixed(30),
                                   .output = fixed(10),
                                   .turns = fixed(3),
                                   .pause_ms = fixed(0),
                                   .seed = 1 };
}

/* Words, of one token each unless words says otherwise. */
static uint64_t tokens_of(const char *text)
{
    uint64_t n = 0;
    char copy[1 << 16], *place = NULL;
    text_copy(copy, sizeof copy, text);
    for (char *word = strtok_r(copy, " ", &place); word; word = strtok_r(NULL, " ", &place)) {
        uint32_t i = 0;
        while (i < words.n && strcmp(words.words[i].text, word) != 0)
            i++;
        assert_true(i < words.n);
        n += words.words[i].tokens;
    }
    return n;
}

static void test_poisson(void **state)
{
    struct serve_traffic t = traffic_of(ARRIVE_POISSON);
    double at = 0, squares = 0;
    const uint32_t n = 20000;
    (void)state;
    for (uint32_t i = 0; i < n; i++) {
        double next = serve_traffic_arrival_us(&t, i, at);
        assert_true(next >= at);
        squares += (next - at) * (next - at);
        at = next;
    }
    assert_true(fabs(at / 1e6 - n / t.rate) < 0.02 * n / t.rate);
    /* the deviation of an exponential's steps is their mean */
    double mean = at / n, deviation = sqrt(squares / n - mean * mean);
    assert_true(fabs(deviation / mean - 1) < 0.03);
}

static void test_fixed_does_not_drift(void **state)
{
    struct serve_traffic t = traffic_of(ARRIVE_FIXED);
    (void)state;
    t.rate = 3;
    assert_true(serve_traffic_arrival_us(&t, 0, 0) == 0);
    assert_true(fabs(serve_traffic_arrival_us(&t, 3000000, 123) - 1e12) < 1);
}

static void test_replay(void **state)
{
    struct serve_traffic t = traffic_of(ARRIVE_REPLAY);
    struct trace_request requests[] = { { 0, 600, 7 }, { 3000000, 1200, 8 }, { 9000000, 40, 9 } };
    uint32_t blocks[] = { 5, 6, 5, 6, 7, 6 };
    size_t ends[] = { 2, 5, 6 };
    struct trace trace = { .requests = requests, .blocks = blocks, .ends = ends, .n_blocks = 6, .n_requests = 3 };
    struct text_buffer a, b, c;
    (void)state;
    t.trace = &trace;
    t.speed = 3;
    t.length_scale = 0.5;
    text_buffer_init(&a, 1 << 16);
    text_buffer_init(&b, 1 << 16);
    text_buffer_init(&c, 1 << 16);
    assert_int_equal(serve_traffic_conversations(&t), 3);
    assert_true(serve_traffic_arrival_us(&t, 2, 0) == 3e6);
    assert_int_equal(serve_traffic_turns(&t, 1), 1);
    assert_int_equal(serve_traffic_output(&t, 0, 0), 4);
    assert_int_equal(serve_traffic_question(&t, &words, 0, 0, &a), 300);
    assert_int_equal(serve_traffic_question(&t, &words, 1, 0, &b), 600);
    assert_int_equal(serve_traffic_question(&t, &words, 2, 0, &c), 20);
    assert_int_equal(tokens_of(text_buffer_text(&a)), 300);
    assert_int_equal(tokens_of(text_buffer_text(&b)), 600);
    assert_int_equal(tokens_of(text_buffer_text(&c)), 20);
    assert_int_equal(strncmp(a.data, b.data, a.len), 0);     /* both begin with blocks 5 and 6 */
    assert_int_not_equal(strncmp(a.data, c.data, c.len), 0); /* that begins with block 6 */
    text_buffer_free(&a);
    text_buffer_free(&b);
    text_buffer_free(&c);
}

static void test_prefixes_are_shared_and_questions_are_not(void **state)
{
    struct serve_traffic t = traffic_of(ARRIVE_CLOSED);
    char prefixes[8][2048], questions[8][2048];
    uint32_t different = 0;
    (void)state;
    t.prefixes = 2;
    t.prefix_tokens = 50;
    for (uint64_t i = 0; i < 8; i++) {
        struct text_buffer text;
        text_buffer_init(&text, 2048);
        assert_int_equal(serve_traffic_prefix(&t, &words, i, &text), 50);
        text_copy(prefixes[i], sizeof prefixes[i], text_buffer_text(&text));
        text_buffer_clear(&text);
        assert_int_equal(serve_traffic_question(&t, &words, i, 1, &text), 30);
        text_copy(questions[i], sizeof questions[i], text_buffer_text(&text));
        text_buffer_free(&text);
        assert_int_equal(tokens_of(prefixes[i]), 50);
        assert_int_equal(tokens_of(questions[i]), 30);
        uint64_t before = 0;
        while (before < i && strcmp(prefixes[before], prefixes[i]) != 0)
            before++;
        different += before == i;
        for (uint64_t k = 0; k < i; k++)
            assert_string_not_equal(questions[k], questions[i]);
    }
    assert_int_equal(different, 2);
}

/* Words of several tokens are taken while there is room, and those of one fill it. */
static void test_words_of_several_tokens(void **state)
{
    struct prompt_words kept = words;
    struct error err;
    (void)state;
    for (uint32_t i = words.n; i-- > 0;)
        prompt_words_set(&words, i, i % 5); /* 0 takes it out */
    assert_int_equal(prompt_words_order(&words, &err), ST_OK);
    assert_true(words.n < kept.n && words.n_single > 0 && words.n_single < words.n);
    for (uint64_t n = 1; n < 40; n++) {
        struct text_buffer text;
        text_buffer_init(&text, 4096);
        prompt_words_write(&words, 1, n, n, &text);
        assert_int_equal(tokens_of(text_buffer_text(&text)), n);
        text_buffer_free(&text);
    }
    for (uint32_t i = words.n; i-- > 0;)
        prompt_words_set(&words, i, 0);
    assert_int_equal(prompt_words_order(&words, &err), ST_INVALID);
    words = kept;
}

static void describe(const struct serve_traffic *t, char *out, size_t size)
{
    struct text_buffer text;
    text_buffer_init(&text, 4096);
    serve_traffic_describe(t, &text);
    text_copy(out, size, text_buffer_text(&text));
    text_buffer_free(&text);
}

static void test_description_tells_all(void **state)
{
    struct serve_traffic t = traffic_of(ARRIVE_POISSON), other = t;
    struct trace_request requests[] = { { 0, 600, 7 } };
    uint32_t blocks[] = { 5, 6 };
    size_t ends[] = { 2 };
    struct trace trace = { .requests = requests, .blocks = blocks, .ends = ends, .n_blocks = 2, .n_requests = 1 };
    char a[512], b[512];
    (void)state;
    describe(&t, a, sizeof a);
    assert_string_equal(a, "Poisson, 50/s, input 30, output 10, turns 3, pause 0, seed 1");
    other.seed = 2;
    describe(&other, b, sizeof b);
    assert_string_not_equal(a, b);
    other = t;
    other.output = (struct distribution){ DIST_UNIFORM, 10, 10 };
    describe(&other, b, sizeof b);
    assert_string_not_equal(a, b);
    t.trace = &trace;
    describe(&t, a, sizeof a);
    blocks[1] = 7;
    describe(&t, b, sizeof b);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_poisson),
        cmocka_unit_test(test_fixed_does_not_drift),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_prefixes_are_shared_and_questions_are_not),
        cmocka_unit_test(test_words_of_several_tokens),
        cmocka_unit_test(test_description_tells_all),
    };
    prompt_words_init(&words);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
