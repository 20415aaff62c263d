/* The parts of a router's process that know who holds which KV. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "proto/kv_subscriber.h"
#include "router/process.h"

#define MAX_HOLDERS (2 * FLEET_MAX_WORKERS) /* workers, and managers of their hosts */

/* ---- the view --------------------------------------------------------------- */

static status prefixes_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    const struct kv_view_options options = { .max_bytes = p->config->index_memory, .max_holders = MAX_HOLDERS };
    status st = kv_view_create(&options, &p->kv_view);
    return st == ST_OK ? ST_OK : error_set(err, st, "no memory");
}

static void prefixes_stop(struct daemon *d)
{
    kv_view_destroy(&router_process_of(d)->kv_view);
}

const struct part part_prefixes = { .name = "prefixes", .start = prefixes_start, .stop = prefixes_stop };

/* ---- what it is told -------------------------------------------------------------- */

status kv_feeds_check(const struct router_config *c, struct error *err)
{
    struct foreign_address address;
    const char *at = c->foreign_publishers;
    status st;
    if (c->index_memory && c->index_memory < KV_INDEX_LEAST)
        return error_set(err, ST_INVALID, "--index-memory is 0 or at least %u bytes, not %" PRIu64, KV_INDEX_LEAST,
                         c->index_memory);
    if (!c->index_memory && *at)
        return error_set(err, ST_INVALID, "--foreign-publishers needs --index-memory, which is 0");
    while ((st = foreign_address_next(&at, &address, err)) == ST_OK)
        ;
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static bool adapter(void *ctx, const char *model, const char *name, size_t len, uint64_t *fingerprint)
{
    const struct router_process *p = ctx;
    const struct known_adapter *a = known_adapters_find(fleet_adapters(p->fleet), model, name, len);
    return a && sscanf(a->id + instance_adapter_name_len(a->id), "@%16" SCNx64, fingerprint) == 1;
}

static status add_foreign(struct router_process *p, const struct foreign_address *address, struct error *err)
{
    const struct served_model *m =
        address->model[0] ? models_find(p->models, address->model, strlen(address->model)) : models_at(p->models, 0);
    if (!m)
        return error_set(err, ST_INVALID, "--foreign-publishers: the model %s of %s is none of --models",
                         address->model, address->pub);
    const struct kv_holder holder = { .id = address->pub,
                                      .role = "foreign",
                                      .host = "",
                                      .address = "",
                                      .format = "",
                                      .model = m->name,
                                      .weights = model_fingerprint(m->model),
                                      .tokenizer = model_text_fingerprint(m->model),
                                      .block_tokens = (uint32_t)p->config->foreign_block_tokens };
    const struct foreign_feed_options options = {
        .view = p->kv_view, .holder = &holder, .max_bytes = p->config->foreign_memory, .adapter = adapter, .ctx = p
    };
    return kv_feeds_add_foreign(p->kv_feeds, address, &options, err);
}

static status add_all_foreign(struct router_process *p, struct error *err)
{
    struct foreign_address address;
    const char *at = p->config->foreign_publishers;
    status st;
    while ((st = foreign_address_next(&at, &address, err)) == ST_OK && (st = add_foreign(p, &address, err)) == ST_OK)
        log_info("foreign KV events followed", "address=%s", address.pub);
    return st == ST_NOT_FOUND ? ST_OK : st;
}

/* A publisher that has nothing to say must have the time to say so. */
static void watch_for_silence(struct kv_follow_rules *rules, uint64_t silence_us)
{
    rules->silence_us = silence_us;
    if (rules->probe_us > silence_us / 4)
        rules->probe_us = silence_us / 4;
    if (rules->answer_us > silence_us / 2)
        rules->answer_us = silence_us / 2;
}

static status kv_feeds_start(struct daemon *d, struct error *err)
{
    struct router_process *p = router_process_of(d);
    struct kv_feeds_options options = {
        .loop = daemon_loop(d), .zmq = links_context(p->links), .view = p->kv_view, .rules = kv_subscriber_rules()
    };
    watch_for_silence(&options.rules, p->config->kv_events_silence);
    if (!p->config->index_memory)
        return ST_OK;
    status st = kv_feeds_create(&options, &p->kv_feeds, err);
    if (st == ST_OK && (st = add_all_foreign(p, err)) != ST_OK)
        kv_feeds_destroy(&p->kv_feeds);
    return st;
}

static void kv_feeds_stop(struct daemon *d)
{
    kv_feeds_destroy(&router_process_of(d)->kv_feeds);
}

const struct part part_kv_feeds = { .name = "kv_feeds", .start = kv_feeds_start, .stop = kv_feeds_stop };
