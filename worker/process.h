/* process.h - the state that the parts of a worker's process share. */
#ifndef BATON_WORKER_PROCESS_H
#define BATON_WORKER_PROCESS_H

#include <sys/queue.h>

#include "common/daemon.h"
#include "proto/membership.h"
#include "worker/adapters.h"
#include "worker/drafter.h"
#include "worker/engine_thread.h"
#include "worker/kv_publish.h"
#include "worker/worker.h"

struct worker_config {
    struct daemon_config daemon;
#define FIELD CONFIG_MEMBER
#include "worker/config.def"
#undef FIELD
};
extern const struct config_table worker_config_table;

enum worker_metric {
#define METRIC METRIC_ID
#include "worker/metrics.def"
#undef METRIC
};
extern const struct metric_table worker_metric_table;

struct process_peer;
struct process_holder;
TAILQ_HEAD(process_peer_list, process_peer);
TAILQ_HEAD(process_holder_list, process_holder);

enum { KVBM_AUTO, KVBM_OFF }; /* the choices of kvbm */

struct worker_process {
    struct daemon *daemon;
    const struct worker_config *config;
    enum worker_role role;
    struct model *model;
    struct adapters adapters;
    char model_name[256];
    char kv_format[128], class[32];
    struct kv_layout layout;
    uint32_t n_blocks, max_model_len;
    struct transfer *transfer;
    struct weights_client *weights; /* counts as a use of what is shared */
    struct engine *engine;
    struct engine_thread *thread;
    struct model *draft_model; /* NULL: no model guesses */
    struct drafter *drafter;
    struct drafts *drafts; /* of the running step; the engine thread's until it ends */
    bool step_runs;
    status erased; /* the drafter's KV by a wipe; ST_AGAIN: it is under way, and nothing is guessed */
    struct worker_io io;
    struct worker *worker;
    struct links *links;
    struct kv_publish *kv_publish; /* NULL: nothing is published */
    struct membership *membership;
    struct process_peer_list peers;
    struct process_holder_list holders; /* of blocks of our format */
    uint32_t n_holders;
    struct timer load_timer;
    struct metric *step_seconds;
    uint64_t step_started_us;
};

/* The one of this daemon; made by the first part. */
struct worker_process *worker_process_of(struct daemon *d);

/* Parts, in the order in which they start. */
extern const struct part part_model;     /* the model, mapped                  */
extern const struct part part_pool;      /* KV blocks, in memory others can map */
extern const struct part part_engine;    /* the engine and its thread          */
extern const struct part part_protocol;  /* requests: worker.h                 */
extern const struct part part_peers;     /* links to routers and other workers */
extern const struct part part_kv_wipe;   /* POST /kv/wipe                      */
extern const struct part part_kv_events; /* which blocks are here, for routers */
extern const struct part part_members;   /* etcd: who we are, who is there     */
extern const struct part part_report;    /* load figures and metrics           */

/* kv_events.c, for worker_io; ctx is the process. */
void kv_events_stored(void *ctx, const struct block_stored *what);
void kv_events_removed(void *ctx, const struct block_hash *hashes, uint32_t n);

/* peers.c. A prefill worker that is up and whose blocks can be taken, for worker_io; ctx is the process. */
struct worker_peer *peers_find_prefill(void *ctx, const char *id);
bool peers_is_alive(void *ctx, struct worker_peer *peer);
struct worker_peer *peers_find_holder(void *ctx, const char *id);
/* For members.c: a worker or manager appeared or went away. */
void peers_member(struct worker_process *p, const struct instance *instance);
void peers_member_gone(struct worker_process *p, const char *id);

#endif
