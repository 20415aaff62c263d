/* Answers: whole and streamed, to clients that read, are slow, or go away; and what a client is told when none can
 * come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/kv_events.h"

#include "api_rig.h"

static void test_chat(void **state)
{
    (void)state;
    struct client *c = connect_client(0);
    post(c, "/v1/chat/completions",
         "x-request-id: mine-1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
         "{" HI ",\"seed\":5,\"max_tokens\":50,\"strange\":1}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    assert_int_equal(g->seed, 5);
    assert_int_equal(g->max_tokens, 50);
    assert_int_equal(g->n_stop_ids, 2);
    assert_int_equal(g->trace.trace_id[0], 0x0a);
    assert_int_equal(api_held(rig.api), 1);
    answer_text(g, "Two \"words\"\n", true);
    json_t *json = expect_json(c, 200);
    assert_non_null(strstr(c->text, "\r\nx-request-id: mine-1\r\n"));
    assert_non_null(strstr(c->text, "\r\nx-baton-ignored: strange\r\n"));
    json_says(json, "object", "chat.completion");
    json_says(json, "choices.0.message.content", "Two \"words\"\n");
    json_says(json, "choices.0.message.role", "assistant");
    json_says(json, "choices.0.finish_reason", "stop");
    assert_true(json_is_null(at(json, "choices.0.logprobs")));
    assert_null(at(json, "choices.0.baton"));
    assert_int_equal(json_integer_value(at(json, "usage.prompt_tokens")), g->n_tokens);
    uint32_t ids[64];
    assert_int_equal(json_integer_value(at(json, "usage.completion_tokens")), ids_of("Two \"words\"\n", ids) + 1);
    assert_int_equal(json_integer_value(at(json, "usage.prompt_tokens_details.cached_tokens")), 0);
    assert_int_equal(api_held(rig.api), 0);
    json_decref(json);
    client_free(c);
}

static void test_several_prompts_and_choices(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{\"model\":\"baton-tiny\",\"prompt\":[\"a\",\"b c\"],\"n\":2}");
    struct fake_sent g[4];
    for (size_t i = 0; i < 4; i++) { /* they are sent in any order */
        const struct fake_sent *sent = expect_sent(FRAME_GENERATE, i);
        assert_in_range(sent->key.seq, 1, 4);
        g[sent->key.seq - 1] = *sent;
    }
    assert_int_equal(g[0].choice, 0);
    assert_int_equal(g[1].choice, 1);
    assert_int_equal(g[2].choice, 0);
    assert_int_equal(g[0].seed, g[3].seed);
    assert_int_equal(g[0].max_tokens, 16);
    static const char *const texts[] = { "one", "two", "three", "four" };
    for (int i = 3; i >= 0; i--) /* they end in any order */
        answer_text(&g[i], texts[i], false);
    json_t *json = expect_json(c, 200);
    for (int i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "choices.%d.text", i);
        json_says(json, path, texts[i]);
        snprintf(path, sizeof path, "choices.%d.finish_reason", i);
        json_says(json, path, "length");
    }
    assert_int_equal(json_integer_value(at(json, "usage.prompt_tokens")), g[0].n_tokens + g[2].n_tokens);
    json_decref(json);
    client_free(c);
}

static void test_stop_text(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"stop\":[\"wor\"],\"logprobs\":1}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t ids[64], n = ids_of("Big words here", ids);
    for (uint32_t i = 0; i < n && !fake_last(&rig.fake, FRAME_CANCEL); i++)
        fake_tokens(rig.flows, g, g->n_tokens + i, &ids[i], 1, 0, NULL);
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "stop_string");
    json_t *json = expect_json(c, 200);
    json_says(json, "choices.0.text", "Big ");
    json_says(json, "choices.0.finish_reason", "stop");
    /* Log-probabilities of what is shown, and of nothing behind the cut. */
    const json_t *tokens = at(json, "choices.0.logprobs.tokens"), *offsets = at(json, "choices.0.logprobs.text_offset");
    assert_true(json_array_size(tokens) > 0);
    size_t last = (size_t)json_integer_value(json_array_get(offsets, json_array_size(offsets) - 1));
    assert_true(last < 4);
    json_decref(json);
    client_free(c);
}

