/* The quick reader of JSON says nothing else than jansson. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "router/json_plain.h"
#include "tests/unit/effort.h"

#define FLAGS (JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL)

/* True: it was read. */
static bool same(const char *text, size_t len)
{
    json_t *quick = json_plain_read(text, len), *slow = json_loadb(text, len, FLAGS, NULL);
    bool read = quick != NULL;
    if (read && (!slow || !json_equal(quick, slow)))
        fail_msg("differs from jansson: %.*s", (int)len, text);
    if (read) { /* also the order of members */
        char *a = json_dumps(quick, 0), *b = json_dumps(slow, 0);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    json_decref(quick);
    json_decref(slow);
    return read;
}

static void what_is_plain_is_read(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        " \t\r\n{ } \n",
        "{\"a\":[]}",
        "{\"a\":[1,-2,0,123456789012345678, -999999999999999999]}",
        "{\"a\":0.5,\"b\":-12.25,\"c\":1.0,\"d\":100.001}",
        "{\"a\":true,\"b\":false,\"c\":null}",
        "{\"a\":\"\",\"b\":\"line\\nnext\\ttab \\\"quoted\\\" \\\\ \\/ \\b\\f\\r\"}",
        "{\"a\":\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\\n\xc3\xa9\"}",
        "{\"a\\nb\":1,\"c\":\"\x7f\"}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"temperature\":0.7,\"stream\":true}",
        "{\"a\":[[[[[[[[[[[[[[1]]]]]]]]]]]]]]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!same(texts[i], strlen(texts[i])))
            fail_msg("not read: %s", texts[i]);
}

static void the_rest_is_left_alone(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "[]",
        "1",
        "{",
        "}",
        "{\"a\":1",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" 1}",
        "{\"a\":}",
        "{\"a\":[1,]}",
        "{\"a\":[1 2]}",
        "{\"a\":1}x",
        "{\"a\":1}{}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":\"\\u0041\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\",
        "{\"a\":\"open}",
        "{\"a\":\"tab\there\"}",
        "{\"a\":\"\xc3\"}",
        "{\"a\":\"\xed\xa0\x80\"}",
        "{\"a\":\"\xc0\x80\"}",
        "{\"\xc3\":1}",
        "{\"a\":01}",
        "{\"a\":-0}",
        "{\"a\":-}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":1e5}",
        "{\"a\":1.5e5}",
        "{\"a\":1.5E400}",
        "{\"a\":1234567890123456789}",
        "{\"a\":99999999999999999999}",
        "{\"a\":tru}",
        "{\"a\":True}",
        "{\"a\":nul",
        "{\"a\":[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}",
        "{'a':1}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (same(texts[i], strlen(texts[i])))
            fail_msg("read: %s", texts[i]);
    assert_false(same("{\"a\":\"\0\"}", 9));
    assert_false(same("{}\0", 3));
}

/* Whatever is broken in a request, and wherever it is cut: the same as jansson, or nothing. */
static void changed_requests_are_read_alike(void **state)
{
    (void)state;
    static const char request[] =
        "{\"model\": \"m\", \"messages\":[{\"role\":\"user\",\"content\":\"a \\\"b\\\" \xc3\xa9\\n\"},\n{\"role\":"
        "\"tool\",\"content\":[]}],\"n\":-12,\"t\":0.75,\"s\":true,\"x\":null,\"e\":{\"k\":[1,2.5,{}]}}";
    static const char bytes[] = "{}[]\",:\\/ntu0123456789.-+eE \t\n\xc3\xa9\xff\x01"
                                "afls";
    char text[sizeof request];
    unsigned seed = 7, n_read = 0;
    const unsigned rounds = is_long() ? 2000000 : 20000;
    for (unsigned round = 0; round < rounds; round++) {
        size_t len = sizeof request - 1;
        memcpy(text, request, len);
        for (int changes = rand_r(&seed) % 3; changes > 0; changes--)
            text[(size_t)rand_r(&seed) % len] = bytes[(size_t)rand_r(&seed) % (sizeof bytes - 1)];
        if (rand_r(&seed) % 4 == 0)
            len = (size_t)rand_r(&seed) % len;
        n_read += same(text, len);
    }
    assert_true(n_read > rounds / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_plain_is_read),
        cmocka_unit_test(the_rest_is_left_alone),
        cmocka_unit_test(changed_requests_are_read_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
