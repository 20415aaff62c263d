/* mock_worker_internal.h - what the files of the mock worker share; nobody else includes it. */
#ifndef BATON_BENCH_MOCK_WORKER_INTERNAL_H
#define BATON_BENCH_MOCK_WORKER_INTERNAL_H

#include <sys/queue.h>

#include "bench/mock_worker.h"
#include "kvbm/block_hash.h"
#include "proto/link.h"
#include "worker/kv_publish.h"
#include "worker/request_table.h"
#include "worker/router_marks.h"

#define MOCK_BLOCK_TOKENS 16u
#define MOCK_BLOCKS       4096u /* kept after their sequence; few, so that the router's index is soon as full as ever */
#define MOCK_BLOCKS_GONE  8u    /* at one time */
#define MOCK_WEIGHTS      1u    /* fingerprints; all mock workers have the same model */
#define MOCK_TOKENIZER    1u

/* The blocks of a sequence that grows. */
struct mock_chain {
    struct block_hash last; /* the seed while there is no full block */
    uint32_t open[MOCK_BLOCK_TOKENS];
    uint32_t n_tokens;
};

struct kept_block {
    struct block_hash hash, parent;
    bool has_parent;
};

struct mock_blocks {
    struct kv_publish *publish;
    struct kept_block kept[MOCK_BLOCKS]; /* a ring */
    uint64_t n_made, n_gone;
};

TAILQ_HEAD(mock_list, mock_request);

struct mock_request {
    struct request_node node; /* first */
    TAILQ_ENTRY(mock_request) entry;
    struct mock_list *list; /* that it stands in */
    struct link *router;
    uint32_t attempt;
    uint64_t seed;
    uint32_t prompt_len;  /* where indices begin; a replay's Generate holds more tokens than that */
    uint32_t first;       /* position of the first token of this attempt */
    uint32_t sent, end;   /* positions below were sent; the last one is end - 1 */
    uint64_t finished_us; /* 0: running */
    struct mock_chain chain;
};

struct mock_worker {
    struct mock_worker_options options;
    char id[64], cluster[64], model[256]; /* what options point to */
    uint64_t incarnation;
    struct links *links;
    struct etcd_registration *registration;
    struct request_table table;
    struct router_marks marks;
    struct mock_list fresh, running, finished; /* before the first token; after it; with the last, oldest first */
    uint64_t running_tokens;
    struct timer first, step, load;
    uint64_t last_step_us;
    struct mock_worker_stats stats;
    struct mock_blocks blocks;
};

/* mock_worker.c */
void mock_request_move(struct mock_request *r, struct mock_list *to);

/* mock_worker_blocks.c */
MUST_CHECK status mock_blocks_open(struct mock_blocks *blocks, struct loop *loop, void *zmq, struct error *err);
void mock_blocks_close(struct mock_blocks *blocks);
void mock_chain_init(struct mock_chain *chain);
/* The token at a position of the sequence; one that the chain has already is passed over. */
void mock_blocks_token(struct mock_blocks *blocks, struct mock_chain *chain, uint32_t position, uint32_t id);

/* mock_worker_tokens.c: tokens out */
/* Tokens up to a position in one message; the one with the last token is repeated until acknowledged. */
void mock_send_upto(struct mock_worker *w, struct mock_request *r, uint32_t upto);
/* A token for every running sequence: those of one router in one message, last ones on their own, as workers do. */
void mock_send_step(struct mock_worker *w);
/* The first token of every fresh one. */
void mock_send_first(struct mock_worker *w);
void mock_refuse(struct mock_worker *w, struct link *router, const struct frame *frame, size_t position,
                 Baton__FailureCode code, const char *text);

#endif
