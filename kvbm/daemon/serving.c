/* What workers and other managers ask for: blocks lent (lender.h), offers taken (acceptor.h), what is missing fetched
 * from other hosts (remote_tier.h), and events that say what there is. The world that those cores see is this process's
 * links and its transfer thread. */
#include "common/clock.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "kvbm/daemon/events.h"
#include "kvbm/daemon/process.h"

#define MAX_LOAN_BLOCKS  4096u /* of one Find */
#define MAX_OFFER_BLOCKS 256u  /* of one Offer */
#define FETCH_TOGETHER   32u   /* blocks of a fetch that are taken, verified and lent on together */
#define FETCH_TAKES      32u   /* of a fetch on their way */
#define FETCH_BYTES      (1u << 20)

static uint64_t io_now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

/* What an answer tells of may have changed the store. */
static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    char name[64];
    snprintf(name, sizeof name, "kvbm.send.%s", frame_type_name(head->type));
    (void)FAILPOINT(name);
    tiers_soon(ctx);
    return link_send_acked(((struct kvbm_peer *)peer)->channel, head, body);
}

static bool io_is_alive(void *ctx, void *peer)
{
    (void)ctx;
    return link_is_up(((struct kvbm_peer *)peer)->channel);
}

static struct transfer_peer *io_way(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct kvbm_peer *)peer)->way.peer;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    return transfer_take(((struct kvbm_process *)ctx)->transfer, take);
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    transfer_cancel(((struct kvbm_process *)ctx)->transfer, take);
}

static const char *io_name(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct kvbm_peer *)peer)->id;
}

static status open_lender(struct kvbm_process *p)
{
    const struct kvbm_config *c = p->config;
    struct lender_options options = {
        .io = &p->io,
        .source = &p->source.source,
        .timers = loop_timers(daemon_loop(p->daemon)),
        .block_tokens = p->layout.block_tokens,
        .max_loans = (uint32_t)c->max_loans,
        .max_blocks = MAX_LOAN_BLOCKS,
        .max_chain = (uint32_t)c->max_chain,
        .lifetime_us = c->loan_lifetime,
    };
    snprintf(options.kv_format, sizeof options.kv_format, "%s", p->kv_format);
    status st = lender_create(&options, &p->lender);
    p->source.lender = p->lender;
    return st;
}

static status open_acceptor(struct kvbm_process *p)
{
    struct acceptor_options options = {
        .io = &p->io,
        .store = &p->source.sink,
        .format = p->source.format,
        .geometry = p->geometry,
        .max_offers = (uint32_t)p->config->max_offers,
        .max_blocks = MAX_OFFER_BLOCKS,
        .max_chain = (uint32_t)p->config->max_chain,
        .take_us = p->config->take_timeout,
    };
    snprintf(options.kv_format, sizeof options.kv_format, "%s", p->kv_format);
    return acceptor_create(&options, &p->acceptor);
}

static status open_borrower(struct kvbm_process *p)
{
    struct borrower_options options = {
        .io = &p->io,
        .timers = loop_timers(daemon_loop(p->daemon)),
        .geometry = p->geometry,
        .max_pulls = (uint32_t)p->config->remote_fetches,
        .max_blocks = MAX_LOAN_BLOCKS,
        .batch_blocks = FETCH_TOGETHER,
        .takes = FETCH_TAKES,
        .answer_us = p->config->remote_timeout / 2,
        .take_bytes = FETCH_BYTES,
    };
    snprintf(options.kv_format, sizeof options.kv_format, "%s", p->kv_format);
    return borrower_create(&options, &p->borrower);
}

static void on_fetched(void *ctx)
{
    tiers_soon(ctx);
}

static status open_remote(struct kvbm_process *p)
{
    const struct remote_tier_options options = {
        .io = &p->io,
        .store = p->store,
        .borrower = p->borrower,
        .format = p->source.format,
        .block_tokens = p->layout.block_tokens,
        .block_bytes = transfer_block_bytes(&p->geometry),
        .incarnation = daemon_incarnation(p->daemon),
        .index_blocks = (uint64_t)p->config->remote_index,
        .max_fetches = (uint32_t)p->config->remote_fetches,
        .max_blocks = MAX_LOAN_BLOCKS,
        .timeout_us = p->config->remote_timeout,
        .changed = on_fetched,
        .ctx = p,
    };
    if (!p->config->remote)
        return ST_OK;
    status st = remote_tier_create(&options, &p->remote);
    p->source.remote = p->remote;
    return st;
}

/* The address that is configured, or any port of the control plane's host. */
static const char *endpoint_of(const char *configured, const char *any, char *buf, size_t size)
{
    if (configured[0])
        snprintf(buf, size, "tcp://%s", configured);
    return configured[0] ? buf : any;
}

static status open_events(struct kvbm_process *p, struct error *err)
{
    const struct kvbm_config *c = p->config;
    struct membership_endpoints endpoints;
    char events[CONFIG_TEXT_BYTES + 8], replay[CONFIG_TEXT_BYTES + 8];
    if (!c->kv_events)
        return ST_OK;
    status st = membership_endpoints(p->daemon, &endpoints, err);
    if (st != ST_OK)
        return st;
    const struct events_options options = {
        .loop = daemon_loop(p->daemon),
        .store = p->store,
        .block_tokens = p->layout.block_tokens,
        .listen = endpoint_of(c->kv_events_listen, endpoints.any, events, sizeof events),
        .listen_replay = endpoint_of(c->kv_replay_listen, endpoints.any, replay, sizeof replay),
    };
    return events_create(&options, &p->events, err);
}

status serving_open(struct kvbm_process *p, struct error *err)
{
    p->io = (struct exchange_io){ p, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    store_source_init(&p->source, p->store, p->kv_format);
    status st = open_lender(p);
    if (st == ST_OK)
        st = open_acceptor(p);
    if (st == ST_OK)
        st = open_borrower(p);
    if (st == ST_OK)
        st = open_remote(p);
    if (st == ST_OK)
        return open_events(p, err);
    return error_set(err, st, "no memory for %lld loans, %lld offers and %lld blocks of other hosts",
                     (long long)p->config->max_loans, (long long)p->config->max_offers,
                     (long long)p->config->remote_index);
}

/* What is taken ends with the transfer thread, which tells acceptor and borrower; the memory stays for the store. */
void serving_close(struct kvbm_process *p)
{
    lender_destroy(&p->lender);
    if (p->transfer)
        transfer_stop(p->transfer);
    acceptor_destroy(&p->acceptor);
    remote_tier_destroy(&p->remote);
    borrower_destroy(&p->borrower);
    events_destroy(&p->events);
}
