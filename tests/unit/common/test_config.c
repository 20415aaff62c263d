/* Each type's accepted and refused texts, the order of the sources, and what is said of mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"

struct sample {
#define FIELD CONFIG_MEMBER
#include "config_sample.def"
#undef FIELD
};

static const struct config_field fields[] = {
#define FIELD(...) CONFIG_ROW(struct sample, __VA_ARGS__)
#include "config_sample.def"
#undef FIELD
};
static const struct config_table table = CONFIG_TABLE(struct sample, fields);

static struct config *config;
static struct sample *values;
static struct error err;

static int begin(void **state)
{
    (void)state;
    const struct config_table *const tables[] = { &table };
    assert_int_equal(config_create("mill", tables, 1, &config, &err), ST_OK);
    values = config_values(config);
    return 0;
}

static int end(void **state)
{
    (void)state;
    config_destroy(&config);
    return config != NULL;
}

static status set(const char *key, const char *value)
{
    return config_set(config, key, value, CONFIG_FROM_FLAG, key, &err);
}

static void test_defaults(void **state)
{
    (void)state;
    assert_false(values->on);
    assert_true(values->no_cache);
    assert_int_equal(values->port, 8000);
    assert_true(values->ratio == 0.5);
    assert_string_equal(values->name, "anna");
    assert_string_equal(values->note, "");
    assert_int_equal(values->memory, MIB(512));
    assert_int_equal(values->delay, MS(250));
    assert_int_equal(values->transfer, 0);
    assert_string_equal(values->listen, "127.0.0.1:0");
}

struct text_case {
    const char *key, *text;
    bool ok;
};

static const struct text_case texts[] = {
    { "on", "true", true },
    { "on", "No", true },
    { "on", "1", true },
    { "on", "2", false },
    { "on", "", false },
    { "port", "-1", true },
    { "port", "65535", true },
    { "port", "65536", false },
    { "port", "-2", false },
    { "port", "8000x", false },
    { "port", " 1", false },
    { "port", "", false },
    { "port", "1e3", false },
    { "port", "99999999999999999999", false },
    { "ratio", "1", true },
    { "ratio", "1.01", false },
    { "ratio", "nan", false },
    { "ratio", "-0.1", false },
    { "ratio", "x", false },
    { "name", "b", true },
    { "name", "", false },
    { "note", "", true },
    { "note", "a\nb", false },
    { "memory", "4GiB", true },
    { "memory", "1048576", true },
    { "memory", "1048575", false },
    { "memory", "65G", false },
    { "memory", "4 G", false },
    { "memory", "-1", false },
    { "delay", "0", true },
    { "delay", "3s", true },
    { "delay", "5m", true },
    { "delay", "250", false },
    { "delay", "6m", false },
    { "delay", "3 s", false },
    { "transfer", "SHM", true },
    { "transfer", "sh", false },
    { "transfer", "auto|shm", false },
    { "transfer", "", false },
    { "listen", "[::1]:80", true },
    { "listen", "host-1.local:65535", true },
    { "listen", ":80", false },
    { "listen", "host", false },
    { "listen", "host:65536", false },
    { "listen", "::1:80", false },
    { "listen", "host:", false },
    { "listen", "", false },
    { "listen", "[::1:80", false },
    { "listen", "a b:80", false },
    { "listen", "h:80x", false },
};

static void test_what_each_type_takes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        status st = set(texts[i].key, texts[i].text);
        if (st != (texts[i].ok ? ST_OK : ST_INVALID))
            fail_msg("%s = \"%s\" gives %s", texts[i].key, texts[i].text, status_text(st));
    }
    assert_int_equal(values->port, 65535);
    assert_int_equal(values->transfer, 1);
    assert_int_equal(values->delay, MINUTES(5));
}

static void test_a_refused_value_changes_nothing(void **state)
{
    (void)state;
    assert_int_equal(set("port", "70000"), ST_INVALID);
    assert_int_equal(values->port, 8000);
    assert_string_equal(err.text, "port: \"70000\" is not allowed; it takes a whole number from -1 to 65535");
    assert_int_equal(set("transfer", "rdma"), ST_INVALID);
    assert_string_equal(err.text, "transfer: \"rdma\" is not allowed; it takes one of auto, shm, tcp");
    assert_int_equal(set("delay", "9"), ST_INVALID);
    assert_non_null(strstr(err.text, "a time from 0 to 5m with its unit"));
    char longest[CONFIG_TEXT_BYTES + 1];
    memset(longest, 'x', sizeof longest);
    longest[CONFIG_TEXT_BYTES] = '\0';
    assert_int_equal(set("note", longest), ST_INVALID);
    longest[CONFIG_TEXT_BYTES - 1] = '\0';
    assert_int_equal(set("note", longest), ST_OK);
}

static void test_the_nearest_option_is_named(void **state)
{
    (void)state;
    assert_int_equal(set("pirt", "1"), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "\"pirt\""));
    assert_non_null(strstr(err.text, "nearest one is \"port\""));
    assert_int_equal(set("nocache", "1"), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "\"no-cache\""));
}

#define ARGC(argv) ((int)(sizeof(argv) / sizeof(argv)[0]))

static status load(int argc, const char *const argv[])
{
    static const char *const actions[] = { "help", "print-config", NULL };
    return config_load(config, argc, (char *const *)(uintptr_t)argv, actions, &err);
}

static void test_flags(void **state)
{
    (void)state;
    const char *const argv[] = { "mill", "--on",           "--port=17",  "--no-no-cache", "--memory",
                                 "2G",   "--print-config", "--name=a=b", "--NOTE",        "--x" };
    assert_int_equal(load(ARGC(argv), argv), ST_OK);
    assert_true(values->on);
    assert_false(values->no_cache);
    assert_int_equal(values->port, 17);
    assert_int_equal(values->memory, GIB(2));
    assert_string_equal(values->name, "a=b");
    assert_string_equal(values->note, "--x");
    const char *const again[] = { "mill", "--no_cache", "--no-on", "--port", "1", "--port", "2" };
    assert_int_equal(load(ARGC(again), again), ST_OK);
    assert_true(values->no_cache);
    assert_false(values->on);
    assert_int_equal(values->port, 2);
}

static void test_wrong_flags(void **state)
{
    (void)state;
    static const struct {
        const char *flag, *value, *says;
    } cases[] = {
        { "stray", "--on", "unexpected argument \"stray\"" },
        { "--on", "false", "unexpected argument \"false\"" },
        { "--no-on=1", "--on", "--no-on takes no value" },
        { "--on", "--port", "--port needs a value" },
        { "--no-port", "1", "no option \"no-port\"" },
        { "--prt", "1", "nearest one is \"port\"" },
        { "--port", "high", "--port: \"high\" is not allowed" },
        { "-p", "1", "unexpected argument \"-p\"" },
        { "--config", "/nonexistent/file", "cannot read the configuration file /nonexistent/file" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const argv[] = { "mill", cases[i].flag, cases[i].value };
        assert_int_not_equal(load(3, argv), ST_OK);
        if (!strstr(err.text, cases[i].says))
            fail_msg("%s %s says: %s", cases[i].flag, cases[i].value, err.text);
    }
}

static void test_actions_are_found_whatever_stands_beside_them(void **state)
{
    (void)state;
    static const char *const actions[] = { "help", "print-config", NULL };
    const char *const argv[] = { "mill", "--nonsense", "--print_config" };
    assert_int_equal(config_find_action(3, (char *const *)(uintptr_t)argv, actions), 1);
    assert_int_equal(config_find_action(2, (char *const *)(uintptr_t)argv, actions), -1);
}

static const char *write_file(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/test_config_%ld.conf", (long)getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static void test_a_file(void **state)
{
    (void)state;
    const char *path = write_file("# comment\n\n  port = 17  # seventeen\nname=\"  a # \\\"b\\\\ \"  # quoted\r\n"
                                  "no-cache = no\nnote = a#b\nmemory\t=\t1G");
    assert_int_equal(config_load_file(config, path, &err), ST_OK);
    unlink(path);
    assert_int_equal(values->port, 17);
    assert_string_equal(values->name, "  a # \"b\\ ");
    assert_string_equal(values->note, "a#b");
    assert_false(values->no_cache);
    assert_int_equal(values->memory, GIB(1));
}

static void test_mistakes_in_a_file_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "port = 1\nport 2\n", ":2: a line must read key = value" },
        { "\n\nport = x\n", ":3: \"x\" is not allowed" },
        { "prot = 1\n", ":1: there is no option \"prot\"" },
        { "name = \"a\n", ":1: the quotes" },
        { "name = \"a\" b\n", ":1: the quotes" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *path = write_file(cases[i].text);
        assert_int_not_equal(config_load_file(config, path, &err), ST_OK);
        unlink(path);
        if (!strstr(err.text, cases[i].says))
            fail_msg("says: %s", err.text);
    }
    char line[2000];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\0';
    const char *path = write_file(line);
    assert_int_equal(config_load_file(config, path, &err), ST_LIMIT);
    unlink(path);
}

/* default < file < BATON_KEY < BATON_ROLE_KEY < flag */
static void test_order_of_sources(void **state)
{
    (void)state;
    const char *path = write_file("port = 1\nname = file\nnote = file\ndelay = 1s\n");
    setenv("BATON_NAME", "all", 1);
    setenv("BATON_NOTE", "all", 1);
    setenv("BATON_MILL_NOTE", "mill", 1);
    setenv("BATON_DELAY", "2s", 1);
    const char *const argv[] = { "mill", "--delay", "3s", "--config", path };
    status st = load(ARGC(argv), argv);
    unsetenv("BATON_NAME");
    unsetenv("BATON_NOTE");
    unsetenv("BATON_MILL_NOTE");
    unsetenv("BATON_DELAY");
    unlink(path);
    assert_int_equal(st, ST_OK);
    assert_int_equal(values->port, 1);
    assert_string_equal(values->name, "all");
    assert_string_equal(values->note, "mill");
    assert_int_equal(values->delay, SECONDS(3));
    struct text_buffer out;
    text_buffer_init(&out, 10000);
    config_write(config, &out);
    assert_non_null(strstr(text_buffer_text(&out), "ratio = 0.5  # default\n"));
    assert_non_null(strstr(text_buffer_text(&out), "port = 1  # file "));
    assert_non_null(strstr(text_buffer_text(&out), "name = all  # environment BATON_NAME\n"));
    assert_non_null(strstr(text_buffer_text(&out), "note = mill  # environment BATON_MILL_NOTE\n"));
    assert_non_null(strstr(text_buffer_text(&out), "delay = 3s  # flag --delay\n"));
    text_buffer_free(&out);
}

