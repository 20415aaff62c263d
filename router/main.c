/* baton-router - answers the HTTP API: chooses workers, streams their tokens back. */
#include <string.h>

#include "router/process.h"

static bool is_ready(struct daemon *d, struct text_buffer *why)
{
    const struct router_process *p = router_process_of(d);
    for (size_t i = 0; i < models_count(p->models); i++)
        if (fleet_has_decode(p->fleet, models_at(p->models, i)->name))
            return true;
    text_buffer_add(why, "no decode worker is up for any served model");
    return false;
}

/* As models_open would say later, but before anything has started. */
static status check_config(const void *config, struct error *err)
{
    const struct router_config *c = config;
    if (!c->models[strspn(c->models, ",")])
        return error_set(err, ST_INVALID, "--models is missing: name at least one model, as [NAME=]PATH,...");
    return kv_feeds_check(c, err);
}

int main(int argc, char **argv)
{
    static const struct part *const parts[] = {                 /* started down, stopped up */
                                                &part_models,   /* names, tokenizers, templates                  */
                                                &part_prefixes, /* which worker holds which KV prefix            */
                                                &part_fleet,    /* links to workers; the choices that run there  */
                                                &part_kv_feeds, /* KV events, from which that is known           */
                                                &part_tokenize, /* threads for large bodies                      */
                                                &part_http,     /* the API: request -> choices -> text           */
                                                &part_members,  /* etcd: publishes the API, finds the workers    */
                                                &part_report,   /* gauges                                        */
                                                NULL
    };
    return daemon_run(argc, argv,
                      &(struct daemon_spec){
                          .role = "router",
                          .about = "answers the HTTP API, chooses workers and streams their tokens back",
                          .config = &router_config_table,
                          .metrics = &router_metric_table,
                          .parts = parts,
                          .check = check_config,
                          .ready = is_ready,
                      });
}