static void test_logprobs(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"logprobs\":true,\"top_logprobs\":2}");
    answer_text(expect_sent(FRAME_GENERATE, 0), "yes", true);
    json_t *json = expect_json(c, 200);
    const json_t *content = at(json, "choices.0.logprobs.content");
    char text[64] = "";
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *entry = json_array_get(content, i);
        strcat(text, json_string_value(json_object_get(entry, "token")));
        assert_true(json_number_value(json_object_get(entry, "logprob")) == -0.5);
        assert_int_equal(json_array_size(json_object_get(entry, "top_logprobs")), 2);
        assert_int_equal(json_integer_value(at(entry, "bytes.0")),
                         (unsigned char)json_string_value(json_object_get(entry, "token"))[0]);
    }
    assert_string_equal(text, "yes"); /* and none for the end of answer */
    json_decref(json);
    client_free(c);
}

static void test_baton_object(void **state)
{
    (void)state;
    struct client *c =
        ask("/v1/completions",
            "{" ONCE ",\"priority\":-7,\"baton\":{\"route\":\"local\",\"timing\":true,\"logits_hash\":true,"
            "\"no_cache\":true}}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    assert_true(g->want_hash && g->no_cache && g->n_salt == 0);
    assert_int_equal(g->priority, -7);
    assert_int_equal(g->route, BATON__ROUTE__ROUTE_LOCAL);
    Baton__Timing timing = BATON__TIMING__INIT;
    timing.route = "local";
    timing.decode_worker = "w0";
    timing.queue_us = 1500;
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908, 1023 }, 2, BATON__FINISH__FINISH_STOP, &timing);
    json_t *json = expect_json(c, 200);
    json_says(json, "choices.0.baton.route", "local");
    json_says(json, "choices.0.baton.timing.decode_worker", "w0");
    assert_true(json_number_value(at(json, "choices.0.baton.timing.queue_ms")) == 1.5);
    assert_int_equal(json_array_size(at(json, "choices.0.baton.logits_hash")), 2);
    json_says(json, "choices.0.baton.logits_hash.1", "ffffffffffffffffffffffffffffffff");
    json_decref(json);
    client_free(c);
}

static json_int_t cached_in(const json_t *json)
{
    return json_integer_value(at(json, "usage.prompt_tokens_details.cached_tokens"));
}

static double cached_metric(const char *tier)
{
    return metric_value(
        metrics_series(rig.metrics, &router_metric_table, ROUTER_CACHED_TOKENS, (const char *[]){ MODEL, tier }));
}

/* What the first attempt found counts; where the answer goes on elsewhere, it finds the answer's own tokens, too. */
static void test_cached_tokens(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"baton\":{\"timing\":true}}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t found[] = { 1, 0, 1, 0 };
    Baton__Timing timing = BATON__TIMING__INIT;
    timing.cached_tokens = found;
    timing.n_cached_tokens = 4;
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908 }, 1, 0, &timing);
    found[0] = 1000;
    fake_tokens(rig.flows, g, g->n_tokens + 1, (uint32_t[]){ 1023 }, 1, BATON__FINISH__FINISH_STOP, &timing);
    json_t *json = expect_json(c, 200);
    assert_int_equal(cached_in(json), 2);
    assert_int_equal(json_integer_value(at(json, "choices.0.baton.timing.cached_tokens.device")), 1);
    assert_non_null(strstr(c->text, "\r\nx-baton-cache: device=1 host=0 disk=1 peer=0\r\n"));
    assert_true(cached_metric("device") == 1 && cached_metric("disk") == 1 && cached_metric("peer") == 0);
    json_decref(json);
    client_free(c);
}

