/* What `baton kv` asks for, on the admin port: /kv/status, /kv/salt-key, /kv/find, /kv/pin, /kv/unpin, /kv/wipe. */
#include <inttypes.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "kvbm/daemon/process.h"
#include "kvbm/kv_page.h"

#define BIT(member) (1u << KV_REQUEST_##member)
#define CHAIN_BITS  (BIT(TOKENS) | BIT(MODEL) | BIT(ADAPTER) | BIT(SALT))

struct admin {
    struct kvbm_process *process;
    struct salt_key key;
    struct http_exchange *wiping; /* who waits for the end of a wipe; NULL: nobody */
};

/* ---- requests ------------------------------------------------------------------ */

/* False: it has been answered. */
static bool is_open(const struct admin *a, struct http_exchange *x)
{
    if (!a->process->is_open)
        kv_page_refuse(x, 409,
                       "no worker of this host has registered yet, so that the format of its blocks is not known and "
                       "nothing of them, on disk either, has been looked at");
    return a->process->is_open;
}

/* False: it has been answered. */
static bool read_request(struct admin *a, struct http_exchange *x, unsigned allowed, unsigned needed,
                         struct kv_request *out)
{
    if (!kv_page_read(x, allowed, needed, &a->key, out))
        return false;
    if (is_open(a, x))
        return true;
    kv_request_free(out);
    return false;
}

/* ---- status ------------------------------------------------------------------------ */

static void write_tier(struct json_writer *w, const char *name, const struct store_tier_stats *t)
{
    json_write_key(w, name);
    json_write_object(w);
    json_field_uint(w, "blocks", t->blocks);
    json_field_uint(w, "bytes", t->bytes);
    json_field_uint(w, "capacity_bytes", t->capacity_bytes);
    json_field_uint(w, "hit_blocks", t->hit_blocks);
    json_field_uint(w, "hit_tokens", t->hit_tokens);
    json_field_uint(w, "oldest_s", t->oldest_s);
}

static void write_tiers(struct kvbm_process *p, const struct store_stats *s, struct json_writer *w)
{
    json_write_key(w, "tiers");
    json_write_object(w);
    write_tier(w, "host", &s->tiers[STORE_HOST]);
    json_field_uint(w, "held", s->slots_held);
    json_field_uint(w, "pinned", s->slots_pinned);
    json_write_end(w);
    if (p->disk) {
        struct disk_metrics m;
        disk_tier_metrics(p->disk, &m);
        write_tier(w, "disk", &s->tiers[STORE_DISK]);
        json_field_string(w, "state", disk_health_name(m.health));
        json_field_uint(w, "wear_bytes", m.wear_bytes);
        json_write_end(w);
    }
    json_write_end(w);
}

static void page_status(void *arg, struct http_exchange *x)
{
    const struct admin *a = arg;
    struct kvbm_process *p = a->process;
    struct text_buffer body;
    struct json_writer w;
    kv_page_begin(&body, &w);
    json_field_string(&w, "id", daemon_id(p->daemon));
    json_field_bool(&w, "open", p->is_open);
    if (p->is_open) {
        struct store_stats s;
        store_stats(p->store, &s);
        json_field_string(&w, "kv_format", p->kv_format);
        json_field_uint(&w, "block_tokens", p->layout.block_tokens);
        write_tiers(p, &s, &w);
        json_field_uint(&w, "loans", lender_open_loans(p->lender));
        json_field_uint(&w, "salts", s.salts);
        json_field_bool(&w, "wiping", s.wiping);
    }
    json_write_end(&w);
    kv_page_answer(x, 200, &body);
}

/* ---- chains ------------------------------------------------------------------------- */

static void refuse_chain(const struct kvbm_process *p, struct http_exchange *x, uint32_t n_tokens)
{
    struct error why;
    uint32_t size = p->layout.block_tokens;
    if (n_tokens < size)
        error_set(&why, ST_INVALID, "there is no full block: %u tokens, and a block has %u", n_tokens, size);
    else
        error_set(&why, ST_INVALID, "%u tokens are too many, in blocks of %u", n_tokens, size);
    kv_page_refuse(x, 400, why.text);
}