static void test_a_bad_variable_is_named(void **state)
{
    (void)state;
    setenv("BATON_MILL_PORT", "x", 1);
    status st = config_load_environment(config, &err);
    unsetenv("BATON_MILL_PORT");
    assert_int_equal(st, ST_INVALID);
    assert_non_null(strstr(err.text, "BATON_MILL_PORT: \"x\""));
}

/* What config_write wrote is read back to the same values. */
static void test_written_files_read_back(void **state)
{
    (void)state;
    assert_int_equal(set("name", " a \"quoted\" # \\ name "), ST_OK);
    assert_int_equal(set("note", "a # b"), ST_OK);
    assert_int_equal(set("ratio", "0.3333333333333333"), ST_OK);
    assert_int_equal(set("delay", "1500us"), ST_OK);
    assert_int_equal(set("memory", "1048577"), ST_OK);
    assert_int_equal(set("transfer", "tcp"), ST_OK);
    assert_int_equal(set("on", "yes"), ST_OK);
    struct sample before = *values;
    struct text_buffer out;
    text_buffer_init(&out, 10000);
    config_write(config, &out);
    const char *path = write_file(text_buffer_text(&out));
    text_buffer_free(&out);
    end(NULL);
    begin(NULL);
    assert_int_equal(config_load_file(config, path, &err), ST_OK);
    unlink(path);
    assert_memory_equal(values, &before, sizeof before);
}

