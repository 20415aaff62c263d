/* process.h - the state that the parts of the KV block manager's process share. */
#ifndef BATON_KVBM_DAEMON_PROCESS_H
#define BATON_KVBM_DAEMON_PROCESS_H

#include <sys/queue.h>

#include "common/daemon.h"
#include "kvbm/acceptor.h"
#include "kvbm/borrower.h"
#include "kvbm/disk_tier.h"
#include "kvbm/kv_format.h"
#include "kvbm/lender.h"
#include "kvbm/remote_tier.h"
#include "kvbm/store.h"
#include "kvbm/store_source.h"
#include "proto/membership.h"
#include "transfer/way.h"

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

#define KVBM_MAX_BLOCK_BYTES DISK_TIER_MAX_BLOCK_BYTES
#define KVBM_MAX_MODELS      64u
#define KVBM_MAX_OTHERS      1024u /* workers of other formats that are counted */
#define KVBM_MAX_MANAGERS    1024u /* of other hosts that are known; PEER_INDEX_PEERS of them are asked */

struct kvbm_peer {
    TAILQ_ENTRY(kvbm_peer) link;
    struct kvbm_process *process;
    struct link *channel;
    struct link *own_link; /* we opened it, to a manager of another host; NULL for a peer that came to us */
    char id[64];
    struct transfer_way way; /* to its blocks */
};
TAILQ_HEAD(kvbm_peer_list, kvbm_peer);

struct other_manager;
TAILQ_HEAD(other_manager_list, other_manager);

struct other_worker;
TAILQ_HEAD(other_worker_list, other_worker);

/* A model of this cluster: what its blocks' hashes are made with. */
struct served_model {
    TAILQ_ENTRY(served_model) link;
    char name[256];
    uint64_t weights, tokenizer;
};
TAILQ_HEAD(served_model_list, served_model);

struct events;
struct kvbm_process {
    struct daemon *daemon;
    const struct kvbm_config *config;
    struct membership *membership;
    struct other_worker_list others; /* members.c */
    uint32_t n_others, n_models;
    struct served_model_list models;
    struct other_manager_list managers; /* managers.c */
    uint32_t n_managers;
    /* From here on: since the format is known. */
    bool is_open;
    struct kv_format format;
    char kv_format[KV_FORMAT_TEXT_BYTES];
    struct kv_layout layout;
    struct transfer_geometry geometry;
    uint32_t n_blocks;
    struct transfer *transfer;
    uint64_t *layer_sums;   /* [n_layers], for a checksum */
    struct disk_tier *disk; /* NULL: none */
    struct store *store;
    struct event *store_event; /* its disk has something to say; NULL without one */
    struct timer store_timer;
    struct store_source source;
    struct exchange_io io;
    struct lender *lender;
    struct acceptor *acceptor;
    struct borrower *borrower;
    struct remote_tier *remote; /* NULL: others are not asked */
    struct events *events;      /* NULL: none are published */
    struct links *links;
    struct kvbm_peer_list peers;
};

/* The one of this daemon; made by the first part. */
struct kvbm_process *kvbm_process_of(struct daemon *d);

/* Parts, in the order in which they start. */
extern const struct part part_tiers;   /* memory and disk, where the format is configured */
extern const struct part part_members; /* etcd: who we are, who is there; learns the format */
extern const struct part part_admin;   /* what baton kv asks for                            */
extern const struct part part_report;  /* metrics                                           */

/* tiers.c. How many blocks fit into what the configuration, or the machine with its bytes, gives. ST_UNSUPPORTED: a
 * block is too large; ST_INVALID: too few or too many blocks. Pure. */
MUST_CHECK status tiers_size(const struct kvbm_config *config, const struct kv_layout *layout, uint64_t machine,
                             uint32_t *n_blocks, struct error *err);
/* Takes memory, and opens the disk, for blocks of this format: once. */
MUST_CHECK status tiers_open(struct kvbm_process *p, const struct kv_format *format, struct error *err);
void tiers_close(struct kvbm_process *p);
/* Something was asked of the store: it goes on at the end of this turn of the loop. */
void tiers_soon(struct kvbm_process *p);

/* serving.c. Lends blocks, takes offers, and publishes what there is. */
MUST_CHECK status serving_open(struct kvbm_process *p, struct error *err);
void serving_close(struct kvbm_process *p);

/* peers.c. Listens; what is asked is served. */
MUST_CHECK status peers_open(struct kvbm_process *p, struct error *err);
/* No peer is left: their loans have ended. The links stay, silent, until peers_destroy. */
void peers_close(struct kvbm_process *p);

/* Opens a link to a manager of another host. NULL: it cannot be. */
struct kvbm_peer *peers_connect(struct kvbm_process *p, const char *id, const char *endpoint);
/* Closes it. What is fetched over it has ended then. */
void peers_disconnect(struct kvbm_peer *peer);

/* managers.c. Managers of other hosts, of whom etcd tells; those of our format are followed and asked. */
void managers_member(struct kvbm_process *p, const struct instance *instance);
void managers_gone(struct kvbm_process *p, const char *id);
/* The format is known, and peers are open. */
void managers_open(struct kvbm_process *p);
/* Before the peers are closed. */
void managers_close(struct kvbm_process *p);
struct managers_stats {
    uint32_t followed, up, silent;
};
void managers_stats(const struct kvbm_process *p, struct managers_stats *out);

/* members.c. NULL: there is no worker of this model; "" means the only model. */
const struct served_model *members_model(const struct kvbm_process *p, const char *name);

#endif
