/* launch.h - the command line of each process of a cluster. Pure. */
#ifndef BATON_CLI_LAUNCH_H
#define BATON_CLI_LAUNCH_H

#include "cli/roster.h"

#define LAUNCH_MAX_ARGUMENTS 192
#define LAUNCH_MAX_BYTES     32768

struct launch_plan {
    const struct cluster_options *options; /* borrowed */
    const char *bin_dir;                   /* of the daemons; borrowed */
    const char *cluster;                   /* borrowed */
    const char *etcd_url;                  /* of the own or the given etcd; borrowed */
    const char *etcd_data;                 /* folder of the own etcd; borrowed */
    uint16_t etcd_client_port, etcd_peer_port;
    const char *weights_socket; /* of the holder of packed weights; borrowed */
    const char *cluster_key;    /* file; borrowed */
    const char *salt_key;       /* file, for whom no other is given; borrowed */
};

struct launch {
    char *argv[LAUNCH_MAX_ARGUMENTS + 1]; /* NULL-terminated; argv[0] is what is executed */
    size_t n, used;
    char text[LAUNCH_MAX_BYTES];
};

/* ST_LIMIT when the settings do not fit one line. */
MUST_CHECK status launch_arguments(const struct launch_plan *plan, const struct member *m, struct launch *out);

#endif
