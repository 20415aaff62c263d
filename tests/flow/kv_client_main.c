/* A worker that computes nothing: offers blocks to a KV block manager and pulls them again. For kvbm.py.
 *   kv_client_main ENDPOINT MANAGER CLUSTER FORMAT WEIGHTS TOKENIZER SALT put|get SEQUENCE BLOCKS [TOKENS_PER_S]
 * The blocks of a sequence, a number, are always the same bytes. SALT is a salt's secret, or "". TOKENS_PER_S is how
 * fast it says that it computes prompts. Prints one line of JSON: put says what became of the offered blocks, get how
 * many came, from which tier, and how many of them are wrong. BATON_TEST_CLUSTER_KEY names the file with the cluster's
 * key, BATON_TEST_SALT_KEY the one with its salts' key.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "kvbm/borrower.h"
#include "kvbm/kv_format.h"
#include "kvbm/offers.h"
#include "kvbm/salt_key.h"
#include "proto/link.h"
#include "transfer/way.h"

#define MAX_BLOCKS 512u
#define TIMEOUT_US 20000000u

struct program {
    const char *manager_id, *operation;
    uint64_t sequence;
    uint32_t n;
    double tokens_per_s;
    struct kv_format format;
    char kv_format[KV_FORMAT_TEXT_BYTES];
    struct transfer_geometry geometry;
    struct block_seed_parts parts;
    struct loop *loop;
    struct transfer *transfer;
    struct block_pool *pool;
    struct links *links;
    struct link *link;
    struct transfer_way way;
    struct exchange_io io;
    struct offers *offers;
    struct borrower *borrower;
    struct timer timer;
    block_id blocks[MAX_BLOCKS];
    uint64_t checksums[MAX_BLOCKS];
    uint32_t *tokens;
    bool begun;
    int code;
};

static _Noreturn void give_up(const char *why)
{
    printf("{\"error\": \"%s\"}\n", why);
    exit(1);
}

/* ---- content --------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint32_t token_at(const struct program *g, uint32_t i)
{
    return (uint32_t)(mix(g->sequence * 1000003 + i) % 200);
}

static uint64_t word_at(const struct program *g, uint32_t block, size_t i)
{
    return mix(g->sequence << 40 ^ (uint64_t)block << 24 ^ i);
}

static uint8_t *bytes_of(struct program *g, uint32_t i)
{
    return transfer_blocks(g->transfer) + (size_t)g->blocks[i] * transfer_block_bytes(&g->geometry);
}

static void fill(struct program *g, uint32_t i)
{
    uint8_t *bytes = bytes_of(g, i);
    for (size_t at = 0; at < transfer_block_bytes(&g->geometry); at += 8) {
        uint64_t word = word_at(g, i, at);
        memcpy(bytes + at, &word, 8);
    }
}

static bool is_right(struct program *g, uint32_t i)
{
    const uint8_t *bytes = bytes_of(g, i);
    for (size_t at = 0; at < transfer_block_bytes(&g->geometry); at += 8) {
        uint64_t word = word_at(g, i, at);
        if (memcmp(bytes + at, &word, 8) != 0)
            return false;
    }
    return true;
}

static uint64_t checksum(struct program *g, uint32_t i)
{
    uint64_t sums[1024];
    for (uint32_t layer = 0; layer < g->geometry.n_layers; layer++)
        sums[layer] = transfer_layer_checksum(&g->geometry, bytes_of(g, i), layer, 0, g->geometry.block_tokens);
    return transfer_block_checksum(sums, g->geometry.n_layers);
}

/* ---- the world of the cores ----------------------------------------------------------- */

static uint64_t io_now(void *ctx)
{
    (void)ctx;
    return clock_now_us();
}

static status io_send(void *ctx, void *peer, const struct message_head *head, const ProtobufCMessage *body)
{
    (void)ctx;
    return link_send_acked(((struct program *)peer)->link, head, body);
}

static bool io_is_alive(void *ctx, void *peer)
{
    (void)ctx;
    return link_is_up(((struct program *)peer)->link);
}

static struct transfer_peer *io_way(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct program *)peer)->way.peer;
}

static status io_take(void *ctx, struct transfer_take *take)
{
    return transfer_take(((struct program *)ctx)->transfer, take);
}

static void io_cancel_take(void *ctx, struct transfer_take *take)
{
    transfer_cancel(((struct program *)ctx)->transfer, take);
}

static const char *io_name(void *ctx, void *peer)
{
    (void)ctx;
    return ((struct program *)peer)->manager_id;
}

/* ---- put ------------------------------------------------------------------------------- */

