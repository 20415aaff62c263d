#include "kvbm/whole_checksum.h"

#include <stdlib.h>
#include <sys/queue.h>

#include "engine/model.h"

uint64_t whole_checksum_of(const uint64_t *sums, uint32_t n_layers, uint32_t n_spans, uint32_t i)
{
    uint64_t column[MODEL_MAX_LAYERS];
    ASSERT(n_layers <= MODEL_MAX_LAYERS);
    for (uint32_t layer = 0; layer < n_layers; layer++)
        column[layer] = sums[(size_t)layer * n_spans + i];
    return transfer_block_checksum(column, n_layers);
}

uint64_t whole_checksum_of_bytes(const struct transfer_geometry *geometry, const uint8_t *block)
{
    uint64_t sums[MODEL_MAX_LAYERS];
    ASSERT(geometry->n_layers <= MODEL_MAX_LAYERS);
    for (uint32_t layer = 0; layer < geometry->n_layers; layer++)
        sums[layer] = transfer_layer_checksum(geometry, block, layer, 0, geometry->block_tokens);
    return transfer_block_checksum(sums, geometry->n_layers);
}

/* Of the life of a block that has this generation. */
struct known_sum {
    bool is_known;
    uint64_t generation, checksum;
};

struct summing {
    struct transfer_take take; /* first */
    TAILQ_ENTRY(summing) link;
    uint32_t n;
    struct transfer_span *spans; /* [n] */
    uint64_t *sums;              /* [n_layers][n] */
};
TAILQ_HEAD(summing_list, summing);

struct whole_checksums {
    struct whole_checksums_options options;
    struct known_sum *known; /* [blocks of the pool] */
    struct summing_list takes;
    uint32_t n_takes;
};

status whole_checksums_create(const struct whole_checksums_options *options, struct whole_checksums **out)
{
    struct whole_checksums *sums = calloc(1, sizeof *sums);
    if (!sums)
        return ST_NO_MEMORY;
    sums->options = *options;
    TAILQ_INIT(&sums->takes);
    sums->known = calloc(block_pool_size(options->pool), sizeof *sums->known);
    if (!sums->known) {
        free(sums);
        return ST_NO_MEMORY;
    }
    *out = sums;
    return ST_OK;
}

static void summing_free(struct summing *summing)
{
    free(summing->spans);
    free(summing->sums);
    free(summing);
}

static void release(struct whole_checksums *sums, struct summing *summing)
{
    TAILQ_REMOVE(&sums->takes, summing, link);
    sums->n_takes--;
    for (uint32_t i = 0; i < summing->n; i++)
        block_pool_release(sums->options.pool, summing->spans[i].local_block, BLOCK_OF_TRANSFER);
}

void whole_checksums_destroy(struct whole_checksums **sums)
{
    struct summing *summing;
    if (!*sums)
        return;
    while ((summing = TAILQ_FIRST(&(*sums)->takes)) != NULL) {
        release(*sums, summing);
        summing_free(summing);
    }
    free((*sums)->known);
    free(*sums);
    *sums = NULL;
}

static void on_summed(struct transfer_take *take)
{
    struct summing *summing = (struct summing *)(void *)take;
    struct whole_checksums *sums = take->arg;
    const struct whole_checksums_options *options = &sums->options;
    for (uint32_t i = 0; i < summing->n && take->st == ST_OK; i++) {
        block_id block = summing->spans[i].local_block;
        uint64_t checksum = whole_checksum_of(summing->sums, options->geometry.n_layers, summing->n, i);
        whole_checksums_set(sums, block, checksum);
        if (options->done)
            options->done(options->ctx, block, checksum);
    }
    release(sums, summing);
    summing_free(summing);
    if (options->released)
        options->released(options->ctx);
}

static struct summing *summing_create(struct whole_checksums *sums, const block_id blocks[], uint32_t n)
{
    const struct whole_checksums_options *options = &sums->options;
    struct summing *summing = calloc(1, sizeof *summing);
    if (!summing)
        return NULL;
    summing->n = n;
    summing->spans = calloc(n, sizeof *summing->spans);
    summing->sums = calloc((size_t)n * options->geometry.n_layers, sizeof *summing->sums);
    if (!summing->spans || !summing->sums) {
        summing_free(summing);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        summing->spans[i] =
            (struct transfer_span){ .local_block = blocks[i], .n = (uint16_t)options->geometry.block_tokens };
    summing->take.n_layers = options->geometry.n_layers;
    summing->take.n_spans = n;
    summing->take.spans = summing->spans;
    summing->take.checksums = summing->sums;
    summing->take.deadline_us = options->io->now(options->io->ctx) + options->take_us;
    summing->take.done = on_summed;
    summing->take.arg = sums;
    return summing;
}

status whole_checksums_make(struct whole_checksums *sums, const block_id blocks[], uint32_t n)
{
    const struct exchange_io *io = sums->options.io;
    if (!n)
        return ST_OK;
    if (sums->n_takes >= sums->options.max_takes)
        return ST_LIMIT;
    struct summing *summing = summing_create(sums, blocks, n);
    if (!summing)
        return ST_NO_MEMORY;
    status st = io->take(io->ctx, &summing->take);
    if (st) {
        summing_free(summing);
        return st;
    }
    for (uint32_t i = 0; i < n; i++)
        block_pool_hold(sums->options.pool, blocks[i], BLOCK_OF_TRANSFER);
    TAILQ_INSERT_TAIL(&sums->takes, summing, link);
    sums->n_takes++;
    return ST_OK;
}

void whole_checksums_set(struct whole_checksums *sums, block_id block, uint64_t checksum)
{
    sums->known[block] = (struct known_sum){ true, block_pool_generation(sums->options.pool, block), checksum };
}

bool whole_checksums_get(const struct whole_checksums *sums, block_id block, uint64_t *out)
{
    const struct known_sum *known = &sums->known[block];
    if (!known->is_known || known->generation != block_pool_generation(sums->options.pool, block))
        return false;
    *out = known->checksum;
    return true;
}

uint32_t whole_checksums_under_way(const struct whole_checksums *sums)
{
    return sums->n_takes;
}
