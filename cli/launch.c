#include "cli/launch.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Appends one argument; what does not fit leaves n beyond its bound, which the caller looks at once. */
static void add(struct launch *l, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void add(struct launch *l, const char *fmt, ...)
{
    va_list args;
    size_t room = sizeof l->text - l->used;
    va_start(args, fmt);
    int len = vsnprintf(l->text + l->used, room, fmt, args);
    va_end(args);
    if (len < 0 || (size_t)len >= room || l->n >= LAUNCH_MAX_ARGUMENTS) {
        l->n = LAUNCH_MAX_ARGUMENTS + 1;
        return;
    }
    l->argv[l->n++] = l->text + l->used;
    l->used += (size_t)len + 1;
}

static void add_option(struct launch *l, const char *name, const char *value)
{
    add(l, "--%s=%s", name, value); /* in one piece: a BOOL row takes no word behind it */
}

static void etcd_arguments(const struct launch_plan *plan, struct launch *l)
{
    char client[64], peer[64];
    snprintf(client, sizeof client, "http://127.0.0.1:%u", plan->etcd_client_port);
    snprintf(peer, sizeof peer, "http://127.0.0.1:%u", plan->etcd_peer_port);
    add(l, "etcd");
    add_option(l, "name", "baton");
    add_option(l, "data-dir", plan->etcd_data);
    add_option(l, "listen-client-urls", client);
    add_option(l, "advertise-client-urls", client);
    add_option(l, "listen-peer-urls", peer);
    add_option(l, "initial-advertise-peer-urls", peer);
    add(l, "--initial-cluster=baton=%s", peer);
    add_option(l, "logger", "zap");
    add_option(l, "log-outputs", "stderr");
    add_option(l, "log-level", "warn");
}

static void router_arguments(const struct launch_plan *plan, const struct member *m, struct launch *l)
{
    const struct cluster_options *o = plan->options;
    char models[CLUSTER_MAX_MODELS * (sizeof(struct cluster_model) + 2)];
    size_t n = 0;
    /* A restarted router comes back where its clients look for it. */
    uint16_t port = member_port(m, "http");
    if (!port && o->port)
        port = (uint16_t)(o->port + m->number);
    add(l, "--http-listen=127.0.0.1:%u", port);
    for (uint32_t i = 0; i < o->n_models; i++)
        n += (size_t)snprintf(models + n, sizeof models - n, "%s%s=%s", i ? "," : "", o->models[i].name,
                              o->models[i].path);
    add_option(l, "models", models);
    add_option(l, "debug-extensions", "true");
}

static void worker_arguments(const struct launch_plan *plan, const struct member *m, struct launch *l)
{
    const struct cluster_options *o = plan->options;
    add_option(l, "model", o->models[m->model].path);
    add_option(l, "model-name", o->models[m->model].name);
    add_option(l, "transfer", o->transfer);
    add_option(l, "weights-holder", plan->weights_socket);
    add(l, "--host-workers=%u", o->n_models * (o->replicas[ROLE_PREFILL] + o->replicas[ROLE_DECODE]));
}

static void kvbm_arguments(const struct launch_plan *plan, struct launch *l)
{
    add_option(l, "transfer", plan->options->transfer);
    if (plan->options->kv_disk[0])
        add_option(l, "disk", plan->options->kv_disk);
}

/* Salts are made by routers, so whoever else is told one must have their key. */
static const char *salt_key_of(const struct launch_plan *plan)
{
    const char *given = cluster_options_value(plan->options, ROLE_ROUTER, "salt_key_file");
    return given ? given : plan->salt_key;
}

status launch_arguments(const struct launch_plan *plan, const struct member *m, struct launch *out)
{
    const struct cluster_options *o = plan->options;
    out->n = out->used = 0;
    if (m->role == ROLE_ETCD) {
        etcd_arguments(plan, out);
    } else {
        add(out, "%s/baton-%s", plan->bin_dir, role_name(m->role));
        add_option(out, "cluster", plan->cluster);
        add_option(out, "id", m->id);
        add_option(out, "etcd", plan->etcd_url);
        add_option(out, "cluster-key-file", plan->cluster_key);
        add_option(out, "salt-key-file", salt_key_of(plan));
        if (m->role == ROLE_ROUTER)
            router_arguments(plan, m, out);
        else if (m->role == ROLE_KVBM)
            kvbm_arguments(plan, out);
        else
            worker_arguments(plan, m, out);
    }
    /* Last, so that they win. */
    for (uint32_t i = 0; i < o->n_settings; i++)
        if (cluster_setting_is_for(&o->settings[i], m->role))
            add_option(out, o->settings[i].key, o->settings[i].value);
    if (out->n > LAUNCH_MAX_ARGUMENTS)
        return ST_LIMIT;
    out->argv[out->n] = NULL;
    return ST_OK;
}
