/* Bodies of requests: what is accepted and what it means, and every kind of refusal with its member. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "router/request.h"

static struct models *models;
static struct request_rules rules;

#define M               "\"model\":\"baton-tiny\","
#define CHAT_BODY(more) "{" M "\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]" more "}"
#define TEXT_BODY(more) "{" M "\"prompt\":\"Hello\"" more "}"

static int open_models(void **state)
{
    struct error err;
    (void)state;
    if (models_open(BATON_SOURCE_DIR "/models/baton-tiny", true, &models, &err) != ST_OK)
        return -1;
    rules = (struct request_rules){ models, 16, true, NULL };
    return 0;
}

static int close_models(void **state)
{
    (void)state;
    models_close(&models);
    return 0;
}

static struct request *read_good(enum request_kind kind, const char *body)
{
    struct api_error err;
    struct request *r = NULL;
    if (request_read(&rules, kind, body, strlen(body), &r, &err) != ST_OK)
        fail_msg("%s\n refused: %s", body, err.text);
    return r;
}

struct refusal {
    enum request_kind kind;
    const char *body;
    enum api_error_kind error;
    const char *param, *text; /* text: a part of the message */
};

static const struct refusal refusals[] = {
    { REQUEST_CHAT, "", API_MALFORMED, "", "empty" },
    { REQUEST_CHAT, "{", API_MALFORMED, "", "line 1, column 1" },
    { REQUEST_CHAT, "{\"a\":1,\n \"b\":}", API_MALFORMED, "", "line 2" },
    { REQUEST_CHAT, "{\"a\":1,\"a\":2}", API_MALFORMED, "", "duplicate" },
    { REQUEST_CHAT, "{} x", API_MALFORMED, "", "end of file" },
    { REQUEST_CHAT, "{\"a\":\"\xff\"}", API_MALFORMED, "", "0xff" },
    { REQUEST_CHAT, "{\"a\":\"\\ud800\"}", API_MALFORMED, "", "line 1" },
    { REQUEST_CHAT, "{\"a\":NaN}", API_MALFORMED, "", "line 1" },
    { REQUEST_CHAT, "{\"a\":1e999}", API_WRONG_VALUE, "a", "1e999 is not between -1.797e308 and 1.797e308" },
    { REQUEST_CHAT, "{\"a\":[{\"b\":[1,99999999999999999999", API_WRONG_VALUE, "a[0].b[1]",
      "99999999999999999999 is not between -9223372036854775808 and 9223372036854775807" },
    { REQUEST_CHAT, " {\"[\":1e999}", API_WRONG_VALUE, "[", "1e999" },
    { REQUEST_CHAT, "{\"\":1e999}", API_WRONG_VALUE, "", "1e999" },
    { REQUEST_CHAT, "[1e999]", API_WRONG_TYPE, "", "an array" },
    { REQUEST_CHAT, "1e999", API_WRONG_TYPE, "", "a number" },
    { REQUEST_CHAT, CHAT_BODY(",\"seed\":9223372036854775808"), API_WRONG_VALUE, "seed",
      "9223372036854775808 is not between -9223372036854775808 and 9223372036854775807" },
    { REQUEST_CHAT, CHAT_BODY(",\"seed\":-9223372036854775809"), API_WRONG_VALUE, "seed", "-9223372036854775809" },
    { REQUEST_CHAT, CHAT_BODY(",\"max_tokens\": 99999999999999999999 "), API_WRONG_VALUE, "max_tokens",
      "99999999999999999999 is not between 0 and 2147483647" },
    { REQUEST_CHAT, CHAT_BODY(",\"temperature\":1e400"), API_WRONG_VALUE, "temperature",
      "1e400 is not between 0 and 2" },
    { REQUEST_CHAT, CHAT_BODY(",\"logit_bias\":{\"5\":-1E400}"), API_WRONG_VALUE, "logit_bias.5",
      "-1E400 is not between -100 and 100" },
    { REQUEST_CHAT, "[1]", API_WRONG_TYPE, "", "an array" },
    { REQUEST_CHAT, "{}", API_MISSING, "model", "model" },
    { REQUEST_CHAT, "{\"model\":null}", API_MISSING, "model", "model" },
    { REQUEST_CHAT, "{\"model\":1}", API_WRONG_TYPE, "model", "expected a string, got an integer" },
    { REQUEST_CHAT, "{\"model\":\"gpt-9\",\"messages\":[]}", API_NO_MODEL, "model", "gpt-9" },
    { REQUEST_CHAT, "{\"model\":\"baton-tiny\\u0000\",\"messages\":[]}", API_NO_MODEL, "model",
      "'baton-tiny\\u0000' does not exist" },
    { REQUEST_CHAT, "{\"model\":\"m\\u00e8\\n\\u007f\",\"messages\":[]}", API_NO_MODEL, "model",
      "'m\xc3\xa8\\u000a\\u007f' does not exist" },
    { REQUEST_CHAT, "{" M "\"n\":1}", API_MISSING, "messages", "" },
    { REQUEST_CHAT, "{" M "\"messages\":null}", API_MISSING, "messages", "" },
    { REQUEST_CHAT, "{" M "\"messages\":{}}", API_WRONG_TYPE, "messages", "an array" },
    { REQUEST_CHAT, "{" M "\"messages\":[]}", API_WRONG_VALUE, "messages", "empty" },
    { REQUEST_CHAT, "{" M "\"messages\":[1]}", API_WRONG_TYPE, "messages[0]", "an object" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"content\":\"x\"}]}", API_MISSING, "messages[0].role", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":2,\"content\":\"x\"}]}", API_WRONG_TYPE, "messages[0].role", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"bot\",\"content\":\"x\"}]}", API_WRONG_VALUE, "messages[0].role",
      "'bot'" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\"}]}", API_MISSING, "messages[0].content", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":true}]}", API_WRONG_TYPE, "messages[0].content",
      "a boolean" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":[]}]}", API_WRONG_VALUE, "messages[0].content",
      "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", API_WRONG_TYPE,
      "messages[0].content[0]", "an object" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]}", API_MISSING,
      "messages[0].content[0].type", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}", API_UNSUPPORTED,
      "messages[0].content[0].type", "image_url" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":3}]}]}",
      API_WRONG_TYPE, "messages[0].content[0].text", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\\u0000\",\"text\":\"\"}]}]}",
      API_UNSUPPORTED, "messages[0].content[0].type", "'text\\u0000'" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}", API_UNSUPPORTED,
      "messages[0].tool_calls", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"assistant\",\"refusal\":\"no\"}]}", API_UNSUPPORTED,
      "messages[0].refusal", "" },
    { REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":1}]}", API_WRONG_TYPE,
      "messages[0].name", "a string" },
    { REQUEST_CHAT, CHAT_BODY(",\"temperature\":2.5"), API_WRONG_VALUE, "temperature", "2.5 is not between 0 and 2" },
    { REQUEST_CHAT, CHAT_BODY(",\"temperature\":\"1\""), API_WRONG_TYPE, "temperature", "a number, got a string" },
    { REQUEST_CHAT, CHAT_BODY(",\"top_p\":-0.1"), API_WRONG_VALUE, "top_p", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"top_k\":1.5"), API_WRONG_TYPE, "top_k", "an integer" },
    { REQUEST_CHAT, CHAT_BODY(",\"top_k\":-2"), API_WRONG_VALUE, "top_k", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"min_p\":2"), API_WRONG_VALUE, "min_p", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"min_p\":-0.1"), API_WRONG_VALUE, "min_p", ": -0.1 is not between 0 and 1." },
    { REQUEST_CHAT, CHAT_BODY(",\"repetition_penalty\":0"), API_WRONG_VALUE, "repetition_penalty", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"presence_penalty\":3"), API_WRONG_VALUE, "presence_penalty", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"frequency_penalty\":-3"), API_WRONG_VALUE, "frequency_penalty", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"logit_bias\":[]"), API_WRONG_TYPE, "logit_bias", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"logit_bias\":{\"x\":1}"), API_WRONG_VALUE, "logit_bias.x", "no token id" },
    { REQUEST_CHAT, CHAT_BODY(",\"logit_bias\":{\"1024\":1}"), API_WRONG_VALUE, "logit_bias.1024", "1023" },
    { REQUEST_CHAT, CHAT_BODY(",\"logit_bias\":{\"5\":101}"), API_WRONG_VALUE, "logit_bias.5", "-100 and 100" },
    { REQUEST_CHAT, CHAT_BODY(",\"logit_bias\":{\"5\":-100.1}"), API_WRONG_VALUE, "logit_bias.5",
      ": -100.1 is not between -100 and 100." },
    { REQUEST_CHAT, CHAT_BODY(",\"seed\":1.5"), API_WRONG_TYPE, "seed", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"max_tokens\":0"), API_WRONG_VALUE, "max_tokens", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"max_tokens\":-1"), API_WRONG_VALUE, "max_tokens", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"max_tokens\":1,\"max_completion_tokens\":1"), API_WRONG_VALUE, "max_tokens", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"max_tokens\":3,\"min_tokens\":4"), API_WRONG_VALUE, "min_tokens", "max_tokens = 3" },
    { REQUEST_CHAT, CHAT_BODY(",\"stop\":7"), API_WRONG_TYPE, "stop", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"stop\":[\"a\",7]"), API_WRONG_TYPE, "stop[1]", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"stop\":\"\""), API_WRONG_VALUE, "stop", "not 0" },
    { REQUEST_CHAT, CHAT_BODY(",\"stop_token_ids\":[5000]"), API_WRONG_VALUE, "stop_token_ids[0]", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"n\":0"), API_WRONG_VALUE, "n", "0 is not between 1 and 16." },
    { REQUEST_CHAT, CHAT_BODY(",\"n\":17"), API_WRONG_VALUE, "n", "17 is not between 1 and 16." },
    { REQUEST_CHAT, CHAT_BODY(",\"n\":99999999999999999999"), API_WRONG_VALUE, "n", "is not between 1 and 16." },
    { REQUEST_TEXT, TEXT_BODY(",\"best_of\":17"), API_WRONG_VALUE, "best_of", "17 is not between 1 and 16." },
    { REQUEST_CHAT, CHAT_BODY(",\"logprobs\":5"), API_WRONG_TYPE, "logprobs", "a boolean" },
    { REQUEST_CHAT, CHAT_BODY(",\"top_logprobs\":2"), API_WRONG_VALUE, "top_logprobs", "logprobs" },
    { REQUEST_CHAT, CHAT_BODY(",\"logprobs\":true,\"top_logprobs\":21"), API_WRONG_VALUE, "top_logprobs", "20" },
    { REQUEST_CHAT, CHAT_BODY(",\"stream\":1"), API_WRONG_TYPE, "stream", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"stream_options\":{}"), API_WRONG_VALUE, "stream_options", "stream" },
    { REQUEST_CHAT, CHAT_BODY(",\"stream\":true,\"stream_options\":{\"include_usage\":1}"), API_WRONG_TYPE,
      "stream_options.include_usage", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"tools\":[{}]"), API_UNSUPPORTED, "tools", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"tool_choice\":\"required\""), API_UNSUPPORTED, "tool_choice", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"functions\":[{}]"), API_UNSUPPORTED, "functions", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"response_format\":{\"type\":\"json_object\"}"), API_UNSUPPORTED, "response_format",
      "" },
    { REQUEST_CHAT, CHAT_BODY(",\"response_format\":{\"type\":\"xml\"}"), API_WRONG_VALUE, "response_format.type",
      "xml" },
    { REQUEST_CHAT, CHAT_BODY(",\"response_format\":{}"), API_MISSING, "response_format.type", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"response_format\":{\"type\":\"text\\u0000\"}"), API_WRONG_VALUE,
      "response_format.type", "'text\\u0000'" },
    { REQUEST_CHAT, CHAT_BODY(",\"audio\":{}"), API_UNSUPPORTED, "audio", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"modalities\":[\"audio\"]"), API_UNSUPPORTED, "modalities", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"prediction\":{}"), API_UNSUPPORTED, "prediction", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"reasoning_effort\":\"high\""), API_UNSUPPORTED, "reasoning_effort", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"web_search_options\":{}"), API_UNSUPPORTED, "web_search_options", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"continue_final_message\":true"), API_UNSUPPORTED, "continue_final_message", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"user\":5"), API_WRONG_TYPE, "user", "a string" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":[]"), API_WRONG_TYPE, "chat_template_kwargs", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"messages\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.messages", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"add_generation_prompt\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.add_generation_prompt", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"bos_token\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.bos_token", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"eos_token\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.eos_token", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"tools\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.tools", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"documents\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.documents", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"chat_template\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.chat_template", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"continue_final_message\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.continue_final_message", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"chat_template_kwargs\":{\"x\":1,\"tokenize\":[]}"), API_UNSUPPORTED,
      "chat_template_kwargs.tokenize", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"cache_salt\":7"), API_WRONG_TYPE, "cache_salt", "an integer" },
    { REQUEST_TEXT, "{" M "\"prompt\":\"x\",\"cache_salt\":\"\"}", API_WRONG_VALUE, "cache_salt", "1 to 1024" },
    { REQUEST_CHAT, CHAT_BODY(",\"baton\":true"), API_WRONG_TYPE, "baton", "" },
    { REQUEST_CHAT, CHAT_BODY(",\"baton\":{\"route\":\"moon\"}"), API_WRONG_VALUE, "baton.route", "moon" },
    { REQUEST_CHAT, CHAT_BODY(",\"baton\":{\"timing\":1}"), API_WRONG_TYPE, "baton.timing", "" },
    { REQUEST_TEXT, "{" M "\"n\":1}", API_MISSING, "prompt", "" },
    { REQUEST_TEXT, "{" M "\"prompt\":\"\"}", API_WRONG_VALUE, "prompt", "empty" },
    { REQUEST_TEXT, "{" M "\"prompt\":[]}", API_WRONG_VALUE, "prompt", "empty" },
    { REQUEST_TEXT, "{" M "\"prompt\":5}", API_WRONG_TYPE, "prompt", "" },
    { REQUEST_TEXT, "{" M "\"prompt\":[1,\"a\"]}", API_WRONG_TYPE, "prompt[1]", "an integer" },
    { REQUEST_TEXT, "{" M "\"prompt\":[1,1024]}", API_WRONG_VALUE, "prompt[1]", "1023" },
    { REQUEST_TEXT, "{" M "\"prompt\":[-1]}", API_WRONG_VALUE, "prompt[0]", "-1" },
    { REQUEST_TEXT, "{" M "\"prompt\":[[1],[]]}", API_WRONG_VALUE, "prompt", "empty" },
    { REQUEST_TEXT, "{" M "\"prompt\":[\"a\",{}]}", API_WRONG_TYPE, "prompt[1]", "" },
    { REQUEST_TEXT, TEXT_BODY(",\"logprobs\":21"), API_WRONG_VALUE, "logprobs", "20" },
    { REQUEST_TEXT, TEXT_BODY(",\"logprobs\":true"), API_WRONG_TYPE, "logprobs", "an integer" },
    { REQUEST_TEXT, TEXT_BODY(",\"best_of\":2"), API_UNSUPPORTED, "best_of", "" },
    { REQUEST_TEXT, TEXT_BODY(",\"best_of\":1,\"n\":2"), API_WRONG_VALUE, "best_of", "n = 2" },
    { REQUEST_TEXT, TEXT_BODY(",\"suffix\":\"x\""), API_UNSUPPORTED, "suffix", "" },
    { REQUEST_TEXT, TEXT_BODY(",\"echo\":true,\"logprobs\":1"), API_UNSUPPORTED, "logprobs", "echo" },
    { REQUEST_TOKENS, "{}", API_MISSING, "prompt", "" },
    { REQUEST_TOKENS, CHAT_BODY(",\"tools\":[{}]"), API_UNSUPPORTED, "tools", "" },
    { REQUEST_TOKENS, CHAT_BODY(",\"tools\":{}"), API_WRONG_TYPE, "tools", "an array" },
    { REQUEST_TOKENS, "{\"prompt\":[1]}", API_WRONG_TYPE, "prompt", "" },
    { REQUEST_TOKENS, "{\"prompt\":\"x\",\"messages\":[]}", API_WRONG_VALUE, "prompt", "" },
    { REQUEST_IDS, "{}", API_MISSING, "tokens", "" },
    { REQUEST_IDS, "{\"tokens\":\"x\"}", API_WRONG_TYPE, "tokens", "" },
    { REQUEST_IDS, "{\"tokens\":[99999]}", API_WRONG_VALUE, "tokens[0]", "" },
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *c = &refusals[i];
        struct api_error err;
        struct request *r = NULL;
        if (request_read(&rules, c->kind, c->body, strlen(c->body), &r, &err) == ST_OK)
            fail_msg("accepted: %s", c->body);
        if (err.kind != c->error || strcmp(err.param, c->param) != 0 || !strstr(err.text, c->text))
            fail_msg("%s\n gives kind %d param '%s': %s", c->body, err.kind, err.param, err.text);
        assert_null(r);
    }
}

