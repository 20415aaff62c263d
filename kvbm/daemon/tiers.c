/* Memory and disk for blocks, taken when their format is known, and the store that keeps their books. */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "kvbm/daemon/events.h"
#include "kvbm/daemon/process.h"

#define MAX_DISK_BLOCKS (1u << 26) /* in the index of the disk tier */
#define MEMORY_PART     8u         /* of the machine: what the host tier takes when nobody says */

/* A block's bytes, counted in a way that no geometry can overflow; 0: beyond what a block may have. */
static uint64_t bounded_block_bytes(const struct kv_layout *l)
{
    const uint64_t factors[] = { 2, l->n_layers, l->n_kv_heads, l->block_tokens, kv_slot_bytes(l) };
    uint64_t bytes = 1;
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        if (factors[i] == 0 || factors[i] > KVBM_MAX_BLOCK_BYTES || (bytes *= factors[i]) > KVBM_MAX_BLOCK_BYTES)
            return 0;
    return bytes;
}

status tiers_size(const struct kvbm_config *config, const struct kv_layout *layout, uint64_t machine,
                  uint32_t *n_blocks, struct error *err)
{
    uint64_t block = bounded_block_bytes(layout), bytes = config->kv_memory ? config->kv_memory : machine / MEMORY_PART;
    if (block == 0)
        return error_set(err, ST_UNSUPPORTED, "a KV block has 1 to %u bytes", KVBM_MAX_BLOCK_BYTES);
    if (bytes / block < 1 || bytes / block > UINT32_MAX / 2)
        return error_set(err, ST_INVALID,
                         "--kv-memory of %" PRIu64 " bytes gives %" PRIu64 " blocks of %" PRIu64 " bytes", bytes,
                         bytes / block, block);
    *n_blocks = (uint32_t)(bytes / block);
    return ST_OK;
}

/* ---- memory ------------------------------------------------------------------- */

static status take_memory(struct kvbm_process *p, struct error *err)
{
    const struct transfer_options options = {
        .loop = daemon_loop(p->daemon),
        .geometry = p->geometry,
        .n_blocks = p->n_blocks,
        .mode = (enum transfer_mode)p->config->transfer,
        .network_address = p->config->daemon.advertise[0] ? p->config->daemon.advertise : NULL,
        .cluster_key_file = p->config->daemon.cluster_key_file,
        .incarnation = daemon_incarnation(p->daemon),
    };
    return transfer_create(&options, &p->transfer, err);
}

/* ---- disk ---------------------------------------------------------------------- */

/* As workers make it: whole_checksum.h. */
static uint64_t checksum_of(struct kvbm_process *p, const void *payload)
{
    for (uint32_t layer = 0; layer < p->geometry.n_layers; layer++)
        p->layer_sums[layer] = transfer_layer_checksum(&p->geometry, payload, layer, 0, p->geometry.block_tokens);
    return transfer_block_checksum(p->layer_sums, p->geometry.n_layers);
}

static uint64_t checksum_on_disk(void *ctx, const struct disk_block *block, const void *payload)
{
    (void)block;
    return checksum_of(ctx, payload);
}

static uint64_t checksum_in_memory(void *ctx, uint64_t format, const void *payload)
{
    (void)format;
    return checksum_of(ctx, payload);
}

static status open_disk(struct kvbm_process *p, struct error *err)
{
    const struct kvbm_config *c = p->config;
    struct disk_tier_options options;
    if (!c->disk[0])
        return ST_OK;
    disk_tier_defaults(&options);
    options.folder = c->disk;
    options.capacity_bytes = c->disk_size;
    options.segment_bytes = c->disk_segment;
    options.max_payload_bytes = (uint32_t)kv_block_bytes(&p->layout);
    ASSERT(options.max_payload_bytes > 0); /* tiers_size has seen to it */
    uint64_t most = c->disk_size / options.max_payload_bytes;
    options.max_blocks = most < MAX_DISK_BLOCKS ? (uint32_t)most + 1 : MAX_DISK_BLOCKS;
    options.wear_bytes_per_day = c->disk_wear;
    options.salt_quota_bytes = c->disk_salt_quota;
    options.checksum = checksum_on_disk;
    options.ctx = p;
    return disk_tier_create(&options, &p->disk, err);
}

/* ---- store ------------------------------------------------------------------------ */

static void run_store(void *arg)
{
    struct kvbm_process *p = arg;
    struct timers *timers = loop_timers(daemon_loop(p->daemon));
    store_run(p->store);
    uint64_t next = store_next_us(p->store);
    if (next == UINT64_MAX)
        timer_cancel(timers, &p->store_timer);
    else
        timer_set(timers, &p->store_timer, next, run_store, p);
}

void tiers_soon(struct kvbm_process *p)
{
    struct timers *timers = loop_timers(daemon_loop(p->daemon));
    timer_set(timers, &p->store_timer, timers_now(timers), run_store, p);
}

static void on_disk(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    run_store(arg);
}

