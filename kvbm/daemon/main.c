/* baton-kvbm - keeps KV blocks of one host outside its workers, in memory and on disk. */
#include "kvbm/daemon/daemon.h"

int main(int argc, char **argv)
{
    return kvbm_daemon_run(argc, argv);
}
