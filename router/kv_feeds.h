/* kv_feeds.h - follows all who publish KV events and keeps the view (kv_view.h) up to date: daemons whose instance
 * record names where they publish, and publishers of another make, by address. What somebody held is forgotten when
 * his record is gone or names another process; when his events show a gap that cannot be closed; never because he is
 * silent, which is an alarm. Sweeps the view in small portions. Loop thread only. */
#ifndef BATON_ROUTER_KV_FEEDS_H
#define BATON_ROUTER_KV_FEEDS_H

#include "common/loop.h"
#include "proto/instance.h"
#include "proto/kv_follow.h"
#include "router/foreign_feed.h"
#include "router/kv_view.h"

struct kv_feeds;

struct kv_feeds_options {
    struct loop *loop;
    void *zmq;                    /* a ZeroMQ context; borrowed for life */
    struct kv_view *view;         /* borrowed */
    struct kv_follow_rules rules; /* kv_subscriber_rules, for ours; others are without dumps */
};

MUST_CHECK status kv_feeds_create(const struct kv_feeds_options *options, struct kv_feeds **out, struct error *err);
void kv_feeds_destroy(struct kv_feeds **feeds);

/* A record appeared or changed. One that names no KV events is not followed; whose cannot be is logged. */
void kv_feeds_member(struct kv_feeds *feeds, const struct instance *instance);
void kv_feeds_member_gone(struct kv_feeds *feeds, const char *id);
/* A publisher that is not ours, for good; replay "": it has none. options->view is the feeds' own. */
MUST_CHECK status kv_feeds_add_foreign(struct kv_feeds *feeds, const struct foreign_address *address,
                                       const struct foreign_feed_options *options, struct error *err);

struct kv_feeds_stats {
    uint32_t followed;
    uint32_t complete; /* of these: all that they have is known, as far as one can tell */
    uint32_t silent;   /* of these: nothing was heard for silence_us */
    /* Of all that are and were followed: */
    struct kv_follow_stats follow;
    uint64_t events, unknown; /* applied; of a kind or in a medium that is not known */
    uint64_t hostile;         /* messages that were no events at all */
    uint64_t left_out;        /* blocks of others that could not be put under a hash of ours */
};
void kv_feeds_stats(const struct kv_feeds *feeds, struct kv_feeds_stats *out);

#endif