/* The chain of full blocks that a request names. False: it has been answered. */
static bool make_chain(struct admin *a, struct http_exchange *x, const struct kv_request *r, struct store_chain *out)
{
    struct kvbm_process *p = a->process;
    const struct served_model *model = members_model(p, r->model);
    uint32_t n = r->n_tokens / p->layout.block_tokens;
    if (!model) {
        kv_page_refuse(x, 404,
                       r->model[0] ? "no worker has registered with this model"
                                   : "\"model\" is missing: there is not exactly one");
        return false;
    }
    struct block_hash *hashes = n ? malloc(n * sizeof *hashes) : NULL;
    if (!hashes || n > (uint32_t)p->config->max_chain) {
        free(hashes);
        refuse_chain(p, x, r->n_tokens);
        return false;
    }
    const struct block_seed_parts parts = { model->weights, model->tokenizer, r->adapter, r->salt };
    struct block_hasher hasher;
    *out = (struct store_chain){ .format = store_format_id(p->kv_format),
                                 .salt = store_salt_id(r->salt),
                                 .seed = block_seed(&parts),
                                 .hashes = hashes,
                                 .tokens = r->tokens,
                                 .n_blocks = n };
    block_hasher_init(&hasher, out->seed, p->layout.block_tokens);
    (void)block_hasher_grow(&hasher, r->tokens, r->n_tokens, hashes, n);
    return true;
}

static void on_chain(struct admin *a, struct http_exchange *x, unsigned allowed, unsigned needed,
                     void (*fn)(struct admin *a, struct http_exchange *x, const struct kv_request *r,
                                const struct store_chain *chain))
{
    struct kv_request r;
    struct store_chain chain;
    if (!read_request(a, x, allowed, needed, &r))
        return;
    if (make_chain(a, x, &r, &chain)) {
        fn(a, x, &r, &chain);
        free((void *)chain.hashes);
    }
    kv_request_free(&r);
}

static void find(struct admin *a, struct http_exchange *x, const struct kv_request *r, const struct store_chain *chain)
{
    struct text_buffer body;
    struct json_writer w;
    char hash[BLOCK_HASH_TEXT_BYTES];
    struct store_found found = store_find(a->process->store, chain);
    kv_page_begin(&body, &w);
    json_field_uint(&w, "tokens", r->n_tokens);
    json_field_uint(&w, "block_tokens", a->process->layout.block_tokens);
    json_field_uint(&w, "blocks", chain->n_blocks);
    json_field_uint(&w, "host", found.host);
    json_field_uint(&w, "disk", found.disk);
    json_field_string(&w, "last_hash", block_hash_text(chain->hashes[chain->n_blocks - 1], hash));
    json_write_end(&w);
    kv_page_answer(x, 200, &body);
}

static void pin(struct admin *a, struct http_exchange *x, const struct kv_request *r, const struct store_chain *chain)
{
    struct text_buffer body;
    struct json_writer w;
    uint32_t n = 0;
    uint64_t us = r->seconds ? r->seconds * 1000000 : a->process->config->pin_time;
    status st = store_pin(a->process->store, chain, clock_now_us() + us, &n);
    if (st != ST_OK) {
        kv_page_refuse(x, st == ST_NOT_FOUND ? 404 : 409,
                       st == ST_NOT_FOUND ? "no block of this is in memory" : "as many blocks are pinned as may be");
        return;
    }
    log_info("blocks pinned", "blocks=%u seconds=%" PRIu64 " by=%s", n, us / 1000000, http_peer(x));
    kv_page_begin(&body, &w);
    json_field_uint(&w, "blocks", chain->n_blocks);
    json_field_uint(&w, "pinned", n);
    json_write_end(&w);
    kv_page_answer(x, 200, &body);
}

static void unpin(struct admin *a, struct http_exchange *x, const struct kv_request *r, const struct store_chain *chain)
{
    struct text_buffer body;
    struct json_writer w;
    (void)r;
    if (!store_unpin(a->process->store, chain)) {
        kv_page_refuse(x, 404, "these blocks are not pinned");
        return;
    }
    log_info("blocks unpinned", "by=%s", http_peer(x));
    kv_page_begin(&body, &w);
    json_field_bool(&w, "unpinned", true);
    json_write_end(&w);
    kv_page_answer(x, 200, &body);
}

static void page_find(void *arg, struct http_exchange *x)
{
    on_chain(arg, x, CHAIN_BITS, BIT(TOKENS), find);
}

static void page_pin(void *arg, struct http_exchange *x)
{
    on_chain(arg, x, CHAIN_BITS | BIT(SECONDS), BIT(TOKENS), pin);
}

