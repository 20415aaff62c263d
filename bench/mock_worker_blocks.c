/* Which KV blocks a mock worker says it has: those of every sequence, of which it keeps the last few. */
#include <string.h>

#include "bench/mock_worker_internal.h"

/* One kind of model for all mock workers; their router takes it from the record. */
static const struct block_seed_parts seed_parts = { .weights = MOCK_WEIGHTS, .tokenizer = MOCK_TOKENIZER };

static struct kept_block *place(struct mock_blocks *b, uint64_t number)
{
    return &b->kept[number % MOCK_BLOCKS];
}

static void publish(const struct kept_block *block, void (*visit)(void *ctx, const struct block_stored *what),
                    void *ctx)
{
    visit(ctx, &(struct block_stored){ .hash = block->hash,
                                       .parent = block->parent,
                                       .has_parent = block->has_parent,
                                       .n_tokens = MOCK_BLOCK_TOKENS,
                                       .adapter_id = "" });
}

static void stored(void *publish, const struct block_stored *what)
{
    kv_publish_stored(publish, what);
}

/* The oldest, as many as a prompt needs: a worker makes room for all of it in one go. */
static void make_room(struct mock_blocks *b)
{
    struct block_hash gone[MOCK_BLOCKS_GONE];
    for (uint32_t i = 0; i < MOCK_BLOCKS_GONE; i++)
        gone[i] = place(b, b->n_gone++)->hash;
    kv_publish_removed(b->publish, gone, MOCK_BLOCKS_GONE);
}

static void keep(struct mock_blocks *b, const struct kept_block *block)
{
    struct kept_block *at = place(b, b->n_made);
    if (b->n_made - b->n_gone == MOCK_BLOCKS)
        make_room(b);
    *at = *block;
    b->n_made++;
    publish(at, stored, b->publish);
}

void mock_chain_init(struct mock_chain *chain)
{
    *chain = (struct mock_chain){ .last = block_seed(&seed_parts) };
}

void mock_blocks_token(struct mock_blocks *b, struct mock_chain *chain, uint32_t position, uint32_t id)
{
    if (position != chain->n_tokens)
        return;
    chain->open[chain->n_tokens++ % MOCK_BLOCK_TOKENS] = id;
    if (chain->n_tokens % MOCK_BLOCK_TOKENS)
        return;
    struct kept_block block = { .parent = chain->last, .has_parent = chain->n_tokens > MOCK_BLOCK_TOKENS };
    block.hash = chain->last = block_hash_next(chain->last, chain->open, MOCK_BLOCK_TOKENS);
    keep(b, &block);
}

static status each(void *ctx, void (*visit)(void *ctx, const struct block_stored *what), void *visit_ctx)
{
    struct mock_blocks *b = ctx;
    for (uint64_t i = b->n_gone; i < b->n_made; i++)
        publish(place(b, i), visit, visit_ctx);
    return ST_OK;
}

status mock_blocks_open(struct mock_blocks *b, struct loop *loop, void *zmq, struct error *err)
{
    const struct kv_publish_options options = { .loop = loop,
                                                .zmq = zmq,
                                                .listen = "tcp://127.0.0.1:0",
                                                .listen_replay = "tcp://127.0.0.1:0",
                                                .block_tokens = MOCK_BLOCK_TOKENS,
                                                .each = each,
                                                .ctx = b };
    return kv_publish_create(&options, &b->publish, err);
}

void mock_blocks_close(struct mock_blocks *b)
{
    kv_publish_destroy(&b->publish);
}
