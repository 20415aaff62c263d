/* daemon.h - the KV block manager as a process, one for each host: memory that it lends, links to workers and to
 * other hosts' managers, membership. It outlives the workers; they go on without it when it dies. */
#ifndef BATON_KVBM_DAEMON_DAEMON_H
#define BATON_KVBM_DAEMON_DAEMON_H

/* The process's main(): returns its exit code. */
int kvbm_daemon_run(int argc, char **argv);

#endif
