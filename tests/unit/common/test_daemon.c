/* A small daemon in a child process: its options, its pages, its signals, its order of starting and stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/daemon.h"

struct sample_config {
    struct daemon_config daemon;
#define FIELD CONFIG_MEMBER
#include "daemon_sample.def"
#undef FIELD
};

static const struct config_field fields[] = {
#define FIELD(...) CONFIG_ROW(struct sample_config, __VA_ARGS__)
#include "daemon_sample.def"
#undef FIELD
};
static const struct config_table config_table = CONFIG_TABLE(struct sample_config, fields);

static const struct metric_row metric_rows[] = { { "baton_sample_total", METRIC_COUNTER, "", "A sample" } };
static const struct metric_table metric_table = METRIC_TABLE(metric_rows);

/* The child tells what it does, letter by letter. */
static int trace_fd = -1;

static void trace(const char *letters)
{
    assert_int_equal(write(trace_fd, letters, strlen(letters)), (ssize_t)strlen(letters));
}

extern const struct part part_one, part_two;

static status start_one(struct daemon *d, struct error *err)
{
    (void)err;
    static int state = 17;
    daemon_set_state(d, &part_one, &state);
    trace("a");
    return ST_OK;
}

static void stop_one(struct daemon *d)
{
    trace(*(int *)daemon_state(d, &part_one) == 17 && !daemon_state(d, &part_two) ? "A" : "?");
}

static void drain_one(struct daemon *d)
{
    (void)d;
    trace("1");
}

static void end_now(void *arg)
{
    struct daemon *d = arg;
    daemon_end(d, (int)((const struct sample_config *)daemon_config(d))->end_with);
}

static void answer_page(void *arg, struct http_exchange *x)
{
    (void)arg;
    http_respond(x, 200, "text/plain", "sample\n", 7);
}

static status start_two(struct daemon *d, struct error *err)
{
    const struct sample_config *config = daemon_config(d);
    if (config->fail)
        return error_set(err, ST_IO, "it was told to fail");
    trace("b");
    metric_add(metrics_series(daemon_metrics(d), &metric_table, 0, NULL), 3);
    daemon_add_page(d, "GET", "/sample", answer_page, NULL);
    daemon_report_port(d, "sample", 4242);
    if (config->end_with >= 0)
        loop_post(daemon_loop(d), end_now, d);
    return ST_OK;
}

static uint64_t drained_at;

static void drain_two(struct daemon *d)
{
    trace("2");
    drained_at = clock_now_us() + ((const struct sample_config *)daemon_config(d))->busy;
}

static bool drained_two(struct daemon *d)
{
    (void)d;
    return clock_now_us() >= drained_at;
}

static void stop_two(struct daemon *d)
{
    (void)d;
    trace("B");
}

const struct part part_one = { "one", start_one, drain_one, NULL, stop_one };
const struct part part_two = { "two", start_two, drain_two, drained_two, stop_two };

static bool is_ready(struct daemon *d, struct text_buffer *why)
{
    if (((const struct sample_config *)daemon_config(d))->unready)
        text_buffer_add(why, "it was told so");
    return why->len == 0;
}

static status check(const void *values, struct error *err)
{
    const struct sample_config *config = values;
    return config->odd % 2 ? ST_OK : error_set(err, ST_INVALID, "--odd: %d is even", (int)config->odd);
}

static int sample_main(int argc, char **argv)
{
    static const struct part *const parts[] = { &part_one, &part_two, NULL };
    return daemon_run(argc, argv,
                      &(struct daemon_spec){ .role = "sample",
                                             .about = "a daemon for tests",
                                             .config = &config_table,
                                             .metrics = &metric_table,
                                             .parts = parts,
                                             .check = check,
                                             .ready = is_ready });
}

/* The parent's side. */
struct child {
    pid_t pid;
    int trace, ready, output; /* read ends; output: standard output and error */
    char text[65536];         /* filled when it has ended */
    char letters[64];
    unsigned port;
};

static void run_child(char *const argv[], int argc, int trace_end, int ready_end, int output_end)
{
    char number[16];
    snprintf(number, sizeof number, "%d", ready_end);
    setenv("BATON_READY_FD", number, 1);
    dup2(output_end, STDOUT_FILENO);
    dup2(output_end, STDERR_FILENO);
    trace_fd = trace_end;
    exit(sample_main(argc, (char **)(uintptr_t)argv));
}

