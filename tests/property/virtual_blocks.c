#include "virtual_internal.h"

static struct known_block *find(struct node *n, struct block_hash hash)
{
    for (uint32_t i = 0; i < n->n_known; i++)
        if (block_hash_equal(n->known[i].hash, hash))
            return &n->known[i];
    return NULL;
}

static bool is_parent(const struct node *n, struct block_hash hash)
{
    for (uint32_t i = 0; i < n->n_known; i++)
        if (n->known[i].has_parent && block_hash_equal(n->known[i].parent, hash))
            return true;
    return false;
}

/* Each once, behind its parent, and with the tokens that its hash is of. */
void virtual_blocks_stored(void *ctx, const struct block_stored *what)
{
    struct node *n = ctx;
    ASSERT(n->n_known < n->vc->options.n_blocks && !find(n, what->hash));
    ASSERT(!what->has_parent || find(n, what->parent));
    ASSERT(block_hash_equal(block_hash_next(what->parent, what->tokens, what->n_tokens), what->hash));
    ASSERT(what->n_tokens == BLOCK_TOKENS && !what->adapter_id[0] && !what->has_salt);
    n->known[n->n_known++] = (struct known_block){ what->hash, what->parent, what->has_parent };
}

void virtual_blocks_removed(void *ctx, const struct block_hash *hashes, uint32_t count)
{
    struct node *n = ctx;
    for (uint32_t i = 0; i < count; i++) {
        struct known_block *known = find(n, hashes[i]);
        ASSERT(known && !is_parent(n, hashes[i]));
        *known = n->known[--n->n_known];
    }
}

struct check {
    struct node *node;
    uint32_t n;
};

static void check_one(void *ctx, const struct block_stored *what)
{
    struct check *check = ctx;
    const struct known_block *known = find(check->node, what->hash);
    ASSERT(known && known->has_parent == what->has_parent && block_hash_equal(known->parent, what->parent));
    check->n++;
}

void virtual_blocks_check(struct node *n)
{
    struct check check = { n, 0 };
    ASSERT(prefix_cache_each(worker_prefix_cache(n->worker), check_one, &check) == ST_OK);
    ASSERT(check.n == n->n_known);
    ASSERT(check.n == block_pool_in_state(worker_pool(n->worker), BLOCK_REGISTERED));
}
