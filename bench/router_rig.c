#include "bench/router_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"

#define CLUSTER     "bench"
#define START_US    20000000u
#define GRACE_US    3000000u
#define LEASE_US    60000000u
#define MAX_CONTEXT 131072u

/* ---- the loop ----------------------------------------------------------------- */

static void stop(struct router_rig *rig, status why)
{
    if (rig->stopping)
        return;
    rig->stopping = true;
    rig->ended = why;
    loop_stop(rig->loop);
}

void router_rig_done(struct router_rig *rig)
{
    stop(rig, ST_OK);
}

static void on_limit(void *arg)
{
    stop(arg, ST_TIMEOUT);
}

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct router_rig *rig = arg;
    (void)what;
    if (number != SIGCHLD)
        stop(rig, ST_CANCELLED);
    else if (companion_has_ended(&rig->etcd_child) || companion_has_ended(&rig->router_child))
        stop(rig, ST_CLOSED);
}

status router_rig_run(struct router_rig *rig, uint64_t limit_us, struct error *err)
{
    struct timers *timers = loop_timers(rig->loop);
    rig->stopping = false;
    timer_set(timers, &rig->limit, clock_now_us() + limit_us, on_limit, rig);
    loop_run(rig->loop);
    timer_cancel(timers, &rig->limit);
    if (rig->ended == ST_TIMEOUT)
        return error_set(err, ST_TIMEOUT, "nothing came of it within %llu s", (unsigned long long)limit_us / 1000000);
    if (rig->ended == ST_CANCELLED)
        return error_set(err, ST_CANCELLED, "stopped by a signal");
    if (rig->ended == ST_CLOSED)
        companion_describe_end(rig->etcd_child.pid ? &rig->router_child : &rig->etcd_child, err);
    return rig->ended;
}

static status open_loop(struct router_rig *rig, struct error *err)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP, SIGCHLD };
    if (loop_create(&rig->loop) != ST_OK)
        return error_set(err, ST_IO, "no event loop");
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        rig->signals[i] = evsignal_new(loop_base(rig->loop), numbers[i], on_signal, rig);
        if (!rig->signals[i] || event_add(rig->signals[i], NULL) != 0)
            return error_set(err, ST_IO, "no signal handler");
    }
    return ST_OK;
}

/* ---- where things run ----------------------------------------------------------- */

/* The router gets the second of the processors that we may use, everything else the first. */
static status choose_processors(struct router_rig *rig, struct error *err)
{
    cpu_set_t set;
    int found[2], n = 0;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return error_set(err, ST_IO, "sched_getaffinity: %s", strerror(errno));
    for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
        if (CPU_ISSET((size_t)i, &set))
            found[n++] = i;
    rig->allowed = set;
    rig->client_processor = found[0];
    rig->router_processor = found[n - 1];
    CPU_ZERO(&set);
    CPU_SET((size_t)rig->client_processor, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        return error_set(err, ST_IO, "sched_setaffinity: %s", strerror(errno));
    return ST_OK;
}

static status make_dir(struct router_rig *rig, struct error *err)
{
    const char *base = getenv("TMPDIR");
    (void)snprintf(rig->dir, sizeof rig->dir, "%.200s/baton-bench-XXXXXX", base && base[0] ? base : "/tmp");
    if (mkdtemp(rig->dir))
        return ST_OK;
    status st = error_set(err, ST_IO, "%s: %s", rig->dir, strerror(errno));
    rig->dir[0] = '\0';
    return st;
}

/* Two ports at once, so that they differ. Others may take them before etcd does; etcd says so then. */
static bool free_ports(uint16_t out[2])
{
    int fds[2];
    bool good = true;
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
        socklen_t len = sizeof address;
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        good = good && fds[i] >= 0 && bind(fds[i], (struct sockaddr *)&address, len) == 0 &&
               getsockname(fds[i], (struct sockaddr *)&address, &len) == 0;
        out[i] = ntohs(address.sin_port);
    }
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return good;
}

/* ---- processes ------------------------------------------------------------------ */

static status start_etcd(struct router_rig *rig, char url[64], struct error *err)
{
    char data[300], peer[64], members[80], log[300];
    uint16_t ports[2];
    if (!free_ports(ports))
        return error_set(err, ST_IO, "no free port for etcd");
    (void)snprintf(url, 64, "http://127.0.0.1:%u", ports[0]);
    (void)snprintf(peer, sizeof peer, "http://127.0.0.1:%u", ports[1]);
    (void)snprintf(members, sizeof members, "default=%s", peer);
    (void)snprintf(data, sizeof data, "%s/etcd", rig->dir);
    (void)snprintf(log, sizeof log, "%s/etcd.log", rig->dir);
    char *argv[] = { "etcd",  "--data-dir",
                     data,    "--listen-client-urls",
                     url,     "--advertise-client-urls",
                     url,     "--listen-peer-urls",
                     peer,    "--initial-advertise-peer-urls",
                     peer,    "--initial-cluster",
                     members, NULL };
    return companion_start(&rig->etcd_child, argv, log, rig->client_processor, false, err);
}

static void read_ports(struct router_rig *rig)
{
    json_t *line = json_loadb(rig->ready_line, rig->ready_len, 0, NULL);
    json_t *port = json_object_get(json_object_get(line, "ports"), "http");
    rig->port = (uint16_t)json_integer_value(port);
    json_decref(line);
}

