/* latency_histogram.h - times by size, in buckets of which 256 double the time (the idea of HdrHistogram): any quantile
 * within LATENCY_ERROR of its size, mean and extremes exact, in memory that does not grow. Times are microseconds.
 * Pure. */
#ifndef BATON_BENCH_LATENCY_HISTOGRAM_H
#define BATON_BENCH_LATENCY_HISTOGRAM_H

#include <stdint.h>

#define LATENCY_ERROR   (1.0 / 512)               /* of a quantile; below 512 us it is exact */
#define LATENCY_MAX_US  ((UINT64_C(1) << 40) - 1) /* what is longer counts as this */
#define LATENCY_BUCKETS (512u + (40u - 9u) * 256u)

struct latency_histogram {
    uint64_t n, sum, min, max;
    uint64_t counts[LATENCY_BUCKETS];
};

/* All zero is empty. */
void latency_add(struct latency_histogram *h, uint64_t us);
/* The least time that at least the share q (0 to 1) of all are not above; 0 without any. */
double latency_quantile(const struct latency_histogram *h, double q);
double latency_mean(const struct latency_histogram *h);
/* Share of all in the buckets up to that of us; 0 without any. */
double latency_share_within(const struct latency_histogram *h, uint64_t us);

#endif
