/* daemon.h - what all daemons do alike: options, loop, metrics, admin pages, signals, drain.
 *   int main(int argc, char **argv)
 *   {
 *       static const struct part *const parts[] = { &part_workers, &part_http, NULL };
 *       return daemon_run(argc, argv, &(struct daemon_spec){ .role = "router", .parts = parts, ... });
 *   }
 * Everything here belongs to the loop thread unless it says otherwise. */
#ifndef BATON_COMMON_DAEMON_H
#define BATON_COMMON_DAEMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/http_server.h"
#include "common/loop.h"
#include "common/metrics.h"
#include "common/status.h"

struct daemon;

/* The rows of daemon.def: first member of every daemon's values struct, named `daemon`. */
struct daemon_config {
#define FIELD CONFIG_MEMBER
#include "common/daemon.def"
#undef FIELD
};
extern const struct config_table daemon_config_table;

/* One part of a daemon. Parts start downwards and stop upwards; a part whose start failed is not stopped. */
struct part {
    const char *name;
    status (*start)(struct daemon *d, struct error *err);
    void (*drain)(struct daemon *d);   /* SIGTERM came: take no new work. May be NULL */
    bool (*drained)(struct daemon *d); /* nothing is running any more. NULL: always so */
    void (*stop)(struct daemon *d);    /* may be NULL */
};

struct daemon_spec {
    const char *role;                   /* "router" */
    const char *about;                  /* one line for --help */
    const struct config_table *config;  /* own rows; those of daemon.def are added. NULL: none */
    const struct metric_table *metrics; /* own rows; may be NULL */
    const struct part *const *parts;    /* NULL-terminated, at most DAEMON_MAX_PARTS */
    /* What the table cannot check; an error ends the process with exit code 2. May be NULL. */
    status (*check)(const void *config, struct error *err);
    /* Answers /readyz, with a reason (one line) when not. NULL: ready when started and not draining. */
    bool (*ready)(struct daemon *d, struct text_buffer *why);
};

#define DAEMON_MAX_PARTS 24
#define DAEMON_MAX_PORTS 8
#define DAEMON_MAX_PAGES 32

/* Runs until SIGTERM or SIGINT (drain, then 0; a second one: 1 at once) or daemon_end. Exit code: 0 done,
 * 1 failed, 2 wrong usage. --help, --version, --print-config, --write-config-doc and --write-metrics-doc
 * print and return 0. With BATON_READY_FD in the environment one line of JSON (role, id, pid, ports) is
 * written to that descriptor when all parts have started, and the descriptor is closed. */
int daemon_run(int argc, char **argv, const struct daemon_spec *spec);

struct loop *daemon_loop(struct daemon *d);
const void *daemon_config(const struct daemon *d); /* the spec's values struct */
const struct daemon_config *daemon_shared_config(const struct daemon *d);
struct metrics *daemon_metrics(struct daemon *d);
const char *daemon_role(const struct daemon *d);
const char *daemon_id(const struct daemon *d);       /* never empty */
const char *daemon_host(const struct daemon *d);     /* never empty */
uint16_t daemon_admin_port(const struct daemon *d);  /* as bound */
uint64_t daemon_incarnation(const struct daemon *d); /* random, one per process start, never 0 */
bool daemon_draining(const struct daemon *d);
/* SIGTERM or SIGINT came: for parts whose start waits for others. Any thread. */
bool daemon_signal_came(void);

/* Each part has one slot for its state; NULL until set. */
void daemon_set_state(struct daemon *d, const struct part *part, void *state);
void *daemon_state(const struct daemon *d, const struct part *part);

/* Name and number of a port that a part listens on, for the ready line; plane is borrowed ("http", "control"). */
void daemon_report_port(struct daemon *d, const char *plane, uint16_t port);
/* A further admin page, answered by fn at once or later; strings are borrowed. */
void daemon_add_page(struct daemon *d, const char *method, const char *path,
                     void (*fn)(void *arg, struct http_exchange *x), void *arg);
/* Answers /health, /healthz, /readyz and /metrics on another server of this process; false when the
 * path is none of them and nothing was answered. */
bool daemon_answer_health(struct daemon *d, struct http_exchange *x);

/* Begins the drain, as SIGTERM does; any thread. */
void daemon_drain(struct daemon *d);
/* Stops without a drain and ends with this exit code; any thread. */
void daemon_end(struct daemon *d, int exit_code);

#endif
