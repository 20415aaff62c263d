/* What the supervisor answers, and state.json. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/supervisor_internal.h"
#include "common/clock.h"
#include "common/log.h"

#define SAVE_DELAY_US 20000u /* a burst of changes is one write */

const char *phase_name(enum phase phase)
{
    static const char *const names[] = {
#define X(name, text) text,
        PHASES(X)
#undef X
    };
    return names[phase];
}

/* ---- status ------------------------------------------------------------------ */

static void write_model(const struct supervisor *s, const struct member *m, struct json_writer *w)
{
    const struct cluster_options *o = &s->cluster;
    char names[CLUSTER_MAX_MODELS * (sizeof o->models[0].name + 1)] = "";
    if (m->role == ROLE_ROUTER) {
        size_t n = 0;
        for (uint32_t i = 0; i < o->n_models; i++)
            n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? "," : "", o->models[i].name);
        json_field_string(w, "model", names);
    } else if (role_is_worker(m->role)) {
        json_field_string(w, "model", o->models[m->model].name);
    }
}

static void write_member(const struct supervisor *s, const struct member *m, struct json_writer *w)
{
    json_write_object(w);
    json_field_string(w, "role", role_name(m->role));
    json_field_string(w, "id", m->id);
    json_field_int(w, "pid", m->pid);
    json_field_string(w, "state", member_state_name(m->state));
    write_model(s, m, w);
    json_field_uint(w, "uptime_s", m->pid ? (clock_now_us() - m->started_us) / 1000000 : 0);
    json_field_uint(w, "restarts", m->restarts);
    json_field_uint(w, "start_ticks", m->pid ? m->start_ticks : 0);
    json_write_key(w, "ports");
    json_write_object(w);
    for (uint32_t i = 0; i < m->n_ports; i++)
        json_field_uint(w, m->ports[i].plane, m->ports[i].port);
    json_write_end(w);
    json_write_end(w);
}

static void write_members(const struct supervisor *s, struct json_writer *w)
{
    json_write_key(w, "workers");
    json_write_array(w);
    for (unsigned role = ROLE_ETCD + 1; role < ROLE_COUNT; role++)
        for (uint32_t i = 0; i < s->roster.n; i++)
            if (s->roster.members[i].role == role && s->roster.members[i].state != MEMBER_GONE)
                write_member(s, &s->roster.members[i], w);
    json_write_end(w);
    struct member *etcd = roster_find((struct roster *)&s->roster, "etcd");
    json_field_string(w, "etcd_url", s->etcd_url);
    if (etcd) {
        json_write_key(w, "etcd");
        write_member(s, etcd, w);
    }
}

static void write_status(struct supervisor *s, struct json_writer *w)
{
    char url[64];
    json_field_string(w, "state", phase_name(s->phase));
    json_field_string(w, "url", supervisor_url(s, url));
    json_field_string(w, "cluster", s->options.dir->cluster);
    json_field_string(w, "state_dir", s->options.dir->path);
    json_field_string(w, "version", BATON_VERSION);
    json_field_int(w, "pid", getpid());
    json_field_uint(w, "start_ticks", process_start_ticks(getpid()));
    json_field_uint(w, "uptime_s", (clock_now_us() - s->started_us) / 1000000);
    json_write_key(w, "options");
    cluster_options_write(s->options.cluster, w);
    write_members(s, w);
    json_write_key(w, "weights");
    weights_holder_write(s->weights, w);
}

void supervisor_save(struct supervisor *s)
{
    struct error err;
    struct text_buffer text;
    struct json_writer w;
    text_buffer_init(&text, CONTROL_MAX_REPLY_BYTES);
    json_writer_init(&w, &text);
    json_write_object(&w);
    write_status(s, &w);
    json_write_end(&w);
    text_buffer_char(&text, '\n');
    status st = text.state;
    if (st != ST_OK)
        error_set(&err, st, "%s", status_text(st));
    else
        st = state_dir_write(s->options.dir, "state.json", text.data, text.len, &err);
    if (st != ST_OK)
        log_error("state not saved", "error=\"%s\"", err.text);
    text_buffer_free(&text);
}

static void save(void *arg)
{
    supervisor_save(arg);
}

void supervisor_save_soon(struct supervisor *s)
{
    if (!timer_is_set(&s->save_timer))
        timer_set(loop_timers(s->loop), &s->save_timer, clock_now_us() + SAVE_DELAY_US, save, s);
}

