/* All keys with a prefix: read, followed, and compared from time to time, as a watch that has
 * silently died looks like one where nothing happens. */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/clock.h"
#include "common/etcd_call.h"
#include "common/etcd_json.h"
#include "common/log.h"

#define ETCD_MAX_WATCHED_KEYS 65536u /* of one watch; later ones are not reported */

struct etcd_watch {
    struct etcd *etcd;
    LIST_ENTRY(etcd_watch) link;
    char *prefix;
    struct etcd_watch_callbacks callbacks;
    json_t *known;    /* key -> hash of the value last reported */
    int64_t revision; /* everything up to it was reported */
    struct etcd_call *read, *stream;
    bool created; /* etcd has confirmed the stream */
    bool in_sync; /* what on_synced was last told */
    bool told;
    uint32_t failures;
    struct timer timer;
    uint32_t entered; /* our functions on the stack that still need the watch */
    bool ended;
};

static void read_all(void *arg);

static void enter(struct etcd_watch *w)
{
    w->entered++;
}

static void leave(struct etcd_watch *w)
{
    if (--w->entered || !w->ended)
        return;
    json_decref(w->known);
    free(w->prefix);
    free(w);
}

/* Reports */

static void report_sync(struct etcd_watch *w, bool in_sync)
{
    if (w->ended || (w->told && w->in_sync == in_sync))
        return;
    w->told = true;
    w->in_sync = in_sync;
    if (w->callbacks.on_synced)
        w->callbacks.on_synced(w->callbacks.arg, in_sync);
}

static void report_put(struct etcd_watch *w, const char *key, const char *value, size_t len, bool only_news)
{
    json_int_t hash = (json_int_t)XXH3_64bits(value, len);
    const json_t *old = json_object_get(w->known, key);
    if (only_news && old && json_integer_value(old) == hash)
        return;
    if (!old && json_object_size(w->known) >= ETCD_MAX_WATCHED_KEYS) {
        log_error("too many keys to watch", "prefix=%s key=%s", w->prefix, key);
        return;
    }
    ASSERT(json_object_set_new_nocheck(w->known, key, json_integer(hash)) == 0);
    if (w->callbacks.on_put)
        w->callbacks.on_put(w->callbacks.arg, key, value, len);
}

static void report_delete(struct etcd_watch *w, const char *key)
{
    char *copy = strdup(key); /* the key's memory goes with the entry */
    ASSERT(copy != NULL);
    if (json_object_del(w->known, key) == 0 && w->callbacks.on_delete)
        w->callbacks.on_delete(w->callbacks.arg, copy);
    free(copy);
}

/* The whole state */

static void report_kv(struct etcd_watch *w, const json_t *kv, bool is_delete, bool only_news, json_t *seen)
{
    size_t key_len, value_len;
    char *key = etcd_json_text(kv, "key", &key_len), *value = etcd_json_text(kv, "value", &value_len);
    /* Keys of Baton are text; another's key with a NUL cannot be told apart and is left out. */
    if (!key || !value || strlen(key) != key_len) {
        log_warn("a key cannot be read", "prefix=%s", w->prefix);
    } else if (is_delete) {
        report_delete(w, key);
    } else {
        if (seen)
            json_object_set_new_nocheck(seen, key, json_true());
        report_put(w, key, value, value_len, only_news);
    }
    free(key);
    free(value);
}

static void report_missing(struct etcd_watch *w, const json_t *seen)
{
    json_t *before = json_copy(w->known), *value;
    const char *key;
    json_object_foreach(before, key, value)
    {
        if (w->ended)
            break;
        if (!json_object_get(seen, key))
            report_delete(w, key);
    }
    json_decref(before);
}

/* Whether all of it was known already. */
static bool matches(const struct etcd_watch *w, const json_t *kvs)
{
    if (json_array_size(kvs) != json_object_size(w->known))
        return false;
    bool same = true;
    for (size_t i = 0; same && i < json_array_size(kvs); i++) {
        size_t key_len, value_len;
        const json_t *kv = json_array_get(kvs, i);
        char *key = etcd_json_text(kv, "key", &key_len), *value = etcd_json_text(kv, "value", &value_len);
        const json_t *old = key ? json_object_get(w->known, key) : NULL;
        same = value && old && json_integer_value(old) == (json_int_t)XXH3_64bits(value, value_len);
        free(key);
        free(value);
    }
    return same;
}

static void report_all(struct etcd_watch *w, const json_t *kvs)
{
    json_t *seen = json_object();
    ASSERT(seen != NULL);
    for (size_t i = 0; i < json_array_size(kvs) && !w->ended; i++)
        report_kv(w, json_array_get(kvs, i), false, true, seen);
    if (!w->ended)
        report_missing(w, seen);
    json_decref(seen);
}

/* The stream */

static void read_after(struct etcd_watch *w, uint64_t delay_us)
{
    if (!w->ended)
        timer_set(w->etcd->timers, &w->timer, clock_now_us() + delay_us, read_all, w);
}

