/* Requests to a supervisor: answers, errors, bounds, and nobody there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/control.h"

static char top[] = "/tmp/baton-control-XXXXXX";
static struct state_dir dir;
static struct loop *loop;
static struct control_server *server;
static pthread_t thread;
static struct error err;

static status answer(void *ctx, const json_t *request, struct json_writer *reply, struct error *why)
{
    (void)ctx;
    const char *op = json_string_value(json_object_get(request, "op"));
    if (!op)
        return error_set(why, ST_INVALID, "no op");
    json_field_string(reply, "echo", op);
    for (int i = 0; !strcmp(op, "flood") && i < 200000; i++)
        json_field_string(reply, "more", "and more");
    return ST_OK;
}

static void *run(void *arg)
{
    (void)arg;
    loop_run(loop);
    return NULL;
}

/* Deeper than a socket's path may be long. */
static int start(void **state)
{
    (void)state;
    char path[512];
    if (!mkdtemp(top))
        return -1;
    snprintf(path, sizeof path, "%s/%0150d", top, 0);
    if (state_dir_resolve(path, NULL, &dir, &err) != ST_OK || state_dir_create(&dir, &err) != ST_OK ||
        loop_create(&loop) != ST_OK || control_server_create(loop, &dir, answer, NULL, &server, &err) != ST_OK)
        return -1;
    return pthread_create(&thread, NULL, run, NULL);
}

static int stop(void **state)
{
    (void)state;
    char command[64];
    loop_stop(loop);
    pthread_join(thread, NULL);
    control_server_destroy(&server);
    loop_destroy(&loop);
    snprintf(command, sizeof command, "rm -rf %s", top);
    return system(command);
}

static void asks_and_is_answered(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) { /* more than the server holds at one time */
        json_t *reply = NULL;
        assert_int_equal(control_call(&dir, "{\"op\":\"status\"}", &reply, &err), ST_OK);
        assert_string_equal(json_string_value(json_object_get(reply, "echo")), "status");
        json_decref(reply);
    }
}

static void refusals_come_with_words(void **state)
{
    (void)state;
    assert_int_equal(control_call(&dir, "{}", NULL, &err), ST_INVALID);
    assert_string_equal(err.text, "no op");
    assert_int_equal(control_call(&dir, "this is no JSON", NULL, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "no JSON"));
    assert_int_equal(control_call(&dir, "{\"op\":\"flood\"}", NULL, &err), ST_INVALID);
    assert_string_equal(err.text, "the answer is too long");
}

static void a_request_without_end_is_cut_off(void **state)
{
    (void)state;
    char *text = malloc(4 * CONTROL_MAX_REQUEST_BYTES);
    memset(text, ' ', 4 * CONTROL_MAX_REQUEST_BYTES - 1);
    text[4 * CONTROL_MAX_REQUEST_BYTES - 1] = '\0';
    assert_int_not_equal(control_call(&dir, text, NULL, &err), ST_OK);
    free(text);
    assert_int_equal(control_call(&dir, "{\"op\":\"still there\"}", NULL, &err), ST_OK);
}

static void nobody_there(void **state)
{
    (void)state;
    struct state_dir other;
    char path[STATE_PATH_MAX_BYTES];
    assert_int_equal(state_dir_resolve("/tmp/baton-no-such-folder", NULL, &other, &err), ST_OK);
    assert_int_equal(control_call(&other, "{}", NULL, &err), ST_NOT_FOUND);
    other = dir;
    assert_int_equal(mkdir(state_dir_path(&dir, "empty", path), 0700), 0);
    snprintf(other.path, sizeof other.path, "%.900s/empty", dir.path);
    assert_int_equal(control_call(&other, "{}", NULL, &err), ST_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_and_is_answered),
        cmocka_unit_test(refusals_come_with_words),
        cmocka_unit_test(a_request_without_end_is_cut_off),
        cmocka_unit_test(nobody_there),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
