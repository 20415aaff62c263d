/* The memory for blocks, taken when their format is known. */
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "kvbm/daemon/process.h"

#define MEMORY_PART 8u /* of the machine: what the host tier takes when nobody says */

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

static status take_memory(struct kvbm_process *p, struct error *err)
{
    const struct kv_layout *l = &p->layout;
    const struct transfer_options options = {
        .loop = daemon_loop(p->daemon),
        .geometry = { l->n_layers, 2 * l->n_kv_heads, l->block_tokens, (uint32_t)kv_slot_bytes(l) },
        .n_blocks = p->n_blocks,
        .mode = (enum transfer_mode)p->config->transfer,
        .network_address = p->config->daemon.advertise[0] ? p->config->daemon.advertise : NULL,
        .incarnation = daemon_incarnation(p->daemon),
    };
    return transfer_create(&options, &p->transfer, err);
}

status tiers_open(struct kvbm_process *p, const struct kv_format *format, struct error *err)
{
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    ASSERT(!p->is_open);
    p->format = *format;
    kv_format_text(format, p->kv_format);
    p->layout = kv_format_layout(format);
    status st = tiers_size(p->config, &p->layout, machine, &p->n_blocks, err);
    if (st == ST_OK)
        st = take_memory(p, err);
    if (st != ST_OK)
        return st;
    p->is_open = true;
    log_info("tiers open", "format=%s blocks=%u bytes=%" PRIu64, p->kv_format, p->n_blocks,
             (uint64_t)p->n_blocks * kv_block_bytes(&p->layout));
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
    transfer_destroy(&p->transfer);
    free(p);
}

const struct part part_tiers = { .name = "tiers", .start = tiers_start, .stop = tiers_stop };
