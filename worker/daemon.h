/* daemon.h - a worker as a process: model, KV pool, engine, links and membership
 * around the protocol of worker.h. prefill/main.c and decode/main.c start it. */
#ifndef BATON_WORKER_DAEMON_H
#define BATON_WORKER_DAEMON_H

#include "worker/worker.h"

/* The process's main(): returns its exit code. */
int worker_daemon_run(int argc, char **argv, enum worker_role role);

#endif
