/* Requests from their heads to the handler: pages, limits of the queue, large bodies, the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api_rig.h"

static void test_heads(void **state)
{
    static const struct {
        const char *request;
        int code;
        const char *part;
    } cases[] = {
        { "GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 404, "\"code\":\"unknown_url\"" },
        { "GET /v1/models/ HTTP/1.1\r\nHost: x\r\n\r\n", 404, "unknown_url" },
        { "GET /v1/models/none HTTP/1.1\r\nHost: x\r\n\r\n", 404, "model_not_found" },
        { "GET /v1/models/baton%2dtiny HTTP/1.1\r\nHost: x\r\n\r\n", 200, "\"id\":\"baton-tiny\"" },
        { "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 200, "\"object\":\"list\"" },
        { "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 200, "\"classes\":[\"portable-bf16\"]" },
        { "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200, "ok" },
        { "GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 405, "Allow: POST" },
        { "POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD" },
        { "DELETE /tokenize HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415,
          "unsupported_media_type" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/jsonx\r\nContent-Length: 2\r\n\r\n{}", 415,
          "jsonx" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=latin1\r\nContent-Length: "
          "2\r\n\r\n{}",
          415, "UTF-8" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415, "gzip" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: Application/JSON ; charset=\"UTF-8\"\r\nContent-Length: "
          "2\r\n\r\n{}",
          400, "missing_required_parameter" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}", 200, "\"count\":1" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413,
          "\"The request body is too large: the limit is 8388608 bytes.\"" },
        { "GET /v1/models HTTP/1.1\r\n\r\n", 400, "\"Exactly one Host field is required.\"" },
        { "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400, "malformed_json" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct client *c = connect_client(0);
        char line[32];
        snprintf(line, sizeof line, "HTTP/1.1 %d ", cases[i].code);
        send_all(c, cases[i].request, strlen(cases[i].request));
        expect_text(c, "\r\n\r\n");
        quiet_turns(c);
        if (strncmp(c->text, line, strlen(line)) != 0 || !strstr(c->text, cases[i].part))
            fail_msg("%s\ngives %s", cases[i].request, c->text);
        if (!strstr(c->text, "\r\nx-request-id: req-"))
            fail_msg("%s\nhas no name: %s", cases[i].request, c->text);
        client_free(c);
    }
    assert_int_equal(api_held(rig.api), 0);
    assert_int_equal(api_held_bytes(rig.api), 0);
}

static void test_tokenize(void **state)
{
    (void)state;
    struct client *c =
        ask("/tokenize", "{\"model\":\"baton-tiny\",\"prompt\":\"Hello world\",\"return_token_strs\":true}");
    json_t *json = expect_json(c, 200);
    assert_int_equal(json_integer_value(at(json, "count")), 4);
    assert_int_equal(json_integer_value(at(json, "max_model_len")), 4096);
    assert_int_equal(json_integer_value(at(json, "tokens.0")), 908);
    assert_int_equal(json_array_size(at(json, "token_strs")), 4);
    json_decref(json);
    client_free(c);
    c = ask("/detokenize", "{\"tokens\":[1022,908,271,285,639]}");
    json = expect_json(c, 200);
    json_says(json, "prompt", "<|im_start|>Hello world");
    json_decref(json);
    client_free(c);
}

/* ---- the queue ------------------------------------------------------------------------ */

static void test_queue_is_bounded(void **state)
{
    (void)state;
    set("max_queued", "2");
    reopen_api();
    struct client *a = ask("/v1/completions", "{" ONCE "}"), *b = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 1);
    struct client *c = connect_client(0);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n";
    send_all(c, head, sizeof head - 1); /* refused before its body is there */
    json_t *json = expect_json(c, 429);
    assert_non_null(strstr(c->text, "\r\nRetry-After: 1\r\n"));
    json_says(json, "error.code", "queue_full");
    json_decref(json);
    client_free(c);
    client_free(a);
    (void)expect_sent(FRAME_CANCEL, 0);
    c = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 2);
    client_free(b);
    client_free(c);
    (void)expect_sent(FRAME_CANCEL, 2);
}

