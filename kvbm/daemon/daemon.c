#include "kvbm/daemon/daemon.h"

#include <stdlib.h>

#include "kvbm/daemon/process.h"

static const struct config_field config_rows[] = {
#define FIELD(...) CONFIG_ROW(struct kvbm_config, __VA_ARGS__)
#include "kvbm/daemon/config.def"
#undef FIELD
};
const struct config_table kvbm_config_table = CONFIG_TABLE(struct kvbm_config, config_rows);

static const struct metric_row metric_rows[] = {
#define METRIC METRIC_ROW
#include "kvbm/daemon/metrics.def"
#undef METRIC
};
const struct metric_table kvbm_metric_table = METRIC_TABLE(metric_rows);

struct kvbm_process *kvbm_process_of(struct daemon *d)
{
    return daemon_state(d, &part_tiers);
}

static status check_config(const void *config, struct error *err)
{
    const struct kvbm_config *c = config;
    struct kv_format format;
    struct error why;
    if (c->kv_format[0] && kv_format_parse(c->kv_format, &format, &why) != ST_OK)
        return error_set(err, ST_INVALID, "--kv-format: %s", why.text);
    return ST_OK;
}

/* Also before it is open: then there is nothing to keep yet, and nobody waits for it. */
static bool is_ready(struct daemon *d, struct text_buffer *why)
{
    if (daemon_draining(d))
        text_buffer_add(why, "draining");
    else if (membership_name_is_taken(kvbm_process_of(d)->membership))
        text_buffer_add(why, "another process has this one's name in the cluster");
    return why->len == 0;
}

int kvbm_daemon_run(int argc, char **argv)
{
    static const struct part *const parts[] = {                /* started down, stopped up */
                                                &part_tiers,   /* memory for blocks                        */
                                                &part_members, /* etcd: who we are and who is there; links */
                                                &part_admin,   /* what baton kv asks for                   */
                                                &part_report,  /* metrics                                  */
                                                NULL
    };
    return daemon_run(argc, argv,
                      &(struct daemon_spec){
                          .role = "kvbm",
                          .about = "keeps KV blocks of one host outside its workers, in memory and on disk",
                          .config = &kvbm_config_table,
                          .metrics = &kvbm_metric_table,
                          .parts = parts,
                          .check = check_config,
                          .ready = is_ready,
                      });
}
