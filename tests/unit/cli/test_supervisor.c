/* The supervisor over a real etcd and daemons that are this program under another
 * name: they say that they are ready and wait, or misbehave as the file that is
 * their model says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/control.h"
#include "cli/leftover.h"
#include "cli/place.h"
#include "cli/supervisor.h"

#define PATIENCE_MS 20000
#define MAX_PIDS    16

/* ---- a daemon ------------------------------------------------------------------- */

static void tell_ready(const char *id)
{
    const char *fd = getenv("BATON_READY_FD");
    if (fd)
        dprintf(atoi(fd), "{\"id\":\"%s\",\"ports\":{\"admin\":1,\"http\":4242}}\n", id);
}

static int daemon_main(int argc, char **argv)
{
    const char *id = "", *model = "";
    char mood[32] = "";
    sigset_t term;
    int number;
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "--id=", 5))
            id = argv[i] + 5;
        if (!strncmp(argv[i], "--model=", 8))
            model = argv[i] + 8;
    }
    int fd = open(model, O_RDONLY);
    if (fd >= 0 && read(fd, mood, sizeof mood - 1) < 0)
        return 9;
    if (!strcmp(mood, "crash") && !strncmp(id, "prefill", 7)) {
        fprintf(stderr, "the reason is this\n");
        return 1;
    }
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    if (strcmp(mood, "mute") != 0 || strncmp(id, "decode", 6) != 0)
        tell_ready(id);
    do
        sigwait(&term, &number);
    while (!strcmp(mood, "stubborn"));
    return 0;
}

/* ---- a cluster ------------------------------------------------------------------- */

static char top[] = "/tmp/baton-super-XXXXXX", bin_dir[64], model_path[64];
static struct state_dir dir;
static struct cluster_options cluster;
static pid_t supervisor, other_supervisor; /* 0: none */
static struct state_dir other_dir;         /* of the other one */
static int report_fd, lock_fd;
static struct error err;

static int make(void **state)
{
    (void)state;
    static const char *const roles[] = { "router", "prefill", "decode" };
    char self[512], link[128];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || !mkdtemp(top))
        return -1;
    self[n] = '\0';
    snprintf(bin_dir, sizeof bin_dir, "%s/bin", top);
    snprintf(model_path, sizeof model_path, "%s/model", top);
    if (make_folders(bin_dir, 0700, &err) != ST_OK)
        return -1;
    for (int i = 0; i < 3; i++) {
        snprintf(link, sizeof link, "%s/baton-%s", bin_dir, roles[i]);
        if (symlink(self, link) != 0)
            return -1;
    }
    return 0;
}

static int sweep(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", top);
    return system(command);
}

