#include "bench/bench_transfer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench_handoff.h"
#include "common/clock.h"
#include "common/log.h"
#include "transfer/transfer.h"

#define ROUNDS           3   /* each measure is taken so often, in turns; the median counts */
#define TAKE_BLOCKS      32u /* one layer of a chunk of 512 tokens */
#define TAKES_AHEAD      8
#define STAGE_BYTES      (128u << 10)
#define SEGMENTS         8u
#define TOKENS           16u
#define MAX_FOOTPRINT    (2ull << 30)
#define PAIR_MAX_MS      60000
#define RAW_PORT         7471
#define LENDER_SPACE     "batonbench0"
#define BORROWER_SPACE   "batonbench1"
#define LENDER_ADDRESS   "10.213.78.1"
#define BORROWER_ADDRESS "10.213.78.2"

struct settings {
    struct transfer_geometry geometry;
    uint32_t n_blocks;
    size_t llc_bytes;
    double seconds;
    bool json, help;
    const char *model; /* NULL: the handoff of a real prompt is not measured */
    unsigned tokens;
};

/* GB/s; 0: not measured. cpu_ratio is shm against memcpy in bytes a second of CPU time, which
 * a busy machine disturbs less. socket_direct sends from the blocks and receives into them: two copies fewer. */
struct figures {
    double shm, shm_sums, memcpy_limit, cpu_ratio, tcp, tcp_sums, socket_limit, socket_direct;
    struct bench_handoff_result handoff; /* prefill_ms 0: not measured */
};

static void fail(const char *what)
{
    (void)fprintf(stderr, "bench transfer: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static void write_all(int fd, const void *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(fd, (const uint8_t *)data + at, len - at);
        if (n <= 0 && errno != EINTR)
            fail("write");
        at += n > 0 ? (size_t)n : 0;
    }
}