static void start(struct child *child, const char *const options[])
{
    int traces[2], ready[2], output[2], argc = 0;
    const char *argv[16] = { "baton-sample" };
    while (options[argc]) {
        argv[argc + 1] = options[argc];
        argc++;
    }
    assert_int_equal(pipe(traces) | pipe(ready) | pipe(output), 0);
    fflush(NULL);
    memset(child, 0, sizeof *child);
    child->pid = fork();
    if (child->pid == 0) {
        close(traces[0]);
        close(ready[0]);
        close(output[0]);
        run_child((char *const *)(uintptr_t)argv, argc + 1, traces[1], ready[1], output[1]);
    }
    close(traces[1]);
    close(ready[1]);
    close(output[1]);
    child->trace = traces[0];
    child->ready = ready[0];
    child->output = output[0];
}

/* Up to the end of the pipe. */
static void read_all(int fd, char *buf, size_t size)
{
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(fd, buf + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    buf[n] = '\0';
    close(fd);
}

static int wait_for(struct child *child)
{
    int how = 0;
    read_all(child->output, child->text, sizeof child->text);
    read_all(child->trace, child->letters, sizeof child->letters);
    close(child->ready);
    assert_int_equal(waitpid(child->pid, &how, 0), child->pid);
    child->pid = 0;
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

static int run_to_end(struct child *child, const char *const options[])
{
    start(child, options);
    return wait_for(child);
}

static void wait_until_ready(struct child *child)
{
    char line[1024];
    read_all(child->ready, line, sizeof line); /* the child closes it after one line */
    child->ready = -1;
    assert_non_null(strstr(line, "\"role\":\"sample\""));
    assert_non_null(strstr(line, "\"sample\":4242"));
    assert_int_equal(line[strlen(line) - 1], '\n');
    const char *port = strstr(line, "\"admin\":");
    assert_non_null(port);
    child->port = (unsigned)strtoul(port + 8, NULL, 10);
}

static int ask(const struct child *child, const char *method, const char *path, const char *body, char *answer,
               size_t size)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)child->port) };
    char request[1024];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    int n = snprintf(request, sizeof request,
                     "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", method, path,
                     strlen(body), body);
    assert_int_equal(write(fd, request, (size_t)n), n);
    read_all(fd, answer, size);
    assert_true(strncmp(answer, "HTTP/1.1 ", 9) == 0);
    return (int)strtol(answer + 9, NULL, 10);
}

static int get(const struct child *child, const char *path, char *answer, size_t size)
{
    return ask(child, "GET", path, "", answer, size);
}

static struct child child;

/* After a failed assertion nothing is left over. */
static int end_child(void **state)
{
    (void)state;
    if (child.pid > 0) {
        kill(child.pid, SIGKILL);
        waitpid(child.pid, NULL, 0);
    }
    child.pid = 0;
    return 0;
}

static char answer[65536];
#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static void test_printing_options(void **state)
{
    (void)state;
    assert_int_equal(run_to_end(&child, OPTIONS("--version", "--nonsense")), 0);
    assert_string_equal(child.text, "baton-sample " BATON_VERSION "\n");
    assert_int_equal(run_to_end(&child, OPTIONS("--help")), 0);
    assert_non_null(strstr(child.text, "baton-sample: a daemon for tests\n"));
    assert_non_null(strstr(child.text, "  --admin-listen VALUE\n"));
    assert_non_null(strstr(child.text, "  --unready, --no-unready\n"));
    assert_int_equal(run_to_end(&child, OPTIONS("--odd=7", "--time-scale", "2", "--print-config")), 0);
    assert_non_null(strstr(child.text, "odd = 7  # flag --odd\n"));
    assert_non_null(strstr(child.text, "ping_timeout = 6s  # default\n"));
    assert_int_equal(run_to_end(&child, OPTIONS("--odd=4", "--print-config")),
                     0); /* what would not start is shown, too */
    assert_non_null(strstr(child.text, "odd = 4  # flag --odd\n"));
    assert_int_equal(run_to_end(&child, OPTIONS("--write-config-doc")), 0);
    assert_non_null(strstr(child.text, "| `--odd` | `1` | a whole number from 0 to 100 | An odd number |\n"));
    assert_int_equal(run_to_end(&child, OPTIONS("--write-metrics-doc")), 0);
    assert_non_null(strstr(child.text, "| `baton_sample_total` | counter |  | A sample |\n"));
    assert_non_null(strstr(child.text, "| `process_open_fds` | gauge |"));
    assert_string_equal(child.letters, "");
}