/* etcd: "" for one of its own. */
static void start_in(const char *folder, const char *etcd, const char *mood, uint64_t start_timeout_us)
{
    char path[128];
    int fds[2], fd = open(model_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(write(fd, mood, strlen(mood)) == (ssize_t)strlen(mood));
    close(fd);
    snprintf(path, sizeof path, "%s/%s", top, folder);
    assert_int_equal(state_dir_resolve(path, NULL, &dir, &err), ST_OK);
    assert_int_equal(state_dir_create(&dir, &err), ST_OK);
    assert_int_equal(state_dir_lock(&dir, &lock_fd, &err), ST_OK);
    cluster = (struct cluster_options){ .n_models = 1, .transfer = "auto", .port = 0 };
    cluster.replicas[ROLE_ROUTER] = cluster.replicas[ROLE_PREFILL] = cluster.replicas[ROLE_DECODE] = 1;
    snprintf(cluster.etcd, sizeof cluster.etcd, "%s", etcd);
    strcpy(cluster.models[0].name, "m");
    strcpy(cluster.models[0].path, model_path);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    supervisor = fork();
    if (supervisor == 0) {
        char log[STATE_PATH_MAX_BYTES];
        struct supervisor_options options = { &cluster, &dir, bin_dir, start_timeout_us, fds[1] };
        close(fds[0]);
        if (!freopen(state_dir_path(&dir, "logs/supervisor.log", log), "a", stderr))
            _exit(9);
        _exit(supervisor_run(&options));
    }
    close(fds[1]);
    close(lock_fd);
    report_fd = fds[0];
}

static void start(const char *mood, uint64_t start_timeout_us)
{
    start_in("state", "", mood, start_timeout_us);
}

/* The next record of this kind, "" when the supervisor closes first. */
static const char *wait_for(enum supervisor_report kind)
{
    static char text[REPORT_MAX_BYTES];
    size_t n = 0;
    struct pollfd poller = { .fd = report_fd, .events = POLLIN };
    while (poll(&poller, 1, PATIENCE_MS) == 1 && n < sizeof text - 1 && recv(report_fd, text + n, 1, 0) == 1) {
        if (text[n] != '\0') {
            n++;
            continue;
        }
        if (text[0] == (char)kind)
            return text + 1;
        n = 0;
    }
    return "";
}

static void get_ready(void)
{
    assert_string_equal(wait_for(REPORT_STARTED), "http://127.0.0.1:4242");
    assert_int_equal(send(report_fd, "r", 1, 0), 1);
    close(report_fd);
}

static json_t *look(void)
{
    json_t *state = NULL;
    assert_int_equal(place_status(&dir, &state, &err), ST_OK);
    return state;
}

static json_t *member_of(json_t *state, const char *id)
{
    size_t i;
    json_t *member;
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        if (!strcmp(json_text(member, "id"), id))
            return member;
    }
    return NULL;
}

static pid_t pid_of(const char *id)
{
    json_t *state = look();
    pid_t pid = (pid_t)json_number(member_of(state, id), "pid");
    json_decref(state);
    return pid;
}

/* Until the member is in this state ("" : not there) and the cluster has n members. */
static void wait_until(const char *id, const char *wanted, size_t n)
{
    for (int waited = 0; waited < PATIENCE_MS; waited += 20) {
        json_t *state = look();
        bool as_wanted = !strcmp(json_text(member_of(state, id), "state"), wanted) &&
                         json_array_size(json_object_get(state, "workers")) == n;
        json_decref(state);
        if (as_wanted)
            return;
        usleep(20000);
    }
    fail_msg("%s is never \"%s\"", id, wanted);
}

struct known {
    pid_t pid;
    uint64_t start;
};

/* All processes of the cluster, etcd among them. */
static size_t all_processes(struct known *out)
{
    size_t i, n = 0;
    json_t *member, *state = look();
    json_array_foreach(json_object_get(state, "workers"), i, member)
    {
        out[n].pid = (pid_t)json_number(member, "pid");
        n++;
    }
    out[n++].pid = (pid_t)json_number(json_object_get(state, "etcd"), "pid");
    for (i = 0; i < n; i++) {
        out[i].start = process_start_ticks(out[i].pid);
        assert_true(process_is_alive(out[i].pid, out[i].start));
    }
    json_decref(state);
    return n;
}

static int end_code(void)
{
    int wait_status = 0;
    for (int waited = 0; waitpid(supervisor, &wait_status, WNOHANG) == 0; waited += 20) {
        if (waited > PATIENCE_MS) {
            kill(supervisor, SIGKILL);
            fail_msg("the supervisor does not end");
        }
        usleep(20000);
    }
    supervisor = 0;
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -WTERMSIG(wait_status);
}

static void end_one(pid_t *pid, const struct state_dir *of)
{
    if (*pid > 0) {
        kill(*pid, SIGKILL);
        waitpid(*pid, NULL, 0);
        leftovers_end(of, 1000);
    }
    *pid = 0;
}

/* After a test that failed half-way. */
static int end_all(void **state)
{
    (void)state;
    end_one(&supervisor, &dir);
    end_one(&other_supervisor, &other_dir);
    return 0;
}

static void nothing_is_left(const struct known *processes, size_t n)
{
    char path[STATE_PATH_MAX_BYTES];
    for (size_t i = 0; i < n; i++)
        assert_false(process_is_alive(processes[i].pid, processes[i].start));
    assert_int_not_equal(access(state_dir_path(&dir, "state.json", path), F_OK), 0);
    assert_int_not_equal(access(state_dir_path(&dir, "control.sock", path), F_OK), 0);
}

