/* daemon_internal.h - what the daemon_*.c files share. */
#ifndef BATON_COMMON_DAEMON_INTERNAL_H
#define BATON_COMMON_DAEMON_INTERNAL_H

#include <stdatomic.h>

#include "common/daemon.h"

#define DAEMON_NAME_BYTES 64 /* of an id, as membership records hold it; the NUL included */

struct daemon_page {
    const char *method, *path; /* borrowed */
    void (*fn)(void *arg, struct http_exchange *x);
    void *arg;
};

struct daemon_port {
    const char *plane; /* borrowed */
    uint16_t port;
};

struct daemon {
    const struct daemon_spec *spec; /* borrowed */
    struct config *config;
    const struct daemon_config *shared; /* the head of config's values */
    char id[DAEMON_NAME_BYTES], host[DAEMON_NAME_BYTES];
    uint64_t incarnation;
    struct loop *loop;
    struct metrics *metrics;
    struct http_server *admin;
    struct event *signal_event;

    size_t n_parts, n_started;
    void *states[DAEMON_MAX_PARTS];
    struct daemon_port ports[DAEMON_MAX_PORTS];
    size_t n_ports;
    struct daemon_page pages[DAEMON_MAX_PAGES];
    size_t n_pages;

    bool started, draining;
    struct timer drain_poll;
    uint64_t drain_until_us;
    atomic_int exit_code;
};

extern const struct metric_table daemon_metric_table;

/* The admin server with its own pages, and the metrics of every daemon. */
MUST_CHECK status daemon_admin_start(struct daemon *d, struct error *err);

/* SIGTERM and SIGINT wake the loop; the second one ends the process at once. */
MUST_CHECK status daemon_signals_start(struct daemon *d, struct error *err);
void daemon_signals_stop(struct daemon *d);

/* Prints what --help, --version and the like ask for; the exit code, or -1 when none was given. */
int daemon_print_action(int argc, char **argv, const struct daemon_spec *spec, struct config *config);
int daemon_print_config(const struct config *config, int argc, char **argv);
extern const char *const daemon_actions[];

/* Tells the supervisor behind BATON_READY_FD. */
void daemon_ready_fd_prepare(void);
void daemon_ready_fd_tell(struct daemon *d);

#endif