static void test_times_are_scaled(void **state)
{
    (void)state;
    config_scale_times(config, 4);
    assert_int_equal(values->delay, SECONDS(1));
    assert_int_equal(values->memory, MIB(512));
    assert_int_equal(set("delay", "0"), ST_OK);
    config_scale_times(config, 4);
    assert_int_equal(values->delay, 0);
}

static void test_pages(void **state)
{
    (void)state;
    struct text_buffer out;
    text_buffer_init(&out, 100000);
    config_write_help(config, &out);
    assert_non_null(strstr(text_buffer_text(&out), "  --on, --no-on\n"));
    assert_non_null(strstr(text_buffer_text(&out), "a size from 1M to 64G, as 512M or 4GiB (default: 512M)\n"));
    text_buffer_clear(&out);
    config_write_markdown(config, &out);
    assert_non_null(strstr(text_buffer_text(&out), "| `--transfer` | `auto` | one of auto, shm, tcp | A way |\n"));
    assert_non_null(
        strstr(text_buffer_text(&out), "| `--note` | empty | text up to 1023 bytes | Anything \\| at all |\n"));
    text_buffer_free(&out);
}

static void test_a_default_outside_its_limits_is_found(void **state)
{
    (void)state;
    struct bad {
        int64_t n;
    };
    static const struct config_field bad_fields[] = { CONFIG_ROW(struct bad, n, INT, "11", 0, 10, "A mistake") };
    static const struct config_table bad = CONFIG_TABLE(struct bad, bad_fields);
    const struct config_table *const tables[] = { &bad };
    struct config *none = NULL;
    assert_int_equal(config_create("mill", tables, 1, &none, &err), ST_INVALID);
    assert_null(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, begin, end),
        cmocka_unit_test_setup_teardown(test_what_each_type_takes, begin, end),
        cmocka_unit_test_setup_teardown(test_a_refused_value_changes_nothing, begin, end),
        cmocka_unit_test_setup_teardown(test_the_nearest_option_is_named, begin, end),
        cmocka_unit_test_setup_teardown(test_flags, begin, end),
        cmocka_unit_test_setup_teardown(test_wrong_flags, begin, end),
        cmocka_unit_test(test_actions_are_found_whatever_stands_beside_them),
        cmocka_unit_test_setup_teardown(test_a_file, begin, end),
        cmocka_unit_test_setup_teardown(test_mistakes_in_a_file_name_the_line, begin, end),
        cmocka_unit_test_setup_teardown(test_order_of_sources, begin, end),
        cmocka_unit_test_setup_teardown(test_a_bad_variable_is_named, begin, end),
        cmocka_unit_test_setup_teardown(test_written_files_read_back, begin, end),
        cmocka_unit_test_setup_teardown(test_times_are_scaled, begin, end),
        cmocka_unit_test_setup_teardown(test_pages, begin, end),
        cmocka_unit_test(test_a_default_outside_its_limits_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
