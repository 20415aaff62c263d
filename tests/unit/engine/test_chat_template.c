#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/chat_template.h"

#define DATA BATON_SOURCE_DIR "/tests/unit/engine/data/templates/"

static char *read_file(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long size = ftell(file);
    rewind(file);
    char *text = malloc((size_t)size + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)size, file), size);
    fclose(file);
    text[size] = 0;
    *len = (size_t)size;
    return text;
}

static json_t *read_cases(const char *path)
{
    json_error_t where;
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &where);
    if (!cases)
        fail_msg("%s:%d: %s", path, where.line, where.text);
    return cases;
}

static status compile(const char *source, struct chat_template **out, struct error *err)
{
    return chat_template_compile(source, strlen(source), out, err);
}

/* Compiles and renders; NULL with err filled when either fails. */
static char *render(const char *source, size_t len, const json_t *request, struct error *err)
{
    const json_t *tools = json_object_get(request, "tools");
    struct chat_template_input in = {
        .messages = json_object_get(request, "messages"),
        .tools = json_is_null(tools) ? NULL : tools,
        .variables = json_object_get(request, "variables"),
        .bos_token = json_string_value(json_object_get(request, "bos_token")),
        .eos_token = json_string_value(json_object_get(request, "eos_token")),
        .add_generation_prompt = json_is_true(json_object_get(request, "add_generation_prompt")),
        .now = (time_t)json_integer_value(json_object_get(request, "now")),
    };
    struct chat_template *tpl;
    char *text = NULL;
    size_t n;
    if (chat_template_compile(source, len, &tpl, err) != ST_OK)
        return NULL;
    if (chat_template_render(tpl, &in, &text, &n, err) != ST_OK)
        text = NULL;
    else
        assert_int_equal(text[n], 0);
    chat_template_destroy(&tpl);
    assert_null(tpl);
    return text;
}

static void check_case(const char *source, size_t len, const json_t *request)
{
    struct error err = { "" };
    const json_t *wanted = json_object_get(request, "text"), *raises = json_object_get(request, "raises");
    char *got = render(source, len, request, &err);
    if (wanted && (!got || strcmp(got, json_string_value(wanted)) != 0))
        fail_msg("%s\nwanted: %s\ngot:    %s %s", source, json_string_value(wanted), got ? got : "failure:", err.text);
    if (!wanted && got)
        fail_msg("%s\nought to fail, gave: %s", source, got);
    if (raises)
        assert_memory_equal(err.text, json_string_value(raises), strnlen(err.text, 400));
    else if (!wanted)
        assert_memory_equal(err.text, "template line ", 14);
    free(got);
}

/* Random conversations, with tools, under the committed templates. */
static void test_golden_chats(void **state)
{
    (void)state;
    json_t *cases = read_cases(DATA "chats.json"), *request;
    size_t i, len;
    assert_true(json_array_size(cases) >= 72);
    json_array_foreach(cases, i, request)
    {
        char path[512];
        snprintf(path, sizeof path, DATA "%s", json_string_value(json_object_get(request, "file")));
        char *source = read_file(path, &len);
        check_case(source, len, request);
        free(source);
    }
    json_decref(cases);
}

/* The language, a construct at a time. */
static void test_golden_language(void **state)
{
    (void)state;
    json_t *cases = read_cases(DATA "language.json"), *request;
    size_t i;
    assert_true(json_array_size(cases) > 300);
    json_array_foreach(cases, i, request)
    {
        const json_t *source = json_object_get(request, "template");
        check_case(json_string_value(source), json_string_length(source), request);
    }
    json_decref(cases);
}

static void test_built_in_model(void **state)
{
    (void)state;
    size_t len, n;
    char *source = read_file(DATA "baton-tiny.jinja", &len), *text;
    struct chat_template *tpl;
    struct error err;
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "Hello");
    struct chat_template_input in = { .messages = messages, .add_generation_prompt = true };
    assert_int_equal(chat_template_compile(source, len, &tpl, &err), ST_OK);
    assert_int_equal(chat_template_render(tpl, &in, &text, &n, &err), ST_OK);
    assert_string_equal(text, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
    assert_int_equal(n, strlen(text));
    free(text);
    chat_template_destroy(&tpl);
    chat_template_destroy(&tpl);
    json_decref(messages);
    free(source);
}