static status call(const char *request)
{
    return control_call(&dir, request, NULL, &err);
}

/* ---- tests -------------------------------------------------------------------------- */

static void restarts_scales_drains_and_stops(void **state)
{
    (void)state;
    struct known processes[MAX_PIDS];
    start("", 20000000);
    get_ready();
    wait_until("decode-0", "ready", 3);
    pid_t killed = pid_of("prefill-0");
    kill(killed, SIGKILL);
    for (int i = 0; i < 500 && (pid_of("prefill-0") == killed || pid_of("prefill-0") == 0); i++)
        usleep(20000);
    wait_until("prefill-0", "ready", 3);
    json_t *now = look();
    assert_int_equal(json_number(member_of(now, "prefill-0"), "restarts"), 1);
    assert_string_equal(json_text(now, "state"), "ready");
    json_decref(now);
    assert_int_equal(call("{\"op\":\"scale\",\"role\":\"decode\",\"n\":3}"), ST_OK);
    wait_until("decode-2", "ready", 5);
    assert_int_equal(call("{\"op\":\"scale\",\"role\":\"decode\",\"n\":1}"), ST_OK);
    wait_until("decode-0", "ready", 3);
    assert_int_equal(call("{\"op\":\"drain\",\"id\":\"prefill-0\"}"), ST_OK);
    wait_until("prefill-0", "", 2);
    size_t n = all_processes(processes);
    assert_int_equal(call("{\"op\":\"down\",\"timeout_s\":10}"), ST_OK);
    assert_int_equal(end_code(), 0);
    nothing_is_left(processes, n);
}

static void refuses_what_makes_no_sense(void **state)
{
    (void)state;
    start("", 20000000);
    get_ready();
    wait_until("decode-0", "ready", 3);
    static const char *const requests[] = {
        "{\"op\":\"scale\",\"role\":\"router\",\"n\":0}",
        "{\"op\":\"scale\",\"role\":\"etcd\",\"n\":2}",
        "{\"op\":\"scale\",\"role\":\"decode\",\"n\":65}",
        "{\"op\":\"scale\",\"role\":\"decode\",\"n\":\"2\"}",
        "{\"op\":\"scale\",\"role\":\"cook\",\"n\":1}",
        "{\"op\":\"drain\",\"id\":\"decode-7\"}",
        "{\"op\":\"drain\",\"id\":\"router-0\"}",
        "{\"op\":\"drain\",\"id\":\"etcd\"}",
        "{\"op\":\"dance\"}",
        "{}",
    };
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++)
        assert_int_equal(call(requests[i]), ST_INVALID);
    wait_until("decode-0", "ready", 3);
    kill(supervisor, SIGTERM);
    assert_int_equal(end_code(), 0);
}

static void a_failed_start_names_the_process_and_its_log(void **state)
{
    (void)state;
    start("crash", 20000000);
    const char *why = wait_for(REPORT_FAILED);
    assert_non_null(strstr(why, "prefill-0 exited with code 1"));
    assert_non_null(strstr(why, "the reason is this"));
    assert_int_equal(end_code(), 1);
    nothing_is_left(NULL, 0);
    close(report_fd);
}

static void a_start_has_a_deadline(void **state)
{
    (void)state;
    start("mute", 6000000);
    assert_non_null(strstr(wait_for(REPORT_FAILED), "decode-0 did not get ready"));
    assert_int_equal(end_code(), 1);
    close(report_fd);
}

static void ends_when_its_starter_does(void **state)
{
    (void)state;
    start("", 20000000);
    assert_true(wait_for(REPORT_STARTED)[0] != '\0');
    close(report_fd); /* without having said that the cluster answers */
    assert_int_equal(end_code(), 1);
    nothing_is_left(NULL, 0);
}