static void on_stored(void *ctx, enum store_tier tier, const struct store_block *block)
{
    events_stored(((struct kvbm_process *)ctx)->events, tier, block);
}

static void on_removed(void *ctx, enum store_tier tier, const struct store_block *block)
{
    events_removed(((struct kvbm_process *)ctx)->events, tier, block);
}

static void store_rows(struct kvbm_process *p, struct store_options *o)
{
    static const char *const policies[] = { "s3fifo", "s3fifo-plain", "lru", "fifo" }; /* the choices of eviction */
    const struct kvbm_config *c = p->config;
    store_defaults(o);
    o->memory = transfer_blocks(p->transfer);
    o->generations = transfer_generations(p->transfer);
    o->slot_bytes = kv_block_bytes(&p->layout);
    o->n_slots = p->n_blocks;
    o->block_tokens = p->layout.block_tokens;
    o->policy = eviction_policy_find(policies[c->eviction]);
    o->disk = p->disk;
    o->admission = (enum store_admission)c->admission;
    o->max_seen = (uint32_t)c->admission_hashes;
    o->max_tickets = 2 * (uint32_t)c->max_loans; /* store_source.h */
    o->salt_quota_bytes = c->salt_quota;
    o->pin_us = c->pin_time;
    o->read_us = o->write_us = c->disk_timeout;
    o->verify_host = c->verify;
    o->checksum = checksum_in_memory;
    o->stored = on_stored;
    o->removed = on_removed;
    o->ctx = p;
}

static status open_store(struct kvbm_process *p, struct error *err)
{
    struct store_options options;
    store_rows(p, &options);
    status st = store_create(&options, &p->store, err);
    if (st != ST_OK || store_event_fd(p->store) < 0)
        return st;
    p->store_event =
        event_new(loop_base(daemon_loop(p->daemon)), store_event_fd(p->store), EV_READ | EV_PERSIST, on_disk, p);
    if (!p->store_event || event_add(p->store_event, NULL) != 0)
        return error_set(err, ST_NO_MEMORY, "no memory for an event");
    return ST_OK;
}

/* ---- life --------------------------------------------------------------------------- */

/* Who fills slots has ended, or ends here with the transfer thread. */
void tiers_close(struct kvbm_process *p)
{
    timer_cancel(loop_timers(daemon_loop(p->daemon)), &p->store_timer);
    if (p->store_event)
        event_free(p->store_event);
    p->store_event = NULL;
    store_destroy(&p->store);
    disk_tier_destroy(&p->disk);
    transfer_destroy(&p->transfer);
    free(p->layer_sums);
    p->layer_sums = NULL;
    p->is_open = false;
}

static void describe_format(struct kvbm_process *p, const struct kv_format *format)
{
    const struct kv_layout l = kv_format_layout(format);
    p->format = *format;
    kv_format_text(format, p->kv_format);
    p->layout = l;
    p->geometry =
        (struct transfer_geometry){ l.n_layers, 2 * l.n_kv_heads, l.block_tokens, (uint32_t)kv_slot_bytes(&l) };
}

status tiers_open(struct kvbm_process *p, const struct kv_format *format, struct error *err)
{
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    ASSERT(!p->is_open);
    describe_format(p, format);
    status st = tiers_size(p->config, &p->layout, machine, &p->n_blocks, err);
    if (st != ST_OK)
        return st;
    p->layer_sums = malloc(p->geometry.n_layers * sizeof *p->layer_sums);
    st = p->layer_sums ? take_memory(p, err) : error_set(err, ST_NO_MEMORY, "no memory");
    if (st == ST_OK)
        st = open_disk(p, err);
    if (st == ST_OK)
        st = open_store(p, err);
    if (st != ST_OK) {
        tiers_close(p);
        return st;
    }
    p->is_open = true;
    log_info("tiers open", "format=%s blocks=%u bytes=%" PRIu64 " disk=%s", p->kv_format, p->n_blocks,
             (uint64_t)p->n_blocks * kv_block_bytes(&p->layout), p->disk ? p->config->disk : "none");
    return ST_OK;
}

static status tiers_start(struct daemon *d, struct error *err)
{
    struct kvbm_process *p = calloc(1, sizeof *p);
    struct kv_format format;
    if (!p)
        return error_set(err, ST_NO_MEMORY, "no memory");
    TAILQ_INIT(&p->peers);
    TAILQ_INIT(&p->others);
    TAILQ_INIT(&p->models);
    TAILQ_INIT(&p->managers);
    p->daemon = d;
    p->config = daemon_config(d);
    daemon_set_state(d, &part_tiers, p);
    if (!p->config->kv_format[0])
        return ST_OK;
    status st = kv_format_parse(p->config->kv_format, &format, err);
    if (st == ST_OK)
        st = tiers_open(p, &format, err);
    if (st != ST_OK)
        free(p);
    return st;
}

static void tiers_stop(struct daemon *d)
{
    struct kvbm_process *p = kvbm_process_of(d);
    tiers_close(p);
    free(p);
}

const struct part part_tiers = { .name = "tiers", .start = tiers_start, .stop = tiers_stop };
