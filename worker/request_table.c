#include "worker/request_table.h"

#include <stddef.h>

static uint32_t bucket_of(struct request_key key)
{
    uint64_t x = (key.router ^ key.seq) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(x >> 32) % REQUEST_TABLE_BUCKETS;
}

struct request_node *request_table_find(const struct request_table *table, struct request_key key)
{
    struct request_node *node = table->buckets[bucket_of(key)];
    while (node && !request_key_equal(node->key, key))
        node = node->next;
    return node;
}

void request_table_add(struct request_table *table, struct request_node *node)
{
    struct request_node **bucket = &table->buckets[bucket_of(node->key)];
    node->next = *bucket;
    *bucket = node;
    table->n++;
}

void request_table_remove(struct request_table *table, struct request_node *node)
{
    struct request_node **link = &table->buckets[bucket_of(node->key)];
    while (*link != node) {
        ASSERT(*link);
        link = &(*link)->next;
    }
    *link = node->next;
    node->next = NULL;
    table->n--;
}