static void a_frozen_process_does_not_hold_up_the_end(void **state)
{
    (void)state;
    struct known processes[MAX_PIDS];
    start("", 20000000);
    get_ready();
    wait_until("decode-0", "ready", 3);
    size_t n = all_processes(processes);
    kill(pid_of("decode-0"), SIGSTOP);
    assert_int_equal(call("{\"op\":\"down\",\"timeout_s\":300}"), ST_OK);
    assert_int_equal(end_code(), 0);
    nothing_is_left(processes, n);
}

static void a_stubborn_process_is_killed(void **state)
{
    (void)state;
    struct known processes[MAX_PIDS];
    start("stubborn", 20000000);
    get_ready();
    wait_until("decode-0", "ready", 3);
    size_t n = all_processes(processes);
    assert_int_equal(call("{\"op\":\"down\",\"timeout_s\":1}"), ST_OK);
    assert_int_equal(end_code(), 0);
    nothing_is_left(processes, n);
}

static void a_name_in_use_is_refused(void **state)
{
    (void)state;
    char etcd[CONFIG_TEXT_BYTES];
    start("", 20000000);
    get_ready();
    wait_until("decode-0", "ready", 3);
    json_t *now = look();
    snprintf(etcd, sizeof etcd, "%s", json_text(now, "etcd_url"));
    json_decref(now);
    other_dir = dir;
    other_supervisor = supervisor;
    start_in("other/state", etcd, "", 20000000); /* its name is the folder's last part as well */
    const char *why = wait_for(REPORT_FAILED);
    assert_non_null(strstr(why, "the cluster name \"state\" is taken"));
    assert_non_null(strstr(why, other_dir.path));
    assert_non_null(strstr(why, "--name"));
    assert_int_equal(end_code(), 1);
    nothing_is_left(NULL, 0);
    close(report_fd);
    start_in("other/name", etcd, "", 20000000);
    get_ready();
    assert_int_equal(call("{\"op\":\"down\",\"timeout_s\":10}"), ST_OK);
    assert_int_equal(end_code(), 0);
    dir = other_dir;
    supervisor = other_supervisor;
    other_supervisor = 0;
    wait_until("decode-0", "ready", 3);
    assert_int_equal(call("{\"op\":\"down\",\"timeout_s\":10}"), ST_OK);
    assert_int_equal(end_code(), 0);
}

static void children_of_a_killed_supervisor_end(void **state)
{
    (void)state;
    struct known processes[MAX_PIDS];
    start("", 20000000);
    get_ready();
    wait_until("decode-0", "ready", 3);
    size_t n = all_processes(processes);
    char path[STATE_PATH_MAX_BYTES];
    for (int i = 0; i < 100 && access(state_dir_path(&dir, "state.json", path), F_OK) != 0; i++)
        usleep(20000);
    kill(processes[1].pid, SIGSTOP); /* one of them cannot hear it */
    kill(supervisor, SIGKILL);
    assert_int_equal(end_code(), -SIGKILL);
    assert_int_equal(state_dir_lock(&dir, &lock_fd, &err), ST_OK);
    leftovers_end(&dir, 10000);
    close(lock_fd);
    for (size_t i = 0; i < n; i++)
        assert_false(process_is_alive(processes[i].pid, processes[i].start));
    assert_int_not_equal(access(path, F_OK), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(restarts_scales_drains_and_stops, end_all),
        cmocka_unit_test_teardown(refuses_what_makes_no_sense, end_all),
        cmocka_unit_test_teardown(a_failed_start_names_the_process_and_its_log, end_all),
        cmocka_unit_test_teardown(a_start_has_a_deadline, end_all),
        cmocka_unit_test_teardown(ends_when_its_starter_does, end_all),
        cmocka_unit_test_teardown(a_frozen_process_does_not_hold_up_the_end, end_all),
        cmocka_unit_test_teardown(a_stubborn_process_is_killed, end_all),
        cmocka_unit_test_teardown(a_name_in_use_is_refused, end_all),
        cmocka_unit_test_teardown(children_of_a_killed_supervisor_end, end_all),
    };
    const char *slash = strrchr(argv[0], '/');
    if (!strncmp(slash ? slash + 1 : argv[0], "baton-", 6))
        return daemon_main(argc, argv);
    return cmocka_run_group_tests(tests, make, sweep);
}