/* A prompt counts once, as its first choice found it, and never the whole of it. */
static void test_cached_tokens_of_several_choices(void **state)
{
    (void)state;
    set("debug_extensions", "false");
    struct client *c =
        ask("/v1/completions", "{\"model\":\"baton-tiny\",\"prompt\":[\"Hello world\",\"a b c\"],\"n\":2}");
    struct fake_sent g[4];
    for (size_t i = 0; i < 4; i++) {
        const struct fake_sent *sent = expect_sent(FRAME_GENERATE, i);
        g[sent->key.seq - 1] = *sent;
    }
    for (int i = 3; i >= 0; i--) {
        uint32_t found[] = { (uint32_t)i + 1, 1000 };
        Baton__Timing timing = BATON__TIMING__INIT;
        timing.cached_tokens = found;
        timing.n_cached_tokens = i == 0 ? 1 : 2;
        fake_tokens(rig.flows, &g[i], g[i].n_tokens, (uint32_t[]){ 908 }, 1, BATON__FINISH__FINISH_LENGTH, &timing);
    }
    json_t *json = expect_json(c, 200);
    assert_true(g[2].n_tokens > 1);
    assert_int_equal(cached_in(json), 1 + g[2].n_tokens - 1);
    assert_null(strstr(c->text, "x-baton-cache"));
    json_decref(json);
    client_free(c);
}

static void test_cached_tokens_in_a_stream(void **state)
{
    (void)state;
    struct client *c =
        ask("/v1/chat/completions", "{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                                    "\"baton\":{\"timing\":true}}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    Baton__Timing timing = BATON__TIMING__INIT;
    timing.cached_tokens = (uint32_t[]){ 0, 3 };
    timing.n_cached_tokens = 2;
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908 }, 1, BATON__FINISH__FINISH_LENGTH, &timing);
    expect_text(c, "[DONE]");
    assert_null(strstr(c->text, "x-baton-cache"));
    assert_non_null(strstr(c->text, "\"cached_tokens\":{\"device\":0,\"host\":3,\"disk\":0,\"peer\":0}"));
    assert_non_null(strstr(c->text, "\"prompt_tokens_details\":{\"cached_tokens\":3}}}"));
    client_free(c);
}

static void test_salt(void **state)
{
    (void)state;
    static const struct salt_key key = { 3, "key" };
    struct block_hash wanted;
    rig.salt_key = &key;
    reopen_api();
    struct client *c = ask("/v1/completions", "{" ONCE ",\"cache_salt\":\"tenant\"}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    rig.salt_key = NULL;
    assert_int_equal(block_salt("key", 3, "tenant", 6, &wanted), ST_OK);
    assert_int_equal(g->n_salt, BLOCK_HASH_BYTES);
    assert_int_equal(kv_sequence_read(g->salt), wanted.high);
    assert_int_equal(kv_sequence_read(g->salt + 8), wanted.low);
    answer_text(g, "yes", true);
    json_decref(expect_json(c, 200));
    client_free(c);
}

/* "Big words here" with a stop text that only its later tokens complete, told how it went with the first one. */
static struct client *ask_for_a_cut_answer(const char *stream)
{
    char body[512];
    rig.fake.n_sent = 0;
    snprintf(body, sizeof body, "{" ONCE "%s,\"stop\":[\"here\"],\"baton\":{\"timing\":true}}", stream);
    struct client *c = ask("/v1/completions", body);
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    Baton__Timing timing = BATON__TIMING__INIT;
    timing.route = "remote";
    timing.transport = "shm";
    timing.prefill_worker = "p0";
    timing.decode_worker = "w0";
    timing.queue_us = 1500;
    timing.prefill_us = 2500;
    timing.handoff_us = 500;
    timing.moved_bytes = 4096;
    uint32_t ids[64], n = ids_of("Big words here", ids);
    for (uint32_t i = 0; i < n && !fake_last(&rig.fake, FRAME_CANCEL); i++) {
        fake_tokens(rig.flows, g, g->n_tokens + i, &ids[i], 1, 0, i ? NULL : &timing);
        quiet_turns(c);
    }
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "stop_string");
    return c;
}

