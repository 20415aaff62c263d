/* The cluster's name in etcd: held by one supervisor, so that two clusters which share an etcd are told that they
 * have one name, instead of taking each other's processes for their own. */
#include <stdio.h>
#include <string.h>

#include <unistd.h>

#include "cli/place.h"
#include "cli/supervisor_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "proto/instance.h"

#define RECORD_MAX_BYTES 4096

static void write_record(const struct supervisor *s, struct text_buffer *out)
{
    struct json_writer w;
    char host[64] = "localhost", process[PROCESS_NAME_BYTES];
    gethostname(host, sizeof host - 1);
    json_writer_init(&w, out);
    json_write_object(&w);
    json_field_string(&w, "state_dir", s->options.dir->path);
    json_field_string(&w, "host", host);
    json_field_int(&w, "pid", getpid());
    json_field_string(&w, "process", process_name(process));
    json_field_string(&w, "version", BATON_VERSION);
    json_write_end(&w);
}

static void on_named(void *arg, bool registered)
{
    struct supervisor *s = arg;
    s->named = registered;
    supervisor_etcd_look(s);
}

/* Not from etcd's callback: a failed start ends the client. */
static void fail(void *arg)
{
    struct supervisor *s = arg;
    supervisor_fail(s, NULL,
                    "the cluster name \"%s\" is taken in etcd at %s by %s: stop that cluster, or start this one with "
                    "another --name (without it the last part of --state-dir is the name), or with another --etcd",
                    s->options.dir->cluster, s->etcd_url, s->name_holder);
}

static void refuse(struct supervisor *s, const json_t *holder)
{
    if (s->name_holder[0])
        return;
    snprintf(s->name_holder, sizeof s->name_holder, "the one in %s (process %lld on %s)",
             json_text(holder, "state_dir"), json_number(holder, "pid"), json_text(holder, "host"));
    if (s->phase == PHASE_ETCD)
        timer_set(loop_timers(s->loop), &s->stop_timer, clock_now_us(), fail, s);
    else
        log_error("the cluster's name was taken", "cluster=%s holder=\"%s\"", s->options.dir->cluster, s->name_holder);
}

static bool on_held(void *arg, const char *value, size_t len)
{
    struct supervisor *s = arg;
    if (!s->cluster.etcd[0])
        return true; /* in an own etcd only an earlier run of this folder can have left it */
    json_t *holder = json_loadb(value, len, 0, NULL);
    enum claim_answer answer = claim_judge(&s->claim, value, len, process_life(json_text(holder, "process")),
                                           clock_now_us(), SUPERVISOR_LEASE_US);
    if (answer == CLAIM_WAIT)
        supervisor_report_progress(s, "waiting for an earlier cluster of this name to end");
    if (answer == CLAIM_REFUSE)
        refuse(s, holder);
    json_decref(holder);
    return answer == CLAIM_TAKE;
}

status supervisor_name_take(struct supervisor *s, struct error *err)
{
    char key[INSTANCE_MAX_KEY];
    struct text_buffer record;
    struct etcd_registration *registration; /* etcd's, and ends with it */
    text_buffer_init(&record, RECORD_MAX_BYTES);
    write_record(s, &record);
    snprintf(key, sizeof key, "/baton/v1/%s/supervisor", s->options.dir->cluster);
    const struct etcd_registration_options options = { key, text_buffer_text(&record), on_named, on_held, s };
    status st = record.state;
    if (st == ST_OK)
        st = etcd_register(s->etcd, &options, &registration);
    text_buffer_free(&record);
    return st == ST_OK ? ST_OK : error_set(err, st, "cannot register the cluster's name: %s", status_text(st));
}
