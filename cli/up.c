/* baton up - starts a local cluster, or says that it runs. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/command.h"
#include "cli/control.h"
#include "cli/http_client.h"
#include "cli/launch.h"
#include "cli/leftover.h"
#include "cli/model_store.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/supervisor.h"
#include "common/clock.h"

#define POLL_MS             100
#define READYZ_TIMEOUT_MS   1000
#define LEFTOVER_TIMEOUT_MS 10000u
#define END_TIMEOUT_S       (STOP_TIMEOUT_S + 15) /* for a supervisor whose start failed */
#define PREFLIGHT_MAX_BYTES 4096

struct up {
    const struct command *self; /* borrowed */
    struct cluster_options cluster;
    struct place place;
    struct state_dir dir;
    char bin_dir[PATH_MAX];
    bool foreground;
    uint64_t deadline_us, start_timeout_us;
    pid_t supervisor;
    int report_fd;
    char received[2 * REPORT_MAX_BYTES];
    size_t n_received;
    char url[64];
    struct progress progress;
};

/* ---- options ------------------------------------------------------------------ */

static status default_model(struct cluster_options *o, struct error *err)
{
    const struct known_model *model = &known_models[0];
    if (known_model_is_present(model))
        return cluster_options_add_models(o, model->name, err);
    fprintf(stderr, "no --model given and %s is not here (baton model fetch %s): starting the built-in test model\n",
            model->name, model->name);
    return cluster_options_add_models(o, "baton-tiny", err);
}

static status find_bin_dir(struct up *up, struct error *err)
{
    const char *given = getenv("BATON_BIN_DIR");
    if (!given || !given[0])
        return executable_folder(up->bin_dir, sizeof up->bin_dir, err);
    if (strlen(given) >= sizeof up->bin_dir)
        return error_set(err, ST_LIMIT, "BATON_BIN_DIR is too long");
    memcpy(up->bin_dir, given, strlen(given) + 1);
    return ST_OK;
}

static status take_lists(struct up *up, const struct option_list *models, const struct option_list *settings,
                         struct error *err)
{
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < models->n; i++)
        st = cluster_options_add_models(&up->cluster, models->items[i], err);
    if (st == ST_OK && models->n == 0)
        st = default_model(&up->cluster, err);
    for (size_t i = 0; st == ST_OK && i < settings->n; i++)
        st = cluster_options_add_setting(&up->cluster, settings->items[i], err);
    return st;
}

/* True: go on. */
static bool read_options(struct up *up, int argc, char **argv, int *code)
{
    int64_t router = 1, prefill = 1, decode = 1, kvbm = 1, port = 8000, timeout = 180;
    const char *engine = "cpu", *transfer = "auto", *kv_disk = "", *etcd = "";
    struct option_list models = { .n = 0 }, settings = { .n = 0 };
    struct error err;
    status st;
    const struct option_row rows[] = {
        { "model", 0, OPTION_LIST, &models, "[NAME=]PATH|NAME",
          "Model to serve; may be repeated, or a comma list (smollm2 where it is fetched, else baton-tiny)", 0, 0 },
        { "router", 0, OPTION_INT, &router, "N", "Routers, at --port and the ports behind it (1)", 1,
          CLUSTER_MAX_REPLICAS },
        { "prefill", 0, OPTION_INT, &prefill, "N", "Prefill workers of each model (1)", 0, CLUSTER_MAX_REPLICAS },
        { "decode", 0, OPTION_INT, &decode, "N", "Decode workers of each model (1)", 1, CLUSTER_MAX_REPLICAS },
        { "kvbm", 0, OPTION_INT, &kvbm, "0|1", "KV block manager, which keeps blocks outside the workers (1)", 0, 1 },
        { "kv-disk", 0, OPTION_TEXT, &kv_disk, "PATH", "Folder in which it keeps blocks on disk, over restarts too", 0,
          0 },
        { "engine", 0, OPTION_WORD, &engine, "cpu", "What computes (cpu)", 0, 0 },
        { "transfer", 0, OPTION_WORD, &transfer, "auto|shm|tcp|rdma", "How KV moves (auto)", 0, 0 },
        { "port", 0, OPTION_INT, &port, "PORT", "Port of the API on 127.0.0.1; 0: any (8000)", 0, 65535 },
        PLACE_ROWS(&up->place),
        { "etcd", 0, OPTION_TEXT, &etcd, "URL", "Use this etcd instead of an own one", 0, 0 },
        { "set", 0, OPTION_LIST, &settings, "ROLE.KEY=VALUE",
          "An option of router, prefill, decode, worker, kvbm or all; may be repeated", 0, 0 },
        { "timeout", 0, OPTION_INT, &timeout, "SECONDS", "Longest wait for the cluster to answer (180)", 1, 86400 },
        { "foreground", 0, OPTION_FLAG, &up->foreground, "", "Stay until SIGINT or SIGTERM, then stop the cluster", 0,
          0 },
    };
    if (!command_options(up->self, argc, argv, rows, COUNT_OF(rows), NULL, code))
        return false;
    *code = EXIT_USAGE;
    if (port > 0 && port + router - 1 > 65535) {
        command_misuse(up->self, "--port %d leaves no room for %d routers", (int)port, (int)router);
    } else if (strlen(etcd) >= sizeof up->cluster.etcd) {
        command_misuse(up->self, "--etcd is longer than %zu bytes", sizeof up->cluster.etcd - 1);
    } else if (kv_disk[0] && !kvbm) {
        command_misuse(up->self, "--kv-disk is of no use with --kvbm 0");
    } else if (kv_disk[0] && cluster_options_set_disk(&up->cluster, kv_disk, &err) != ST_OK) {
        command_misuse(up->self, "%s", err.text);
    } else if ((st = place_find(&up->place, &up->dir, &err)) != ST_OK ||
               (st = take_lists(up, &models, &settings, &err)) != ST_OK || (st = find_bin_dir(up, &err)) != ST_OK) {
        *code =
            st == ST_NOT_FOUND ? command_failed(up->self, "%s", err.text) : command_misuse(up->self, "%s", err.text);
    } else {
        struct cluster_options *o = &up->cluster;
        o->replicas[ROLE_ROUTER] = (uint32_t)router;
        o->replicas[ROLE_PREFILL] = (uint32_t)prefill;
        o->replicas[ROLE_DECODE] = (uint32_t)decode;
        o->replicas[ROLE_KVBM] = (uint32_t)kvbm;
        o->port = (uint16_t)port;
        snprintf(o->transfer, sizeof o->transfer, "%s", transfer);
        snprintf(o->etcd, sizeof o->etcd, "%s", etcd);
        up->start_timeout_us = (uint64_t)timeout * 1000000;
        up->deadline_us = clock_now_us() + up->start_timeout_us;
        *code = EXIT_DONE;
    }
    return *code == EXIT_DONE;
}