static void look_at_offers(void *arg)
{
    struct program *g = arg;
    const struct offers_counters *c = offers_counters(g->offers);
    uint64_t ended = c->taken + c->present + c->declined + c->refused + c->stale + c->damaged + c->failed + c->lost +
                     c->expired + c->queue_full + c->no_manager;
    if (ended < g->n) {
        timer_set(loop_timers(g->loop), &g->timer, clock_now_us() + 1000, look_at_offers, g);
        return;
    }
    printf("{\"taken\": %" PRIu64 ", \"present\": %" PRIu64 ", \"declined\": %" PRIu64 ", \"other\": %" PRIu64 "}\n",
           c->taken, c->present, c->declined, ended - c->taken - c->present - c->declined);
    g->code = 0;
    loop_stop(g->loop);
}

static void put(struct program *g)
{
    if (block_pool_take(g->pool, g->n, BLOCK_FILLING, g->blocks) != ST_OK)
        give_up("no blocks");
    for (uint32_t i = 0; i < g->n; i++) {
        fill(g, i);
        block_pool_filled(g->pool, g->blocks[i], g->geometry.block_tokens);
        g->checksums[i] = checksum(g, i);
    }
    const struct offered_run run = {
        .parts = g->parts, .tokens = g->tokens, .n = g->n, .blocks = g->blocks, .checksums = g->checksums
    };
    offers_set_manager(g->offers, g);
    if (offers_add(g->offers, &run) != g->n)
        give_up("the queue of offers is full");
    look_at_offers(g);
}

/* ---- get -------------------------------------------------------------------------------- */

static void on_pulled(void *arg, const struct pull_result *r)
{
    struct program *g = arg;
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < r->n_blocks; i++)
        wrong += !is_right(g, i);
    printf("{\"blocks\": %u, \"announced\": %u, \"host\": %u, \"disk\": %u, \"remote\": %u, \"damaged\": %u, "
           "\"wrong\": %u, "
           "\"status\": \"%s\"}\n",
           r->n_blocks, r->announced, r->by_tier[KV_TIER_HOST], r->by_tier[KV_TIER_DISK], r->by_tier[KV_TIER_REMOTE],
           r->damaged, wrong, status_text(r->st));
    g->code = 0;
    loop_stop(g->loop);
}

static void get(struct program *g)
{
    struct pull *pull;
    if (block_pool_take(g->pool, g->n, BLOCK_RESERVED, g->blocks) != ST_OK)
        give_up("no blocks");
    const struct pull_options options = { .holder = g,
                                          .key = { clock_now_us(), 1 },
                                          .attempt = 1,
                                          .parts = g->parts,
                                          .tokens = g->tokens,
                                          .n_blocks = g->n,
                                          .blocks = g->blocks,
                                          .deadline_us = clock_now_us() + TIMEOUT_US / 2,
                                          .tokens_per_s = g->tokens_per_s,
                                          .ended = on_pulled,
                                          .arg = g };
    if (borrower_pull(g->borrower, &options, &pull) != ST_OK)
        give_up("the pull does not begin");
}

/* ---- the manager -------------------------------------------------------------------------- */

static void on_way(void *arg)
{
    struct program *g = arg;
    if (!g->way.peer || g->begun)
        return;
    g->begun = true;
    if (!strcmp(g->operation, "put"))
        put(g);
    else
        get(g);
}

static void on_up(void *ctx, struct link *link, const Baton__Hello *hello, bool first)
{
    struct program *g = ctx;
    (void)link;
    (void)first;
    transfer_way_open(&g->way, hello->transfer.data, hello->transfer.len);
}

static void on_lost(void *ctx, struct link *link, const char *reason)
{
    (void)ctx;
    (void)link;
    give_up(reason);
}

static void on_message(void *ctx, struct link *link, const struct frame *frame, uint64_t deadline_us)
{
    struct program *g = ctx;
    (void)link;
    (void)deadline_us;
    if (!borrower_on_message(g->borrower, g, frame))
        (void)offers_on_message(g->offers, g, frame);
}

static size_t live(void *ctx, struct link *link, Baton__Live *out, size_t max)
{
    (void)ctx;
    (void)link;
    (void)out;
    (void)max;
    return 0;
}

static void connect_to(struct program *g, const char *endpoint, const char *cluster)
{
    char id[32];
    struct error err;
    snprintf(id, sizeof id, "kv-client-%ld", (long)getpid());
    struct links_options options = { .loop = g->loop,
                                     .id = id,
                                     .role = "decode",
                                     .cluster = cluster,
                                     .model = "",
                                     .kv_format = g->kv_format,
                                     .incarnation = clock_now_us(),
                                     .ping_interval_us = 300000,
                                     .frozen_us = 5000000,
                                     .closed_us = 2000000,
                                     .repeat_us = 250000,
                                     .max_pending = 4096,
                                     .on_up = on_up,
                                     .on_lost = on_lost,
                                     .on_message = on_message,
                                     .live = live,
                                     .ctx = g };
    options.transfer = transfer_description(g->transfer, &options.transfer_len);
    if (links_create(&options, &g->links, &err) != ST_OK ||
        links_connect(g->links, g->manager_id, endpoint, &g->link) != ST_OK)
        give_up("no links");
}

