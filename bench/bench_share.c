#include "bench/bench_share.h"

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/weights.h"

#define PATIENCE_MS  600000 /* for one part of the work */
#define PREFILL_ROWS 512u
#define MAX_WORKERS  2u

/* What the parent says, one byte, and what a worker answers when it is done. */
enum { SAY_PREFILL = 'p', SAY_DECODE = 'd', SAY_DONE = '.' };

struct worker {
    pid_t pid;
    int socket;
};

struct way {
    uint32_t n_workers, n_threads;
    struct bench_share_rates *runs; /* [repeats] */
};

/* ---- packed weights, kept in a descriptor that children inherit -------------------------- */

static status kept_take(void *ctx, const char *key, bool refused, int *fd)
{
    const int *kept = ctx;
    (void)key;
    *fd = *kept >= 0 && !refused ? dup(*kept) : -1;
    return *fd >= 0 ? ST_OK : ST_NOT_FOUND;
}

static bool kept_give(void *ctx, const char *key, const struct weight_image *image)
{
    int *kept = ctx;
    (void)key;
    if (*kept < 0)
        *kept = dup(image->fd);
    return *kept >= 0;
}

static struct solo_options solo_of(const struct bench_share_options *o, const struct weights_store *store,
                                   uint32_t n_threads)
{
    return (struct solo_options){ .path = o->path,
                                  .isa = o->isa,
                                  .kv_type = DTYPE_BF16,
                                  .n_threads = n_threads,
                                  .max_tokens = o->prompt + o->generate,
                                  .max_rows = PREFILL_ROWS,
                                  .pin_threads = true,
                                  .store = store };
}

/* ---- a worker ------------------------------------------------------------------------------ */

static void prefill(struct solo *solo, const struct bench_share_options *o, const uint32_t *prompt)
{
    for (uint32_t done = 0; done < o->prompt; done += PREFILL_ROWS) {
        uint32_t n = o->prompt - done < PREFILL_ROWS ? o->prompt - done : PREFILL_ROWS;
        (void)solo_step_of(solo, 0, prompt + done, n, done);
    }
}

static void decode(struct solo *solo, const struct bench_share_options *o)
{
    uint32_t token = 1;
    for (uint32_t i = 0; i < o->generate; i++)
        solo_decode(solo, &token, o->prompt + i);
}

static _Noreturn void work(int socket, const struct bench_share_options *o, const struct solo_options *options)
{
    struct solo *solo = NULL;
    struct error err;
    char word = SAY_DONE;
    uint32_t *prompt = calloc(o->prompt, sizeof *prompt);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!prompt || solo_create(options, &solo, &err) != ST_OK)
        _exit(1);
    for (uint32_t i = 0; i < o->prompt; i++)
        prompt[i] = i * 7 % model_config(solo_model(solo))->n_vocab;
    prefill(solo, o, prompt); /* page tables and clock frequency */
    while (send(socket, &word, 1, MSG_NOSIGNAL) == 1 && recv(socket, &word, 1, 0) == 1) {
        if (word == SAY_PREFILL)
            prefill(solo, o, prompt);
        else
            decode(solo, o);
        word = SAY_DONE;
    }
    _exit(0);
}

/* ---- the parent -------------------------------------------------------------------------------- */

static status start_worker(struct worker *w, const struct bench_share_options *o, const struct solo_options *options,
                           struct error *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return error_set(err, ST_IO, "no socket for a worker");
    w->pid = fork();
    if (w->pid == 0) {
        close(pair[0]);
        work(pair[1], o, options);
    }
    close(pair[1]);
    w->socket = pair[0];
    return w->pid > 0 ? ST_OK : error_set(err, ST_IO, "a worker cannot be started");
}

static void stop_workers(struct worker *workers, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (workers[i].pid <= 0)
            continue;
        close(workers[i].socket);
        kill(workers[i].pid, SIGKILL);
        waitpid(workers[i].pid, NULL, 0);
    }
}