static void assert_ids(const struct request_prompt *p, const uint32_t *ids, size_t n)
{
    assert_int_equal(p->tokens.n, n);
    assert_memory_equal(p->tokens.ids, ids, n * sizeof *ids);
}

static void test_defaults(void **state)
{
    (void)state;
    struct request *r = read_good(REQUEST_CHAT, CHAT_BODY(""));
    const struct sampling *s = &r->sampling;
    assert_true(s->temperature == 1 && s->top_p == 1 && s->min_p == 0 && s->repetition_penalty == 1);
    assert_int_equal(s->top_k, -1);
    assert_int_equal(s->n_logprobs, -1);
    assert_int_equal(s->n_stop_ids, 2); /* the model's two ends of answer */
    assert_false(r->has_seed || r->has_max_tokens || r->stream || r->echo || r->keep_special || r->want_baton);
    assert_int_equal(r->n, 1);
    assert_int_equal(r->n_prompts, 1);
    assert_string_equal(r->ignored, "");
    assert_true(r->salt.low == 0 && r->salt.high == 0);
    request_free(&r);
    assert_null(r);
}

static void test_all_members(void **state)
{
    (void)state;
    struct request *r = read_good(
        REQUEST_CHAT,
        CHAT_BODY(",\"temperature\":0,\"top_p\":0,\"top_k\":5,\"min_p\":0.1,\"repetition_penalty\":1.5,"
                  "\"presence_penalty\":-2,\"frequency_penalty\":2,\"logit_bias\":{\"7\":-100,\"8\":1.5},\"seed\":-1,"
                  "\"max_completion_tokens\":9,\"min_tokens\":2,\"ignore_eos\":true,\"stop\":[\"x\",\"yz\"],"
                  "\"stop_token_ids\":[3],\"include_stop_str_in_output\":true,\"n\":2,\"logprobs\":true,"
                  "\"top_logprobs\":4,\"stream\":true,\"stream_options\":{\"include_usage\":true,\"more\":1},"
                  "\"baton\":{\"route\":\"remote\",\"timing\":true,\"logits_hash\":true,\"no_cache\":true},"
                  "\"user\":\"u\",\"priority\":-2147483648,\"store\":false,\"metadata\":{},\"modalities\":[\"text\"],"
                  "\"tools\":[{}],"
                  "\"tool_choice\":\"none\",\"audio\":null,\"response_format\":{\"type\":\"text\"},"
                  "\"skip_special_tokens\":false,\"colour\":\"red\",\"a,b\":1"));
    const struct sampling *s = &r->sampling;
    assert_true(s->temperature == 0 && s->top_p > 0 && s->top_p < 1e-30f && s->presence_penalty == -2);
    assert_int_equal(s->top_k, 5);
    assert_int_equal(s->n_bias, 2);
    assert_int_equal(s->bias[0].id, 7);
    assert_true(s->bias[1].bias == 1.5f);
    assert_true(r->has_seed && s->seed == UINT64_MAX);
    assert_int_equal(s->max_tokens, 9);
    assert_int_equal(s->min_tokens, 2);
    assert_int_equal(s->n_stop_ids, 3);
    assert_int_equal(s->stop_ids[2], 3);
    assert_int_equal(s->n_logprobs, 4);
    assert_int_equal(r->priority, INT32_MIN);
    assert_int_equal(r->stops.n, 2);
    assert_true(r->stops.keep && r->stream && r->include_usage && !r->continuous_usage && r->keep_special);
    assert_true(r->route == BATON__ROUTE__ROUTE_REMOTE && r->want_timing && s->want_hash && r->no_cache);
    assert_string_equal(r->ignored, "colour, a?b, stream_options.more");
    request_free(&r);
}

