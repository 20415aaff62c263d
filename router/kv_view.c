#include "router/kv_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "proto/instance.h"

#define SWEEP_BLOCKS 1024u /* some 30 us */
#define NAME_BYTES   64u
#define TEXT_BYTES   128u
#define HUGE_FROM    (256u << 20) /* bytes of an index that is worth huge pages */

/* What hashes of a model's prompts depend on, apart from adapter and salt. */
struct kind {
    uint32_t users; /* holders; 0: free */
    uint32_t block_tokens;
    uint64_t weights, tokenizer;
    char model[sizeof((struct instance *)NULL)->model];
};

struct holder {
    bool in_use, holds; /* holds: something was stored since it was empty */
    uint32_t kind;      /* KV_VIEW_KINDS: none */
    uint32_t next;      /* in its bucket of the table, or free */
    char id[NAME_BYTES], role[NAME_BYTES], host[NAME_BYTES], address[TEXT_BYTES], format[TEXT_BYTES];
};

struct kv_view {
    struct kv_view_options options;
    struct prefix_index *index; /* NULL before the first holder, as are the next four */
    struct prefix_reader *reader;
    struct holder *holders;    /* [max_holders] */
    uint32_t *buckets;         /* [max_holders], by id */
    uint32_t free_list, fresh; /* of holders: given back; the first one never used */
    struct block_hash *hashes; /* [capacity] of the prompt at hand */
    uint32_t capacity;
    struct kind kinds[KV_VIEW_KINDS];
};

/* --- life --- */

status kv_view_create(const struct kv_view_options *options, struct kv_view **out)
{
    ASSERT(options->max_holders && options->max_holders <= PREFIX_MAX_WORKERS);
    struct kv_view *v = calloc(1, sizeof *v);
    if (!v)
        return ST_NO_MEMORY;
    v->options = *options;
    *out = v;
    return ST_OK;
}

static void close_index(struct kv_view *v)
{
    free(v->holders);
    free(v->buckets);
    v->holders = NULL;
    v->buckets = NULL;
    prefix_reader_destroy(&v->reader);
    prefix_index_destroy(&v->index);
}

void kv_view_destroy(struct kv_view **view)
{
    struct kv_view *v = *view;
    *view = NULL;
    if (!v)
        return;
    close_index(v);
    free(v->hashes);
    free(v);
}

static status open_index(struct kv_view *v, struct error *err)
{
    const struct prefix_index_options o = { .max_bytes = v->options.max_bytes,
                                            .max_workers = v->options.max_holders,
                                            .huge_pages = v->options.max_bytes >= HUGE_FROM };
    status st = prefix_index_create(&o, &v->index, err);
    if (st != ST_OK)
        return st;
    v->holders = calloc(v->options.max_holders, sizeof *v->holders);
    v->buckets = calloc(v->options.max_holders, sizeof *v->buckets);
    if (!v->holders || !v->buckets || prefix_reader_create(v->index, &v->reader) != ST_OK) {
        close_index(v);
        return error_set(err, ST_NO_MEMORY, "no memory for %u holders of KV", v->options.max_holders);
    }
    memset(v->buckets, 0xff, v->options.max_holders * sizeof *v->buckets);
    v->free_list = KV_VIEW_NOBODY;
    v->fresh = 0;
    return ST_OK;
}

/* --- who is there --- */

static uint32_t *bucket_of(const struct kv_view *v, const char *id)
{
    return &v->buckets[XXH3_64bits(id, strlen(id)) % v->options.max_holders];
}

/* The link that leads to the holder with this id, or to nobody. */
static uint32_t *find_link(const struct kv_view *v, const char *id)
{
    uint32_t *link = bucket_of(v, id);
    while (*link != KV_VIEW_NOBODY && strcmp(v->holders[*link].id, id) != 0)
        link = &v->holders[*link].next;
    return link;
}

uint32_t kv_view_number(const struct kv_view *v, const char *id)
{
    return v && v->index ? *find_link(v, id) : KV_VIEW_NOBODY;
}

