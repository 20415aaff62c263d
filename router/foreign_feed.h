/* foreign_feed.h - a publisher of KV events that is not ours (vLLM, SGLang), as a holder in the view: foreign_blocks.h
 * with the seeds of a model that this router serves. Loop thread only. */
#ifndef BATON_ROUTER_FOREIGN_FEED_H
#define BATON_ROUTER_FOREIGN_FEED_H

#include "router/foreign_blocks.h"
#include "router/kv_view.h"

/* One item of "[MODEL=]PUB[+REPLAY],..." */
struct foreign_address {
    char model[256]; /* "": not said */
    char pub[128], replay[128];
};

/* The next item; *at is moved behind it. ST_NOT_FOUND at the end; ST_INVALID with what is wrong. */
MUST_CHECK status foreign_address_next(const char **at, struct foreign_address *out, struct error *err);

struct foreign_feed;

struct foreign_feed_options {
    struct kv_view *view;           /* borrowed */
    const struct kv_holder *holder; /* of a model; copied as far as it is needed */
    size_t max_bytes;               /* of the map from their names to ours */
    /* The fingerprint of the model's adapter with this name; false: it is not known. */
    bool (*adapter)(void *ctx, const char *model, const char *name, size_t len, uint64_t *fingerprint);
    void *ctx;
};

/* Adds the holder to the view, which is dropped with the feed. */
MUST_CHECK status foreign_feed_create(const struct foreign_feed_options *options, struct foreign_feed **out,
                                      struct error *err);
void foreign_feed_destroy(struct foreign_feed **feed);
/* As foreign_blocks_apply, and AllBlocksCleared. */
MUST_CHECK status foreign_feed_apply(struct foreign_feed *feed, const struct kv_event *event);
void foreign_feed_clear(struct foreign_feed *feed);
/* Blocks that were told, and could not be put under a hash of ours. */
uint64_t foreign_feed_left_out(const struct foreign_feed *feed);

#endif