/* The worker is cut off before it has told all, but what it knew at the first token is told. */
static void test_timing_of_a_cut_answer(void **state)
{
    (void)state;
    struct client *c = ask_for_a_cut_answer("");
    json_t *json = expect_json(c, 200);
    const json_t *timing = at(json, "choices.0.baton.timing");
    json_says(json, "choices.0.finish_reason", "stop");
    json_says(json, "choices.0.baton.route", "remote");
    json_says(timing, "prefill_worker", "p0");
    json_says(timing, "decode_worker", "w0");
    assert_true(json_number_value(at(timing, "queue_ms")) == 1.5);
    assert_true(json_number_value(at(timing, "prefill_ms")) == 2.5);
    assert_true(json_number_value(at(timing, "handoff_ms")) == 0.5);
    assert_int_equal(json_integer_value(at(timing, "moved_bytes")), 4096);
    assert_int_equal(json_integer_value(at(timing, "attempts")), 1);
    double first = json_number_value(at(timing, "first_token_ms")), decode = json_number_value(at(timing, "decode_ms"));
    double total = json_number_value(at(timing, "total_ms"));
    assert_true(decode > 0 && first + decode <= total + 0.01);
    assert_true(json_is_number(at(timing, "route_ms")));
    json_decref(json);
    client_free(c);
    c = ask_for_a_cut_answer(",\"stream\":true");
    expect_text(c, "\"queue_ms\":1.5,");
    expect_text(c, "\"prefill_worker\":\"p0\"");
    expect_text(c, "[DONE]");
    client_free(c);
}

static void test_echo_without_tokens(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"echo\":true,\"max_tokens\":0}");
    json_t *json = expect_json(c, 200);
    json_says(json, "choices.0.text", "Hello world");
    assert_int_equal(json_integer_value(at(json, "usage.completion_tokens")), 0);
    assert_int_equal(rig.fake.n_sent, 0);
    json_decref(json);
    client_free(c);
}

/* ---- streams ------------------------------------------------------------------------- */

static void test_stream(void **state)
{
    (void)state;
    struct client *c =
        ask("/v1/chat/completions", "{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    quiet_turns(c);
    assert_int_equal(c->len, 0); /* a failure before the first token would still have its status */
    uint32_t ids[8], n = ids_of("Hello", ids);
    fake_tokens(rig.flows, g, g->n_tokens, ids, n, 0, NULL);
    expect_text(c, "text/event-stream");
    expect_text(c, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],"
                   "\"usage\":null}\n\n");
    expect_text(c, "\"}"); /* it came before anything followed */
    quiet_turns(c);
    assert_null(strstr(c->text, "[DONE]"));
    fake_tokens(rig.flows, g, g->n_tokens + n, (uint32_t[]){ 1023 }, 1, BATON__FINISH__FINISH_STOP, NULL);
    expect_text(c, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]");
    expect_text(c, "\"choices\":[],\"usage\":{\"prompt_tokens\":");
    expect_text(c, "data: [DONE]\n\n\r\n0\r\n\r\n");
    assert_int_equal(api_held(rig.api), 0);
    post(c, "/tokenize", "", "{\"prompt\":\"a\"}"); /* the connection goes on */
    expect_text(c, "\"count\":1");
    client_free(c);
}

