/* The line that each answer leaves in the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "api_rig.h"

/* Standard error goes into a file from here on. */
static FILE *catch_log(int *saved)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    *saved = dup(STDERR_FILENO);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    log_init("test", LOG_INFO);
    return file;
}

static void caught_log(FILE *file, int saved, char *out, size_t size)
{
    log_init("test", LOG_OFF);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(saved);
    rewind(file);
    out[fread(out, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void expect_logged(const char *log, const char *const *parts)
{
    for (; *parts; parts++)
        if (!strstr(log, *parts))
            fail_msg("'%s' is not in %s", *parts, log);
    const char *first = strstr(log, "msg=\"answered\"");
    assert_non_null(first);
    assert_null(strstr(first + 1, "msg=\"answered\""));
}

static void test_answer_is_logged(void **state)
{
    (void)state;
    char log[4096], key[64];
    int saved;
    FILE *file = catch_log(&saved);
    struct client *c = connect_client(0);
    post(c, "/v1/completions",
         "x-request-id: a=b\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n", "{" ONCE "}");
    const struct fake_sent *g = expect_sent(FRAME_GENERATE, 0);
    snprintf(key, sizeof key, " request=%llx.%llx ", (unsigned long long)g->key.router, (unsigned long long)g->key.seq);
    answer_text(g, "a", true);
    json_decref(expect_json(c, 200));
    client_free(c);
    caught_log(file, saved, log, sizeof log);
    expect_logged(log,
                  (const char *[]){ " info test msg=\"answered\" id=\"a=b\" endpoint=completions status=200", key,
                                    " model=\"" MODEL "\" choices=1 prompt_tokens=4 completion_tokens=2 finish=stop",
                                    " first_token_ms=", " total_ms=", " worker=\"w0\"",
                                    " trace=0af7651916cd43dd8448eb211c80319c\n", NULL });
}

/* The name of an adapter's model is the request's, which is gone when the line is written. */
static void test_answer_of_an_adapter_is_logged(void **state)
{
    (void)state;
    char log[4096];
    int saved;
    (void)fake_worker_with(&rig.fake, "w1", "decode", MODEL, "blue@2");
    FILE *file = catch_log(&saved);
    struct client *c = ask("/v1/completions", "{\"model\":\"" MODEL ":blue\",\"prompt\":\"Hello world\"}");
    answer_text(expect_sent(FRAME_GENERATE, 0), "a", true);
    json_decref(expect_json(c, 200));
    client_free(c);
    caught_log(file, saved, log, sizeof log);
    expect_logged(log, (const char *[]){ " status=200 request=", " model=\"" MODEL ":blue\" choices=1 ", NULL });
}

static void test_cancelled_answer_is_logged(void **state)
{
    (void)state;
    char log[4096];
    int saved;
    FILE *file = catch_log(&saved);
    struct client *c = ask("/v1/completions", "{" ONCE ",\"n\":2}");
    (void)expect_sent(FRAME_GENERATE, 1);
    client_free(c);
    (void)expect_sent(FRAME_CANCEL, 1);
    for (int i = 0; i < 1000 && api_held(rig.api); i++)
        turn();
    caught_log(file, saved, log, sizeof log);
    expect_logged(log, (const char *[]){ " status=499 request=abc.1 ", " choices=2 ", " completion_tokens=0 ",
                                         " finish=cancelled", " worker=\"w0\"", NULL });
    assert_null(strstr(log, "first_token_ms"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_answer_is_logged),
        TEST(test_answer_of_an_adapter_is_logged),
        TEST(test_cancelled_answer_is_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