static bool is_kind(const struct kind *k, const struct kv_holder *h)
{
    return k->users && k->block_tokens == h->block_tokens && k->weights == h->weights && k->tokenizer == h->tokenizer &&
           !strcmp(k->model, h->model);
}

/* The kind of the holder, counted; ST_LIMIT: there are too many. */
static status use_kind(struct kv_view *v, const struct kv_holder *h, uint32_t *out, struct error *err)
{
    uint32_t unused = KV_VIEW_KINDS, i = 0;
    *out = KV_VIEW_KINDS;
    if (!h->model[0])
        return ST_OK;
    if (!h->block_tokens || h->block_tokens > BLOCK_TOKENS_MAX)
        return error_set(err, ST_INVALID, "blocks of %u tokens; 1 to %u are possible", h->block_tokens,
                         BLOCK_TOKENS_MAX);
    for (; i < KV_VIEW_KINDS && !is_kind(&v->kinds[i], h); i++)
        if (!v->kinds[i].users && unused == KV_VIEW_KINDS)
            unused = i;
    if (i == KV_VIEW_KINDS && unused == KV_VIEW_KINDS)
        return error_set(err, ST_LIMIT, "holders of KV are of %u kinds of models already", KV_VIEW_KINDS);
    if (i == KV_VIEW_KINDS) {
        i = unused;
        v->kinds[i] = (struct kind){ 0, h->block_tokens, h->weights, h->tokenizer, "" };
        snprintf(v->kinds[i].model, sizeof v->kinds[i].model, "%s", h->model);
    }
    v->kinds[i].users++;
    *out = i;
    return ST_OK;
}

static void name(char out[NAME_BYTES], const char *text)
{
    snprintf(out, NAME_BYTES, "%.63s", text);
}

static uint32_t free_number(struct kv_view *v)
{
    uint32_t number = v->free_list;
    if (number != KV_VIEW_NOBODY)
        v->free_list = v->holders[number].next;
    else
        number = v->fresh++;
    return number;
}

static void enter(struct kv_view *v, uint32_t number, const struct kv_holder *h, uint32_t kind)
{
    struct holder *new = &v->holders[number];
    *new = (struct holder){ .in_use = true, .kind = kind };
    name(new->id, h->id);
    name(new->role, h->role);
    name(new->host, h->host);
    snprintf(new->address, sizeof new->address, "%.127s", h->address);
    snprintf(new->format, sizeof new->format, "%.127s", h->format);
    uint32_t *bucket = bucket_of(v, new->id);
    new->next = *bucket;
    *bucket = number;
}

status kv_view_add(struct kv_view *v, const struct kv_holder *h, uint32_t *number, struct error *err)
{
    char id[NAME_BYTES];
    uint32_t kind;
    status st = v->index ? ST_OK : open_index(v, err);
    if (st != ST_OK)
        return st;
    name(id, h->id);
    if (*find_link(v, id) != KV_VIEW_NOBODY)
        return error_set(err, ST_INVALID, "a holder of KV with the id %s is there already", id);
    if (v->free_list == KV_VIEW_NOBODY && v->fresh == v->options.max_holders)
        return error_set(err, ST_LIMIT, "%u holders of KV are there already", v->options.max_holders);
    st = use_kind(v, h, &kind, err);
    if (st != ST_OK)
        return st;
    *number = free_number(v);
    enter(v, *number, h, kind);
    return ST_OK;
}

static struct holder *holder_at(struct kv_view *v, uint32_t number)
{
    ASSERT(v->index && number < v->options.max_holders && v->holders[number].in_use);
    return &v->holders[number];
}

void kv_view_clear(struct kv_view *v, uint32_t number)
{
    struct holder *h = holder_at(v, number);
    if (h->holds)
        prefix_index_clear(v->index, number);
    h->holds = false;
}

