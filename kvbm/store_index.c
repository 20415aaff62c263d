#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>
#include <xxhash.h>

#include "kvbm/store_internal.h"

/* ---- the table ------------------------------------------------------------------------------------------ */

status store_index_create(struct store *store)
{
    const uint32_t n = store->options.n_slots;
    store->n_cells = 2 * n;
    store->cells = malloc(store->n_cells * sizeof *store->cells);
    store->tokens = calloc((size_t)n * store->options.block_tokens, sizeof *store->tokens);
    if (!store->cells || !store->tokens)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < store->n_cells; i++)
        store->cells[i] = NO_SLOT;
    return ST_OK;
}

static uint32_t home_of(const struct store *store, struct block_hash hash, uint64_t format)
{
    const uint64_t mixed = hash.low ^ format * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)((mixed >> 32) * store->n_cells >> 32);
}

static uint32_t after(const struct store *store, uint32_t cell)
{
    return cell + 1 == store->n_cells ? 0 : cell + 1;
}

/* The cell of the key, or the free one where it would be. */
static uint32_t cell_of(const struct store *store, struct block_hash hash, uint64_t format)
{
    uint32_t cell = home_of(store, hash, format);
    for (; store->cells[cell] != NO_SLOT; cell = after(store, cell)) {
        const struct store_slot_record *r = &store->slots[store->cells[cell]];
        if (block_hash_equal(r->hash, hash) && r->format == format)
            break;
    }
    return cell;
}

void store_index_add(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    uint32_t cell = cell_of(store, r->hash, r->format);
    ASSERT(store->cells[cell] == NO_SLOT && !r->indexed);
    store->cells[cell] = slot;
    r->indexed = true;
}

static uint32_t distance(const struct store *store, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + store->n_cells - from;
}

/* What stands behind the hole and belongs before it moves up, so that no search ends too early. */
void store_index_remove(struct store *store, uint32_t slot)
{
    struct store_slot_record *r = &store->slots[slot];
    uint32_t hole = cell_of(store, r->hash, r->format);
    ASSERT(store->cells[hole] == slot && r->indexed);
    r->indexed = false;
    for (uint32_t cell = after(store, hole); store->cells[cell] != NO_SLOT; cell = after(store, cell)) {
        const struct store_slot_record *moved = &store->slots[store->cells[cell]];
        uint32_t home = home_of(store, moved->hash, moved->format);
        if (distance(store, home, cell) < distance(store, hole, cell))
            continue;
        store->cells[hole] = store->cells[cell];
        hole = cell;
    }
    store->cells[hole] = NO_SLOT;
}

/* ---- what a block is --------------------------------------------------------------------------------------- */

struct store_name store_name_of(const struct store *store, const struct store_chain *chain, uint32_t i)
{
    return (struct store_name){ chain->format,
                                chain->salt,
                                chain->seed,
                                chain->hashes[i],
                                i ? chain->hashes[i - 1] : chain->seed,
                                chain->tokens + (size_t)i * store->options.block_tokens };
}

static bool is_named(const struct store *store, uint32_t slot, const struct store_name *name, uint32_t parent)
{
    const struct store_slot_record *r = &store->slots[slot];
    return r->parent == parent && r->salt == name->salt && block_hash_equal(r->seed, name->seed) &&
           !memcmp(store_tokens_of(store, slot), name->tokens, store->options.block_tokens * sizeof *name->tokens);
}

uint32_t store_index_find(struct store *store, const struct store_name *name, uint32_t parent, bool *collides)
{
    uint32_t slot = store->cells[cell_of(store, name->hash, name->format)];
    *collides = slot != NO_SLOT && !is_named(store, slot, name, parent);
    store->count.mismatches += *collides;
    return *collides ? NO_SLOT : slot;
}

uint32_t store_match(struct store *store, const struct store_chain *chain, uint32_t *last)
{
    uint32_t n = 0;
    *last = NO_SLOT;
    for (; n < chain->n_blocks; n++) {
        const struct store_name name = store_name_of(store, chain, n);
        bool collides;
        uint32_t slot = store_index_find(store, &name, *last, &collides);
        if (slot == NO_SLOT || block_pool_state(store->pool, slot) != BLOCK_REGISTERED)
            break;
        *last = slot;
    }
    return n;
}

uint32_t store_match_coming(struct store *store, const struct store_chain *chain, uint32_t n, uint32_t *last)
{
    uint32_t at = n;
    for (; at < chain->n_blocks; at++) {
        const struct store_name name = store_name_of(store, chain, at);
        uint32_t slot = store->cells[cell_of(store, name.hash, name.format)];
        if (slot == NO_SLOT || !store->slots[slot].is_fetched || !is_named(store, slot, &name, *last) ||
            block_pool_state(store->pool, slot) == BLOCK_REGISTERED)
            break;
        *last = slot;
    }
    return at - n;
}

void store_digest_next(const struct store *store, const struct store_digest *before, const struct store_name *name,
                       struct store_digest *out)
{
    uint8_t input[sizeof *before + STORE_MAX_BLOCK_TOKENS * sizeof *name->tokens], full[SHA256_DIGEST_LENGTH];
    const size_t tokens_bytes = store->options.block_tokens * sizeof *name->tokens;
    _Static_assert(sizeof *before == sizeof name->seed, "a chain's first digest is made of its seed");
    memcpy(input, before ? (const void *)before : (const void *)&name->seed, sizeof *before);
    memcpy(input + sizeof *before, name->tokens, tokens_bytes);
    (void)SHA256(input, sizeof *before + tokens_bytes, full);
    memcpy(out, full, sizeof *out);
}

uint64_t store_format_id(const char *kv_format_text)
{
    return XXH3_64bits(kv_format_text, strlen(kv_format_text));
}