static void check_ready(struct router_rig *rig)
{
    if (rig->port && rig->n_connected >= rig->options.n_workers)
        router_rig_done(rig);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
    struct router_rig *rig = arg;
    (void)what;
    ssize_t n = read(fd, rig->ready_line + rig->ready_len, sizeof rig->ready_line - rig->ready_len);
    if (n > 0) {
        rig->ready_len += (size_t)n;
        return;
    }
    event_free(rig->ready); /* all of the line is here, or the router has ended: SIGCHLD says that */
    rig->ready = NULL;
    read_ports(rig);
    check_ready(rig);
}

static status start_router(struct router_rig *rig, const char *etcd_url, struct error *err)
{
    char models[1100], log[300], etcd[64], busy_poll[64];
    (void)snprintf(models, sizeof models, RIG_MODEL "=%.1024s", rig->options.model);
    (void)snprintf(etcd, sizeof etcd, "%s", etcd_url);
    (void)snprintf(busy_poll, sizeof busy_poll, "%s", rig->options.busy_poll);
    (void)snprintf(log, sizeof log, "%s/router.log", rig->dir);
    char *argv[] = { (char *)rig->options.router,
                     "--cluster",
                     CLUSTER,
                     "--id=router",
                     "--http-listen=127.0.0.1:0",
                     "--log-level=warn",
                     "--busy-poll",
                     busy_poll,
                     "--etcd",
                     etcd,
                     "--models",
                     models,
                     NULL };
    status st = companion_start(&rig->router_child, argv, log, rig->router_processor, true, err);
    if (st != ST_OK)
        return st;
    rig->ready = event_new(loop_base(rig->loop), rig->router_child.ready_fd, EV_READ | EV_PERSIST, on_ready, rig);
    if (!rig->ready || event_add(rig->ready, NULL) != 0)
        return error_set(err, ST_NO_MEMORY, "no memory for an event");
    return ST_OK;
}

static void on_router(void *ctx)
{
    struct router_rig *rig = ctx;
    rig->n_connected++;
    check_ready(rig);
}

static status start_workers(struct router_rig *rig, const char *etcd_url, struct error *err)
{
    struct etcd_options options = { rig->loop, etcd_url, 2000000, LEASE_US, 50000, 200000 };
    status st = etcd_create(&options, &rig->etcd, err);
    for (uint32_t i = 0; i < rig->options.n_workers && st == ST_OK; i++) {
        struct mock_worker_options worker = rig->options.worker;
        char id[32];
        (void)snprintf(id, sizeof id, "mock-%u", i);
        worker.loop = rig->loop;
        worker.etcd = rig->etcd;
        worker.id = id;
        worker.cluster = CLUSTER;
        worker.model = RIG_MODEL;
        worker.max_model_len = MAX_CONTEXT;
        worker.on_router = on_router;
        worker.on_router_arg = rig;
        st = mock_worker_create(&worker, &rig->workers[i], err);
    }
    return st;
}

/* ---- all of it -------------------------------------------------------------------- */

status router_rig_create(const struct router_rig_options *options, struct router_rig **out, struct error *err)
{
    char etcd_url[64];
    ASSERT(options->n_workers > 0 && options->n_workers <= RIG_MAX_WORKERS);
    struct router_rig *rig = calloc(1, sizeof *rig);
    if (!rig)
        return error_set(err, ST_NO_MEMORY, "no memory");
    rig->options = *options;
    rig->etcd_child = (struct companion){ .name = "etcd", .ready_fd = -1 };
    rig->router_child = (struct companion){ .name = "baton-router", .ready_fd = -1 };
    status st = open_loop(rig, err);
    if (st == ST_OK)
        st = choose_processors(rig, err);
    if (st == ST_OK)
        st = make_dir(rig, err);
    if (st == ST_OK)
        st = start_etcd(rig, etcd_url, err);
    if (st == ST_OK)
        st = start_workers(rig, etcd_url, err);
    if (st == ST_OK)
        st = start_router(rig, etcd_url, err);
    if (st == ST_OK)
        st = router_rig_run(rig, START_US, err);
    if (st != ST_OK) {
        router_rig_destroy(&rig, NULL);
        return st;
    }
    *out = rig;
    return ST_OK;
}

void router_rig_set_step(struct router_rig *rig, uint64_t step_us)
{
    for (uint32_t i = 0; i < rig->options.n_workers; i++)
        mock_worker_set_step(rig->workers[i], step_us);
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    (void)remove(path);
    return 0;
}

void router_rig_destroy(struct router_rig **p, struct rusage *usage)
{
    struct router_rig *rig = *p;
    if (!rig)
        return;
    *p = NULL;
    companion_stop(&rig->router_child, GRACE_US, usage);
    for (uint32_t i = 0; i < rig->options.n_workers; i++)
        mock_worker_destroy(&rig->workers[i]);
    etcd_destroy(&rig->etcd);
    companion_stop(&rig->etcd_child, GRACE_US, NULL);
    if (rig->ready)
        event_free(rig->ready);
    if (rig->router_child.ready_fd >= 0)
        close(rig->router_child.ready_fd);
    for (size_t i = 0; i < sizeof rig->signals / sizeof rig->signals[0]; i++)
        if (rig->signals[i])
            event_free(rig->signals[i]);
    loop_destroy(&rig->loop);
    if (CPU_COUNT(&rig->allowed))
        (void)sched_setaffinity(0, sizeof rig->allowed, &rig->allowed);
    if (rig->dir[0])
        (void)nftw(rig->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(rig);
}