void kv_view_drop(struct kv_view *v, uint32_t number)
{
    struct holder *h = holder_at(v, number);
    kv_view_clear(v, number);
    if (h->kind < KV_VIEW_KINDS)
        v->kinds[h->kind].users--;
    *find_link(v, h->id) = h->next;
    *h = (struct holder){ .next = v->free_list };
    v->free_list = number;
}

/* --- what they hold --- */

void kv_view_store(struct kv_view *v, uint32_t number, enum kv_tier tier, const struct block_hash hashes[], uint32_t n)
{
    holder_at(v, number)->holds = true;
    prefix_index_store(v->index, number, tier, hashes, n);
}

void kv_view_remove(struct kv_view *v, uint32_t number, enum kv_tier tier, const struct block_hash hashes[], uint32_t n)
{
    if (holder_at(v, number)->holds)
        prefix_index_remove(v->index, number, tier, hashes, n);
}

bool kv_view_sweep(struct kv_view *v)
{
    return v->index && prefix_index_sweep(v->index, SWEEP_BLOCKS);
}

void kv_view_stats(const struct kv_view *v, struct prefix_index_stats *out)
{
    *out = (struct prefix_index_stats){ 0 };
    if (v->index)
        prefix_index_stats(v->index, out);
}

/* --- questions --- */

/* The fingerprint in "NAME@FINGERPRINT", 0 for no adapter. */
static bool adapter_fingerprint(const char *adapter, uint64_t *out)
{
    const char *at = strrchr(adapter, '@');
    *out = 0;
    return !adapter[0] || (at && sscanf(at + 1, "%16" SCNx64, out) == 1 && *out);
}

static bool hash_prompt(struct kv_view *v, const struct kind *k, const struct kv_prompt *p, uint64_t adapter,
                        uint32_t *n)
{
    const struct block_seed_parts parts = { k->weights, k->tokenizer, adapter, p->salt };
    struct block_hasher hasher;
    *n = p->n_tokens / k->block_tokens;
    if (*n > v->capacity) {
        struct block_hash *more = realloc(v->hashes, *n * sizeof *more);
        if (!more)
            return false;
        v->hashes = more;
        v->capacity = *n;
    }
    block_hasher_init(&hasher, block_seed(&parts), k->block_tokens);
    return block_hasher_grow(&hasher, p->tokens, p->n_tokens, v->hashes, *n) == *n;
}

static void tell(const struct kv_view *v, const struct kind *k, const struct prefix_match *m, struct kv_match *out)
{
    const struct holder *h = &v->holders[m->worker];
    *out = (struct kv_match){ .id = h->id,
                              .role = h->role,
                              .host = h->host,
                              .address = h->address,
                              .format = h->format,
                              .number = m->worker,
                              .weights = k->weights };
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        out->tokens[tier] = m->blocks[tier] * k->block_tokens;
}

static uint32_t find_kind(struct kv_view *v, const struct kind *k, const struct kv_prompt *p, uint64_t adapter,
                          struct kv_match out[], uint32_t max)
{
    struct prefix_match found[KV_VIEW_MAX_MATCHES];
    uint32_t n_hashes;
    if (!hash_prompt(v, k, p, adapter, &n_hashes) || !n_hashes)
        return 0;
    uint32_t n = prefix_index_lookup(v->index, v->reader, v->hashes, n_hashes, found, max);
    for (uint32_t i = 0; i < n; i++)
        tell(v, k, &found[i], &out[i]);
    return n;
}

uint32_t kv_view_find(struct kv_view *v, const struct kv_prompt *p, struct kv_match out[], uint32_t max)
{
    uint64_t adapter;
    uint32_t n = 0;
    if (!v || !v->index || !adapter_fingerprint(p->adapter, &adapter))
        return 0;
    if (max > KV_VIEW_MAX_MATCHES)
        max = KV_VIEW_MAX_MATCHES;
    for (uint32_t i = 0; i < KV_VIEW_KINDS && n < max; i++)
        if (v->kinds[i].users && !strcmp(v->kinds[i].model, p->model))
            n += find_kind(v, &v->kinds[i], p, adapter, out + n, max - n);
    return n;
}
