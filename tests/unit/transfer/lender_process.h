/* lender_process.h - for tests: a process of its own that lends a pool, driven through pipes.
 * It is the test executable itself, started again, as UCX does not survive a fork. */
#ifndef BATON_TESTS_LENDER_PROCESS_H
#define BATON_TESTS_LENDER_PROCESS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "transfer/connections.h"
#include "transfer/rdma_over.h"
#include "transfer/transfer.h"

static const struct transfer_geometry test_geometry = {
    .n_layers = 6, .n_segments = 4, .block_tokens = 16, .slot_bytes = 128
};
#define TEST_BLOCKS 64u

static inline uint64_t lent_word(uint32_t block, uint64_t generation, size_t i)
{
    uint64_t x = ((uint64_t)block << 40) + (generation << 32) + i + 1;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* What a lender's block holds in a generation. */
static inline void lent_block(uint32_t block, uint64_t generation, uint8_t *out)
{
    for (size_t i = 0; i < transfer_block_bytes(&test_geometry) / 8; i++) {
        uint64_t word = lent_word(block, generation, i);
        memcpy(out + 8 * i, &word, 8);
    }
}

struct lender_process {
    pid_t pid;
    int to, from;
    uint8_t description[8192];
    size_t description_len;
};

static inline void write_all(int fd, const void *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(fd, (const uint8_t *)data + at, len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            exit(3);
        at += (size_t)n;
    }
}

static inline void read_all(int fd, void *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (poll(&p, 1, 20000) != 1)
            exit(4);
        ssize_t n = read(fd, (uint8_t *)data + at, len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            exit(5);
        at += (size_t)n;
    }
}

/* A file with a cluster key, which lenders started from then on have, and borrower_open takes; NULL: none. */
#define TEST_KEY_VARIABLE "BATON_TEST_CLUSTER_KEY"

static inline void test_key_make(char path[64], char filling)
{
    char bytes[32];
    (void)snprintf(path, 64, "/tmp/baton-test-key-XXXXXX");
    int fd = mkstemp(path);
    memset(bytes, filling, sizeof bytes);
    if (fd < 0 || write(fd, bytes, sizeof bytes) != sizeof bytes || close(fd))
        exit(16);
}

static inline void test_key_use(const char *path)
{
    if (path ? setenv(TEST_KEY_VARIABLE, path, 1) : unsetenv(TEST_KEY_VARIABLE))
        exit(17);
}

/* Set: lenders started from then on, and borrower_open, have the way rdma, which UCX plays over TCP. */
#define TEST_RDMA_VARIABLE "BATON_TEST_RDMA"

static inline void test_rdma_use(bool use)
{
    if (use ? setenv(TEST_RDMA_VARIABLE, "1", 1) : unsetenv(TEST_RDMA_VARIABLE))
        exit(18);
}

static inline status test_transfer_create(const struct transfer_options *options, struct transfer **out,
                                          struct error *err)
{
    const struct rdma_over over = { "tcp", "lo" };
    return transfer_create_over(options, getenv(TEST_RDMA_VARIABLE) ? &over : NULL, out, err);
}

/* A command to the lender and its answer. */
struct lender_order {
    char what;      /* 'r' rewrite block under its next generation, 's' look only, 'f' failpoints,
                       'c' connect to what follows, 'x' disconnect from it, 'q' end */
    uint32_t block; /* 'c': the mode */
    char text[128];
};
struct lender_answer {
    struct transfer_stats stats;
    uint32_t descriptors;
    uint64_t memory; /* checksum of generations and blocks */
    struct ports ports;
};

static inline uint32_t open_descriptors(void)
{
    uint32_t n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static inline struct lender_answer lender_order(struct lender_process *p, char what, uint32_t block, const char *text)
{
    struct lender_order order = { .what = what, .block = block };
    struct lender_answer answer;
    (void)snprintf(order.text, sizeof order.text, "%s", text ? text : "");
    write_all(p->to, &order, sizeof order);
    read_all(p->from, &answer, sizeof answer);
    return answer;
}

static inline void rewrite_block(struct transfer *t, uint32_t block)
{
    uint64_t generation = atomic_fetch_add(&transfer_generations(t)[block], 1) + 1;
    lent_block(block, generation, transfer_blocks(t) + block * transfer_block_bytes(&test_geometry));
}

static inline void lender_connects_to(struct lender_process *p, enum transfer_mode mode, const uint8_t *description,
                                      size_t len)
{
    struct lender_order order = { .what = 'c', .block = mode };
    struct lender_answer answer;
    write_all(p->to, &order, sizeof order);
    write_all(p->to, &len, sizeof len);
    write_all(p->to, description, len);
    read_all(p->from, &answer, sizeof answer);
}

static inline void on_lender_ready(void *arg, status st, enum transfer_transport transport, const char *why)
{
    (void)arg, (void)st, (void)transport, (void)why;
}

static inline struct transfer_peer *connect_back(struct transfer *t, enum transfer_mode mode)
{
    uint8_t description[8192];
    struct transfer_peer *peer;
    struct error err;
    struct transfer_peer_options o = {
        .description = description, .mode = mode, .timeout_us = 5000000, .on_ready = on_lender_ready
    };
    read_all(0, &o.description_len, sizeof o.description_len);
    if (o.description_len > sizeof description)
        exit(14);
    read_all(0, description, o.description_len);
    if (transfer_connect(t, &o, &peer, &err))
        exit(15);
    return peer;
}

static inline uint64_t memory_sum(struct transfer *t)
{
    uint64_t sum = 0;
    for (uint32_t b = 0; b < TEST_BLOCKS; b++) {
        const uint8_t *block = transfer_blocks(t) + b * transfer_block_bytes(&test_geometry);
        sum = sum * 31 + atomic_load(&transfer_generations(t)[b]);
        for (uint32_t l = 0; l < test_geometry.n_layers; l++)
            sum = sum * 31 + transfer_layer_checksum(&test_geometry, block, l, 0, (uint32_t)test_geometry.block_tokens);
    }
    return sum;
}

static inline void obey_order(struct transfer *t, const struct lender_order *order)
{
    struct lender_answer answer = { .descriptors = open_descriptors() };
    struct error err;
    static struct transfer_peer *peer;
    if (order->what == 'c')
        peer = connect_back(t, (enum transfer_mode)order->block);
    else if (order->what == 'x')
        transfer_disconnect(&peer);
    else if (order->what == 'r')
        rewrite_block(t, order->block);
    else if (order->what == 'f' && !order->text[0])
        failpoint_reset();
    else if (order->what == 'f' && failpoint_arm(order->text, &err))
        exit(6);
    transfer_stats(t, &answer.stats);
    answer.memory = memory_sum(t);
    ports_listening(&answer.ports);
    write_all(1, &answer, sizeof answer);
}

/* The lender's main: mode, network address ("-" for none). */
static inline int lender_main(char **argv)
{
    struct loop *loop;
    struct transfer *t;
    struct error err;
    log_init("lender", LOG_WARN);
    struct transfer_options o = { .geometry = test_geometry,
                                  .n_blocks = TEST_BLOCKS,
                                  .mode = (enum transfer_mode)atoi(argv[0]),
                                  .network_address = strcmp(argv[1], "-") != 0 ? argv[1] : NULL,
                                  .cluster_key_file = getenv(TEST_KEY_VARIABLE),
                                  .incarnation = (uint64_t)getpid() };
    if (loop_create(&loop))
        return 7;
    o.loop = loop;
    if (test_transfer_create(&o, &t, &err)) {
        (void)fprintf(stderr, "lender: %s\n", err.text);
        return 8;
    }
    for (uint32_t b = 0; b < TEST_BLOCKS; b++)
        rewrite_block(t, b);
    size_t len;
    const uint8_t *description = transfer_description(t, &len);
    write_all(1, &len, sizeof len);
    write_all(1, description, len);
    struct lender_order order;
    for (;;) {
        ssize_t n = read(0, &order, sizeof order);
        if (n < 0 && errno == EINTR)
            continue;
        if (n != sizeof order || order.what == 'q')
            break;
        obey_order(t, &order);
    }
    transfer_destroy(&t);
    loop_destroy(&loop);
    return 0;
}

/* UCX lists devices from /sys, which ip(8) mounts anew for a name space. */
static inline void lender_exec(int in, int out, enum transfer_mode mode, const char *address, const char *space)
{
    char mode_text[8], self[512];
    (void)snprintf(mode_text, sizeof mode_text, "%d", (int)mode);
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    (void)dup2(in, 0);
    (void)dup2(out, 1);
    for (int fd = 3; fd < 256; fd++)
        (void)close(fd);
    address = address ? address : "-";
    if (space)
        (void)execlp("ip", "ip", "netns", "exec", space, self, "--lender", mode_text, address, (char *)NULL);
    else
        (void)execl(self, self, "--lender", mode_text, address, (char *)NULL);
    _exit(10);
}

/* space: name of a network name space, or NULL. The first block generation is 1. */
static inline void lender_start(struct lender_process *p, enum transfer_mode mode, const char *address,
                                const char *space)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC))
        exit(11);
    p->pid = fork();
    if (p->pid == 0)
        lender_exec(to[0], from[1], mode, address, space);
    (void)close(to[0]);
    (void)close(from[1]);
    p->to = to[1];
    p->from = from[0];
    read_all(p->from, &p->description_len, sizeof p->description_len);
    if (p->description_len > sizeof p->description)
        exit(12);
    read_all(p->from, p->description, p->description_len);
}

/* SIGSTOP, and waits until all its threads stand. */
static inline void lender_freeze(const struct lender_process *p)
{
    int st;
    if (kill(p->pid, SIGSTOP) || waitpid(p->pid, &st, WUNTRACED) != p->pid || !WIFSTOPPED(st))
        exit(13);
}

/* Returns the wait status. */
static inline int lender_reap(struct lender_process *p)
{
    int st = 0;
    (void)close(p->to);
    (void)close(p->from);
    while (waitpid(p->pid, &st, 0) < 0 && errno == EINTR) {
    }
    return st;
}

#endif
