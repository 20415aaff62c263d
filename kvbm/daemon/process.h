/* process.h - the state that the parts of the KV block manager's process share. */
#ifndef BATON_KVBM_DAEMON_PROCESS_H
#define BATON_KVBM_DAEMON_PROCESS_H

#include <sys/queue.h>

#include "common/daemon.h"
#include "kvbm/kv_format.h"
#include "proto/membership.h"
#include "transfer/transfer.h"

struct kvbm_config {
    struct daemon_config daemon;
#define FIELD CONFIG_MEMBER
#include "kvbm/daemon/config.def"
#undef FIELD
};
extern const struct config_table kvbm_config_table;

enum kvbm_metric {
#define METRIC METRIC_ID
#include "kvbm/daemon/metrics.def"
#undef METRIC
};
extern const struct metric_table kvbm_metric_table;

#define KVBM_MAX_BLOCK_BYTES (64u << 20)
#define KVBM_MAX_OTHERS      1024u /* workers of other formats that are counted */

struct kvbm_peer;
struct other_worker;
TAILQ_HEAD(other_worker_list, other_worker);
TAILQ_HEAD(kvbm_peer_list, kvbm_peer);

struct kvbm_process {
    struct daemon *daemon;
    const struct kvbm_config *config;
    /* From here on: since the format is known. */
    bool is_open;
    struct kv_format format;
    char kv_format[KV_FORMAT_TEXT_BYTES];
    struct kv_layout layout;
    uint32_t n_blocks;
    struct transfer *transfer;
    struct links *links;
    struct kvbm_peer_list peers;
    struct membership *membership;
    struct other_worker_list others; /* members.c */
    uint32_t n_others;
};

/* The one of this daemon; made by the first part. */
struct kvbm_process *kvbm_process_of(struct daemon *d);

/* Parts, in the order in which they start. */
extern const struct part part_tiers;   /* memory and disk, where the format is configured */
extern const struct part part_members; /* etcd: who we are, who is there; learns the format */
extern const struct part part_report;  /* metrics                                          */

/* tiers.c. How many blocks fit into what the configuration, or the machine with its bytes, gives. ST_UNSUPPORTED: a
 * block is too large; ST_INVALID: too few or too many blocks. Pure. */
MUST_CHECK status tiers_size(const struct kvbm_config *config, const struct kv_layout *layout, uint64_t machine,
                             uint32_t *n_blocks, struct error *err);
/* Takes memory for blocks of this format: once. */
MUST_CHECK status tiers_open(struct kvbm_process *p, const struct kv_format *format, struct error *err);

/* peers.c. Listens; the memory is there. */
MUST_CHECK status peers_open(struct kvbm_process *p, struct error *err);
void peers_close(struct kvbm_process *p);

#endif