static void test_half_characters_wait(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE ",\"stream\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t ids[16], n = ids_of("\xe4\xb8\xad", ids); /* three bytes, three tokens */
    assert_true(n > 1);
    fake_tokens(rig.flows, g, g->n_tokens, ids, n - 1, 0, NULL);
    quiet_turns(c);
    assert_null(strstr(c->text, "\"text\""));
    fake_tokens(rig.flows, g, g->n_tokens + n - 1, &ids[n - 1], 1, 0, NULL);
    expect_text(c, "\"text\":\"\xe4\xb8\xad\"");
    fake_tokens(rig.flows, g, g->n_tokens + n, ids, 1, BATON__FINISH__FINISH_LENGTH, NULL);
    expect_text(c, "[DONE]");
    assert_non_null(strstr(c->text, "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\""));
    assert_null(strstr(c->text, "\xef\xbf\xbd")); /* cut off by the limit */
    client_free(c);
}

/* Half a character at the end is dropped, in the middle it is U+FFFD. */
static void test_half_characters_at_the_end(void **state)
{
    (void)state;
    uint32_t ids[16], n = ids_of("\xe4\xb8\xad", ids), hello[] = { ids[0], 908, ids[0] };
    assert_true(n > 1);
    for (int logprobs = 0; logprobs < 2; logprobs++) {
        struct client *c = ask("/v1/completions", logprobs ? "{" ONCE ",\"logprobs\":0}" : "{" ONCE "}");
        const struct fake_sent *g = expect_sent(FRAME_GENERATE, (uint32_t)logprobs);
        fake_tokens(rig.flows, g, g->n_tokens, hello, 3, BATON__FINISH__FINISH_LENGTH, NULL);
        json_t *json = expect_json(c, 200);
        json_says(json, "choices.0.text", "\xef\xbf\xbdHello");
        json_says(json, "choices.0.finish_reason", "length");
        if (logprobs)
            assert_int_equal(json_array_size(at(json, "choices.0.logprobs.tokens")), 3);
        json_decref(json);
        client_free(c);
    }
}

static void test_client_gone(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true,\"n\":2}");
    struct fake_sent g = *expect_sent(FRAME_GENERATE, 1);
    fake_tokens(rig.flows, &g, g.n_tokens, (uint32_t[]){ 908 }, 1, 0, NULL);
    expect_text(c, "role");
    client_free(c);
    (void)expect_sent(FRAME_CANCEL, 1);
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "client_gone");
    assert_int_equal(fake_count(&rig.fake, FRAME_CANCEL), 2);
    assert_int_equal(api_held(rig.api), 0);
    assert_int_equal(api_held_bytes(rig.api), 0);
}

/* Not by strstr, whose sanitised form reads all of a long text for each hit. */
static size_t count_text(const struct client *c, const char *part)
{
    size_t n = 0, len = strlen(part);
    for (size_t i = 0; i + len <= c->len; i++)
        n += c->text[i] == part[0] && !memcmp(c->text + i, part, len);
    return n;
}

