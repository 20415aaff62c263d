#include "bench/latency_histogram.h"

#include <math.h>

#define EXACT 512u

static uint32_t bucket_of(uint64_t us)
{
    if (us < EXACT)
        return (uint32_t)us;
    uint32_t top = 63u - (uint32_t)__builtin_clzll(us); /* 9 at least */
    return EXACT + (top - 9) * 256 + (uint32_t)(us >> (top - 8)) - 256;
}

/* The middle of what falls into it. */
static double middle_of(uint32_t bucket)
{
    if (bucket < EXACT)
        return bucket;
    uint32_t octave = (bucket - EXACT) / 256, shift = octave + 1;
    uint64_t low = (uint64_t)(256 + (bucket - EXACT) % 256) << shift;
    return (double)low + (double)((UINT64_C(1) << shift) - 1) / 2;
}

void latency_add(struct latency_histogram *h, uint64_t us)
{
    us = us < LATENCY_MAX_US ? us : LATENCY_MAX_US;
    h->counts[bucket_of(us)]++;
    h->min = h->n == 0 || us < h->min ? us : h->min;
    h->max = us > h->max ? us : h->max;
    h->sum += us;
    h->n++;
}

double latency_quantile(const struct latency_histogram *h, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)h->n), seen = 0;
    if (h->n == 0)
        return 0;
    if (rank <= 1)
        return (double)h->min;
    if (rank >= h->n)
        return (double)h->max;
    uint32_t bucket = 0;
    while (seen + h->counts[bucket] < rank)
        seen += h->counts[bucket++];
    double middle = middle_of(bucket);
    middle = middle > (double)h->min ? middle : (double)h->min;
    return middle < (double)h->max ? middle : (double)h->max;
}

double latency_mean(const struct latency_histogram *h)
{
    return h->n ? (double)h->sum / (double)h->n : 0;
}

double latency_share_within(const struct latency_histogram *h, uint64_t us)
{
    uint32_t last = bucket_of(us < LATENCY_MAX_US ? us : LATENCY_MAX_US);
    uint64_t within = 0;
    for (uint32_t i = 0; i <= last; i++)
        within += h->counts[i];
    return h->n ? (double)within / (double)h->n : 0;
}