static void test_wrong_usage(void **state)
{
    (void)state;
    assert_int_equal(run_to_end(&child, OPTIONS("--log-level", "loud")), 2);
    assert_string_equal(child.text, "baton-sample: --log-level: \"loud\" is not allowed; it takes one of debug, info, "
                                    "warn, error, off (see baton-sample --help)\n");
    assert_int_equal(run_to_end(&child, OPTIONS("--admin-lisen", "x")), 2);
    assert_non_null(strstr(child.text, "nearest one is \"admin-listen\""));
    assert_int_equal(run_to_end(&child, OPTIONS("--odd", "4")), 2);
    assert_non_null(strstr(child.text, "--odd: 4 is even"));
    assert_int_equal(run_to_end(&child, OPTIONS("--cluster", "a/b")), 2);
    assert_non_null(strstr(child.text, "--cluster: \"a/b\" is not allowed"));
    setenv("BATON_FAILPOINTS", "nonsense", 1);
    assert_int_equal(run_to_end(&child, OPTIONS("--odd", "1")), 2);
    unsetenv("BATON_FAILPOINTS");
    assert_string_equal(child.letters, "");
}

static void test_pages(void **state)
{
    (void)state;
    start(&child, OPTIONS("--id", "s-1"));
    wait_until_ready(&child);
    assert_int_equal(get(&child, "/health", answer, sizeof answer), 200);
    assert_int_equal(get(&child, "/healthz", answer, sizeof answer), 200);
    assert_int_equal(get(&child, "/readyz", answer, sizeof answer), 200);
    assert_non_null(strstr(answer, "\r\n\r\nready\n"));
    assert_int_equal(get(&child, "/metrics", answer, sizeof answer), 200);
    assert_non_null(strstr(answer, "text/plain; version=0.0.4"));
    assert_non_null(strstr(answer, "\nbaton_sample_total 3\n"));
    assert_non_null(strstr(answer, "\nbaton_ready 1\n"));
    assert_non_null(strstr(answer, "\nbaton_build_info{version=\"" BATON_VERSION "\",role=\"sample\"} 1\n"));
    assert_int_equal(get(&child, "/config", answer, sizeof answer), 200);
    assert_non_null(strstr(answer, "id = s-1  # flag --id\n"));
    assert_int_equal(get(&child, "/sample", answer, sizeof answer), 200);
    assert_int_equal(get(&child, "/nothing", answer, sizeof answer), 404);
    assert_int_equal(ask(&child, "POST", "/health", "", answer, sizeof answer), 405);
    assert_non_null(strstr(answer, "Allow: GET"));
    kill(child.pid, SIGTERM);
    assert_int_equal(wait_for(&child), 0);
    assert_string_equal(child.letters, "ab21BA");
    assert_non_null(strstr(child.text, " info s-1 msg=\"started\""));
}

static void test_an_unready_daemon_says_why(void **state)
{
    (void)state;
    start(&child, OPTIONS("--unready"));
    wait_until_ready(&child);
    assert_int_equal(get(&child, "/readyz", answer, sizeof answer), 503);
    assert_non_null(strstr(answer, "\r\n\r\nit was told so\n"));
    assert_int_equal(get(&child, "/health", answer, sizeof answer), 200);
    kill(child.pid, SIGINT);
    assert_int_equal(wait_for(&child), 0);
}

/* The signal was heard. */
static void wait_until_draining(void)
{
    for (int i = 0; i < 500; i++) {
        if (get(&child, "/readyz", answer, sizeof answer) == 503 && strstr(answer, "draining"))
            return;
        usleep(10000);
    }
    fail_msg("it never drains: %s", answer);
}

static void test_a_drain_waits_for_work(void **state)
{
    (void)state;
    start(&child, OPTIONS("--busy", "1s"));
    wait_until_ready(&child);
    uint64_t before = clock_now_us();
    kill(child.pid, SIGTERM);
    wait_until_draining();
    assert_int_equal(wait_for(&child), 0);
    assert_true(clock_now_us() - before >= 1000000);
    assert_null(strstr(child.text, "timed out"));
    assert_string_equal(child.letters, "ab21BA");
}

