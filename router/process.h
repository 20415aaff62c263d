/* process.h - the state that the parts of a router's process share. */
#ifndef BATON_ROUTER_PROCESS_H
#define BATON_ROUTER_PROCESS_H

#include "common/daemon.h"
#include "proto/membership.h"
#include "router/fleet.h"
#include "router/flow.h"
#include "router/models.h"
#include "router/router_config.h"
#include "router/tokenize_pool.h"

struct api;

struct router_process {
    struct daemon *daemon;
    const struct router_config *config;
    struct models *models;
    struct fleet *fleet;
    struct links *links;
    struct flows *flows;
    struct membership *membership;
    struct tokenize_pool *pool; /* NULL: the loop does it */
    struct api *api;
};

/* The one of this daemon; made by the first part. */
struct router_process *router_process_of(struct daemon *d);

/* Parts, in the order in which they start. */
extern const struct part part_models;   /* names, tokenizers, templates            */
extern const struct part part_fleet;    /* links to workers, and what they carry   */
extern const struct part part_tokenize; /* threads for large bodies                */
extern const struct part part_http;     /* the API                                 */
extern const struct part part_members;  /* etcd: who we are, who is there          */
extern const struct part part_report;   /* gauges                                  */

#endif