static bool read_all(int fd, void *data, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = read(fd, (uint8_t *)data + at, len - at);
        if (n == 0 || (n < 0 && errno != EINTR))
            return false;
        at += n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* --- name spaces --- */

static bool shell(const char *command)
{
    return system(command) == 0;
}

static void remove_spaces(void)
{
    (void)shell("ip netns del " LENDER_SPACE " 2>/dev/null; ip netns del " BORROWER_SPACE " 2>/dev/null; true");
}

/* Two spaces joined by a veth pair; cubic, as the default may be BBR, which paces loopback-like links down. */
static bool make_spaces(void)
{
    remove_spaces();
    return shell("ip netns add " LENDER_SPACE " && ip netns add " BORROWER_SPACE) &&
           shell("ip link add bbench0 netns " LENDER_SPACE " type veth peer name bbench1 netns " BORROWER_SPACE) &&
           shell("ip -n " LENDER_SPACE " addr add " LENDER_ADDRESS "/30 dev bbench0") &&
           shell("ip -n " BORROWER_SPACE " addr add " BORROWER_ADDRESS "/30 dev bbench1") &&
           shell("ip -n " LENDER_SPACE " link set lo up && ip -n " LENDER_SPACE " link set bbench0 up") &&
           shell("ip -n " BORROWER_SPACE " link set lo up && ip -n " BORROWER_SPACE " link set bbench1 up") &&
           shell("ip -n " LENDER_SPACE " route replace 10.213.78.0/30 dev bbench0 congctl cubic") &&
           shell("ip -n " BORROWER_SPACE " route replace 10.213.78.0/30 dev bbench1 congctl cubic");
}

/* UCX lists devices from /sys, which shows the space it was mounted in. */
static void enter_space(const char *name)
{
    char path[64];
    (void)snprintf(path, sizeof path, "/run/netns/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) || unshare(CLONE_NEWNS) || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("sysfs", "/sys", "sysfs", 0, NULL))
        fail("cannot enter a network name space");
    (void)close(fd);
}

/* --- both ends --- */

static char key_file[64]; /* of both ends */

static bool draw_key(void)
{
    uint8_t key[32];
    (void)snprintf(key_file, sizeof key_file, "/tmp/baton-bench-key-XXXXXX");
    int fd = mkstemp(key_file);
    bool ok = fd >= 0 && getrandom(key, sizeof key, 0) == sizeof key && write(fd, key, sizeof key) == sizeof key;
    return fd >= 0 && close(fd) == 0 && ok;
}

struct end {
    const struct settings *settings;
    struct loop *loop;
    struct transfer *transfer;
};

static void open_end(struct end *end, const struct settings *s, enum transfer_mode mode, const char *address)
{
    struct error err;
    *end = (struct end){ .settings = s };
    struct transfer_options o = { .geometry = s->geometry,
                                  .n_blocks = s->n_blocks,
                                  .mode = mode,
                                  .network_address = address,
                                  .cluster_key_file = key_file,
                                  .incarnation = (uint64_t)getpid() };
    if (loop_create(&end->loop))
        fail("loop");
    o.loop = end->loop;
    if (transfer_create(&o, &end->transfer, &err)) {
        (void)fprintf(stderr, "bench transfer: %s\n", err.text);
        _exit(1);
    }
}

static size_t pool_size(const struct settings *s)
{
    return s->n_blocks * transfer_block_bytes(&s->geometry);
}

/* Piece i of the order in which takes move them: layers of TAKE_BLOCKS blocks, then the next blocks. */
static size_t piece_offset(const struct settings *s, uint64_t i)
{
    const struct transfer_geometry *g = &s->geometry;
    uint64_t per_group = (uint64_t)TAKE_BLOCKS * g->n_layers, groups = s->n_blocks / TAKE_BLOCKS;
    uint64_t group = i / per_group % groups, layer = i % per_group / TAKE_BLOCKS, block = i % TAKE_BLOCKS;
    return (group * TAKE_BLOCKS + block) * transfer_block_bytes(g) + layer * transfer_layer_bytes(g);
}

/* --- the lender's process --- */

/* 's': gathers pieces into a buffer and sends that; 'd': sends the pieces themselves. */
static void send_raw(const struct end *end, int fd)
{
    const struct settings *s = end->settings;
    const uint8_t *blocks = transfer_blocks(end->transfer);
    size_t piece = transfer_layer_bytes(&s->geometry);
    size_t pieces = STAGE_BYTES / piece ? STAGE_BYTES / piece : 1;
    uint8_t *stage = malloc(pieces * piece);
    struct iovec *iov = calloc(pieces, sizeof *iov);
    char how;
    if (!stage || !iov || !read_all(fd, &how, 1))
        fail("raw sender");
    for (uint64_t i = 0;; i += pieces) {
        for (size_t k = 0; k < pieces; k++) {
            uint8_t *from = (uint8_t *)(uintptr_t)blocks + piece_offset(s, i + k);
            iov[k] = (struct iovec){ how == 's' ? stage + k * piece : from, piece };
            if (how == 's')
                memcpy(iov[k].iov_base, from, piece);
        }
        struct msghdr msg = { .msg_iov = iov, .msg_iovlen = pieces };
        size_t left = pieces * piece;
        while (left) {
            ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);
            if (n <= 0)
                break;
            left -= (size_t)n;
            for (size_t gone = (size_t)n; gone && msg.msg_iovlen;) {
                size_t k = gone < msg.msg_iov->iov_len ? gone : msg.msg_iov->iov_len;
                msg.msg_iov->iov_base = (uint8_t *)msg.msg_iov->iov_base + k;
                msg.msg_iov->iov_len -= k;
                gone -= k;
                if (!msg.msg_iov->iov_len) {
                    msg.msg_iov++;
                    msg.msg_iovlen--;
                }
            }
        }
        if (left)
            break;
    }
    free(stage);
    free(iov);
}

static void *raw_server(void *arg)
{
    struct end *end = arg;
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(RAW_PORT) };
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)inet_pton(AF_INET, LENDER_ADDRESS, &at.sin_addr);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4))
        fail("raw server");
    for (;;) {
        int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (peer < 0)
            continue;
        send_raw(end, peer);
        (void)close(peer);
    }
    return NULL;
}

