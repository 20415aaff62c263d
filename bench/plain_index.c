#include "bench/plain_index.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct node {
    struct node *next;
    struct block_hash hash;
    uint32_t n, capacity;
    uint32_t *owners;
};

struct plain_index {
    struct node **buckets;
    uint32_t n_buckets;
    uint64_t bytes;
};

status plain_index_create(uint32_t n_buckets, struct plain_index **out)
{
    struct plain_index *x = calloc(1, sizeof *x);
    if (!x)
        return ST_NO_MEMORY;
    x->n_buckets = n_buckets;
    x->buckets = calloc(n_buckets, sizeof *x->buckets);
    x->bytes = n_buckets * sizeof *x->buckets;
    if (!x->buckets) {
        free(x);
        return ST_NO_MEMORY;
    }
    *out = x;
    return ST_OK;
}

void plain_index_destroy(struct plain_index **index)
{
    struct plain_index *x = *index;
    *index = NULL;
    for (uint32_t i = 0; x && i < x->n_buckets; i++)
        while (x->buckets[i]) {
            struct node *node = x->buckets[i];
            x->buckets[i] = node->next;
            free(node->owners);
            free(node);
        }
    if (x)
        free(x->buckets);
    free(x);
}

static struct node **find(const struct plain_index *x, const struct block_hash *hash)
{
    struct node **at = &x->buckets[(hash->low >> 32) * x->n_buckets >> 32];
    while (*at && ((*at)->hash.low != hash->low || (*at)->hash.high != hash->high))
        at = &(*at)->next;
    return at;
}

static bool has(const struct node *node, uint32_t worker)
{
    for (uint32_t i = 0; i < node->n; i++)
        if (node->owners[i] == worker)
            return true;
    return false;
}

static void add_owner(struct plain_index *x, struct node *node, uint32_t worker)
{
    if (node->n == node->capacity) {
        uint32_t capacity = node->capacity ? 2 * node->capacity : 2;
        node->owners = realloc(node->owners, capacity * sizeof *node->owners);
        ASSERT(node->owners);
        x->bytes += (capacity - node->capacity) * sizeof *node->owners;
        node->capacity = capacity;
    }
    node->owners[node->n++] = worker;
}

void plain_index_store(struct plain_index *x, uint32_t worker, const struct block_hash hashes[], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct node **at = find(x, &hashes[i]);
        if (!*at) {
            *at = calloc(1, sizeof **at);
            ASSERT(*at);
            (*at)->hash = hashes[i];
            x->bytes += sizeof **at;
        }
        if (!has(*at, worker))
            add_owner(x, *at, worker);
    }
}

static void drop(struct plain_index *x, struct node **at)
{
    struct node *node = *at;
    *at = node->next;
    x->bytes -= sizeof *node + node->capacity * sizeof *node->owners;
    free(node->owners);
    free(node);
}

void plain_index_remove(struct plain_index *x, uint32_t worker, const struct block_hash hashes[], uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct node **at = find(x, &hashes[i]);
        for (uint32_t k = 0; *at && k < (*at)->n; k++)
            if ((*at)->owners[k] == worker) {
                (*at)->owners[k] = (*at)->owners[--(*at)->n];
                break;
            }
        if (*at && !(*at)->n)
            drop(x, at);
    }
}

uint32_t plain_index_lookup(const struct plain_index *x, const struct block_hash hashes[], uint32_t n,
                            uint32_t leading[], uint32_t n_workers)
{
    memset(leading, 0, n_workers * sizeof *leading);
    for (uint32_t i = 0; i < n; i++) {
        const struct node *node = *find(x, &hashes[i]);
        uint32_t left = 0;
        for (uint32_t k = 0; node && k < node->n; k++)
            if (leading[node->owners[k]] == i) {
                leading[node->owners[k]] = i + 1;
                left++;
            }
        if (!left)
            return i + 1;
    }
    return n;
}

uint64_t plain_index_bytes(const struct plain_index *x)
{
    return x->bytes;
}
