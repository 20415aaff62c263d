#include "router/foreign_feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- addresses -------------------------------------------------------------- */

#define FORM "[MODEL=]tcp://HOST:PORT[+tcp://HOST:PORT],..."

static bool copy(char *out, size_t size, const char *from, size_t len)
{
    if (len >= size)
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

static bool is_address(const char *text)
{
    return !strncmp(text, "tcp://", 6) && strrchr(text, ':') > text + 6;
}

static bool read_item(const char *item, size_t len, struct foreign_address *out)
{
    const char *equals = memchr(item, '=', len), *end = item + len;
    const char *pub = equals ? equals + 1 : item;
    const char *plus = memchr(pub, '+', (size_t)(end - pub)), *pub_end = plus ? plus : end;
    *out = (struct foreign_address){ .model = "" };
    if (equals && (equals == item || !copy(out->model, sizeof out->model, item, (size_t)(equals - item))))
        return false;
    if (!copy(out->pub, sizeof out->pub, pub, (size_t)(pub_end - pub)) || !is_address(out->pub))
        return false;
    return !plus ||
           (copy(out->replay, sizeof out->replay, plus + 1, (size_t)(end - plus - 1)) && is_address(out->replay));
}

status foreign_address_next(const char **at, struct foreign_address *out, struct error *err)
{
    const char *item = *at + strspn(*at, ",");
    size_t len = strcspn(item, ",");
    *at = item + len;
    if (!len)
        return ST_NOT_FOUND;
    if (read_item(item, len, out))
        return ST_OK;
    return error_set(err, ST_INVALID, "--foreign-publishers: \"%.*s\" is not " FORM, (int)(len < 200 ? len : 200),
                     item);
}

/* ---- the feed ----------------------------------------------------------------- */

struct foreign_feed {
    struct foreign_feed_options options; /* holder is not kept */
    char model[sizeof((struct foreign_address *)NULL)->model];
    struct block_seed_parts seed; /* without adapter */
    uint32_t number;
    struct foreign_blocks *blocks;
};

static bool seed(void *ctx, const struct kv_event *event, struct block_hash *out)
{
    struct foreign_feed *f = ctx;
    struct block_seed_parts parts = f->seed;
    if (event->has_adapter && (!event->adapter_len || !f->options.adapter(f->options.ctx, f->model, event->adapter,
                                                                          event->adapter_len, &parts.adapter)))
        return false;
    *out = block_seed(&parts);
    return true;
}

static void chain(void *ctx, const struct block_hash *parent, const uint32_t tokens[], uint32_t n,
                  struct block_hash *out)
{
    (void)ctx;
    *out = block_hash_next(*parent, tokens, n);
}

static void stored(void *ctx, enum kv_tier tier, const struct block_hash hashes[], uint32_t n)
{
    struct foreign_feed *f = ctx;
    kv_view_store(f->options.view, f->number, tier, hashes, n);
}

static void removed(void *ctx, enum kv_tier tier, const struct block_hash hashes[], uint32_t n)
{
    struct foreign_feed *f = ctx;
    kv_view_remove(f->options.view, f->number, tier, hashes, n);
}

status foreign_feed_create(const struct foreign_feed_options *options, struct foreign_feed **out, struct error *err)
{
    const struct kv_holder *h = options->holder;
    struct foreign_feed *f = calloc(1, sizeof *f);
    if (!f)
        return error_set(err, ST_NO_MEMORY, "no memory for a publisher of KV events");
    f->options = *options;
    f->options.holder = NULL;
    f->seed = (struct block_seed_parts){ .weights = h->weights, .tokenizer = h->tokenizer };
    snprintf(f->model, sizeof f->model, "%s", h->model);
    const struct foreign_blocks_options blocks = { .block_tokens = h->block_tokens,
                                                   .max_bytes = options->max_bytes,
                                                   .seed = seed,
                                                   .chain = chain,
                                                   .stored = stored,
                                                   .removed = removed,
                                                   .ctx = f };
    status st = kv_view_add(options->view, h, &f->number, err);
    if (st == ST_OK && foreign_blocks_create(&blocks, &f->blocks) != ST_OK) {
        kv_view_drop(options->view, f->number);
        st = error_set(err, ST_NO_MEMORY, "no memory for a publisher of KV events");
    }
    if (st == ST_OK)
        *out = f;
    else
        free(f);
    return st;
}

void foreign_feed_destroy(struct foreign_feed **feed)
{
    struct foreign_feed *f = *feed;
    *feed = NULL;
    if (!f)
        return;
    kv_view_drop(f->options.view, f->number);
    foreign_blocks_destroy(&f->blocks);
    free(f);
}

status foreign_feed_apply(struct foreign_feed *f, const struct kv_event *event)
{
    if (event->kind != KV_ALL_CLEARED)
        return foreign_blocks_apply(f->blocks, event);
    foreign_feed_clear(f);
    return ST_OK;
}

void foreign_feed_clear(struct foreign_feed *f)
{
    foreign_blocks_clear(f->blocks);
    kv_view_clear(f->options.view, f->number);
}

uint64_t foreign_feed_left_out(const struct foreign_feed *f)
{
    struct foreign_blocks_stats s;
    foreign_blocks_stats(f->blocks, &s);
    return s.no_tokens + s.no_parent + s.not_mappable;
}