static void stream_lost(struct etcd_watch *w, const char *why)
{
    log_info("watch interrupted", "prefix=%s cause=\"%s\"", w->prefix, why);
    w->etcd->stats.watch_restarts++;
    etcd_call_cancel(&w->stream);
    etcd_call_cancel(&w->read);
    read_after(w, etcd_retry_delay(w->etcd, ++w->failures));
    report_sync(w, false);
}

static void on_stream_end(void *arg, const struct etcd_answer *answer)
{
    struct etcd_watch *w = arg;
    enter(w);
    w->stream = NULL;
    stream_lost(w, answer->st == ST_OK ? "the stream ended" : answer->message);
    leave(w);
}

static void take_events(struct etcd_watch *w, const json_t *events)
{
    for (size_t i = 0; i < json_array_size(events) && !w->ended; i++) {
        const json_t *event = json_array_get(events, i), *kv = json_object_get(event, "kv");
        const char *type = json_string_value(json_object_get(event, "type")); /* left out for PUT */
        int64_t revision = etcd_json_int(kv, "mod_revision");
        report_kv(w, kv, type && !strcmp(type, "DELETE"), false, NULL);
        if (revision > w->revision)
            w->revision = revision;
    }
}

static void on_stream_line(void *arg, const json_t *line)
{
    struct etcd_watch *w = arg;
    const json_t *result = json_object_get(line, "result");
    enter(w);
    if (!result) {
        stream_lost(w, "etcd reported an error");
    } else if (json_is_true(json_object_get(result, "canceled"))) {
        stream_lost(w, etcd_json_int(result, "compact_revision") ? "compacted" : "etcd cancelled the watch");
    } else {
        if (json_is_true(json_object_get(result, "created")))
            w->created = true;
        take_events(w, json_object_get(result, "events"));
    }
    leave(w);
}

static void follow(struct etcd_watch *w)
{
    json_t *create = etcd_json_prefix(w->prefix);
    ASSERT(create && json_object_set_new(create, "start_revision", etcd_json_int_string(w->revision + 1)) == 0);
    w->created = false;
    w->stream =
        etcd_call_start(w->etcd, &(struct etcd_call_options){ .path = "/v3/watch",
                                                              .body = json_pack("{s:o}", "create_request", create),
                                                              .on_line = on_stream_line,
                                                              .done = on_stream_end,
                                                              .arg = w });
}

/* Reading and comparing */

static uint64_t compare_interval(const struct etcd_watch *w)
{
    return 2 * w->etcd->options.lease_ttl_us;
}

static void take_state(struct etcd_watch *w, const json_t *state)
{
    const json_t *kvs = json_object_get(state, "kvs");
    int64_t revision = etcd_json_int(json_object_get(state, "header"), "revision");
    bool overtaken = w->stream && revision < w->revision; /* the stream has told more than this read saw */
    bool stands = w->stream && w->created && (overtaken || matches(w, kvs));
    w->failures = 0;
    if (!stands) {
        if (w->stream)
            w->etcd->stats.watch_restarts++;
        etcd_call_cancel(&w->stream);
        w->revision = revision;
        report_all(w, kvs);
        if (!w->ended)
            follow(w);
    }
    read_after(w, compare_interval(w));
    report_sync(w, true);
}

static void on_read(void *arg, const struct etcd_answer *answer)
{
    struct etcd_watch *w = arg;
    enter(w);
    w->read = NULL;
    if (answer->st == ST_OK) {
        take_state(w, answer->json);
    } else {
        etcd_call_cancel(&w->stream);
        read_after(w, etcd_retry_delay(w->etcd, ++w->failures));
        report_sync(w, false);
    }
    leave(w);
}

static void read_all(void *arg)
{
    struct etcd_watch *w = arg;
    ASSERT(!w->read);
    w->read = etcd_call_start(w->etcd, &(struct etcd_call_options){
                                           .path = "/v3/kv/range",
                                           .body = etcd_json_prefix(w->prefix),
                                           .done = on_read,
                                           .arg = w,
                                       });
}

status etcd_watch(struct etcd *etcd, const char *prefix, const struct etcd_watch_callbacks *callbacks,
                  struct etcd_watch **out)
{
    struct etcd_watch *w = calloc(1, sizeof *w);
    if (!w)
        return ST_NO_MEMORY;
    *w = (struct etcd_watch){ .etcd = etcd, .prefix = strdup(prefix), .callbacks = *callbacks, .known = json_object() };
    if (!w->prefix || !w->known) {
        json_decref(w->known);
        free(w->prefix);
        free(w);
        return ST_NO_MEMORY;
    }
    LIST_INSERT_HEAD(&etcd->watches, w, link);
    read_all(w);
    *out = w;
    return ST_OK;
}

void etcd_unwatch(struct etcd_watch **p)
{
    struct etcd_watch *w = *p;
    if (!w)
        return;
    *p = NULL;
    enter(w);
    LIST_REMOVE(w, link);
    timer_cancel(w->etcd->timers, &w->timer);
    etcd_call_cancel(&w->read);
    etcd_call_cancel(&w->stream);
    w->ended = true;
    leave(w);
}
