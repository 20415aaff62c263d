/* instance.h - what a daemon publishes of itself in etcd, as JSON readable with
 * etcdctl, under /baton/v1/CLUSTER/instances/ROLE/ID. Others connect by it and
 * see what is compatible. Unknown members are ignored. */
#ifndef BATON_PROTO_INSTANCE_H
#define BATON_PROTO_INSTANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/process.h"
#include "common/status.h"
#include "common/text_buffer.h"

#define INSTANCE_MAX_ADAPTERS       32
#define INSTANCE_ADAPTER_NAME_BYTES 41 /* with the NUL */
#define INSTANCE_ADAPTER_BYTES      58 /* "NAME@" and 16 hexadecimal digits: equal ones compute the same */

struct instance {
    char id[64];
    char role[16];
    uint64_t incarnation;
    char model[256];
    char kv_format[128]; /* equal formats can exchange KV */
    char class[32];      /* arithmetic and KV dtype: equal ones give equal answers; part of kv_format */
    char adapters[INSTANCE_MAX_ADAPTERS * INSTANCE_ADAPTER_BYTES]; /* of the model, "A@0123456789abcdef,B@..." */
    char control[128];                                             /* "tcp://127.0.0.1:4000" */
    char events[128];
    char kv_events[128], kv_replay[128]; /* PUB and ROUTER of KV events (kv_publisher.h); both empty: it has none */
    char admin[128];                     /* "http://127.0.0.1:5000" */
    char api[128];                       /* router: "http://127.0.0.1:8000" */
    char host[64], rack[64], zone[64];
    char version[32];
    char process[PROCESS_NAME_BYTES]; /* process.h: tells on its own host whether it still lives */
    uint32_t max_model_len;           /* workers */
    uint64_t kv_tokens;               /* slots of the pool */
    uint64_t weights, tokenizer;      /* fingerprints that block hashes are made with; 0: not said */
    uint32_t block_tokens;            /* 0: not said */
    bool computes_all;                /* workers: nothing is fetched from others */
    uint32_t pid;
};

#define INSTANCE_MAX_KEY 256

/* "/baton/v1/CLUSTER/instances/" or, with role and id, the whole key. Returns key. */
const char *instance_prefix(char *key, size_t size, const char *cluster);
const char *instance_key(char *key, size_t size, const char *cluster, const struct instance *instance);
void instance_write(const struct instance *instance, struct text_buffer *out);
/* ST_INVALID with what is missing or malformed. */
MUST_CHECK status instance_read(const char *json, size_t len, struct instance *out, struct error *err);
/* "role/id" at the end of a key, into id; false when the key has another shape. */
bool instance_id_of_key(const char *key, char *id, size_t size);

/* The next of its adapters; *at begins as instance->adapters. False at the end, and where the list is malformed. */
bool instance_next_adapter(const char **at, char adapter[INSTANCE_ADAPTER_BYTES]);
bool instance_has_adapter(const struct instance *instance, const char *adapter);
/* The length of the NAME of "NAME@FINGERPRINT". */
size_t instance_adapter_name_len(const char *adapter);

#endif