static void test_slow_client(void **state)
{
    enum { TOKENS = 3000 }; /* more than a window, the kernel and the backlog hold */
    (void)state;
    set("max_backlog", "4096");
    rig.worker->instance.max_model_len = 2 * TOKENS;
    reopen_api();
    struct client *c = connect_client(4096);
    post(c, "/v1/completions", "", "{" ONCE ",\"stream\":true,\"max_tokens\":4000,\"logprobs\":1,\"ignore_eos\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t id;
    assert_int_equal(ids_of("a", &id), 1);
    for (uint32_t i = 0; i < TOKENS; i++) {
        bool last = i + 1 == TOKENS;
        fake_tokens(rig.flows, g, g->n_tokens + i, &id, 1, last ? BATON__FINISH__FINISH_LENGTH : 0, NULL);
    }
    struct metric *blocked = metrics_series(rig.metrics, &router_metric_table, ROUTER_BLOCKED, NULL);
    assert_true(metric_value(blocked) >= 1);
    assert_int_equal(api_held(rig.api), 1); /* the flow is over, the answer is not */
    expect_text(c, "[DONE]");
    assert_int_equal(count_text(c, "\"text\":\"a\""), TOKENS);
    assert_int_equal(count_text(c, "\"tokens\":[\"a\"]"), TOKENS);
    assert_int_equal(count_text(c, "\"text_offset\":[2999]"), 1);
    assert_int_equal(api_held(rig.api), 0);
    client_free(c);
}

static void test_stop_text_of_a_slow_client(void **state)
{
    (void)state;
    set("max_backlog", "4096");
    rig.worker->instance.max_model_len = 100000;
    reopen_api();
    struct client *c = connect_client(4096);
    post(c, "/v1/completions", "", "{" ONCE ",\"stream\":true,\"max_tokens\":40000,\"stop\":\"b\",\"logprobs\":0}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    uint32_t a, b, n = g->n_tokens;
    (void)ids_of("a", &a);
    (void)ids_of("b", &b);
    for (uint32_t i = 0; i < 3000; i++)
        fake_tokens(rig.flows, g, n + i, i == 2900 ? &b : &a, 1, 0, NULL);
    assert_null(fake_last(&rig.fake, FRAME_CANCEL)); /* nobody has looked at it yet */
    expect_text(c, "[DONE]");
    assert_int_equal(count_text(c, "\"text\":\"a\""), 2900);
    assert_int_equal(count_text(c, "\"finish_reason\":\"stop\""), 1);
    assert_string_equal(fake_last(&rig.fake, FRAME_CANCEL)->reason, "stop_string");
    client_free(c);
}

/* ---- failures ------------------------------------------------------------------------ */

static void test_no_worker(void **state)
{
    (void)state;
    fleet_set_up(rig.worker, false);
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true}");
    json_t *json = expect_json(c, 503);
    assert_non_null(strstr(c->text, "\r\nRetry-After: 1\r\n"));
    json_says(json, "error.code", "no_worker");
    assert_non_null(strstr(json_string_value(at(json, "error.message")), "'" MODEL "'"));
    json_decref(json);
    client_free(c);
}

static void test_worker_refuses(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"n\":3}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 2);
    fake_failure(rig.flows, g, BATON__FAILURE_CODE__FAILURE_LIMIT, false, "only 4000 tokens fit");
    json_t *json = expect_json(c, 400);
    json_says(json, "error.message", "Only 4000 tokens fit.");
    assert_int_equal(fake_count(&rig.fake, FRAME_CANCEL), 3); /* nothing goes on for nobody */
    json_decref(json);
    client_free(c);
}

static void test_failure_in_a_stream(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908 }, 1, 0, NULL);
    expect_text(c, "content");
    fake_failure(rig.flows, g, BATON__FAILURE_CODE__FAILURE_INTERNAL, false, "it broke");
    expect_text(c, "data: {\"error\":{\"message\":\"It broke.\"");
    quiet_turns(c);
    assert_true(c->closed);
    assert_null(strstr(c->text, "[DONE]"));
    assert_null(strstr(c->text, "\r\n0\r\n")); /* the client must not take it for the end */
    client_free(c);
}

static void test_too_long(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"max_tokens\":4096}");
    json_t *json = expect_json(c, 400);
    json_says(json, "error.code", "context_length_exceeded");
    assert_int_equal(rig.fake.n_sent, 0);
    json_decref(json);
    client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_chat),
        TEST(test_several_prompts_and_choices),
        TEST(test_stop_text),
        TEST(test_logprobs),
        TEST(test_baton_object),
        TEST(test_cached_tokens),
        TEST(test_cached_tokens_of_several_choices),
        TEST(test_cached_tokens_in_a_stream),
        TEST(test_salt),
        TEST(test_timing_of_a_cut_answer),
        TEST(test_echo_without_tokens),
        TEST(test_stream),
        TEST(test_half_characters_wait),
        TEST(test_half_characters_at_the_end),
        TEST(test_client_gone),
        TEST(test_slow_client),
        TEST(test_stop_text_of_a_slow_client),
        TEST(test_no_worker),
        TEST(test_worker_refuses),
        TEST(test_failure_in_a_stream),
        TEST(test_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
