/* request_table.h - requests by key: a chained hash with links inside the requests. */
#ifndef BATON_WORKER_REQUEST_TABLE_H
#define BATON_WORKER_REQUEST_TABLE_H

#include <stdint.h>

#include "proto/frame.h"

struct request_node {
    struct request_key key;
    struct request_node *next;
};

#define REQUEST_TABLE_BUCKETS 1024u

struct request_table {
    struct request_node *buckets[REQUEST_TABLE_BUCKETS];
    uint32_t n;
};

struct request_node *request_table_find(const struct request_table *table, struct request_key key);
/* The key must not be in the table. */
void request_table_add(struct request_table *table, struct request_node *node);
void request_table_remove(struct request_table *table, struct request_node *node);

static inline int request_key_equal(struct request_key a, struct request_key b)
{
    return a.router == b.router && a.seq == b.seq;
}

#endif