static void test_unsupported_is_named_with_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
        status st;
    } rows[] = {
        { "a\n{% include 'x' %}", "template line 2: the statement 'include' is not supported", ST_UNSUPPORTED },
        { "{% block x %}{% endblock %}", "template line 1: the statement 'block' is not supported", ST_UNSUPPORTED },
        { "{% for a in b recursive %}", "template line 1: recursive for loops are not supported", ST_UNSUPPORTED },
        { "\n\n{{ 'a'|escape }}", "template line 3: the filter 'escape' is not supported", ST_UNSUPPORTED },
        { "{{ a.format(1) }}", "template line 1: the method 'format' is not supported", ST_UNSUPPORTED },
        { "{{ a is escaped }}", "template line 1: the test 'escaped' is not supported", ST_UNSUPPORTED },
        { "{{ a|map('pprint') }}", "template line 1: the filter 'pprint' is not supported", ST_UNSUPPORTED },
        { "{{ a|selectattr('b', 'like') }}", "template line 1: the test 'like' is not supported", ST_UNSUPPORTED },
        { "{{ '%d' % 5 }}", "template line 1: formatting with '%' is not supported", ST_UNSUPPORTED },
        { "{{ f(*a) }}", "template line 1: unpacked arguments (* and **) are not supported", ST_UNSUPPORTED },
        { "{{ lipsum(5) }}", "template line 1: the function 'lipsum' is not supported", ST_UNSUPPORTED },
        { "{{ a|nosuch }}", "template line 1: no filter named 'nosuch'", ST_INVALID },
        { "\n{% frobnicate %}", "template line 2: unknown statement 'frobnicate'", ST_INVALID },
        { "\n{% if a %}\nx", "template line 3: unexpected end of template, expected 'elif'", ST_INVALID },
        { "\xff", "template line 1: the template is not valid UTF-8", ST_INVALID },
        { "{{ 99999999999999999999 }}", "template line 1: the number 99999999999999999999 is beyond 64 bits",
          ST_UNSUPPORTED },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct chat_template *tpl = NULL;
        struct error err;
        assert_int_equal(compile(rows[i].source, &tpl, &err), rows[i].st);
        assert_string_equal(err.text, rows[i].message);
        assert_null(tpl);
    }
}

static void test_failures_while_rendering(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
    } rows[] = {
        { "{{ raise_exception('Bad \xc3\xa9 thing') }}", "Bad \xc3\xa9 thing" },
        { "x\n{{ a.b }}", "template line 2: 'a' is undefined" },
        { "{{ {}.x.y }}", "template line 1: 'dict object' has no attribute 'x'" },
        { "{{ [].append(1) }}", "template line 1: access to attribute 'append' of 'list' object is unsafe" },
        { "{{ 'a' + none }}", "template line 1: can only concatenate str (not \"NoneType\") to str" },
        { "{% macro m(a) %}{{ a.b }}{% endmacro %}\n{{ m() }}", "template line 1: parameter 'a' was not provided" },
        { "{{ 9223372036854775807 + 1 }}", "template line 1: an integer beyond 64 bits" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct error err;
        assert_null(render(rows[i].source, strlen(rows[i].source), NULL, &err));
        assert_string_equal(err.text, rows[i].message);
    }
}

static void expect_limit(const char *source, const char *message)
{
    struct chat_template *tpl;
    struct error err;
    char *text = NULL;
    size_t len;
    struct chat_template_input in = { 0 };
    assert_int_equal(compile(source, &tpl, &err), ST_OK);
    assert_int_equal(chat_template_render(tpl, &in, &text, &len, &err), ST_LIMIT);
    assert_null(text);
    assert_string_equal(err.text, message);
    chat_template_destroy(&tpl);
}