static void test_a_drain_has_an_end(void **state)
{
    (void)state;
    start(&child, OPTIONS("--busy", "1h", "--drain-timeout", "100ms"));
    wait_until_ready(&child);
    kill(child.pid, SIGTERM);
    assert_int_equal(wait_for(&child), 0);
    assert_non_null(strstr(child.text, "timed out"));
    assert_string_equal(child.letters, "ab21BA");
}

static void test_a_second_signal_ends_at_once(void **state)
{
    (void)state;
    start(&child, OPTIONS("--busy", "1h", "--drain-timeout", "1h"));
    wait_until_ready(&child);
    kill(child.pid, SIGTERM);
    wait_until_draining(); /* two signals at once are one */
    kill(child.pid, SIGTERM);
    assert_int_equal(wait_for(&child), 1);
    assert_string_equal(child.letters, "ab21");
}

static void test_a_part_that_does_not_start(void **state)
{
    (void)state;
    assert_int_equal(run_to_end(&child, OPTIONS("--fail")), 1);
    assert_string_equal(child.letters, "aA");
    assert_non_null(strstr(child.text, "part=two"));
    assert_non_null(strstr(child.text, "error=\"it was told to fail\""));
}

static void test_a_port_that_is_taken(void **state)
{
    (void)state;
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t len = sizeof at;
    char address[64];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len) | listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    snprintf(address, sizeof address, "127.0.0.1:%u", ntohs(at.sin_port));
    assert_int_equal(run_to_end(&child, OPTIONS("--admin-listen", address)), 1);
    close(fd);
    assert_string_equal(child.letters, "");
    assert_non_null(strstr(child.text, address));
}

static void test_a_daemon_may_end_itself(void **state)
{
    (void)state;
    assert_int_equal(run_to_end(&child, OPTIONS("--end-with", "7")), 7);
    assert_string_equal(child.letters, "abBA");
}

static void test_failpoints_page_is_for_tests(void **state)
{
    (void)state;
    start(&child, OPTIONS("--odd", "3"));
    wait_until_ready(&child);
    assert_int_equal(get(&child, "/failpoints", answer, sizeof answer), 404);
    assert_int_equal(ask(&child, "POST", "/failpoints", "x=drop", answer, sizeof answer), 404);
    kill(child.pid, SIGTERM);
    assert_int_equal(wait_for(&child), 0);
}

static void test_failpoints_page(void **state)
{
    (void)state;
    setenv("BATON_FAILPOINTS", "", 1);
    start(&child, OPTIONS("--odd", "3"));
    unsetenv("BATON_FAILPOINTS");
    wait_until_ready(&child);
#ifdef BATON_FAILPOINTS
    assert_int_equal(ask(&child, "POST", "/failpoints", "x=fly", answer, sizeof answer), 400);
    assert_non_null(strstr(answer, "\"x=fly\" is not"));
    assert_int_equal(ask(&child, "POST", "/failpoints", "x=drop,after=2", answer, sizeof answer), 200);
    assert_int_equal(get(&child, "/failpoints", answer, sizeof answer), 200);
    assert_non_null(strstr(answer, "[{\"name\":\"x\",\"hits\":0,\"acted\":0,\"armed\":\"drop,after=2\"}]"));
    assert_int_equal(ask(&child, "POST", "/failpoints", "", answer, sizeof answer), 200);
    assert_int_equal(ask(&child, "PUT", "/failpoints", "", answer, sizeof answer), 405);
#else
    assert_int_equal(get(&child, "/failpoints", answer, sizeof answer), 404);
#endif
    kill(child.pid, SIGTERM);
    assert_int_equal(wait_for(&child), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_printing_options, end_child),
        cmocka_unit_test_teardown(test_wrong_usage, end_child),
        cmocka_unit_test_teardown(test_pages, end_child),
        cmocka_unit_test_teardown(test_an_unready_daemon_says_why, end_child),
        cmocka_unit_test_teardown(test_a_drain_waits_for_work, end_child),
        cmocka_unit_test_teardown(test_a_drain_has_an_end, end_child),
        cmocka_unit_test_teardown(test_a_second_signal_ends_at_once, end_child),
        cmocka_unit_test_teardown(test_a_part_that_does_not_start, end_child),
        cmocka_unit_test_teardown(test_a_port_that_is_taken, end_child),
        cmocka_unit_test_teardown(test_a_daemon_may_end_itself, end_child),
        cmocka_unit_test_teardown(test_failpoints_page_is_for_tests, end_child),
        cmocka_unit_test_teardown(test_failpoints_page, end_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