/* Writes its description to out and lends until in closes. */
static void run_lender(const struct settings *s, const char *space, int in, int out)
{
    struct end end;
    pthread_t thread;
    if (space)
        enter_space(space);
    open_end(&end, s, space ? TRANSFER_TCP : TRANSFER_SHM, space ? LENDER_ADDRESS : NULL);
    uint64_t *words = (uint64_t *)(void *)transfer_blocks(end.transfer);
    for (size_t i = 0; i < pool_size(s) / 8; i++)
        words[i] = i * 0x9e3779b97f4a7c15ull;
    if (space && pthread_create(&thread, NULL, raw_server, &end))
        fail("raw server");
    size_t len;
    const uint8_t *description = transfer_description(end.transfer, &len);
    write_all(out, &len, sizeof len);
    write_all(out, description, len);
    char byte;
    (void)read_all(in, &byte, 1);
    _exit(0);
}

/* --- the borrower's process --- */

struct meter {
    struct end end;
    struct transfer_peer *peer;
    bool ready, failed;
    uint64_t bytes, until_us, next_take, cpu_us;
    int under_way;
    bool sums;
    struct transfer_take takes[TAKES_AHEAD];
    struct transfer_span spans[TAKES_AHEAD][TAKE_BLOCKS];
    uint64_t checksums[TAKES_AHEAD][TAKE_BLOCKS];
    uint8_t *plain; /* shared memory of the pool's size, for the memcpy limit */
};

static void on_ready(void *arg, status st, enum transfer_transport transport, const char *why)
{
    struct meter *m = arg;
    (void)transport;
    if (st)
        (void)fprintf(stderr, "bench transfer: %s\n", why);
    m->ready = true;
    m->failed = st != ST_OK;
}

static void begin_take(struct meter *m, int i);

static void on_taken(struct transfer_take *take)
{
    struct meter *m = take->arg;
    m->under_way--;
    m->bytes += take->bytes;
    m->failed |= take->st != ST_OK;
    if (clock_now_us() < m->until_us && !m->failed)
        begin_take(m, (int)(take - m->takes));
    else if (!m->under_way)
        loop_stop(m->end.loop);
}

static void begin_take(struct meter *m, int i)
{
    const struct settings *s = m->end.settings;
    uint64_t number = m->next_take++;
    uint32_t group = (uint32_t)(number / s->geometry.n_layers % (s->n_blocks / TAKE_BLOCKS));
    for (uint32_t k = 0; k < TAKE_BLOCKS; k++) {
        uint32_t block = group * TAKE_BLOCKS + k;
        m->spans[i][k] = (struct transfer_span){ block, block, 0, 0, (uint16_t)TOKENS };
    }
    m->takes[i] = (struct transfer_take){ .peer = m->peer,
                                          .first_layer = (uint32_t)(number % s->geometry.n_layers),
                                          .n_layers = 1,
                                          .n_spans = TAKE_BLOCKS,
                                          .spans = m->spans[i],
                                          .checksums = m->sums ? m->checksums[i] : NULL,
                                          .deadline_us = clock_now_us() + 10000000,
                                          .done = on_taken,
                                          .arg = m };
    m->under_way++;
    if (transfer_take(m->end.transfer, &m->takes[i]))
        fail("take");
}

static uint64_t cpu_now_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static double gbps(uint64_t bytes, uint64_t us)
{
    return us ? (double)bytes / (double)us / 1000.0 : 0;
}

