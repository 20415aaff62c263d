#include "common/daemon.h"

static const struct config_field fields[] = {
#define FIELD(...) CONFIG_ROW(struct daemon_config, __VA_ARGS__)
#include "common/daemon.def"
#undef FIELD
};

const struct config_table daemon_config_table = CONFIG_TABLE(struct daemon_config, fields);
