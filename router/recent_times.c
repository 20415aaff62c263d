#include "router/recent_times.h"

#include <math.h>

#define LEAST_TO_FIT 4u
#define LEAST_SPREAD 4.0    /* the largest of the bytes over the smallest, for a line to say something of other sizes */
#define LEAST_US     1000.0 /* an error is a share of at least so much (DECISION_LEAST_US) */
#define ROUNDS       12     /* of reweighting: the line moves by less than a percent then */
#define NEAR         0.01   /* a share that counts as no distance */
#define MOST_BYTES   1e15

/* ---- medians ---------------------------------------------------------------------------------- */

/* Of one at least. Sorts them. */
static float median_of(float *values, uint32_t n)
{
    ASSERT(n > 0);
    for (uint32_t i = 1; i < n; i++) {
        float value = values[i];
        uint32_t at = i;
        for (; at > 0 && values[at - 1] > value; at--)
            values[at] = values[at - 1];
        values[at] = value;
    }
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

void recent_waits_add(struct recent_waits *waits, uint64_t us)
{
    float sorted[RECENT_WAITS];
    waits->at[waits->next] = (float)(us ? us : 1);
    waits->next = (waits->next + 1) % RECENT_WAITS;
    waits->n += waits->n < RECENT_WAITS;
    for (uint32_t i = 0; i < waits->n; i++)
        sorted[i] = waits->at[i];
    waits->median = median_of(sorted, waits->n);
}

/* ---- a line ------------------------------------------------------------------------------------- */

static double at_line(const struct pick_line *line, double bytes)
{
    return (double)line->base + (double)line->byte * bytes;
}

static bool are_alike(const struct recent_times *times)
{
    double least = MOST_BYTES, most = 0;
    for (uint32_t i = 0; i < times->n; i++) {
        least = fmin(least, (double)times->at[i].bytes);
        most = fmax(most, (double)times->at[i].bytes);
    }
    return most < LEAST_SPREAD * least;
}

/* Least squares, each time with the weight that makes its square a distance from the line before; from none (NULL) each
 * counts as a share of its time. */
static struct pick_line next_line(const struct recent_times *times, const struct pick_line *before)
{
    double one = 0, x = 0, xx = 0, y = 0, xy = 0;
    for (uint32_t i = 0; i < times->n; i++) {
        double bytes = (double)times->at[i].bytes, us = (double)times->at[i].us, whole = fmax(us, LEAST_US);
        double off = before ? fabs(at_line(before, bytes) - us) / whole : 1;
        double w = 1 / (whole * whole * fmax(off, NEAR));
        one += w;
        x += w * bytes;
        xx += w * bytes * bytes;
        y += w * us;
        xy += w * bytes * us;
    }
    double det = one * xx - x * x;
    double base = det > 0 ? (y * xx - xy * x) / det : 0, byte = det > 0 ? (one * xy - x * y) / det : 0;
    if (byte < 0 || det <= 0)
        return (struct pick_line){ (float)(y / one), 0 };
    return base < 0 ? (struct pick_line){ 0, (float)(xy / xx) } : (struct pick_line){ (float)base, (float)byte };
}

static void fit(struct recent_times *times)
{
    times->has_line = times->n >= LEAST_TO_FIT && !are_alike(times);
    if (!times->has_line)
        return;
    times->line = next_line(times, NULL);
    for (int i = 0; i < ROUNDS; i++)
        times->line = next_line(times, &times->line);
}

void recent_times_add(struct recent_times *times, uint64_t bytes, uint64_t us)
{
    if (bytes == 0)
        return;
    times->at[times->next].bytes = (float)fmin((double)bytes, MOST_BYTES);
    times->at[times->next].us = (float)fmin((double)(us ? us : 1), MOST_BYTES);
    times->next = (times->next + 1) % RECENT_TIMES;
    times->n += times->n < RECENT_TIMES;
    fit(times);
}

bool recent_times_line(const struct recent_times *times, struct pick_line *out)
{
    if (times->has_line)
        *out = times->line;
    return times->has_line;
}

bool recent_times_against(const struct recent_times *times, const struct pick_line *line, double *out)
{
    float shares[RECENT_TIMES];
    uint32_t n = 0;
    for (uint32_t i = 0; i < times->n; i++) {
        double said = at_line(line, (double)times->at[i].bytes);
        if (said > 0)
            shares[n++] = (float)((double)times->at[i].us / said);
    }
    if (n > 0)
        *out = (double)median_of(shares, n);
    return n > 0;
}