static double measure_takes(struct meter *m, bool sums, uint64_t us)
{
    uint64_t begun = clock_now_us(), cpu = cpu_now_us();
    m->bytes = 0;
    m->sums = sums;
    m->until_us = begun + us;
    for (int i = 0; i < TAKES_AHEAD; i++)
        begin_take(m, i);
    loop_run(m->end.loop);
    if (m->failed) {
        (void)fprintf(stderr, "bench transfer: a take failed\n");
        _exit(1);
    }
    m->cpu_us = cpu_now_us() - cpu;
    return gbps(m->bytes, clock_now_us() - begun);
}

static double measure_memcpy(struct meter *m, uint64_t us)
{
    const struct settings *s = m->end.settings;
    size_t piece = transfer_layer_bytes(&s->geometry);
    uint8_t *blocks = transfer_blocks(m->end.transfer);
    uint64_t begun = clock_now_us(), now = begun, i = 0, cpu = cpu_now_us();
    for (; now - begun < us; now = clock_now_us())
        for (uint32_t k = 0; k < TAKE_BLOCKS; k++, i++) {
            size_t at = piece_offset(s, i);
            memcpy(blocks + at, m->plain + at, piece);
        }
    m->bytes = i * piece;
    m->cpu_us = cpu_now_us() - cpu;
    return gbps(m->bytes, now - begun);
}

/* how: as in send_raw. */
static double measure_socket(struct meter *m, char how, uint64_t us)
{
    const struct settings *s = m->end.settings;
    size_t piece = transfer_layer_bytes(&s->geometry), have = 0;
    size_t stage_bytes = (STAGE_BYTES / piece ? STAGE_BYTES / piece : 1) * piece;
    uint8_t *stage = malloc(stage_bytes), *blocks = transfer_blocks(m->end.transfer);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(RAW_PORT) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)inet_pton(AF_INET, LENDER_ADDRESS, &to.sin_addr);
    if (!stage || fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
        fail("raw receiver");
    write_all(fd, &how, 1);
    uint64_t begun = clock_now_us(), now = begun, bytes = 0, i = 0;
    for (; now - begun < us; now = clock_now_us()) {
        size_t want = how == 's' ? stage_bytes : piece;
        uint8_t *into = how == 's' ? stage : blocks + piece_offset(s, i);
        ssize_t n = recv(fd, into + have, want - have, 0);
        if (n <= 0)
            fail("raw receiver");
        have += (size_t)n;
        bytes += (uint64_t)n;
        if (have < want)
            continue;
        for (size_t at = 0; how == 's' && at < want; at += piece)
            memcpy(blocks + piece_offset(s, i + at / piece), stage + at, piece);
        i += want / piece;
        have = 0;
    }
    (void)close(fd);
    free(stage);
    return gbps(bytes, now - begun);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double values[ROUNDS])
{
    qsort(values, ROUNDS, sizeof values[0], by_value);
    return values[ROUNDS / 2];
}

static void connect_peer(struct meter *m, const uint8_t *description, size_t len, enum transfer_mode mode)
{
    struct error err;
    struct transfer_peer_options o = { .description = description,
                                       .description_len = len,
                                       .mode = mode,
                                       .timeout_us = 10000000,
                                       .on_ready = on_ready,
                                       .arg = m };
    if (transfer_connect(m->end.transfer, &o, &m->peer, &err)) {
        (void)fprintf(stderr, "bench transfer: %s\n", err.text);
        _exit(1);
    }
    while (!m->ready)
        (void)event_base_loop(loop_base(m->end.loop), EVLOOP_ONCE);
    if (m->failed)
        _exit(1);
}

