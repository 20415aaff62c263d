/* POST /kv/wipe and GET /kv/salt-key on the admin port, as the KV block manager has them: baton kv wipe reaches the
 * workers' pools, too. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "kvbm/kv_page.h"
#include "worker/process.h"
#include "worker/wiping.h"

struct kv_wipe {
    struct worker_process *process;
    struct salt_key key;
    struct http_exchange *waits; /* for the end of the wipe; NULL: nobody */
    uint32_t forgotten;          /* by the wipe */
};

static void on_gone(void *arg)
{
    ((struct kv_wipe *)arg)->waits = NULL;
}

static void write_answer(const struct kv_wipe *k, status st, const struct wiped *wiped, struct json_writer *w)
{
    char why[96];
    snprintf(why, sizeof why, "%u blocks are still in use, %u do not take zeros", wiped->blocks_left,
             wiped->blocks_bad);
    json_field_bool(w, "wiped", st == ST_OK);
    json_field_string(w, "outcome", status_text(st));
    if (st != ST_OK)
        json_field_string(w, "error", why);
    json_field_uint(w, "blocks", k->forgotten);
    json_field_uint(w, "slots", wiped->blocks_zeroed);
    json_field_uint(w, "slots_left", wiped->blocks_left);
    json_field_uint(w, "slots_bad", wiped->blocks_bad);
    json_field_uint(w, "host_bytes", wiped->bytes_zeroed);
    json_write_end(w);
}

static void on_wiped(void *ctx, status st, const struct wiped *wiped)
{
    struct kv_wipe *k = ctx;
    struct http_exchange *x = k->waits;
    struct text_buffer body;
    struct json_writer w;
    log_write(st == ST_OK ? LOG_INFO : LOG_ERROR, "wiped",
              "outcome=\"%s\" blocks=%u slots=%u slots_left=%u slots_bad=%u host_bytes=%" PRIu64, status_text(st),
              k->forgotten, wiped->blocks_zeroed, wiped->blocks_left, wiped->blocks_bad, wiped->bytes_zeroed);
    if (!x)
        return;
    k->waits = NULL;
    http_on_gone(x, NULL, NULL);
    kv_page_begin(&body, &w);
    write_answer(k, st, wiped, &w);
    kv_page_answer(x, st == ST_OK ? 200 : 500, &body);
}

static void wipe(struct kv_wipe *k, struct http_exchange *x, const struct block_hash *salt)
{
    const struct worker_process *p = k->process;
    const struct wipe_call call = {
        .salt = salt, .deadline_us = clock_now_us() + p->config->wipe_timeout, .done = on_wiped, .ctx = k
    };
    status st = worker_wipe(p->worker, &call, &k->forgotten);
    if (st != ST_OK) {
        kv_page_refuse(x, 409, st == ST_AGAIN ? "another wipe is going on" : status_text(st));
        return;
    }
    log_info("wiping", "what=%s by=%s", salt ? "a salt" : "everything", http_peer(x));
    k->waits = x;
    http_on_gone(x, on_gone, k);
}

static void page_wipe(void *arg, struct http_exchange *x)
{
    struct kv_wipe *k = arg;
    struct kv_request r;
    bool all;
    if (!kv_page_read_wipe(x, &k->key, &all, &r))
        return;
    wipe(k, x, all ? NULL : &r.salt);
    kv_request_free(&r);
}

static void page_salt_key(void *arg, struct http_exchange *x)
{
    const struct kv_wipe *k = arg;
    const struct daemon *d = k->process->daemon;
    kv_page_answer_salt_key(x, daemon_id(d), daemon_role(d), &k->key);
}

static status kv_wipe_start(struct daemon *d, struct error *err)
{
    struct kv_wipe *k = calloc(1, sizeof *k);
    if (!k)
        return error_set(err, ST_NO_MEMORY, "no memory");
    k->process = worker_process_of(d);
    status st = salt_key_read(k->process->config->salt_key_file, &k->key, err);
    if (st != ST_OK) {
        free(k);
        return st;
    }
    daemon_set_state(d, &part_kv_wipe, k);
    daemon_add_page(d, "POST", "/kv/wipe", page_wipe, k);
    daemon_add_page(d, "GET", "/kv/salt-key", page_salt_key, k);
    return ST_OK;
}

static void kv_wipe_stop(struct daemon *d)
{
    struct kv_wipe *k = daemon_state(d, &part_kv_wipe);
    if (k->waits)
        http_on_gone(k->waits, NULL, NULL);
    free(k);
}

const struct part part_kv_wipe = { .name = "kv_wipe", .start = kv_wipe_start, .stop = kv_wipe_stop };
