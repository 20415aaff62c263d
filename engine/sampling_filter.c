#include "engine/sampling_filter.h"

/* Whether token a stands before token b. */
static bool before(const float *w, uint32_t a, uint32_t b)
{
    return w[a] > w[b] || (w[a] == w[b] && a < b);
}

static void swap(uint32_t *ids, uint32_t i, uint32_t j)
{
    uint32_t t = ids[i];
    ids[i] = ids[j];
    ids[j] = t;
}

/* Moves the median of the first, middle and last of ids[lo..hi] to the end. */
static void pivot_to_end(const float *w, uint32_t *ids, uint32_t lo, uint32_t hi)
{
    uint32_t mid = lo + (hi - lo) / 2;
    if (before(w, ids[mid], ids[lo]))
        swap(ids, mid, lo);
    if (before(w, ids[hi], ids[lo]))
        swap(ids, hi, lo);
    if (before(w, ids[mid], ids[hi]))
        swap(ids, mid, hi);
}

/* Divides ids[lo..hi] around a pivot; returns its place. */
static uint32_t partition(const float *w, uint32_t *ids, uint32_t lo, uint32_t hi)
{
    pivot_to_end(w, ids, lo, hi);
    uint32_t at = lo;
    for (uint32_t i = lo; i < hi; i++)
        if (before(w, ids[i], ids[hi]))
            swap(ids, i, at++);
    swap(ids, at, hi);
    return at;
}

/* Puts the k likeliest first; k in 1 .. n. */
static void select_count(const float *w, uint32_t *ids, uint32_t n, uint32_t k)
{
    uint32_t lo = 0;
    uint32_t hi = n - 1;
    while (lo < hi) {
        uint32_t at = partition(w, ids, lo, hi);
        if (at == k - 1)
            return;
        if (at >= k)
            hi = at - 1;
        else
            lo = at + 1;
    }
}

static double mass_of(const float *w, const uint32_t *ids, uint32_t n)
{
    double mass = 0.0;
    for (uint32_t i = 0; i < n; i++)
        mass += (double)w[ids[i]];
    return mass;
}

/* Puts the shortest prefix of at least the given mass first; returns its length. */
static uint32_t select_mass(const float *w, uint32_t *ids, uint32_t n, double mass)
{
    uint32_t lo = 0;
    uint32_t hi = n - 1;
    while (lo < hi) {
        uint32_t at = partition(w, ids, lo, hi);
        double upto = mass_of(w, ids + lo, at - lo);
        if (upto >= mass && at > lo) {
            hi = at - 1;
        } else if (upto + (double)w[ids[at]] >= mass) {
            return at + 1;
        } else {
            mass -= upto + (double)w[ids[at]];
            if (at == hi)
                return at + 1;
            lo = at + 1;
        }
    }
    return lo + 1;
}

static struct sampling_cut last_of(const float *w, const uint32_t *ids, uint32_t n)
{
    uint32_t last = ids[0];
    for (uint32_t i = 1; i < n; i++)
        if (before(w, last, ids[i]))
            last = ids[i];
    return (struct sampling_cut){ w[last], last };
}

/* The ids worth looking at: with top_p, those below 2^-24 of the likeliest
 * matter only when the others do not reach the mass. */
static uint32_t list_ids(const float *w, uint32_t n, float least, uint32_t *ids)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        ids[kept] = i;
        kept += w[i] >= least;
    }
    return kept;
}

struct sampling_cut sampling_filter(const struct sampling *s, const float *w, uint32_t n, uint32_t *ids)
{
    struct sampling_cut cut = { s->min_p > 0.0f ? s->min_p : 0.0f, UINT32_MAX };
    bool by_count = s->top_k > 0 && (uint32_t)s->top_k < n;
    bool by_mass = s->top_p < 1.0f;
    if (!by_count && !by_mass)
        return cut;
    uint32_t kept = list_ids(w, n, by_count ? 0.0f : 0x1p-24f, ids);
    if (by_count) {
        kept = kept < (uint32_t)s->top_k ? kept : (uint32_t)s->top_k;
        select_count(w, ids, n, kept);
    }
    if (by_mass) {
        double total = 0.0;
        if (by_count) {
            total = mass_of(w, ids, kept);
        } else {
            for (uint32_t i = 0; i < n; i++)
                total += (double)w[i];
            if (mass_of(w, ids, kept) < (double)s->top_p * total)
                kept = list_ids(w, n, 0.0f, ids);
        }
        kept = select_mass(w, ids, kept, (double)s->top_p * total);
    }
    struct sampling_cut last = last_of(w, ids, kept);
    return last.weight >= cut.weight ? last : cut;
}
