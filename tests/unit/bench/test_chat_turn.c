/* What a turn of a conversation should find of the turn before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bench/chat_turn.h"

static struct chat_prompt prompt_of(const char *ids, const char *texts)
{
    return (struct chat_prompt){ json_loads(ids, 0, NULL), json_loads(texts, 0, NULL) };
}

/* Behind the prompt [1, 2, 3]; completion counts a token that ends the answer, which texts has not. */
static uint32_t prefix(const char *texts, uint32_t completion, const char *next_ids, const char *next_texts)
{
    struct chat_prompt before = prompt_of("[1, 2, 3]", "[\"a\", \"b\", \"c\"]"), next = prompt_of(next_ids, next_texts);
    struct chat_answer answer = { .texts = json_loads(texts, 0, NULL), .completion_tokens = completion };
    assert_true(before.ids && next.ids && next.texts && answer.texts);
    uint32_t n = chat_computed_prefix(&next, &before, &answer);
    chat_prompt_free(&before);
    chat_prompt_free(&next);
    chat_answer_free(&answer);
    return n;
}

/* The last token that was sampled has no KV: nothing was computed behind it. */
static void test_answer_is_found_but_for_its_last_token(void **state)
{
    (void)state;
    const char *ids = "[1, 2, 3, 4, 5, 6, 7]", *texts = "[\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\"]";
    assert_int_equal(prefix("[\"d\", \"e\", \"f\"]", 3, ids, texts), 5);
    assert_int_equal(prefix("[\"d\", \"e\", \"f\"]", 4, ids, texts), 6); /* it ended by itself */
    assert_int_equal(prefix("[\"d\"]", 1, ids, texts), 3);
    assert_int_equal(prefix("[]", 3, ids, texts), 3); /* no text of tokens is known */
}

static void test_other_tokens_end_it(void **state)
{
    (void)state;
    const char *texts = "[\"a\", \"b\", \"c\", \"d\", \"xy\", \"z\"]";
    /* What was said as "x", "y" is read as "xy". */
    assert_int_equal(prefix("[\"d\", \"x\", \"y\", \"z\"]", 5, "[1, 2, 3, 4, 5, 6]", texts), 4);
    assert_int_equal(prefix("[\"d\", \"xy\", \"z\"]", 4, "[1, 9, 3, 4, 5, 6]", texts), 1); /* same texts, other ids */
    assert_int_equal(prefix("[\"d\", \"xy\", \"z\"]", 4, "[1, 2]", "[\"a\", \"b\"]"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer_is_found_but_for_its_last_token),
        cmocka_unit_test(test_other_tokens_end_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
