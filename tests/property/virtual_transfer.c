#include <string.h>

#include "virtual_internal.h"

status virtual_take(void *ctx, struct transfer_take *take)
{
    struct node *n = ctx;
    uint64_t slow = vc_chance(n->vc, n->vc->options.slow) ? vc_draw(n->vc) % SLOW_TAKE_US : 0;
    event_push(n->vc, (struct event){ .at_us = node_time(n) + 10 + 5 * take->n_spans * take->n_layers + slow,
                                      .kind = EV_TAKE,
                                      .node = n->index,
                                      .life = n->life,
                                      .take = take });
    return ST_OK;
}

void virtual_cancel_take(void *ctx, struct transfer_take *take)
{
    (void)ctx;
    atomic_store(&take->cancelled, true);
}

static uint8_t *layer_of(const struct vc *vc, uint8_t *memory, uint32_t block, uint32_t layer)
{
    return memory + (size_t)block * kv_block_bytes(&vc->layout) + layer * kv_layer_bytes(&vc->layout);
}

static void copy_span(struct vc *vc, uint8_t *to, const uint8_t *from, const struct transfer_span *span)
{
    size_t slot_bytes = kv_slot_bytes(&vc->layout), head = kv_head_bytes(&vc->layout);
    for (uint32_t s = 0; s < 2 * HEADS; s++)
        memcpy(to + s * head + span->first * slot_bytes, from + s * head + span->first * slot_bytes,
               span->n * slot_bytes);
    if (!vc_chance(vc, vc->options.flip))
        return;
    to[span->first * slot_bytes] ^= 4;
    vc->flips++;
}

/* A copy that was under way when it was cancelled: until it ends it writes, and by
 * now the lender may have put anything into the blocks. */
static void write_leftovers(struct node *n, const struct transfer_take *take)
{
    struct vc *vc = n->vc;
    size_t slot_bytes = kv_slot_bytes(&vc->layout), head = kv_head_bytes(&vc->layout);
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t i = 0; i < take->n_spans; i++) {
            const struct transfer_span *span = &take->spans[i];
            uint8_t *to = layer_of(vc, n->memory, span->local_block, take->first_layer + l);
            for (uint32_t s = 0; s < 2 * HEADS; s++)
                memset(to + s * head + span->first * slot_bytes, (int)(vc_draw(vc) & 255), span->n * slot_bytes);
        }
}

/* transfer.h names the peer by a pointer; here it is the lender itself. */
static status do_take(struct node *n, struct transfer_take *take)
{
    struct vc *vc = n->vc;
    struct node *lender = (struct node *)(void *)take->peer;
    if (atomic_load(&take->cancelled)) {
        if (lender)
            write_leftovers(n, take);
        return ST_CANCELLED;
    }
    if (take->deadline_us < vc->now)
        return ST_TIMEOUT;
    for (uint32_t l = 0; l < take->n_layers; l++)
        for (uint32_t i = 0; i < take->n_spans; i++) {
            const struct transfer_span *span = &take->spans[i];
            uint32_t layer = take->first_layer + l;
            uint8_t *mine = layer_of(vc, n->memory, span->local_block, layer);
            if (lender) {
                if (atomic_load(&lender->generations[span->remote_block]) != span->remote_generation)
                    return ST_STALE;
                copy_span(vc, mine, layer_of(vc, lender->memory, span->remote_block, layer), span);
                take->bytes += span->n * kv_token_bytes(&vc->layout) / LAYERS;
            }
            if (take->checksums)
                take->checksums[l * take->n_spans + i] = transfer_layer_checksum(
                    &vc->geometry, n->memory + (size_t)span->local_block * kv_block_bytes(&vc->layout), layer,
                    span->first, span->n);
        }
    return ST_OK;
}

void virtual_take_done(struct node *n, struct transfer_take *take)
{
    take->st = do_take(n, take);
    take->done(take);
}
