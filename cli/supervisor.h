/* supervisor.h - keeps the processes of one local cluster running.
 * Starts etcd, then the roles; restarts what dies with back-off; bounds the logs;
 * answers control requests (control.h); on SIGTERM or a `down` ends everything in
 * order: decode workers drain, then prefill workers, routers, etcd. Should the
 * supervisor itself be killed, each child gets SIGTERM from the kernel. */
#ifndef BATON_CLI_SUPERVISOR_H
#define BATON_CLI_SUPERVISOR_H

#include "cli/cluster_options.h"
#include "cli/state_dir.h"

struct supervisor_options {
    const struct cluster_options *cluster; /* borrowed */
    const struct state_dir *dir;           /* borrowed; its lock is held by this process */
    const char *bin_dir;                   /* of the daemons; borrowed */
    uint64_t start_timeout_us;             /* of one process, at its first start and at each restart */
    /* One end of a stream socket pair to who started it: records go out, one byte comes back when the
     * cluster answers. Closing it before that ends the cluster. */
    int report_fd;
};

/* Records on report_fd: one letter, text, NUL. */
enum supervisor_report {
    REPORT_PROGRESS = 'P', /* what is waited for */
    REPORT_STARTED = 'S',  /* all processes run; the text is the router's URL */
    REPORT_FAILED = 'F',   /* why; the supervisor ends what it started, and itself */
};
#define REPORT_MAX_BYTES 8192

/* Returns when all has ended: 0, or 1 when the start failed. */
int supervisor_run(const struct supervisor_options *options);

#define STOP_TIMEOUT_S  30 /* of a down that does not say */
#define DRAIN_TIMEOUT_S 90 /* of a drain that does not say */

#endif
