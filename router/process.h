/* process.h - the state that the parts of a router's process share. */
#ifndef BATON_ROUTER_PROCESS_H
#define BATON_ROUTER_PROCESS_H

#include "common/daemon.h"
#include "kvbm/salt_key.h"
#include "proto/membership.h"
#include "router/fleet.h"
#include "router/flow.h"
#include "router/kv_feeds.h"
#include "router/models.h"
#include "router/router_config.h"
#include "router/tokenize_pool.h"

struct api;

struct router_process {
    struct daemon *daemon;
    const struct router_config *config;
    struct models *models;
    struct kv_view *kv_view;   /* who holds which KV */
    struct kv_feeds *kv_feeds; /* NULL: nobody's events are followed */
    struct fleet *fleet;
    struct links *links;
    struct flows *flows;
    struct decision_log *decision_log; /* NULL: none */
    struct membership *membership;
    struct salt_key salt_key;
    struct tokenize_pool *pool; /* NULL: the loop does it */
    struct api *api;
};

/* The one of this daemon; made by the first part. */
struct router_process *router_process_of(struct daemon *d);

#define KV_INDEX_LEAST (2u << 20) /* bytes: with less there is no room for the places of all holders */

/* kv_parts.c. What the table of options cannot check. */
MUST_CHECK status kv_feeds_check(const struct router_config *config, struct error *err);

/* Parts, in the order in which they start. */
extern const struct part part_models;   /* names, tokenizers, templates            */
extern const struct part part_prefixes; /* who holds which KV                      */
extern const struct part part_fleet;    /* links to workers, and what they carry   */
extern const struct part part_kv_feeds; /* KV events, which tell it                */
extern const struct part part_tokenize; /* threads for large bodies                */
extern const struct part part_http;     /* the API                                 */
extern const struct part part_members;  /* etcd: who we are, who is there          */
extern const struct part part_report;   /* gauges                                  */

#endif
