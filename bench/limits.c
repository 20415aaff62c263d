#include "bench/limits.h"

#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"

#define ROUNDS         3u
#define PEAK_BLOCKS    4096u          /* between two looks at the clock */
#define READ_BYTES     (256ull << 20) /* of one thread */
#define READ_STREAMS   4u             /* as many as hide the latency of memory */
#define READ_STEP      4096u          /* of each stream, between two looks at the clock */
#define PREFETCH_BYTES 1024u
#define HUGE_PAGE      (2u << 20)

const char *limit_peak_name(enum limit_peak peak)
{
    static const char *const names[] = {
#define X(name, word, about) word,
        LIMIT_PEAKS(X)
#undef X
    };
    return names[peak];
}

const char *limit_peak_about(enum limit_peak peak)
{
    static const char *const abouts[] = {
#define X(name, word, about) about,
        LIMIT_PEAKS(X)
#undef X
    };
    return abouts[peak];
}

/* One measurement: every thread works until the time is over and tells how much it did. */
struct meter {
    enum limit_peak peak;
    const uint8_t *memory; /* of this thread; NULL: the peak is measured */
    pthread_barrier_t *begin;
    uint64_t us;
    double done; /* operations or bytes */
    uint64_t took_us;
};

static void run_peak(struct meter *m)
{
    uint64_t begun = clock_now_us(), blocks = 0;
    do {
        limit_peak_run(m->peak, PEAK_BLOCKS);
        blocks += PEAK_BLOCKS;
        m->took_us = clock_now_us() - begun;
    } while (m->took_us < m->us);
    m->done = (double)blocks * limit_peak_block_ops(m->peak);
}

static __attribute__((target("avx2"))) __m256i read_step(const uint8_t *memory, size_t at, __m256i sum)
{
    for (size_t i = 0; i < READ_STEP; i += 64)
        for (size_t s = 0; s < READ_STREAMS; s++) {
            const uint8_t *line = memory + s * (READ_BYTES / READ_STREAMS) + at + i;
            _mm_prefetch((const char *)line + PREFETCH_BYTES, _MM_HINT_T0);
            sum = _mm256_xor_si256(sum, _mm256_load_si256((const __m256i *)(const void *)line));
            sum = _mm256_xor_si256(sum, _mm256_load_si256((const __m256i *)(const void *)(line + 32)));
        }
    return sum;
}

static __attribute__((target("avx2"))) void run_read(struct meter *m)
{
    __m256i sum = _mm256_setzero_si256();
    uint64_t begun = clock_now_us();
    size_t at = 0;
    do {
        for (int i = 0; i < 16; i++) {
            sum = read_step(m->memory, at, sum);
            at = (at + READ_STEP) % (READ_BYTES / READ_STREAMS);
        }
        m->done += 16.0 * READ_STEP * READ_STREAMS;
        m->took_us = clock_now_us() - begun;
    } while (m->took_us < m->us);
    __asm__ volatile("" : : "x"(sum)); /* it was asked for */
}

static void *run_meter(void *arg)
{
    struct meter *m = arg;
    (void)pthread_barrier_wait(m->begin);
    if (m->memory)
        run_read(m);
    else
        run_peak(m);
    return NULL;
}

/* Sum of what the threads did a second; 0 when they cannot be started. */
static double run_threads(struct meter *meters, uint32_t n)
{
    pthread_t threads[LIMITS_MAX_THREADS];
    pthread_barrier_t begin;
    double rate = 0;
    uint32_t started = 0;
    ASSERT(n > 0 && n <= LIMITS_MAX_THREADS && pthread_barrier_init(&begin, NULL, n) == 0);
    for (; started < n; started++) {
        meters[started].begin = &begin;
        ASSERT(pthread_create(&threads[started], NULL, run_meter, &meters[started]) == 0);
    }
    for (uint32_t i = 0; i < n; i++) {
        (void)pthread_join(threads[i], NULL);
        rate += meters[i].done * 1e6 / (double)meters[i].took_us;
    }
    (void)pthread_barrier_destroy(&begin);
    return rate;
}

static double best_of_rounds(const struct meter *like, uint32_t n_threads, uint8_t *memory)
{
    double best = 0;
    struct meter meters[LIMITS_MAX_THREADS];
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < n_threads; i++) {
            meters[i] = *like;
            meters[i].memory = memory ? memory + i * READ_BYTES : NULL;
        }
        double rate = run_threads(meters, n_threads);
        best = rate > best ? rate : best;
    }
    return best;
}

double limit_peak_measure(enum limit_peak peak, uint32_t n_threads, double seconds)
{
    ASSERT(!limit_peak_missing(peak));
    struct meter like = { .peak = peak, .us = (uint64_t)(seconds * 1e6 / ROUNDS) };
    return best_of_rounds(&like, n_threads, NULL);
}

/* The part of a mapping that lies in huge pages, as the kernel tells it. */
static double huge_part(const uint8_t *memory, size_t bytes)
{
    char line[256];
    unsigned long begin, end, kib = 0;
    bool inside = false;
    FILE *maps = fopen("/proc/self/smaps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
            inside = begin <= (uintptr_t)memory && (uintptr_t)memory < end;
        else if (inside && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
            break;
    }
    if (maps)
        (void)fclose(maps);
    double part = (double)kib * 1024 / (double)bytes;
    return part < 1 ? part : 1;
}

status limit_read_measure(uint32_t n_threads, double seconds, double *bytes_per_s, double *huge, struct error *err)
{
    size_t bytes = n_threads * READ_BYTES;
    /* One page more: prefetches run past the end. */
    void *raw = mmap(NULL, bytes + 2ull * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED)
        return error_set(err, ST_NO_MEMORY, "no %zu MiB to read: %s", bytes >> 20, strerror(errno));
    (void)madvise(raw, bytes + 2ull * HUGE_PAGE, MADV_HUGEPAGE); /* a wish; huge tells what came of it */
    uint8_t *memory = (uint8_t *)(((uintptr_t)raw + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    memset(memory, 1, bytes);
    *huge = huge_part(memory, bytes);
    struct meter like = { .us = (uint64_t)(seconds * 1e6 / ROUNDS) };
    *bytes_per_s = best_of_rounds(&like, n_threads, memory);
    (void)munmap(raw, bytes + 2ull * HUGE_PAGE);
    return ST_OK;
}
