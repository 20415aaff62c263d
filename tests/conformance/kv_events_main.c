/* What kv_events.py speaks with.
 *   kv_events_main follow PUB ROUTER|-     follows; each line that comes in on standard input is answered with all
 * events since the last one, and "." at the end kv_events_main publish BATCHES bytes|integers tokens|none prints its
 * two endpoints, and publishes a batch for each line that comes in */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "proto/kv_publisher.h"
#include "proto/kv_subscriber.h"

#define BLOCK_TOKENS 4u
#define DUMP_PIECE   7u /* blocks told in a turn of the loop */

struct program {
    struct loop *loop;
    void *zmq;
    struct kv_publisher *publisher;
    struct kv_subscriber *subscriber;
    struct event *input;
    uint64_t n_published, n_dumped;
};

static const char *tier_name(enum kv_tier tier)
{
    return tier < KV_TIER_COUNT ? kv_tier_medium(tier) : "?";
}

static void print_event(const struct kv_event *e)
{
    static const char *const names[] = { "stored", "removed", "cleared" };
    printf("%s %s size=%u tokens=", names[e->kind], tier_name(e->tier), e->block_size);
    for (uint32_t i = 0; i < e->n_tokens; i++)
        printf("%s%u", i ? "," : "", e->tokens[i]);
    printf(" adapter=%.*s extra=%d parent=", (int)e->adapter_len, e->adapter_len ? e->adapter : "", e->has_extra_keys);
    if (e->has_parent)
        printf("%016" PRIx64 "%016" PRIx64, e->parent.high, e->parent.low);
    for (uint32_t i = 0; i < e->n_hashes; i++)
        printf(" %016" PRIx64 "%016" PRIx64, e->hashes[i].high, e->hashes[i].low);
    printf("\n");
}

static status apply(void *ctx, struct kv_batch_reader *batch)
{
    (void)ctx;
    struct kv_event event;
    struct error err;
    status st;
    while ((st = kv_batch_next(batch, &event, &err)) == ST_OK)
        print_event(&event);
    return st == ST_NOT_FOUND ? ST_OK : st;
}

static void clear(void *ctx)
{
    (void)ctx;
    printf("forget\n");
}

/* Block i of the truth: its own number in every part. */
static void tell(struct program *p, struct kv_dump *dump, uint64_t i)
{
    struct kv_event_hash hash = { i, i << 32 | i }, parent = { i - 1, (i - 1) << 32 | (i - 1) };
    uint32_t tokens[BLOCK_TOKENS] = { (uint32_t)i, 1, 70000, UINT32_MAX };
    struct kv_event event = { .kind = KV_BLOCK_STORED,
                              .hashes = &hash,
                              .n_hashes = 1,
                              .has_parent = i > 0,
                              .parent = parent,
                              .tokens = tokens,
                              .n_tokens = BLOCK_TOKENS,
                              .block_size = BLOCK_TOKENS };
    if (dump)
        kv_dump_add(dump, &event);
    else
        kv_publisher_add(p->publisher, &event);
}

static bool tell_some(void *ctx, struct kv_dump *dump, bool is_new)
{
    struct program *p = ctx;
    if (is_new)
        p->n_dumped = 0;
    for (uint64_t end = p->n_dumped + DUMP_PIECE; p->n_dumped < end && p->n_dumped < p->n_published; p->n_dumped++)
        tell(p, dump, p->n_dumped);
    return p->n_dumped < p->n_published;
}

static void on_line(evutil_socket_t fd, short what, void *arg)
{
    struct program *p = arg;
    char line[256];
    (void)fd, (void)what;
    if (!fgets(line, sizeof line, stdin)) {
        loop_stop(p->loop);
        return;
    }
    if (p->publisher) {
        tell(p, NULL, p->n_published++);
        kv_publisher_flush(p->publisher);
    }
    printf(".%s\n", p->subscriber && kv_subscriber_is_complete(p->subscriber) ? " complete" : "");
    (void)fflush(stdout);
}

static status open_publisher(struct program *p, char **argv, struct error *err)
{
    struct kv_publisher_options o = { .loop = p->loop,
                                      .zmq = p->zmq,
                                      .listen = "tcp://127.0.0.1:0",
                                      .listen_replay = "tcp://127.0.0.1:0",
                                      .rank = 0,
                                      .form = !strcmp(argv[3], "integers") ? KV_HASH_AS_INTEGER : KV_HASH_AS_BYTES,
                                      .tokens = !strcmp(argv[4], "tokens"),
                                      .max_batches = (uint32_t)strtoul(argv[2], NULL, 10),
                                      .max_bytes = 1u << 20,
                                      .dump_fresh_us = 1000,
                                      .dump = tell_some,
                                      .ctx = p };
    status st = kv_publisher_create(&o, &p->publisher, err);
    if (st == ST_OK)
        printf("%s %s\n", kv_publisher_endpoint(p->publisher), kv_publisher_replay_endpoint(p->publisher));
    return st;
}

static status open_subscriber(struct program *p, char **argv, struct error *err)
{
    struct kv_subscriber_options o = { .loop = p->loop,
                                       .zmq = p->zmq,
                                       .endpoint = argv[2],
                                       .replay = strcmp(argv[3], "-") != 0 ? argv[3] : NULL,
                                       .topic = "",
                                       .rules = kv_subscriber_rules(),
                                       .apply = apply,
                                       .clear = clear };
    o.rules.probe_us = 200000;
    o.rules.dumps = argv[4] && !strcmp(argv[4], "dumps");
    return kv_subscriber_create(&o, &p->subscriber, err);
}

int main(int argc, char **argv)
{
    struct program p = { .zmq = zmq_ctx_new() };
    struct error err = { "usage: see the head of kv_events_main.c" };
    (void)setvbuf(stdin, NULL, _IONBF, 0);
    if (argc < 4 || !p.zmq || loop_create(&p.loop) != ST_OK)
        return 2;
    status st =
        argc == 5 && !strcmp(argv[1], "publish") ? open_publisher(&p, argv, &err) : open_subscriber(&p, argv, &err);
    if (st != ST_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    (void)fflush(stdout);
    p.input = event_new(loop_base(p.loop), 0, EV_READ | EV_PERSIST, on_line, &p);
    event_add(p.input, NULL);
    loop_run(p.loop);
    event_free(p.input);
    kv_subscriber_destroy(&p.subscriber);
    kv_publisher_destroy(&p.publisher);
    zmq_ctx_term(p.zmq);
    loop_destroy(&p.loop);
    return 0;
}