static status await_all(const struct worker *workers, uint32_t n, struct error *err)
{
    char word;
    for (uint32_t i = 0; i < n; i++) {
        struct pollfd p = { workers[i].socket, POLLIN, 0 };
        if (poll(&p, 1, PATIENCE_MS) != 1 || recv(workers[i].socket, &word, 1, 0) != 1)
            return error_set(err, ST_TIMEOUT, "a worker did not do its part");
    }
    return ST_OK;
}

/* Tokens/s of all workers together over one part. */
static status measure(const struct worker *workers, uint32_t n, char part, uint32_t tokens, double *tps,
                      struct error *err)
{
    uint64_t begin = clock_now_us();
    for (uint32_t i = 0; i < n; i++)
        if (send(workers[i].socket, &part, 1, MSG_NOSIGNAL) != 1)
            return error_set(err, ST_CLOSED, "a worker ended");
    status st = await_all(workers, n, err);
    if (st == ST_OK)
        *tps = (double)tokens * n * 1e6 / (double)(clock_now_us() - begin);
    return st;
}

static status run_way(const struct bench_share_options *o, const struct weights_store *store, const struct way *way,
                      struct bench_share_rates *out, struct error *err)
{
    struct worker workers[MAX_WORKERS] = { { 0, -1 }, { 0, -1 } };
    struct solo_options options = solo_of(o, store, way->n_threads);
    status st = ST_OK;
    for (uint32_t i = 0; i < way->n_workers && st == ST_OK; i++)
        st = start_worker(&workers[i], o, &options, err);
    if (st == ST_OK)
        st = await_all(workers, way->n_workers, err);
    if (st == ST_OK)
        st = measure(workers, way->n_workers, SAY_PREFILL, o->prompt, &out->prefill_tps, err);
    if (st == ST_OK)
        st = measure(workers, way->n_workers, SAY_DECODE, o->generate, &out->decode_tps, err);
    stop_workers(workers, MAX_WORKERS);
    return st;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const struct bench_share_rates *runs, uint32_t n, size_t place)
{
    double values[BENCH_SHARE_MAX_REPEATS];
    for (uint32_t i = 0; i < n; i++)
        memcpy(&values[i], (const char *)&runs[i] + place, sizeof values[i]);
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static struct bench_share_rates medians(const struct bench_share_rates *runs, uint32_t n)
{
    return (struct bench_share_rates){ median(runs, n, offsetof(struct bench_share_rates, prefill_tps)),
                                       median(runs, n, offsetof(struct bench_share_rates, decode_tps)) };
}

static status run_all(const struct bench_share_options *o, const struct weights_store *store,
                      struct bench_share_result *out, struct error *err)
{
    static struct bench_share_rates runs[3][BENCH_SHARE_MAX_REPEATS];
    const struct way ways[] = { { 1, o->cores, runs[0] }, { 2, o->cores / 2, runs[1] }, { 2, o->cores, runs[2] } };
    status st = ST_OK;
    for (uint32_t r = 0; r < o->repeats; r++)
        for (size_t i = 0; i < sizeof ways / sizeof *ways && st == ST_OK; i++)
            st = run_way(o, store, &ways[i], &ways[i].runs[r], err);
    if (st == ST_OK)
        *out = (struct bench_share_result){ medians(runs[0], o->repeats), medians(runs[1], o->repeats),
                                            medians(runs[2], o->repeats) };
    return st;
}

status bench_share(const struct bench_share_options *options, struct bench_share_result *out, struct error *err)
{
    ASSERT(options->repeats > 0 && options->repeats <= BENCH_SHARE_MAX_REPEATS && options->prompt > 0);
    int kept = -1;
    const struct weights_store store = { &kept, kept_take, kept_give };
    struct solo_options first = solo_of(options, &store, options->cores);
    struct solo *solo = NULL;
    if (options->cores == 0 || options->cores % 2 != 0)
        return error_set(err, ST_INVALID, "two workers need an even number of cores to share, not %u", options->cores);
    status st = solo_create(&first, &solo, err); /* packs; says what is wrong, which a child cannot */
    solo_destroy(&solo);
    if (st == ST_OK)
        st = run_all(options, &store, out, err);
    if (kept >= 0)
        close(kept);
    return st;
}
