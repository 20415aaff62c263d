/* Events and bodies, byte for byte: clients read them with parsers of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "answer_sample.h"

#define CHUNK(choices_and_more)                                                                                        \
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":5,\"model\":\"baton-tiny\","        \
    "\"choices\":[" choices_and_more "}\n\n"
#define TEXT_CHUNK(choices_and_more)                                                                                   \
    "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"baton-tiny\","                  \
    "\"choices\":[" choices_and_more "}\n\n"
#define USAGE                                                                                                          \
    "{\"prompt_tokens\":7,\"completion_tokens\":18446744073709551608,\"total_tokens\":18446744073709551615,"           \
    "\"prompt_tokens_details\":{\"cached_tokens\":6}}"

static const struct answer_usage usage = { 7, UINT64_MAX - 7, { { 1, 2, 0, 3 } } };

static struct answer_sample sample;
static struct answer_head head;

static void open_sample(enum request_kind kind, const char *body)
{
    sample_open(&sample, kind, body);
    answer_head_init(&head, kind == REQUEST_CHAT ? "chatcmpl-1" : "cmpl-1", 5, sample.request);
}

static void close_sample(void)
{
    answer_head_free(&head);
    sample_close(&sample);
}

static struct text_buffer piece_of(const char *text, size_t len)
{
    struct text_buffer piece;
    text_buffer_init(&piece, 4096);
    text_buffer_append(&piece, text, len);
    return piece;
}

static void write_piece(const char *text, size_t len, uint32_t n_scored)
{
    struct text_buffer piece = piece_of(text, len);
    answer_write_piece(&head, &sample.choice, &piece, n_scored, &usage, &sample.out);
    text_buffer_free(&piece);
}

static void test_chat_events(void **state)
{
    (void)state;
    open_sample(REQUEST_CHAT, SAMPLE_CHAT(",\"stream\":true"));
    answer_write_opening(&head, &sample.choice, &usage, &sample.out);
    expect_out(&sample, CHUNK("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                              "\"finish_reason\":null}]"));
    write_piece("a\"\n\0\xe4\xb8\xad", 7, 0);
    expect_out(&sample, CHUNK("{\"index\":0,\"delta\":{\"content\":\"a\\\"\\n\\u0000\xe4\xb8\xad\"},\"logprobs\":null,"
                              "\"finish_reason\":null}]"));
    sample.choice.finish = CHOICE_STOP;
    answer_write_closing(&head, &sample.choice, 0, &usage, &sample.out);
    expect_out(&sample, CHUNK("{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]"));
    answer_write_end(&head, &usage, &sample.out);
    expect_out(&sample, "data: [DONE]\n\n");
    close_sample();
}

static void test_completion_events(void **state)
{
    (void)state;
    open_sample(REQUEST_TEXT, SAMPLE_TEXT(",\"stream\":true"));
    answer_write_opening(&head, &sample.choice, &usage, &sample.out);
    expect_out(&sample, ""); /* there is neither a role nor an echo */
    sample.choice.index = 41;
    write_piece("b", 1, 0);
    expect_out(&sample, TEXT_CHUNK("{\"index\":41,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":null}]"));
    sample.choice.finish = CHOICE_LENGTH;
    answer_write_closing(&head, &sample.choice, 0, &usage, &sample.out);
    expect_out(&sample, TEXT_CHUNK("{\"index\":41,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]"));
    close_sample();
}

static void test_echo_opens(void **state)
{
    (void)state;
    open_sample(REQUEST_TEXT, SAMPLE_TEXT(",\"stream\":true,\"echo\":true"));
    answer_write_opening(&head, &sample.choice, &usage, &sample.out);
    expect_out(&sample,
               TEXT_CHUNK("{\"index\":0,\"text\":\"say \\\"a\\\"\",\"logprobs\":null,\"finish_reason\":null}]"));
    close_sample();
}

