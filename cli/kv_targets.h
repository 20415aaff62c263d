/* kv_targets.h - the processes that hold KV blocks, or name them, and one question to all of them over their admin
 * ports. */
#ifndef BATON_CLI_KV_TARGETS_H
#define BATON_CLI_KV_TARGETS_H

#include <jansson.h>

#include "cli/option.h"
#include "cli/place.h"
#include "cli/roster.h"

#define KV_TARGETS_MAX 4096

struct kv_target {
    char id[64];    /* as the supervisor or its record calls it, or its URL */
    char url[256];  /* "http://127.0.0.1:PORT" */
    char deaf[160]; /* why it cannot be asked; "": it can */
    enum role role; /* of no meaning where --admin names it */
};

struct kv_targets {
    struct kv_target items[KV_TARGETS_MAX];
    size_t n, missed; /* missed: could not be reached, which a line on stderr has said; the command has failed then */
    char router[64];  /* of the cluster; "": not known */
};

/* Which cluster, or which admin ports: --state-dir, --name; --etcd, --cluster; --admin. */
struct kv_place {
    struct place place;
    const char *etcd, *cluster; /* NULL: not given */
    struct option_list admin;
};

/* clang-format off */
#define KV_PLACE_ROWS(kv) \
    PLACE_ROWS(&(kv)->place), \
    { "etcd", 0, OPTION_TEXT, &(kv)->etcd, "URL", "Ask the processes of the cluster that is registered there, and not a local cluster's", 0, 0 }, \
    { "cluster", 0, OPTION_TEXT, &(kv)->cluster, "NAME", "With --etcd: its name (default)", 0, 0 }, \
    { "admin", 0, OPTION_LIST, &(kv)->admin, "URL", "Ask this admin port (http://HOST:PORT) instead of a local cluster's; may be repeated", 0, 0 }
/* clang-format on */

enum kv_who { KV_WORKERS = 1, KV_MANAGERS = 2, KV_ROUTERS = 4, KV_EVERYWHERE = 8 };

/* What --admin names; else these, in this order, of the cluster that --etcd names, or of the local one: with
 * KV_EVERYWHERE also those on other hosts, which its etcd knows. An etcd that does not answer then is a miss.
 * ST_NOT_FOUND when there is no manager. */
MUST_CHECK status kv_targets_find(const struct kv_place *place, unsigned who, struct kv_targets *out,
                                  struct error *err);

/* For a command that names a cache_salt: whether it means the same blocks to all targets. Routers, by whose key salts
 * are made, are dropped from the targets then, as they hold no blocks; without any a line on stderr says so. Dropped,
 * too, and counted as missed, is who cannot be reached. ST_INVALID when two have not the same salt key, with who has
 * which; ST_NOT_FOUND when nobody is left; otherwise as kv_target_ask. */
MUST_CHECK status kv_targets_agree(struct kv_targets *targets, struct error *err);

/* GET (body NULL) or POST of JSON. ST_OK: answered with code 200 and a JSON object, the caller's to json_decref.
 * Otherwise err says what its "error" or the connection says. */
MUST_CHECK status kv_target_ask(const struct kv_target *target, const char *path, const char *body, uint64_t timeout_ms,
                                json_t **out, struct error *err);

#endif