static void measure_shm(struct meter *m, uint64_t us, struct figures *f)
{
    double shm[ROUNDS], sums[ROUNDS], limit[ROUNDS], cpu[ROUNDS];
    size_t bytes = pool_size(m->end.settings);
    m->plain = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (m->plain == MAP_FAILED)
        fail("no memory");
    memset(m->plain, 3, bytes);
    (void)measure_takes(m, false, us / 2);
    for (int r = 0; r < ROUNDS; r++) {
        shm[r] = measure_takes(m, false, us);
        cpu[r] = gbps(m->bytes, m->cpu_us);
        limit[r] = measure_memcpy(m, us);
        cpu[r] /= gbps(m->bytes, m->cpu_us);
        sums[r] = measure_takes(m, true, us);
    }
    f->shm = median(shm);
    f->memcpy_limit = median(limit);
    f->shm_sums = median(sums);
    f->cpu_ratio = median(cpu);
}

static void measure_tcp(struct meter *m, uint64_t us, struct figures *f)
{
    double tcp[ROUNDS], sums[ROUNDS], limit[ROUNDS], direct[ROUNDS];
    (void)measure_takes(m, false, us / 2);
    for (int r = 0; r < ROUNDS; r++) {
        tcp[r] = measure_takes(m, false, us);
        limit[r] = measure_socket(m, 's', us);
        sums[r] = measure_takes(m, true, us);
        direct[r] = measure_socket(m, 'd', us);
    }
    f->tcp = median(tcp);
    f->socket_limit = median(limit);
    f->tcp_sums = median(sums);
    f->socket_direct = median(direct);
}

/* Reads a description from in, measures, writes the figures to out. */
static void run_borrower(const struct settings *s, const char *space, int in, int out, struct figures f)
{
    static struct meter m;
    uint8_t description[16384];
    size_t len;
    if (space)
        enter_space(space);
    open_end(&m.end, s, space ? TRANSFER_TCP : TRANSFER_SHM, space ? BORROWER_ADDRESS : NULL);
    if (!read_all(in, &len, sizeof len) || len > sizeof description || !read_all(in, description, len))
        fail("no description of the lender");
    connect_peer(&m, description, len, space ? TRANSFER_TCP : TRANSFER_SHM);
    uint64_t us = (uint64_t)(s->seconds * 1e6 / ROUNDS);
    if (space)
        measure_tcp(&m, us, &f);
    else
        measure_shm(&m, us, &f);
    write_all(out, &f, sizeof f);
    _exit(0);
}

/* --- the whole --- */

struct pipes {
    int hold[2], described[2], answer[2]; /* the lender's life; its description; the figures */
};

/* Keeps those two and closes the rest, so that an end that dies is seen by the others. */
static void keep(struct pipes *p, int one, int other)
{
    const int fds[] = { p->hold[0], p->hold[1], p->described[0], p->described[1], p->answer[0], p->answer[1] };
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] != one && fds[i] != other)
            (void)close(fds[i]);
}

static pid_t start_lender(const struct settings *s, bool spaces, struct pipes *p)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        keep(p, p->hold[0], p->described[1]);
        run_lender(s, spaces ? LENDER_SPACE : NULL, p->hold[0], p->described[1]);
    }
    return pid;
}

static pid_t start_borrower(const struct settings *s, bool spaces, struct pipes *p, const struct figures *f)
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        keep(p, p->described[0], p->answer[1]);
        run_borrower(s, spaces ? BORROWER_SPACE : NULL, p->described[0], p->answer[1], *f);
    }
    return pid;
}

/* One lender, one borrower, in the two spaces or both here; false when either failed. */
static bool run_pair(const struct settings *s, bool spaces, struct figures *f)
{
    struct pipes p;
    if (pipe2(p.hold, O_CLOEXEC) || pipe2(p.described, O_CLOEXEC) || pipe2(p.answer, O_CLOEXEC))
        fail("pipe");
    pid_t pids[2] = { start_lender(s, spaces, &p), start_borrower(s, spaces, &p, f) };
    keep(&p, p.hold[1], p.answer[0]);
    struct pollfd wait = { .fd = p.answer[0], .events = POLLIN };
    bool ok = pids[0] > 0 && pids[1] > 0 && poll(&wait, 1, PAIR_MAX_MS) == 1 && read_all(p.answer[0], f, sizeof *f);
    (void)close(p.hold[1]);
    (void)close(p.answer[0]);
    for (int i = 0; i < 2; i++) {
        if (pids[i] <= 0)
            continue;
        if (!ok)
            (void)kill(pids[i], SIGKILL);
        (void)waitpid(pids[i], NULL, 0);
    }
    return ok;
}