static void page_unpin(void *arg, struct http_exchange *x)
{
    on_chain(arg, x, CHAIN_BITS, BIT(TOKENS), unpin);
}

static void page_salt_key(void *arg, struct http_exchange *x)
{
    const struct admin *a = arg;
    const struct daemon *d = a->process->daemon;
    kv_page_answer_salt_key(x, daemon_id(d), daemon_role(d), &a->key);
}

/* ---- wiping --------------------------------------------------------------------------- */

static void on_gone(void *arg)
{
    ((struct admin *)arg)->wiping = NULL;
}

static void on_wiped(void *ctx, status st, const struct store_wiped *wiped)
{
    struct admin *a = ctx;
    struct http_exchange *x = a->wiping;
    struct text_buffer body;
    struct json_writer w;
    log_write(st == ST_OK ? LOG_INFO : LOG_ERROR, "wiped",
              "outcome=\"%s\" blocks=%u slots=%u slots_left=%u slots_bad=%u host_bytes=%" PRIu64 " disk_bytes=%" PRIu64,
              status_text(st), wiped->blocks, wiped->slots, wiped->slots_left, wiped->slots_bad, wiped->host_bytes,
              wiped->disk_bytes);
    if (!x)
        return;
    a->wiping = NULL;
    http_on_gone(x, NULL, NULL);
    kv_page_begin(&body, &w);
    json_field_bool(&w, "wiped", st == ST_OK);
    json_field_string(&w, "outcome", status_text(st));
    json_field_uint(&w, "blocks", wiped->blocks);
    json_field_uint(&w, "slots", wiped->slots);
    json_field_uint(&w, "slots_left", wiped->slots_left);
    json_field_uint(&w, "slots_bad", wiped->slots_bad);
    json_field_uint(&w, "host_bytes", wiped->host_bytes);
    json_field_uint(&w, "disk_bytes", wiped->disk_bytes);
    json_field_string(&w, "disk", status_text(wiped->disk));
    json_write_end(&w);
    kv_page_answer(x, st == ST_OK ? 200 : 500, &body);
}

static void wipe(struct admin *a, struct http_exchange *x, bool all, struct block_hash salt)
{
    struct kvbm_process *p = a->process;
    uint64_t id = store_salt_id(salt);
    const struct store_wipe_call call = {
        .salt = all ? NULL : &id, .deadline_us = clock_now_us() + p->config->wipe_timeout, .done = on_wiped, .ctx = a
    };
    status st = store_wipe(p->store, &call);
    if (st != ST_OK) {
        kv_page_refuse(x, 409, st == ST_AGAIN ? "another wipe is going on" : status_text(st));
        return;
    }
    log_info("wiping", "what=%s by=%s", all ? "everything" : "a salt", http_peer(x));
    a->wiping = x;
    http_on_gone(x, on_gone, a);
    tiers_soon(p);
}

static void page_wipe(void *arg, struct http_exchange *x)
{
    struct admin *a = arg;
    struct kv_request r;
    bool all;
    if (!kv_page_read_wipe(x, &a->key, &all, &r))
        return;
    if (is_open(a, x))
        wipe(a, x, all, r.salt);
    kv_request_free(&r);
}

/* ---- life ------------------------------------------------------------------------------ */

static status admin_start(struct daemon *d, struct error *err)
{
    struct admin *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(err, ST_NO_MEMORY, "no memory");
    a->process = kvbm_process_of(d);
    status st = salt_key_read(a->process->config->salt_key_file, &a->key, err);
    if (st != ST_OK) {
        free(a);
        return st;
    }
    daemon_set_state(d, &part_admin, a);
    daemon_add_page(d, "GET", "/kv/status", page_status, a);
    daemon_add_page(d, "GET", "/kv/salt-key", page_salt_key, a);
    daemon_add_page(d, "POST", "/kv/find", page_find, a);
    daemon_add_page(d, "POST", "/kv/pin", page_pin, a);
    daemon_add_page(d, "POST", "/kv/unpin", page_unpin, a);
    daemon_add_page(d, "POST", "/kv/wipe", page_wipe, a);
    return ST_OK;
}

static void admin_stop(struct daemon *d)
{
    struct admin *a = daemon_state(d, &part_admin);
    if (a->wiping)
        http_on_gone(a->wiping, NULL, NULL);
    free(a);
}

const struct part part_admin = { .name = "admin", .start = admin_start, .stop = admin_stop };
