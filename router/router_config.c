#include "router/router_config.h"

static const struct config_field fields[] = {
#define FIELD(...) CONFIG_ROW(struct router_config, __VA_ARGS__)
#include "router/config.def"
#undef FIELD
};
const struct config_table router_config_table = CONFIG_TABLE(struct router_config, fields);

static const struct metric_row rows[] = {
#define METRIC METRIC_ROW
#include "router/metrics.def"
#undef METRIC
};
const struct metric_table router_metric_table = METRIC_TABLE(rows);