static void test_rendering_is_bounded(void **state)
{
    (void)state;
    expect_limit("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
                 "template line 1: evaluation nests deeper than 600");
    expect_limit("{% set s = 'x' * 1000000 %}{% for a in range(100) %}{{ s.count('x') }}{% endfor %}",
                 "template line 1: the template takes too many steps");
    expect_limit("{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
                 "template line 1: the output is longer than 33554432 bytes");
    expect_limit("{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
                 "template line 1: the template needs more than 268435456 bytes of memory");
    expect_limit("{{ 'x' * 9223372036854775807 }}", "template line 1: the template takes too many steps");
    expect_limit("{{ [1, 2] * 9223372036854775807 }}", "template line 1: a list that long does not fit");
    expect_limit(
        "{% set ns = namespace(l=[]) %}{% for a in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "template line 1: values nest deeper than 400");
    expect_limit("{% set ns = namespace(l=[]) %}{% for a in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}"
                 "{{ ns.l|tojson }}",
                 "template line 1: values nest deeper than 400");
    expect_limit("{{ range(100001) }}", "template line 1: a range of more than 100000 numbers");
}

static void test_compiling_is_bounded(void **state)
{
    (void)state;
    enum { N = 5000 };
    static const char *const openings[] = { "(", "[", "not ", "-", "a if b else ", "a[" };
    char *source = malloc(N * 16 + 16);
    struct chat_template *tpl;
    struct error err;
    assert_non_null(source);
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        strcpy(source, "{{ ");
        for (size_t k = 0, at = 3, n = strlen(openings[i]); k < N; k++, at += n)
            memcpy(source + at, openings[i], n + 1);
        strcat(source, " }}");
        assert_int_equal(compile(source, &tpl, &err), ST_LIMIT);
    }
    free(source);
    char *huge = calloc(1, CHAT_TEMPLATE_MAX_SOURCE + 1);
    assert_int_equal(chat_template_compile(huge, CHAT_TEMPLATE_MAX_SOURCE + 1, &tpl, &err), ST_LIMIT);
    free(huge);
}

/* A string longer than an error's text is cut between characters. */
static void test_long_exception(void **state)
{
    (void)state;
    struct error err;
    const char *source = "{{ raise_exception('\xe4\xbd\xa0' * 300) }}";
    assert_null(render(source, strlen(source), NULL, &err));
    assert_int_equal(strlen(err.text), 510);
}

static void test_token_that_is_no_text(void **state)
{
    (void)state;
    struct chat_template *tpl;
    struct error err;
    char *text;
    size_t len;
    struct chat_template_input in = { .bos_token = "\x80\x80" };
    assert_int_equal(compile("{{ bos_token }}", &tpl, &err), ST_OK);
    assert_int_equal(chat_template_render(tpl, &in, &text, &len, &err), ST_INVALID);
    assert_string_equal(err.text, "bos_token is not valid UTF-8");
    chat_template_destroy(&tpl);
}

static void test_kwargs_win_over_given_variables(void **state)
{
    (void)state;
    struct error err;
    json_t *request = json_pack("{s:{s:b, s:s}}", "variables", "add_generation_prompt", 1, "bos_token", "<b>");
    const char *source = "{{ add_generation_prompt }}{{ bos_token }}{{ eos_token is defined }}";
    char *text = render(source, strlen(source), request, &err);
    assert_string_equal(text, "True<b>False");
    free(text);
    json_decref(request);
}

/* What rendering gives a value is what a template sees with no variables at all. */
static void test_names_that_rendering_sets(void **state)
{
    (void)state;
    static const char *const names[] = { "messages",  "tools",     "documents", "add_generation_prompt",
                                         "bos_token", "eos_token", "zz",        "enable_thinking" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char source[64];
        struct error err;
        json_t *request = json_pack("{s:[], s:s, s:s}", "messages", "bos_token", "<s>", "eos_token", "</s>");
        int len = snprintf(source, sizeof source, "{{ %s is defined }}", names[i]);
        char *text = render(source, (size_t)len, request, &err);
        assert_string_equal(text, chat_template_sets(names[i]) ? "True" : "False");
        free(text);
        json_decref(request);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_chats),
        cmocka_unit_test(test_golden_language),
        cmocka_unit_test(test_built_in_model),
        cmocka_unit_test(test_unsupported_is_named_with_its_line),
        cmocka_unit_test(test_failures_while_rendering),
        cmocka_unit_test(test_rendering_is_bounded),
        cmocka_unit_test(test_compiling_is_bounded),
        cmocka_unit_test(test_long_exception),
        cmocka_unit_test(test_token_that_is_no_text),
        cmocka_unit_test(test_kwargs_win_over_given_variables),
        cmocka_unit_test(test_names_that_rendering_sets),
    };
    setenv("TZ", "UTC", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