/* With usage asked for, every event has the member: null, or the figures so far. */
static void test_usage_in_events(void **state)
{
    (void)state;
    open_sample(REQUEST_CHAT, SAMPLE_CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":true}"));
    write_piece("b", 1, 0);
    expect_out(&sample, CHUNK("{\"index\":0,\"delta\":{\"content\":\"b\"},\"logprobs\":null,\"finish_reason\":null}],"
                              "\"usage\":null"));
    answer_write_end(&head, &usage, &sample.out);
    expect_out(&sample, CHUNK("],\"usage\":" USAGE) "data: [DONE]\n\n");
    close_sample();
    open_sample(REQUEST_CHAT, SAMPLE_CHAT(",\"stream\":true,\"stream_options\":{\"include_usage\":true,"
                                          "\"continuous_usage_stats\":true}"));
    write_piece("b", 1, 0);
    expect_out(&sample, CHUNK("{\"index\":0,\"delta\":{\"content\":\"b\"},\"logprobs\":null,\"finish_reason\":null}],"
                              "\"usage\":" USAGE));
    close_sample();
}

static void test_scores_leave_with_their_text(void **state)
{
    (void)state;
    open_sample(REQUEST_TEXT, SAMPLE_TEXT(",\"stream\":true,\"logprobs\":0"));
    sample_take(&sample, "a", -0.5f, NULL, 0);
    sample_take(&sample, "b", -0.25f, NULL, 0);
    write_piece("a", 1, 1);
    expect_out(&sample,
               TEXT_CHUNK("{\"index\":0,\"text\":\"a\",\"logprobs\":{\"tokens\":[\"a\"],\"token_logprobs\":[-0.5],"
                          "\"top_logprobs\":[{\"a\":-0.5}],\"text_offset\":[0]},\"finish_reason\":null}]"));
    assert_int_equal(sample.choice.scored.n, 2); /* who wrote them drops them */
    close_sample();
}

static void test_chat_body(void **state)
{
    (void)state;
    open_sample(REQUEST_CHAT, SAMPLE_CHAT(""));
    sample_take(&sample, "a", 0, NULL, 0);
    text_buffer_add(&sample.choice.text, "\t\"");
    sample.choice.finish = CHOICE_STOP;
    answer_write_body(&head, &sample.choice, 1, 0, &usage, &sample.out);
    expect_out(&sample, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":5,\"model\":\"baton-tiny\","
                        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"a\\t\\\"\","
                        "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":" USAGE "}");
    close_sample();
}

static void test_completion_body(void **state)
{
    (void)state;
    open_sample(REQUEST_TEXT, SAMPLE_TEXT(",\"echo\":true,\"n\":2,\"baton\":{}"));
    struct choice choices[2];
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(choice_init(&choices[i], NULL, sample.request, i), ST_OK);
        text_buffer_add(&choices[i].text, i ? "y" : "x");
        choices[i].finish = i ? CHOICE_STOP : CHOICE_LENGTH;
        choices[i].timing.class_changed = i == 1;
    }
    answer_write_body(&head, choices, 2, 0, &usage, &sample.out);
    expect_out(&sample,
               "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"baton-tiny\","
               "\"choices\":[{\"index\":0,\"text\":\"say \\\"a\\\"x\",\"logprobs\":null,\"finish_reason\":"
               "\"length\",\"baton\":{\"route\":null,\"class\":null}},{\"index\":1,\"text\":\"say \\\"a\\\"y\","
               "\"logprobs\":null,\"finish_reason\":\"stop\",\"class_changed\":true,\"baton\":{\"route\":null,"
               "\"class\":null}}],\"usage\":" USAGE "}");
    choice_free(&choices[0]);
    choice_free(&choices[1]);
    close_sample();
}

static void test_error_event(void **state)
{
    (void)state;
    struct text_buffer out;
    struct api_error err;
    (void)api_error_set(&err, API_NO_WORKER, NULL, "none \"up\"");
    text_buffer_init(&out, 4096);
    answer_write_error_event(&err, &out);
    assert_string_equal(text_buffer_text(&out),
                        "data: {\"error\":{\"message\":\"none \\\"up\\\"\",\"type\":\"service_unavailable\","
                        "\"param\":null,\"code\":\"no_worker\"}}\n\n");
    text_buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_events),
        cmocka_unit_test(test_completion_events),
        cmocka_unit_test(test_echo_opens),
        cmocka_unit_test(test_usage_in_events),
        cmocka_unit_test(test_scores_leave_with_their_text),
        cmocka_unit_test(test_chat_body),
        cmocka_unit_test(test_completion_body),
        cmocka_unit_test(test_error_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