static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

/* Figures that were not measured are null. */
static void print_figure(const char *key, double value)
{
    if (value > 0)
        (void)printf("\"%s\": %.3f, ", key, value);
    else
        (void)printf("\"%s\": null, ", key);
}

static void print_json(const struct settings *s, const struct figures *f)
{
    (void)printf("{");
    print_figure("shm_gbps", f->shm);
    print_figure("memcpy_gbps", f->memcpy_limit);
    print_figure("shm_ratio", ratio(f->shm, f->memcpy_limit));
    print_figure("shm_cpu_ratio", f->cpu_ratio);
    print_figure("tcp_gbps", f->tcp);
    print_figure("socket_gbps", f->socket_limit);
    print_figure("tcp_ratio", ratio(f->tcp, f->socket_limit));
    print_figure("shm_checksum_gbps", f->shm_sums);
    print_figure("tcp_checksum_gbps", f->tcp_sums);
    print_figure("socket_direct_gbps", f->socket_direct);
    print_figure("exposed_ratio", f->handoff.exposed_ratio);
    print_figure("prefill_ms", f->handoff.prefill_ms);
    print_figure("handoff_ms", f->handoff.handoff_ms);
    (void)printf("\"block_bytes\": %zu, \"layers\": %u, \"segment_bytes\": %zu, \"footprint_bytes\": %zu, "
                 "\"llc_bytes\": %zu}\n",
                 transfer_block_bytes(&s->geometry), s->geometry.n_layers, transfer_layer_bytes(&s->geometry),
                 pool_size(s), s->llc_bytes);
}

static void print_text(const struct settings *s, const struct figures *f)
{
    (void)printf("pieces of %zu bytes, footprint %zu MiB (last-level cache %zu MiB)\n",
                 transfer_layer_bytes(&s->geometry), pool_size(s) >> 20, s->llc_bytes >> 20);
    (void)printf("shm     %6.2f GB/s, with checksums %6.2f; memcpy %6.2f; ratio %.2f (of CPU time %.2f)\n", f->shm,
                 f->shm_sums, f->memcpy_limit, ratio(f->shm, f->memcpy_limit), f->cpu_ratio);
    if (f->tcp > 0)
        (void)printf("tcp     %6.2f GB/s, with checksums %6.2f; socket %6.2f (no staging %.2f); ratio %.2f\n", f->tcp,
                     f->tcp_sums, f->socket_limit, f->socket_direct, ratio(f->tcp, f->socket_limit));
    if (f->handoff.prefill_ms > 0)
        (void)printf("handoff of %u tokens by %s: prefill %.1f ms, exposed after it %.3f ms (%.2f %%), %.1f MB\n",
                     s->tokens, f->handoff.transport, f->handoff.prefill_ms, f->handoff.handoff_ms,
                     100 * f->handoff.exposed_ratio, f->handoff.moved_mb);
}

/* As the kernel lists it: what sysconf() answers on a virtual machine may be the whole host's. */
static size_t last_level_cache(void)
{
    size_t kib = 0;
    for (int i = 0; i < 8; i++) {
        char path[96];
        unsigned long n;
        (void)snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *f = fopen(path, "re");
        if (f && fscanf(f, "%luK", &n) == 1 && n > kib)
            kib = n;
        if (f)
            (void)fclose(f);
    }
    return kib ? kib << 10 : 32u << 20;
}

