/* baton-prefill - computes prompts and lends their KV to decode workers. */
#include "worker/daemon.h"

int main(int argc, char **argv)
{
    return worker_daemon_run(argc, argv, WORKER_PREFILL);
}
