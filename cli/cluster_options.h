/* cluster_options.h - what a local cluster was asked to be: models, processes, settings. */
#ifndef BATON_CLI_CLUSTER_OPTIONS_H
#define BATON_CLI_CLUSTER_OPTIONS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/json_writer.h"
#include "common/status.h"

#define CLUSTER_MAX_MODELS   8
#define CLUSTER_MAX_SETTINGS 64
#define CLUSTER_MAX_REPLICAS 64 /* of one role (workers: of one role and model) */

#define ROLES(X) /* in the order in which they are started */                                                          \
    X(ETCD, "etcd") X(KVBM, "kvbm") X(PREFILL, "prefill") X(DECODE, "decode") X(ROUTER, "router")

enum role {
#define X(name, text) ROLE_##name,
    ROLES(X)
#undef X
        ROLE_COUNT
};

const char *role_name(enum role role);
/* ROLE_COUNT when there is none of that name. */
enum role role_parse(const char *name);
/* Prefill and decode: so many for each model. */
bool role_is_worker(enum role role);
/* How many processes of the role a cluster may be asked to have; *least is the fewest. 0: not for the asker to say. */
uint32_t role_most(enum role role, uint32_t *least);

struct cluster_model {
    char name[128];               /* under which requests ask for it */
    char path[CONFIG_TEXT_BYTES]; /* absolute */
};

struct cluster_setting { /* --set ROLE.KEY=VALUE */
    char role[16];       /* a role's name, "worker" or "all" */
    char key[64];
    char value[CONFIG_TEXT_BYTES];
};

struct cluster_options {
    struct cluster_model models[CLUSTER_MAX_MODELS];
    uint32_t n_models;
    uint32_t replicas[ROLE_COUNT]; /* workers: of each model. ROLE_ETCD: 1 for an own one, else 0 */
    char transfer[8];
    char kv_disk[CONFIG_TEXT_BYTES]; /* folder of the disk tier, absolute; empty: none */
    uint16_t port;                   /* of the first router; 0: any */
    char etcd[CONFIG_TEXT_BYTES];    /* URLs; empty: an etcd of its own */
    struct cluster_setting settings[CLUSTER_MAX_SETTINGS];
    uint32_t n_settings;
};

/* [NAME=]PATH or the name of a known model; a comma separates several. ST_NOT_FOUND says what to do. */
MUST_CHECK status cluster_options_add_models(struct cluster_options *o, const char *text, struct error *err);
/* ROLE.KEY=VALUE. */
MUST_CHECK status cluster_options_add_setting(struct cluster_options *o, const char *text, struct error *err);
/* The folder of --kv-disk, made absolute: the daemons have another working folder. */
MUST_CHECK status cluster_options_set_disk(struct cluster_options *o, const char *path, struct error *err);
/* The setting concerns this role. */
bool cluster_setting_is_for(const struct cluster_setting *setting, enum role role);
/* What the settings give the role for this option, '-' and '_' being the same; NULL: nothing. */
const char *cluster_options_value(const struct cluster_options *o, enum role role, const char *key);

void cluster_options_write(const struct cluster_options *o, struct json_writer *w);
/* written is what cluster_options_write wrote, read back. */
bool cluster_options_match(const struct cluster_options *o, const json_t *written);

#endif