/* ---- requests --------------------------------------------------------------------- */

static uint64_t timeout_of(const json_t *request, uint64_t seconds)
{
    json_t *given = json_object_get(request, "timeout_s");
    json_int_t s = json_integer_value(given);
    if (json_is_integer(given) && s >= 0 && s <= 86400)
        seconds = (uint64_t)s;
    return seconds * 1000000;
}

static status scale_model(struct supervisor *s, enum role role, uint32_t model, uint32_t n, uint64_t timeout_us)
{
    while (roster_count_active(&s->roster, role, model) < n) {
        struct member *m;
        if (supervisor_add(s, role, model, &m) != ST_OK)
            return ST_LIMIT;
        member_launch(s, m);
    }
    while (roster_count_active(&s->roster, role, model) > n)
        member_terminate(s, roster_dispensable(&s->roster, role, model), timeout_us);
    return ST_OK;
}

static status scale(struct supervisor *s, const json_t *request, struct error *err)
{
    const char *name = json_string_value(json_object_get(request, "role"));
    json_t *count = json_object_get(request, "n");
    json_int_t n = json_integer_value(count);
    enum role role = name ? role_parse(name) : ROLE_COUNT;
    uint32_t least, most = role_most(role, &least);
    if (most == 0)
        return error_set(err, ST_INVALID,
                         "there is no role \"%.40s\" to scale; it takes router, prefill, decode or kvbm",
                         name ? name : "");
    if (!json_is_integer(count) || n < least || n > most)
        return error_set(err, ST_INVALID, "%s takes a number from %u to %u", name, least, most);
    if (s->phase != PHASE_READY)
        return error_set(err, ST_AGAIN, "the cluster is %s", phase_name(s->phase));
    s->cluster.replicas[role] = (uint32_t)n;
    for (uint32_t model = 0; model < (role_is_worker(role) ? s->cluster.n_models : 1); model++)
        if (scale_model(s, role, model, (uint32_t)n, timeout_of(request, DRAIN_TIMEOUT_S)) != ST_OK)
            return error_set(err, ST_LIMIT, "a cluster has %d processes at most", ROSTER_MAX);
    log_info("scaled", "role=%s n=%u", name, (unsigned)n);
    return ST_OK;
}

static status drain(struct supervisor *s, const json_t *request, struct error *err)
{
    const char *id = json_string_value(json_object_get(request, "id"));
    struct member *m = id ? roster_find(&s->roster, id) : NULL;
    if (!m)
        return error_set(err, ST_NOT_FOUND, "there is no process \"%.40s\" (baton status lists them)", id ? id : "");
    if (m->role == ROLE_ETCD)
        return error_set(err, ST_INVALID, "etcd cannot be drained");
    if (s->phase != PHASE_READY)
        return error_set(err, ST_AGAIN, "the cluster is %s", phase_name(s->phase));
    if (m->role == ROLE_ROUTER && member_is_active(m) && roster_count_active(&s->roster, ROLE_ROUTER, 0) == 1)
        return error_set(err, ST_INVALID, "%s is the only router (baton down stops the cluster)", m->id);
    log_info("draining", "id=%s", m->id);
    member_terminate(s, m, timeout_of(request, DRAIN_TIMEOUT_S));
    return ST_OK;
}

status supervisor_answer(void *ctx, const json_t *request, struct json_writer *reply, struct error *err)
{
    struct supervisor *s = ctx;
    const char *op = json_string_value(json_object_get(request, "op"));
    if (!op)
        return error_set(err, ST_INVALID, "the request has no \"op\"");
    if (!strcmp(op, "status")) {
        write_status(s, reply);
        return ST_OK;
    }
    if (!strcmp(op, "weights_gc")) {
        weights_holder_gc(s->weights, reply);
        json_write_key(reply, "kept");
        weights_holder_write(s->weights, reply);
        return ST_OK;
    }
    if (!strcmp(op, "scale"))
        return scale(s, request, err);
    if (!strcmp(op, "drain"))
        return drain(s, request, err);
    if (strcmp(op, "down") != 0)
        return error_set(err, ST_INVALID, "there is no request \"%.40s\"", op);
    log_info("asked to stop", "");
    supervisor_stop(s, timeout_of(request, STOP_TIMEOUT_S));
    return ST_OK;
}