static void test_inner_members_are_listed(void **state)
{
    (void)state;
    struct request *r = read_good(
        REQUEST_CHAT, "{" M "\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                      "{\"type\":\"text\",\"text\":\"b\",\"zz\":1}]},{\"role\":\"assistant\",\"content\":\"c\","
                      "\"name\":\"n\",\"tool_call_id\":\"t\",\"reasoning_content\":\"r\",\"refusal\":null,"
                      "\"annotations\":[],\"tool_calls\":[]}],\"response_format\":{\"type\":\"text\",\"yy\":0}}");
    assert_string_equal(r->ignored, "response_format.yy, messages[0].content[1].zz, messages[1].annotations");
    request_free(&r);
    r = read_good(REQUEST_TOKENS, CHAT_BODY(",\"tools\":[{}],\"tool_choice\":\"none\""));
    assert_string_equal(r->ignored, "");
    request_free(&r);
}

/* What a template looks at beside role and content reaches it; what is listed as ignored does not. */
static void test_members_of_messages(void **state)
{
    (void)state;
    static const char source[] = "{% for m in messages %}{{ m.name }}{{ m.tool_call_id }}{{ m.reasoning_content }}"
                                 "{{ m.zz is defined }}{% endfor %}";
    struct served_model *m = (struct served_model *)(uintptr_t)models_at(models, 0);
    const struct chat_template *own = m->chat_template;
    struct chat_template *other;
    struct error err;
    assert_int_equal(chat_template_compile(source, strlen(source), &other, &err), ST_OK);
    m->chat_template = other;
    struct request *a = read_good(
        REQUEST_TOKENS, "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"name\":\"Ann\",\"tool_call_id\":"
                        "\"id\",\"reasoning_content\":\"why\",\"zz\":1}]}");
    struct request *b = read_good(REQUEST_TOKENS, "{\"prompt\":\"AnnidwhyFalse\",\"add_special_tokens\":false}");
    m->chat_template = own;
    chat_template_destroy(&other);
    assert_ids(&a->prompts[0], b->prompts[0].tokens.ids, b->prompts[0].tokens.n);
    request_free(&a);
    request_free(&b);
}

static void test_long_names_are_cut(void **state)
{
    (void)state;
    char body[2048] = "{\"model\":\"", wanted[512] = "The model '";
    struct api_error err;
    struct request *r = NULL;
    for (int i = 0; i < 500; i++)
        strcat(body, i % 2 ? "\xc3\xa8" : "m");
    for (int i = 0; i < 130; i++)
        strcat(wanted, i % 2 ? "\xc3\xa8" : "m");
    strcat(body, "\"}");
    strcat(wanted, "m...' does not exist; GET /v1/models lists the models.");
    assert_int_equal(request_read(&rules, REQUEST_CHAT, body, strlen(body), &r, &err), ST_INVALID);
    assert_string_equal(err.text, wanted);
}

static void test_seed_is_exact(void **state)
{
    (void)state;
    struct request *r = read_good(REQUEST_CHAT, CHAT_BODY(",\"seed\":9223372036854775807"));
    assert_true(r->has_seed && r->sampling.seed == INT64_MAX);
    request_free(&r);
    r = read_good(REQUEST_CHAT, CHAT_BODY(",\"seed\":-9223372036854775808"));
    assert_true(r->sampling.seed == (uint64_t)INT64_MIN);
    request_free(&r);
}

/* The built-in model as if it had brought these along. */
static void set_defaults(struct model_defaults defaults)
{
    struct served_model *m = (struct served_model *)(uintptr_t)models_at(models, 0);
    m->defaults = defaults;
}

static void test_defaults_of_the_model(void **state)
{
    (void)state;
    set_defaults((struct model_defaults){ 0.5f, 0.75f, 0.25f, 1.5f, 20, 7 });
    struct request *r = read_good(REQUEST_CHAT, CHAT_BODY(",\"temperature\":null"));
    const struct sampling *s = &r->sampling;
    assert_true(s->temperature == 0.5f && s->top_p == 0.75f && s->min_p == 0.25f && s->repetition_penalty == 1.5f);
    assert_int_equal(s->top_k, 20);
    assert_false(r->has_max_tokens);
    request_free(&r);
    /* What the client says wins, also where it says what is neutral. */
    r = read_good(REQUEST_CHAT, CHAT_BODY(",\"temperature\":1,\"top_p\":1.0,\"min_p\":0,\"repetition_penalty\":1,"
                                          "\"top_k\":-1,\"max_tokens\":9"));
    s = &r->sampling;
    assert_true(s->temperature == 1 && s->top_p == 1 && s->min_p == 0 && s->repetition_penalty == 1);
    assert_int_equal(s->top_k, -1);
    assert_int_equal(s->max_tokens, 9);
    request_free(&r);
    set_defaults(MODEL_DEFAULTS_NEUTRAL);
}

static void check_fit(enum request_kind kind, const char *body, uint32_t default_tokens, uint32_t wanted)
{
    struct api_error err;
    uint32_t most = 0;
    struct request *r = read_good(kind, body);
    assert_int_equal(request_fit(r, &r->prompts[0], 4096, default_tokens, &most, &err), ST_OK);
    assert_int_equal(most, wanted);
    request_free(&r);
}

static void test_max_new_tokens_of_the_model(void **state)
{
    (void)state;
    struct model_defaults d = MODEL_DEFAULTS_NEUTRAL;
    d.max_tokens = 20;
    set_defaults(d);
    check_fit(REQUEST_CHAT, CHAT_BODY(""), 0, 20);
    check_fit(REQUEST_CHAT, CHAT_BODY(""), 50, 20);
    check_fit(REQUEST_CHAT, CHAT_BODY(""), 10, 10);
    check_fit(REQUEST_CHAT, CHAT_BODY(",\"max_tokens\":30"), 0, 30); /* who says is not bound by it */
    check_fit(REQUEST_TEXT, TEXT_BODY(""), 0, 16);
    d.max_tokens = 5;
    set_defaults(d);
    check_fit(REQUEST_TEXT, TEXT_BODY(""), 0, 5);
    set_defaults(MODEL_DEFAULTS_NEUTRAL);
}

static void test_chat_is_rendered(void **state)
{
    (void)state;
    static const uint32_t ids[] = { 1022, 427, 297,  198, 331,  270, 220, 19,  938, 220,
                                    20,   30,  1023, 198, 1022, 264, 448, 347, 571, 198 };
    static const char *const bodies[] = {
        "{" M "\"messages\":[{\"role\":\"user\",\"content\":\"What is 4 times 5?\"}]}",
        "{" M "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"What is 4 times 5?\"}]}]}",
    };
    for (size_t i = 0; i < 2; i++) {
        struct request *r = read_good(REQUEST_CHAT, bodies[i]);
        assert_ids(&r->prompts[0], ids, sizeof ids / sizeof *ids);
        request_free(&r);
    }
}

static void test_developer_is_system(void **state)
{
    (void)state;
    struct request *a = read_good(REQUEST_TOKENS, "{\"messages\":[{\"role\":\"developer\",\"content\":\"x\"}]}");
    struct request *b = read_good(REQUEST_TOKENS, "{\"messages\":[{\"role\":\"system\",\"content\":\"x\"}]}");
    assert_ids(&a->prompts[0], b->prompts[0].tokens.ids, b->prompts[0].tokens.n);
    request_free(&a);
    request_free(&b);
}

static void test_parts_are_lines(void **state)
{
    (void)state;
    struct request *a =
        read_good(REQUEST_TOKENS, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Hel\"},"
                                  "{\"type\":\"text\",\"text\":\"lo\"}]}]}");
    struct request *b = read_good(REQUEST_TOKENS, "{\"messages\":[{\"role\":\"user\",\"content\":\"Hel\\nlo\"}]}");
    assert_ids(&a->prompts[0], b->prompts[0].tokens.ids, b->prompts[0].tokens.n);
    request_free(&a);
    request_free(&b);
}

static void test_prompts(void **state)
{
    (void)state;
    static const uint32_t hello[] = { 908, 271, 285, 639 }; /* "Hello world" */
    struct request *r = read_good(REQUEST_TEXT, "{" M "\"prompt\":\"Hello world\",\"echo\":true}");
    assert_ids(&r->prompts[0], hello, 4);
    assert_string_equal(r->prompts[0].text, "Hello world");
    request_free(&r);
    r = read_good(REQUEST_TEXT, "{" M "\"prompt\":[908,271,285,639],\"echo\":true,\"max_tokens\":0}");
    assert_ids(&r->prompts[0], hello, 4);
    assert_string_equal(r->prompts[0].text, "Hello world");
    assert_true(r->has_max_tokens && r->sampling.max_tokens == 0);
    request_free(&r);
    r = read_good(REQUEST_TEXT, "{" M "\"prompt\":[[1,2],[3]],\"n\":2}");
    assert_int_equal(r->n_prompts, 2);
    assert_ids(&r->prompts[1], (const uint32_t[]){ 3 }, 1);
    request_free(&r);
    r = read_good(REQUEST_TEXT, "{" M "\"prompt\":[\"Hello world\",\"a\"]}");
    assert_int_equal(r->n_prompts, 2);
    assert_ids(&r->prompts[0], hello, 4);
    request_free(&r);
}

static void test_baton_needs_its_option(void **state)
{
    (void)state;
    struct api_error err;
    struct request *r = NULL;
    const char *body = CHAT_BODY(",\"baton\":{}");
    rules.debug_extensions = false;
    assert_int_equal(request_read(&rules, REQUEST_CHAT, body, strlen(body), &r, &err), ST_INVALID);
    rules.debug_extensions = true;
    assert_string_equal(err.param, "baton");
    assert_non_null(strstr(err.text, "--debug-extensions"));
}

static struct block_hash salt_of(enum request_kind kind, const char *body)
{
    struct request *r = read_good(kind, body);
    struct block_hash salt = r->salt;
    request_free(&r);
    return salt;
}

/* The cluster's key, where there is one, decides what a salt becomes; the endpoint does not. */
static void test_salts(void **state)
{
    (void)state;
    static const struct salt_key key = { 3, { 'k', '1', '\0' } };
    struct block_hash wanted, keyless;
    assert_int_equal(block_salt("k1", 3, "tenant", 6, &wanted), ST_OK);
    assert_int_equal(block_salt("", 0, "tenant", 6, &keyless), ST_OK);
    assert_true(block_hash_equal(salt_of(REQUEST_CHAT, CHAT_BODY(",\"cache_salt\":\"tenant\"")), keyless));
    rules.salt_key = &key;
    struct block_hash chat = salt_of(REQUEST_CHAT, CHAT_BODY(",\"cache_salt\":\"tenant\""));
    struct block_hash text = salt_of(REQUEST_TEXT, "{" M "\"prompt\":\"x\",\"cache_salt\":\"tenant\"}");
    struct block_hash cut = salt_of(REQUEST_CHAT, CHAT_BODY(",\"cache_salt\":\"tenant\\u0000x\""));
    struct block_hash none = salt_of(REQUEST_CHAT, CHAT_BODY(",\"cache_salt\":null"));
    rules.salt_key = NULL;
    assert_true(block_hash_equal(chat, wanted) && block_hash_equal(text, wanted));
    assert_false(block_hash_equal(cut, wanted)); /* all of it counts */
    assert_true(none.low == 0 && none.high == 0);
}

static void test_longest_salt(void **state)
{
    (void)state;
    char salt[REQUEST_MAX_SALT_BYTES + 2], body[sizeof salt + 128];
    struct api_error err;
    struct request *r = NULL;
    memset(salt, 's', sizeof salt);
    for (int extra = 0; extra < 2; extra++) {
        int n = snprintf(body, sizeof body, "{" M "\"prompt\":\"x\",\"cache_salt\":\"%.*s\"}",
                         REQUEST_MAX_SALT_BYTES + extra, salt);
        assert_int_equal(request_read(&rules, REQUEST_TEXT, body, (size_t)n, &r, &err), extra ? ST_INVALID : ST_OK);
        request_free(&r);
    }
    assert_string_equal(err.param, "cache_salt");
}

static void test_ignored_is_bounded(void **state)
{
    (void)state;
    char body[8192] = "{" M "\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]";
    size_t len = strlen(body);
    for (int i = 0; i < 100; i++)
        len += (size_t)sprintf(body + len, ",\"a_rather_long_name_of_member_%d\":1", i);
    strcpy(body + len, "}");
    struct request *r = read_good(REQUEST_CHAT, body);
    len = strlen(r->ignored);
    assert_true(len < REQUEST_IGNORED_BYTES && len > REQUEST_IGNORED_BYTES / 2);
    assert_string_equal(r->ignored + len - 5, ", ...");
    request_free(&r);
}

static void test_fit(void **state)
{
    (void)state;
    struct api_error err;
    uint32_t most;
    struct request *r = read_good(REQUEST_TEXT, "{" M "\"prompt\":[1,2,3,4],\"max_tokens\":6}");
    assert_int_equal(request_fit(r, &r->prompts[0], 10, 0, &most, &err), ST_OK);
    assert_int_equal(most, 6);
    assert_int_equal(request_fit(r, &r->prompts[0], 9, 0, &most, &err), ST_INVALID);
    assert_int_equal(err.kind, API_TOO_LONG);
    assert_string_equal(err.param, "max_tokens");
    assert_non_null(strstr(err.text, "9 tokens, but the request needs 10: 4 in the prompt and 6 "));
    assert_int_equal(request_fit(r, &r->prompts[0], 4, 0, &most, &err), ST_INVALID);
    assert_string_equal(err.param, "prompt");
    request_free(&r);
    r = read_good(REQUEST_CHAT, CHAT_BODY(",\"max_completion_tokens\":5000"));
    assert_int_equal(request_fit(r, &r->prompts[0], 4096, 0, &most, &err), ST_INVALID);
    assert_string_equal(err.param, "max_completion_tokens");
    assert_non_null(strstr(err.text, "(max_completion_tokens)"));
    assert_int_equal(request_fit(r, &r->prompts[0], 3, 0, &most, &err), ST_INVALID);
    assert_string_equal(err.param, "messages");
    request_free(&r);
    r = read_good(REQUEST_TEXT, "{" M "\"prompt\":[1,2,3,4]}");
    assert_int_equal(request_fit(r, &r->prompts[0], 100, 0, &most, &err), ST_OK);
    assert_int_equal(most, 16);
    assert_int_equal(request_fit(r, &r->prompts[0], 10, 0, &most, &err), ST_OK);
    assert_int_equal(most, 6);
    assert_int_equal(request_fit(r, &r->prompts[0], 4, 0, &most, &err), ST_INVALID);
    assert_string_equal(err.param, "prompt");
    request_free(&r);
    r = read_good(REQUEST_CHAT, CHAT_BODY(""));
    uint32_t n = (uint32_t)r->prompts[0].tokens.n;
    assert_int_equal(request_fit(r, &r->prompts[0], 4096, 0, &most, &err), ST_OK);
    assert_int_equal(most, 4096 - n);
    assert_int_equal(request_fit(r, &r->prompts[0], 4096, 50, &most, &err), ST_OK);
    assert_int_equal(most, 50);
    request_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_defaults_of_the_model),
        cmocka_unit_test(test_max_new_tokens_of_the_model),
        cmocka_unit_test(test_all_members),
        cmocka_unit_test(test_long_names_are_cut),
        cmocka_unit_test(test_seed_is_exact),
        cmocka_unit_test(test_inner_members_are_listed),
        cmocka_unit_test(test_members_of_messages),
        cmocka_unit_test(test_chat_is_rendered),
        cmocka_unit_test(test_developer_is_system),
        cmocka_unit_test(test_parts_are_lines),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_baton_needs_its_option),
        cmocka_unit_test(test_salts),
        cmocka_unit_test(test_longest_salt),
        cmocka_unit_test(test_ignored_is_bounded),
        cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
