/* baton-decode - generates tokens, from KV that prefill workers computed. */
#include "worker/daemon.h"

int main(int argc, char **argv)
{
    return worker_daemon_run(argc, argv, WORKER_DECODE);
}
