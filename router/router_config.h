/* router_config.h - the options and metrics of a router. */
#ifndef BATON_ROUTER_ROUTER_CONFIG_H
#define BATON_ROUTER_ROUTER_CONFIG_H

#include "common/daemon.h"

struct router_config {
    struct daemon_config daemon;
#define FIELD CONFIG_MEMBER
#include "router/config.def"
#undef FIELD
};
extern const struct config_table router_config_table;

/* The words of generation_config and of class_lost. */
enum { GENERATION_CONFIG_AUTO, GENERATION_CONFIG_NONE };
enum { CLASS_LOST_CONTINUE, CLASS_LOST_ERROR };

enum router_metric {
#define METRIC METRIC_ID
#include "router/metrics.def"
#undef METRIC
};
extern const struct metric_table router_metric_table;

#endif
