/* The event parser of the load client: pieces of any size give the events of the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The parser alone: the benchmarks' library stands above what these tests link. */
#include "bench/sse_parser.c"

struct seen {
    struct text_buffer text; /* each event in brackets */
    size_t n;
};

static void on_event(void *arg, const char *data, size_t len)
{
    struct seen *seen = arg;
    assert_int_equal(strlen(data), len);
    text_buffer_printf(&seen->text, "[%s]", data);
    seen->n++;
}

/* Feeds text in pieces of at most `most` bytes, 0: whole. The result is text_buffer_text(&seen->text). */
static void feed(struct seen *seen, const char *text, size_t len, size_t most)
{
    struct sse_parser parser;
    *seen = (struct seen){ .n = 0 };
    text_buffer_init(&seen->text, 1u << 20);
    sse_parser_init(&parser, on_event, seen);
    for (size_t at = 0; at < len;) {
        size_t n = most ? 1 + (size_t)rand() % most : len;
        if (n > len - at)
            n = len - at;
        assert_int_equal(sse_parser_feed(&parser, text + at, n), ST_OK);
        at += n;
    }
    sse_parser_free(&parser);
}

static void check(const char *stream, const char *expected)
{
    for (size_t most = 0; most < 8; most++) {
        struct seen seen;
        feed(&seen, stream, strlen(stream), most);
        assert_string_equal(text_buffer_text(&seen.text), expected);
        text_buffer_free(&seen.text);
    }
}

static void test_fields(void **state)
{
    (void)state;
    check("data: {\"a\":1}\n\ndata: [DONE]\n\n", "[{\"a\":1}][[DONE]]");
    check("data:x\n\n", "[x]");
    check("data:  x\n\n", "[ x]");
    check("data\n\n", "[]");
    check("data:\n\n", "[]");
    check("data: a\ndata: b\n\n", "[a\nb]");
    check(": comment\n\nevent: e\nid: 1\nretry: 5\n\ndata: c\n\n", "[c]");
    check("database: no\n\ndat: no\n\n Data: no\n\n", "");
    check("event: e\ndata: a:b\n\n", "[a:b]");
}

static void test_line_ends(void **state)
{
    (void)state;
    check("data: a\r\n\r\ndata: b\r\r", "[a][b]");
    check("data: a\r\ndata: b\n\r\n", "[a\nb]");
    check("data: a\r\r\ndata: b\n\n", "[a][b]");
    check("\n\n\r\n\r\rdata: a\n\n\n\n", "[a]");
}

static void test_unfinished_event_is_dropped(void **state)
{
    (void)state;
    check("data: a\n\ndata: b\n", "[a]");
    check("data: a\n\ndata: b", "[a]");
}

static void test_reset(void **state)
{
    struct seen seen = { .n = 0 };
    struct sse_parser parser;
    (void)state;
    text_buffer_init(&seen.text, 4096);
    sse_parser_init(&parser, on_event, &seen);
    assert_int_equal(sse_parser_feed(&parser, "data: a\ndata: hal", 17), ST_OK);
    sse_parser_reset(&parser);
    assert_int_equal(sse_parser_feed(&parser, "data: b\n\n", 9), ST_OK);
    assert_string_equal(text_buffer_text(&seen.text), "[b]");
    sse_parser_free(&parser);
    text_buffer_free(&seen.text);
}

static void test_limits(void **state)
{
    struct seen seen = { .n = 0 };
    struct sse_parser parser;
    char *bytes = malloc(SSE_MAX_EVENT);
    status st = ST_OK;
    (void)state;
    assert_non_null(bytes);
    memset(bytes, 'x', SSE_MAX_EVENT);
    text_buffer_init(&seen.text, 4096);
    sse_parser_init(&parser, on_event, &seen);
    for (int i = 0; i < 3 && st == ST_OK; i++)
        st = sse_parser_feed(&parser, bytes, SSE_MAX_EVENT);
    assert_int_equal(st, ST_LIMIT);
    sse_parser_free(&parser);
    text_buffer_free(&seen.text);
    free(bytes);
}

/* Random streams of the bytes that matter: cut anywhere, they give what they give in one piece. */
static void test_any_cut(void **state)
{
    static const char alphabet[] = "data: \n\r:ax";
    size_t events = 0;
    (void)state;
    srand(7);
    for (int round = 0; round < 3000; round++) {
        char text[256];
        size_t len = 0;
        while (len < sizeof text - 16) {
            if (rand() % 3 == 0) {
                memcpy(text + len, "data: y\n\n", 9);
                len += 9 - (size_t)(rand() % 3 == 0);
            } else {
                text[len++] = alphabet[(size_t)rand() % (sizeof alphabet - 1)];
            }
        }
        struct seen whole, cut;
        feed(&whole, text, len, 0);
        feed(&cut, text, len, 1 + (size_t)rand() % 20);
        assert_int_equal(whole.n, cut.n);
        assert_string_equal(text_buffer_text(&whole.text), text_buffer_text(&cut.text));
        events += whole.n;
        text_buffer_free(&whole.text);
        text_buffer_free(&cut.text);
    }
    assert_true(events > 10000); /* the streams are not all noise */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_line_ends),
        cmocka_unit_test(test_unfinished_event_is_dropped),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_any_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