static bool make_salt(struct program *g, const char *secret)
{
    static struct salt_key key; /* large */
    const char *path = getenv("BATON_TEST_SALT_KEY");
    struct error err;
    return salt_key_read(path ? path : "", &key, &err) == ST_OK &&
           block_salt(key.bytes, key.len, secret, strlen(secret), &g->parts.salt) == ST_OK;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void make_memory(struct program *g)
{
    const struct kv_layout l = kv_format_layout(&g->format);
    struct error err;
    g->geometry =
        (struct transfer_geometry){ l.n_layers, 2 * l.n_kv_heads, l.block_tokens, (uint32_t)kv_slot_bytes(&l) };
    if (loop_create(&g->loop) != ST_OK)
        give_up("no loop");
    const struct transfer_options transfer = { .loop = g->loop,
                                               .geometry = g->geometry,
                                               .n_blocks = g->n,
                                               .incarnation = 1,
                                               .cluster_key_file = getenv("BATON_TEST_CLUSTER_KEY") };
    if (transfer_create(&transfer, &g->transfer, &err) != ST_OK)
        give_up("no memory to lend");
    const struct block_pool_options pool = { .n_blocks = g->n,
                                             .block_tokens = l.block_tokens,
                                             .generations = transfer_generations(g->transfer) };
    if (block_pool_create(&pool, &g->pool) != ST_OK)
        give_up("no pool");
    g->tokens = malloc((size_t)g->n * l.block_tokens * sizeof *g->tokens);
    for (uint32_t i = 0; g->tokens && i < g->n * l.block_tokens; i++)
        g->tokens[i] = token_at(g, i);
}

static void make_cores(struct program *g)
{
    g->io = (struct exchange_io){ g, io_now, io_send, io_is_alive, io_way, io_take, io_cancel_take, io_name };
    struct offers_options offers = { .io = &g->io,
                                     .timers = loop_timers(g->loop),
                                     .pool = g->pool,
                                     .block_tokens = g->geometry.block_tokens,
                                     .incarnation = clock_now_us(),
                                     .max_queue = MAX_BLOCKS,
                                     .max_chain = MAX_BLOCKS,
                                     .batch = 64,
                                     .max_offers = 8,
                                     .linger_us = 1000,
                                     .lifetime_us = TIMEOUT_US };
    struct borrower_options borrower = { .io = &g->io,
                                         .timers = loop_timers(g->loop),
                                         .geometry = g->geometry,
                                         .max_pulls = 4,
                                         .max_blocks = MAX_BLOCKS,
                                         .batch_blocks = 16,
                                         .takes = 64,
                                         .answer_us = TIMEOUT_US / 4 };
    snprintf(offers.kv_format, sizeof offers.kv_format, "%s", g->kv_format);
    snprintf(borrower.kv_format, sizeof borrower.kv_format, "%s", g->kv_format);
    if (offers_create(&offers, &g->offers) != ST_OK || borrower_create(&borrower, &g->borrower) != ST_OK)
        give_up("no cores");
    g->way = (struct transfer_way){
        .transfer = g->transfer, .timers = loop_timers(g->loop), .name = g->manager_id, .changed = on_way, .arg = g
    };
}

/* The manager makes a way to us, too, and who has what he wants may be done in the middle of that handshake, in which
 * UCX 1.13 aborts when its worker is destroyed. So what UCX has is left to the kernel, as by a killed worker. */
static _Noreturn void end(struct program *g)
{
    link_close(&g->link);
    links_destroy(&g->links);
    fflush(stdout);
    _exit(g->code);
}

static void on_timeout(void *arg)
{
    (void)arg;
    give_up("no end in time");
}

int main(int argc, char **argv)
{
    static struct program g = { .code = 1 };
    struct error err;
    struct timer timeout = { .slot = 0 };
    if (argc < 11 || argc > 12 || kv_format_parse(argv[4], &g.format, &err) != ST_OK || g.format.n_layers > 1024)
        give_up("wrong arguments");
    log_init("kv-client", LOG_WARN);
    g.manager_id = argv[2];
    snprintf(g.kv_format, sizeof g.kv_format, "%s", argv[4]);
    g.parts.weights = strtoull(argv[5], NULL, 16);
    g.parts.tokenizer = strtoull(argv[6], NULL, 16);
    g.operation = argv[8];
    g.sequence = strtoull(argv[9], NULL, 10);
    g.n = (uint32_t)strtoul(argv[10], NULL, 10);
    g.tokens_per_s = argc == 12 ? strtod(argv[11], NULL) : 0;
    if (g.n == 0 || g.n > MAX_BLOCKS || !make_salt(&g, argv[7]))
        give_up("wrong number of blocks, or salt");
    make_memory(&g);
    make_cores(&g);
    connect_to(&g, argv[1], argv[3]);
    timer_set(loop_timers(g.loop), &timeout, clock_now_us() + TIMEOUT_US, on_timeout, &g);
    loop_run(g.loop);
    end(&g);
}
