/* supervisor_internal.h - what the supervisor_*.c files share. */
#ifndef BATON_CLI_SUPERVISOR_INTERNAL_H
#define BATON_CLI_SUPERVISOR_INTERNAL_H

#include "cli/control.h"
#include "cli/launch.h"
#include "cli/supervisor.h"
#include "cli/weights_holder.h"
#include "common/etcd.h"
#include "common/loop.h"
#include "proto/claim.h"

#define PHASES(X)                                                                                                      \
    X(ETCD, "starting")    /* until etcd answers                    */                                                 \
    X(ROLES, "starting")   /* until each process has reported       */                                                 \
    X(STARTED, "starting") /* until who started us has seen /readyz */                                                 \
    X(READY, "ready")                                                                                                  \
    X(STOPPING, "stopping")

enum phase {
#define X(name, text) PHASE_##name,
    PHASES(X)
#undef X
};

struct supervisor {
    struct supervisor_options options;
    struct cluster_options cluster; /* as asked; replicas follow what scale asked since */
    struct loop *loop;
    struct control_server *control;
    struct weights_holder *weights;
    char weights_socket[STATE_PATH_MAX_BYTES], cluster_key[STATE_PATH_MAX_BYTES], salt_key[STATE_PATH_MAX_BYTES];
    struct roster roster;
    struct launch_plan plan;
    enum phase phase;
    uint64_t started_us;

    char etcd_url[CONFIG_TEXT_BYTES], etcd_data[STATE_PATH_MAX_BYTES];
    struct etcd *etcd;
    struct etcd_watch *watch;
    bool etcd_synced, named;           /* the cluster's name is held */
    uint32_t etcd_attempts, leftovers; /* deletions under way */
    struct claim claim;
    char name_holder[STATE_PATH_MAX_BYTES]; /* who else lives under the cluster's name; "": nobody */

    int signal_fd;
    struct event *signal_event, *report_event;
    struct timer log_timer, save_timer, stop_timer;
    size_t stop_stage; /* index in the order of ending */
    unsigned kill_rounds;
    int exit_code;
};

/* Members (supervisor_members.c). */
void member_launch(struct supervisor *s, struct member *m);
void members_reap(struct supervisor *s);
/* Tells it to end; killed when it has not after timeout_us. */
void member_terminate(struct supervisor *s, struct member *m, uint64_t timeout_us);
void member_kill(struct member *m);
void member_forget_events(struct supervisor *s, struct member *m);
void member_log_path(const struct supervisor *s, const char *id, char buf[STATE_PATH_MAX_BYTES]);

/* etcd (supervisor_etcd.c): own or given; tells supervisor_etcd_ready once it answers and is clean. */
MUST_CHECK status supervisor_etcd_start(struct supervisor *s, struct error *err);
void supervisor_etcd_stop_client(struct supervisor *s);
/* Goes on when nothing is missing any more. */
void supervisor_etcd_look(struct supervisor *s);
#define SUPERVISOR_LEASE_US 10000000u

/* The cluster's name (supervisor_name.c): taken, or the start fails with who has it. */
MUST_CHECK status supervisor_name_take(struct supervisor *s, struct error *err);

/* Requests and state.json (supervisor_requests.c). */
status supervisor_answer(void *ctx, const json_t *request, struct json_writer *reply, struct error *err);
void supervisor_save(struct supervisor *s);
void supervisor_save_soon(struct supervisor *s);
const char *phase_name(enum phase phase);

/* Course of things (supervisor.c). */
void supervisor_etcd_ready(struct supervisor *s);
void supervisor_member_ready(struct supervisor *s);
/* Before all has started: reports why, with the log's last lines, and ends everything. */
void supervisor_fail(struct supervisor *s, const struct member *m, const char *fmt, ...) PRINTF_LIKE(3, 4);
void supervisor_report_progress(struct supervisor *s, const char *text);
void supervisor_member_ended(struct supervisor *s, struct member *m, int wait_status);
void supervisor_stop(struct supervisor *s, uint64_t timeout_us);
MUST_CHECK status supervisor_add(struct supervisor *s, enum role role, uint32_t model, struct member **out);
/* "http://127.0.0.1:PORT" of the first router; "" while its port is not known. */
const char *supervisor_url(struct supervisor *s, char buf[64]);

#endif