/* ---- are the daemons there, and do they take these options? ------------------------ */

static int check_role(struct up *up, enum role role)
{
    static struct launch launch;
    struct launch_plan plan = { .options = &up->cluster,
                                .bin_dir = up->bin_dir,
                                .cluster = up->dir.cluster,
                                .etcd_url = "http://127.0.0.1:1",
                                .etcd_data = "",
                                .weights_socket = "",
                                .cluster_key = "",
                                .salt_key = "" };
    struct member m = { .role = role };
    char output[PREFLIGHT_MAX_BYTES];
    struct error err;
    int code;
    snprintf(m.id, sizeof m.id, "%s-0", role_name(role));
    if (launch_arguments(&plan, &m, &launch) != ST_OK || launch.n == LAUNCH_MAX_ARGUMENTS)
        return command_failed(up->self, "the options do not fit one command line");
    launch.argv[launch.n] = (char *)"--print-config";
    launch.argv[launch.n + 1] = NULL;
    if (access(launch.argv[0], X_OK) != 0)
        return command_failed(up->self, "%s: %s (build it, or set BATON_BIN_DIR)", launch.argv[0], strerror(errno));
    if (child_run(launch.argv, output, sizeof output, &code, &err) != ST_OK)
        return command_failed(up->self, "%s", err.text);
    if (code != 0)
        fputs(output, stderr);
    return code;
}

static int check_daemons(struct up *up)
{
    int code = EXIT_DONE;
    for (unsigned role = ROLE_ETCD + 1; role < ROLE_COUNT && code == EXIT_DONE; role++)
        if (up->cluster.replicas[role] > 0)
            code = check_role(up, (enum role)role);
    return code == EXIT_DONE || code == EXIT_USAGE ? code : EXIT_FAILED;
}

/* ---- are the ports free? -------------------------------------------------------------- */

