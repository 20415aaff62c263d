/* kv_view.h - what the router knows of the KV that others hold: the prefix index, and who its numbers are.
 * A holder is whoever publishes KV events: a worker, a KV manager, a publisher of another make. kv_feeds.h keeps the
 * view up to date; whoever chooses a worker asks it. Memory for the index is taken with the first holder and bounded
 * from then on. It only advises: what is known may be late, and the worker compares tokens. Loop thread only. */
#ifndef BATON_ROUTER_KV_VIEW_H
#define BATON_ROUTER_KV_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"
#include "proto/kv_events.h"
#include "router/prefix_index.h"

#define KV_VIEW_NOBODY      UINT32_MAX
#define KV_VIEW_MAX_MATCHES 128u /* of one question */
#define KV_VIEW_KINDS       64u  /* of models, at one time: holders of further ones are refused */

struct kv_view;

struct kv_view_options {
    size_t max_bytes;     /* of the index; 0: nothing is ever known */
    uint32_t max_holders; /* at most PREFIX_MAX_WORKERS */
};

MUST_CHECK status kv_view_create(const struct kv_view_options *options, struct kv_view **out);
void kv_view_destroy(struct kv_view **view);

/* --- asking --- */

struct kv_prompt {
    const char *model;      /* as in the instance record */
    const char *adapter;    /* "NAME@FINGERPRINT"; "": none */
    struct block_hash salt; /* block_salt's */
    const uint32_t *tokens; /* [n_tokens] */
    uint32_t n_tokens;
};

struct kv_match {
    /* As the holder was added; borrowed until the next kv_view_add or kv_view_drop. */
    const char *id, *role, *host, *address, *format;
    uint32_t number;  /* the holder's, as kv_view_number says */
    uint64_t weights; /* the fingerprint for which this holds. A manager may come once for each that a model has */
    /* Of the prompt's beginning, in full blocks: held in its device; in device or host; ... so they ascend. It may be
     * the whole prompt. */
    uint32_t tokens[KV_TIER_COUNT];
};

/* Holders with the longest beginnings of the prompt, longest first among those of one fingerprint, at most max and
 * KV_VIEW_MAX_MATCHES; returns how many. The prompt is hashed once for each kind of (weights, tokenizer, block_tokens)
 * that the model's holders have. view may be NULL. */
uint32_t kv_view_find(struct kv_view *view, const struct kv_prompt *prompt, struct kv_match out[], uint32_t max);
/* The number of the holder with this id of an instance record; KV_VIEW_NOBODY: it is none, or not any more. A number is
 * used again later. view may be NULL. */
uint32_t kv_view_number(const struct kv_view *view, const char *id);

/* --- telling --- */

struct kv_holder {
    const char *id, *role, *host; /* copied, and cut to 63 bytes, the next two to 127 */
    const char *address;          /* of its control plane; "": nobody can fetch from it */
    const char *format;           /* kv_format_text of its blocks; "": not known */
    const char *model;            /* "": it holds what others compute, of any model */
    uint64_t weights, tokenizer;  /* fingerprints, as block_seed_parts has them */
    uint32_t block_tokens;        /* 1 to BLOCK_TOKENS_MAX; without a model not looked at */
};

/* ST_INVALID: block_tokens, an id that is there already, or no index fits in max_bytes; ST_LIMIT: max_holders or
 * KV_VIEW_KINDS are there; ST_NO_MEMORY. */
MUST_CHECK status kv_view_add(struct kv_view *view, const struct kv_holder *holder, uint32_t *number,
                              struct error *err);
/* It is gone, with all that it held. */
void kv_view_drop(struct kv_view *view, uint32_t number);
void kv_view_store(struct kv_view *view, uint32_t number, enum kv_tier tier, const struct block_hash hashes[],
                   uint32_t n);
void kv_view_remove(struct kv_view *view, uint32_t number, enum kv_tier tier, const struct block_hash hashes[],
                    uint32_t n);
void kv_view_clear(struct kv_view *view, uint32_t number);
/* Frees what dropped and cleared holders held, a small portion; true: there is more to do. */
bool kv_view_sweep(struct kv_view *view);

/* All zero before the first holder. */
void kv_view_stats(const struct kv_view *view, struct prefix_index_stats *out);

#endif