static void test_connections_are_bounded(void **state)
{
    (void)state;
    set("max_connections", "1");
    reopen_api();
    struct client *a = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 0);
    struct client *b = connect_client(0);
    json_t *json = expect_json(b, 503);
    assert_non_null(strstr(b->text, "\r\nRetry-After: 1\r\n"));
    assert_non_null(strstr(b->text, "\r\nx-request-id: req-"));
    json_says(json, "error.code", "overloaded");
    json_says(json, "error.message", "Too many connections.");
    json_decref(json);
    client_free(b);
    client_free(a);
    (void)expect_sent(FRAME_CANCEL, 0);
}

static void test_models_say_when_they_were_opened(void **state)
{
    (void)state;
    struct client *c = connect_client(0);
    static const char head[] = "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n";
    send_all(c, head, sizeof head - 1);
    json_t *json = expect_json(c, 200);
    json_int_t created = json_integer_value(at(json, "data.0.created")), now = (json_int_t)time(NULL);
    assert_true(created <= now && created > now - 3600);
    json_decref(json);
    client_free(c);
}

static void show_model(const char *name, int code, const char *part)
{
    char text[300];
    struct client *c = connect_client(0);
    snprintf(text, sizeof text, "GET /v1/models%s HTTP/1.1\r\nHost: x\r\n\r\n", name);
    send_all(c, text, strlen(text));
    json_decref(expect_json(c, code));
    if (!strstr(c->text, part))
        fail_msg("%s gives %s", name, c->text);
    client_free(c);
}

static void test_adapters(void **state)
{
    (void)state;
    (void)fake_worker_with(&rig.fake, "w1", "decode", MODEL, "red@1,blue@2");
    (void)fake_worker_with(&rig.fake, "p1", "prefill", MODEL, "blue@2");
    show_model("", 200, "{\"id\":\"baton-tiny:red\",\"object\":\"model\"");
    show_model("/baton-tiny:blue", 200, "\"parent\":\"baton-tiny\"");
    show_model("/baton-tiny:green", 404, "model_not_found");
    show_model("/baton-tiny:", 404, "model_not_found");
    show_model("/other:red", 404, "model_not_found");
    struct client *c =
        ask("/v1/completions",
            "{\"model\":\"baton-tiny:blue\",\"prompt\":\"Hello world\",\"baton\":{\"route\":\"remote\"}}");
    struct fake_sent g = *expect_sent(FRAME_GENERATE, 0);
    assert_string_equal(g.to->instance.id, "w1");
    assert_string_equal(g.adapter, "blue@2");
    assert_int_equal(g.n_prefills, 1);
    answer_text(&g, "fin", true);
    json_t *json = expect_json(c, 200);
    json_says(json, "model", "baton-tiny:blue");
    json_decref(json);
    client_free(c);
    static const char *const unknown[] = { "baton-tiny:green",      "baton-tiny:",      "baton-tiny:red:blue", "x:red",
                                           "baton-tiny:re\\u0000d", "baton-tiny:red\\n" };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":\"Hello world\"}", unknown[i]);
        c = ask(i % 2 ? "/tokenize" : "/v1/completions", body);
        json = expect_json(c, 404);
        json_says(json, "error.code", "model_not_found");
        json_says(json, "error.param", "model");
        json_decref(json);
        client_free(c);
    }
    assert_int_equal(fake_count(&rig.fake, FRAME_GENERATE), 1);
}

static void test_bytes_are_bounded(void **state)
{
    (void)state;
    set("max_queued_bytes", "65536");
    reopen_api();
    struct client *a = ask("/v1/completions", "{" ONCE "}");
    (void)expect_sent(FRAME_GENERATE, 0);
    struct client *c = connect_client(0);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 65530\r\n\r\n";
    send_all(c, head, sizeof head - 1);
    json_decref(expect_json(c, 429));
    client_free(c);
    client_free(a);
    (void)expect_sent(FRAME_CANCEL, 0);
}