static status check_port(uint16_t port, struct error *err)
{
    const struct sockaddr_in address = { .sin_family = AF_INET,
                                         .sin_port = htons(port),
                                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_set(err, ST_IO, "cannot make a socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int rc = bind(fd, (const struct sockaddr *)&address, sizeof address), cause = errno;
    close(fd);
    return rc == 0 ? ST_OK : error_set(err, ST_IO, "--port: 127.0.0.1:%u: %s", port, strerror(cause));
}

/* Where the routers will listen: who only finds that out has all of the cluster to stop again. */
static status check_ports(const struct cluster_options *o, struct error *err)
{
    status st = ST_OK;
    if (!o->port || cluster_options_value(o, ROLE_ROUTER, "http_listen"))
        return ST_OK;
    for (uint32_t i = 0; st == ST_OK && i < o->replicas[ROLE_ROUTER]; i++)
        st = check_port((uint16_t)(o->port + i), err);
    return st;
}

/* ---- a cluster that runs already ----------------------------------------------------- */

static int say_ready(const struct up *up)
{
    printf("ready %s\n", up->url);
    fflush(stdout);
    return EXIT_DONE;
}

/* -1: ask again. */
static int look_at_running(struct up *up)
{
    struct error err;
    json_t *state;
    status st = place_status(&up->dir, &state, &err);
    if (st == ST_NOT_FOUND)
        return -1; /* it has the lock and does not listen yet */
    if (st != ST_OK)
        return command_failed(up->self, "%s", err.text);
    int code = -1;
    if (!strcmp(json_text(state, "state"), "stopping")) {
        code = command_failed(up->self, "the cluster in %s is being stopped; try again", up->dir.path);
    } else if (strcmp(json_text(state, "cluster"), up->dir.cluster) != 0 ||
               !cluster_options_match(&up->cluster, json_object_get(state, "options"))) {
        const char *url = json_text(state, "url"); /* "" until its router runs */
        code = command_failed(up->self,
                              "a cluster with other options runs in %s%s%s: stop it with `baton down --state-dir %s`, "
                              "or give another --state-dir and --port",
                              up->dir.path, url[0] ? ", at " : "", url, up->dir.path);
    } else if (!strcmp(json_text(state, "state"), "ready")) {
        fprintf(stderr, "the cluster in %s runs already\n", up->dir.path);
        snprintf(up->url, sizeof up->url, "%s", json_text(state, "url"));
        code = say_ready(up);
    }
    json_decref(state);
    return code;
}

static int join_running(struct up *up)
{
    progress_step(&up->progress, "waiting for the cluster that another `baton up` starts");
    while (clock_now_us() < up->deadline_us) {
        int code = look_at_running(up);
        if (code >= 0)
            return code;
        sleep_ms(POLL_MS);
        progress_tick(&up->progress);
    }
    return command_failed(up->self, "the cluster in %s is held by another supervisor that does not get ready",
                          up->dir.path);
}

/* ---- the supervisor's process ------------------------------------------------------------ */

static _Noreturn void become_supervisor(struct up *up, int report_fd, pid_t parent)
{
    char path[STATE_PATH_MAX_BYTES];
    struct supervisor_options options = { &up->cluster, &up->dir, up->bin_dir, up->start_timeout_us, report_fd };
    setsid();
    if (up->foreground) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != parent)
            _exit(EXIT_FAILED);
    }
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log =
        open(state_dir_path(&up->dir, "logs/supervisor.log", path), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (null < 0 || log < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
        dup2(log, STDERR_FILENO) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        _exit(EXIT_FAILED);
    }
    /* A folder that is unmounted or removed must not be held by a process that runs for weeks. */
    if (chdir("/") != 0)
        _exit(EXIT_FAILED);
    _exit(supervisor_run(&options));
}

static status start_supervisor(struct up *up, int lock_fd, struct error *err)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        return error_set(err, ST_IO, "cannot make a socket pair: %s", strerror(errno));
    pid_t parent = getpid();
    up->supervisor = fork();
    if (up->supervisor == 0) {
        close(fds[0]);
        become_supervisor(up, fds[1], parent); /* keeps lock_fd */
    }
    close(fds[1]);
    close(lock_fd);
    up->report_fd = fds[0];
    return up->supervisor > 0 ? ST_OK : error_set(err, ST_IO, "cannot start the supervisor: %s", strerror(errno));
}

/* ---- following the start -------------------------------------------------------------------- */

/* One record. True when it was the last word. */
static bool take_record(struct up *up, const char *record, int *code)
{
    if (record[0] == REPORT_PROGRESS)
        progress_step(&up->progress, record + 1);
    if (record[0] == REPORT_STARTED) {
        snprintf(up->url, sizeof up->url, "%.63s", record + 1);
        progress_step(&up->progress, "waiting for the router to find its workers");
    }
    if (record[0] == REPORT_FAILED) {
        *code = command_failed(up->self, "%s", record + 1);
        return true;
    }
    return false;
}

static bool take_records(struct up *up, int *code)
{
    char *end;
    bool last = false;
    while (!last && (end = memchr(up->received, '\0', up->n_received))) {
        size_t len = (size_t)(end - up->received) + 1;
        last = take_record(up, up->received, code);
        up->n_received -= len;
        memmove(up->received, up->received + len, up->n_received);
    }
    return last;
}