static bool read_settings(int argc, char **argv, struct settings *s)
{
    static const struct option options[] = { { "block-bytes", required_argument, NULL, 'b' },
                                             { "layers", required_argument, NULL, 'l' },
                                             { "seconds", required_argument, NULL, 's' },
                                             { "json", no_argument, NULL, 'j' },
                                             { "help", no_argument, NULL, 'h' },
                                             { "model", required_argument, NULL, 'm' },
                                             { "tokens", required_argument, NULL, 't' },
                                             { NULL, 0, NULL, 0 } };
    long block_bytes = 22 * 16384, layers = 22;
    *s = (struct settings){ .seconds = 2, .llc_bytes = last_level_cache(), .tokens = 2048 };
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'b')
            block_bytes = atol(optarg);
        else if (c == 'l')
            layers = atol(optarg);
        else if (c == 's')
            s->seconds = atof(optarg);
        else if (c == 'j')
            s->json = true;
        else if (c == 'h')
            s->help = true;
        else if (c == 'm')
            s->model = optarg;
        else if (c == 't')
            s->tokens = (unsigned)atoi(optarg);
        else
            return false;
    }
    if (optind != argc || layers < 1 || layers > 1024 || s->seconds < 0.1 || s->seconds > 6 || s->tokens < 64 ||
        s->tokens > 65536 || block_bytes < layers * (long)(SEGMENTS * TOKENS) || block_bytes > 64l << 20)
        return false;
    s->geometry = (struct transfer_geometry){ .n_layers = (uint32_t)layers,
                                              .n_segments = SEGMENTS,
                                              .block_tokens = TOKENS,
                                              .slot_bytes = (uint32_t)(block_bytes / layers / (SEGMENTS * TOKENS)) };
    size_t footprint = 4 * s->llc_bytes < MAX_FOOTPRINT ? 4 * s->llc_bytes : MAX_FOOTPRINT;
    size_t group = TAKE_BLOCKS * transfer_block_bytes(&s->geometry);
    s->n_blocks = (uint32_t)((footprint + group - 1) / group * TAKE_BLOCKS);
    return true;
}

static void print_usage(FILE *out)
{
    (void)fprintf(out, "usage: baton bench transfer [OPTION]...\n"
                       "GB/s of KV by shared memory against memcpy and by TCP against a socket, in one run.\n\n"
                       "  --block-bytes N   bytes of a KV block (360448)\n"
                       "  --layers N        layers of a block (22)\n"
                       "  --seconds S       time of each measure, 0.1 to 6 (2)\n"
                       "  --model PATH|NAME also the part of a handoff that shows, on a local cluster\n"
                       "  --tokens N        prompt of that handoff, 64 to 65536 (2048)\n"
                       "  --json            one JSON object\n");
}

int bench_transfer(int argc, char **argv)
{
    struct settings s;
    struct figures f = { 0 };
    bool understood = read_settings(argc, argv, &s);
    if (!understood || s.help) {
        print_usage(understood ? stdout : stderr);
        return understood ? 0 : 2;
    }
    log_init("bench", LOG_WARN);
    bool ok = draw_key() && run_pair(&s, false, &f);
    if (ok && geteuid() == 0 && make_spaces())
        ok = run_pair(&s, true, &f);
    else
        (void)fprintf(stderr, "tcp skipped: network name spaces need root and ip(8)\n");
    if (geteuid() == 0)
        remove_spaces();
    (void)unlink(key_file);
    if (!ok)
        return 1;
    struct error err = { "" };
    if (!s.model)
        (void)fprintf(stderr, "handoff skipped: name a model with --model\n");
    else if (bench_handoff(s.model, "auto", s.tokens, &f.handoff, &err) != ST_OK) {
        (void)fprintf(stderr, "handoff: %s\n", err.text);
        return 1;
    }
    if (s.json)
        print_json(&s, &f);
    else
        print_text(&s, &f);
    return 0;
}
