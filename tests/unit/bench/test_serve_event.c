/* Events of both APIs, bodies of requests, and what is no event. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "bench/serve_body.h"
#include "bench/serve_event.h"

static struct serve_event read_event(const char *data, struct text_buffer *text)
{
    struct serve_event e;
    serve_event_read(data, strlen(data), &e, text);
    return e;
}

static void test_text(void **state)
{
    struct text_buffer text;
    (void)state;
    text_buffer_init(&text, 100);
    assert_true(read_event("{\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}", &text).has_text);
    assert_true(read_event("{\"choices\":[{\"text\":\"lo\"}]}", &text).has_text);
    assert_true(read_event("{\"choices\":[{\"delta\":{\"reasoning_content\":\"!\"}}]}", &text).has_text);
    assert_false(read_event("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", &text).has_text);
    assert_false(read_event("{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}", &text).has_text);
    assert_string_equal(text_buffer_text(&text), "Hello!");
    text_buffer_free(&text);
}

static void test_usage(void **state)
{
    (void)state;
    struct serve_event e = read_event("{\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,"
                                      "\"prompt_tokens_details\":{\"cached_tokens\":8}}}",
                                      NULL);
    assert_true(e.has_usage && !e.has_text && !e.error[0]);
    assert_int_equal(e.prompt_tokens, 12);
    assert_int_equal(e.output_tokens, 5);
    assert_int_equal(e.cached_tokens, 8);
    assert_false(read_event("{\"choices\":[],\"usage\":null}", NULL).has_usage);
}

static void test_ends(void **state)
{
    (void)state;
    assert_true(read_event("[DONE]", NULL).is_done);
    assert_string_equal(read_event("{\"error\":{\"message\":\"gone\"}}", NULL).error, "gone");
    assert_string_equal(read_event("{\"error\":\"gone\"}", NULL).error, "an error without a message");
    assert_string_equal(read_event("nonsense", NULL).error, "an event is no JSON object");
    assert_string_equal(read_event("[1]", NULL).error, "an event is no JSON object");
    assert_string_equal(read_event("{\"error\":null,\"choices\":[]}", NULL).error, "");
}

static void say(const struct serve_api *api, const char *role, const char *text, struct text_buffer *history)
{
    serve_body_say(api, role, text, strlen(text), history);
}

static json_t *body_of(const struct serve_api *api, const char *first, const char *second)
{
    struct text_buffer history, body;
    text_buffer_init(&history, 1000);
    text_buffer_init(&body, 1000);
    say(api, "user", first, &history);
    say(api, "assistant", second, &history);
    serve_body_write(api, &history, 9, &body);
    json_t *root = json_loads(text_buffer_text(&body), 0, NULL);
    text_buffer_free(&history);
    text_buffer_free(&body);
    assert_non_null(root);
    return root;
}

static void test_chat_body(void **state)
{
    const struct serve_api api = { .model = "m\"1", .chat = true, .ignore_eos = true, .salt = "s\\" };
    (void)state;
    json_t *root = body_of(&api, "a\"\n", "b");
    const json_t *messages = json_object_get(root, "messages");
    assert_int_equal(json_array_size(messages), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, 0), "content")), "a\"\n");
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, 1), "role")), "assistant");
    assert_string_equal(json_string_value(json_object_get(root, "model")), "m\"1");
    assert_string_equal(json_string_value(json_object_get(root, "cache_salt")), "s\\");
    assert_int_equal(json_integer_value(json_object_get(root, "max_tokens")), 9);
    assert_true(json_is_true(json_object_get(root, "ignore_eos")));
    assert_true(json_is_true(json_object_get(json_object_get(root, "stream_options"), "include_usage")));
    json_decref(root);
}

static void test_completions_body(void **state)
{
    const struct serve_api api = { .model = "m" };
    (void)state;
    json_t *root = body_of(&api, "a\" ", "b");
    assert_string_equal(json_string_value(json_object_get(root, "prompt")), "a\" b");
    assert_null(json_object_get(root, "cache_salt"));
    assert_null(json_object_get(root, "ignore_eos"));
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_chat_body),
        cmocka_unit_test(test_completions_body),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