static bool listen_to_supervisor(struct up *up, int *code)
{
    struct pollfd poller = { .fd = up->report_fd, .events = POLLIN };
    if (poll(&poller, 1, POLL_MS) <= 0)
        return false;
    ssize_t n = recv(up->report_fd, up->received + up->n_received, sizeof up->received - up->n_received, 0);
    if (n < 0 && errno == EINTR)
        return false;
    if (n <= 0) {
        *code = command_failed(up->self, "the supervisor ended; see %s/logs/supervisor.log", up->dir.path);
        return true;
    }
    up->n_received += (size_t)n;
    return take_records(up, code);
}

static bool answers_readyz(const struct up *up, struct text_buffer *why)
{
    char url[96];
    long status_code = 0;
    struct error err;
    snprintf(url, sizeof url, "%s/readyz", up->url);
    text_buffer_clear(why);
    if (http_fetch(url, NULL, READYZ_TIMEOUT_MS, &status_code, why, &err) != ST_OK) {
        text_buffer_clear(why);
        text_buffer_add(why, err.text);
    }
    return status_code == 200;
}

static int give_up(struct up *up, const struct text_buffer *why)
{
    if (up->url[0])
        return command_failed(up->self, "the cluster started but %s/readyz does not answer: %s; logs are in %s/logs",
                              up->url, text_buffer_text(why), up->dir.path);
    return command_failed(up->self, "not ready within %u s: %s; logs are in %s/logs",
                          (unsigned)(up->start_timeout_us / 1000000), up->progress.step, up->dir.path);
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static int follow_start(struct up *up)
{
    int code = EXIT_FAILED;
    struct text_buffer why;
    text_buffer_init(&why, 4096);
    progress_step(&up->progress, "starting");
    for (;;) {
        if (listen_to_supervisor(up, &code))
            break;
        if (interrupted) {
            command_failed(up->self, "interrupted; what was started is stopped");
            code = EXIT_INTERRUPTED;
            break;
        }
        if (up->url[0] && answers_readyz(up, &why)) {
            code = send(up->report_fd, "r", 1, MSG_NOSIGNAL) == 1 ? EXIT_DONE : EXIT_FAILED;
            break;
        }
        if (clock_now_us() > up->deadline_us) {
            code = give_up(up, &why);
            break;
        }
        progress_tick(&up->progress);
    }
    text_buffer_free(&why);
    close(up->report_fd);
    return code;
}

/* A failed start leaves nothing behind: the supervisor ends its processes and itself. */
static void wait_for_end(struct up *up)
{
    uint64_t until = clock_now_us() + (uint64_t)END_TIMEOUT_S * 1000000;
    progress_step(&up->progress, "stopping what was started");
    while (waitpid(up->supervisor, NULL, WNOHANG) == 0) {
        if (clock_now_us() > until)
            kill(up->supervisor, SIGKILL);
        sleep_ms(POLL_MS);
        progress_tick(&up->progress);
    }
}

static volatile sig_atomic_t foreground_supervisor;

static void pass_on(int number)
{
    (void)number;
    kill((pid_t)foreground_supervisor, SIGTERM);
}

static int stay(struct up *up)
{
    int wait_status = 0;
    while (waitpid(up->supervisor, &wait_status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0 ? EXIT_DONE : EXIT_FAILED;
}

static int start(struct up *up, int lock_fd)
{
    struct error err;
    const struct sigaction end = { .sa_handler = on_interrupt };
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    if (start_supervisor(up, lock_fd, &err) != ST_OK)
        return command_failed(up->self, "%s", err.text);
    if (up->foreground) {
        struct sigaction act = { .sa_handler = pass_on };
        foreground_supervisor = up->supervisor;
        sigaction(SIGINT, &act, NULL);
        sigaction(SIGTERM, &act, NULL);
    }
    int code = follow_start(up);
    if (code != EXIT_DONE) {
        wait_for_end(up);
        return code;
    }
    say_ready(up);
    return up->foreground ? stay(up) : EXIT_DONE;
}

static int run(const struct command *self, int argc, char **argv)
{
    static struct up up; /* large */
    struct error err;
    int code, lock_fd;
    up.self = self;
    if (!read_options(&up, argc, argv, &code) || (code = check_daemons(&up)) != EXIT_DONE)
        return code;
    if (state_dir_create(&up.dir, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    status st = state_dir_lock(&up.dir, &lock_fd, &err);
    if (st == ST_AGAIN)
        return join_running(&up);
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    leftovers_end(&up.dir, LEFTOVER_TIMEOUT_MS);
    if (check_ports(&up.cluster, &err) != ST_OK) {
        close(lock_fd);
        return command_failed(self, "%s", err.text);
    }
    return start(&up, lock_fd);
}

const struct command command_up = { "up", "", "Start a local cluster", run };
