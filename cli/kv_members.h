/* kv_members.h - the processes of a cluster on all its hosts, as their records in etcd say; blocking. */
#ifndef BATON_CLI_KV_MEMBERS_H
#define BATON_CLI_KV_MEMBERS_H

#include <jansson.h>

#include "proto/instance.h"

/* urls: "http://127.0.0.1:2379[,...]", of which the next one is asked when one does not answer. *out: an array of
 * etcd's key values, the caller's to json_decref. */
MUST_CHECK status kv_members_fetch(const char *urls, const char *cluster, json_t **out, struct error *err);
/* One of them. ST_INVALID: it is no record. */
MUST_CHECK status kv_members_read(const json_t *key_value, struct instance *out, struct error *err);

/* Why nobody can ask it from here; NULL: ask. Its admin port may listen to its own host only. */
const char *kv_members_deaf(const struct instance *member, char *why, size_t size);

#endif