static void test_body_that_never_comes(void **state)
{
    (void)state;
    struct client *c = connect_client(0);
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{";
    send_all(c, head, sizeof head - 1);
    quiet_turns(c);
    assert_int_equal(api_held(rig.api), 1);
    assert_int_equal(api_held_bytes(rig.api), 500);
    client_free(c);
    for (int i = 0; i < 100 && api_held(rig.api); i++)
        turn();
    assert_int_equal(api_held(rig.api), 0);
    assert_int_equal(api_held_bytes(rig.api), 0);
}

static void test_draining(void **state)
{
    (void)state;
    struct client *c = ask("/v1/completions", "{" ONCE "}");
    struct fake_sent g = *expect_sent(FRAME_GENERATE, 0);
    api_drain(rig.api);
    turn();
    answer_text(&g, "fin", true);
    json_t *json = expect_json(c, 200); /* what runs goes on to its end */
    json_decref(json);
    client_free(c);
}

/* ---- large bodies --------------------------------------------------------------------- */

static char *large_body(size_t words)
{
    char *body = malloc(words * 5 + 200);
    size_t n = (size_t)sprintf(body, "{\"model\":\"baton-tiny\",\"prompt\":\"");
    for (size_t i = 0; i < words; i++)
        n += (size_t)sprintf(body + n, "word ");
    strcpy(body + n, "\"}");
    return body;
}

static void open_pool(uint32_t threads)
{
    assert_int_equal(tokenize_pool_create(rig.loop, threads, &rig.pool), ST_OK);
    reopen_api();
}

static void test_large_body(void **state)
{
    (void)state;
    open_pool(2);
    char *body = large_body(5000);
    struct client *c = ask("/tokenize", body);
    json_t *json = expect_json(c, 200);
    assert_true(json_integer_value(at(json, "count")) >= 5000);
    assert_int_equal(tokenize_pool_pending(rig.pool), 0);
    json_decref(json);
    client_free(c);
    c = ask("/v1/completions", body);
    json = expect_json(c, 400);
    json_says(json, "error.code", "context_length_exceeded");
    json_decref(json);
    client_free(c);
    free(body);
}

static void test_gone_while_parsing(void **state)
{
    (void)state;
    open_pool(0); /* no thread: the job stays where it is */
    char *body = large_body(5000);
    struct client *c = ask("/v1/completions", body);
    for (int i = 0; i < 1000 && tokenize_pool_pending(rig.pool) == 0; i++)
        turn();
    assert_int_equal(tokenize_pool_pending(rig.pool), 1);
    client_free(c);
    for (int i = 0; i < 1000 && api_held(rig.api); i++)
        turn();
    assert_int_equal(api_held(rig.api), 0);
    tokenize_pool_destroy(&rig.pool);
    assert_int_equal(rig.fake.n_sent, 0);
    free(body);
}

static void test_end_of_everything(void **state)
{
    (void)state;
    struct client *c = ask("/v1/chat/completions", "{" HI ",\"stream\":true}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    fake_tokens(rig.flows, g, g->n_tokens, (uint32_t[]){ 908 }, 1, 0, NULL);
    api_destroy(&rig.api);
    assert_int_equal(fake_count(&rig.fake, FRAME_CANCEL), 1);
    client_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_heads),
        TEST(test_tokenize),
        TEST(test_queue_is_bounded),
        TEST(test_connections_are_bounded),
        TEST(test_models_say_when_they_were_opened),
        TEST(test_adapters),
        TEST(test_bytes_are_bounded),
        TEST(test_body_that_never_comes),
        TEST(test_draining),
        TEST(test_large_body),
        TEST(test_gone_while_parsing),
        TEST(test_end_of_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
