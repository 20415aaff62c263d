#include "router/fleet_rates.h"

#include <stddef.h>

#define KIB            1024u
#define CLASSES_TO_FIT 3u /* of sizes that were seen: with fewer a line through them says nothing of other sizes */
#define MOST_KIB       (1u << 30)

static uint64_t at_least_one(uint64_t us)
{
    return us ? us : 1;
}

void fleet_rates_prefill(struct fleet_rates *rates, uint32_t n_tokens, uint32_t computed, uint64_t us)
{
    if (computed > 0 && computed <= n_tokens)
        step_cost_observe(&rates->prefill, computed, step_attended(n_tokens - computed, computed), at_least_one(us));
}

static void observe_bytes(struct step_cost *cost, uint64_t bytes, uint64_t us)
{
    uint64_t kib = (bytes + KIB - 1) / KIB;
    if (bytes > 0)
        step_cost_observe(cost, kib < MOST_KIB ? (uint32_t)kib : MOST_KIB, 0, at_least_one(us));
}

void fleet_rates_handoff(struct fleet_rates *rates, bool other_host, uint64_t bytes, uint64_t us)
{
    observe_bytes(&rates->handoff[other_host], bytes, us);
}

void fleet_rates_pull(struct fleet_rates *rates, enum kv_tier tier, uint64_t bytes, uint64_t us)
{
    recent_times_add(&rates->pull[tier], bytes, us);
}

void fleet_rates_missed(struct fleet_rates *rates, enum kv_tier tier, uint64_t bytes, uint64_t us)
{
    rates->pull[tier] = (struct recent_times){ 0 };
    recent_times_add(&rates->pull[tier], bytes, us);
}

void fleet_rates_queue(struct fleet_rates *rates, uint64_t us)
{
    recent_waits_add(&rates->queue, us);
}

/* How many classes were seen, and the one of the largest size. */
static uint32_t seen(const struct step_cost *cost, const struct step_cost_class **largest)
{
    uint32_t n = 0;
    *largest = NULL;
    for (uint32_t i = 0; i < STEP_COST_CLASSES; i++)
        if (cost->classes[i].us > 0.0) {
            *largest = &cost->classes[i];
            n++;
        }
    return n;
}

struct terms {
    double base, row, position;
};

/* False: too few sizes were seen, or they say that rows cost nothing, which is no rate. */
static bool fitted(const struct step_cost *cost, bool rows_cost, struct terms *out)
{
    const struct step_cost_class *largest;
    if (seen(cost, &largest) < CLASSES_TO_FIT || (rows_cost && cost->row_us <= 0.0))
        return false;
    *out = (struct terms){ cost->drift * cost->base_us, cost->drift * cost->row_us, cost->drift * cost->position_us };
    return true;
}

/* Sums of the least squares of relative errors of base + rows * row. */
struct line_sums {
    double one_one, one_rows, rows_rows, one, rows;
};

static struct line_sums sums_of(const struct step_cost *cost)
{
    struct line_sums s = { 0 };
    for (uint32_t i = 0; i < STEP_COST_CLASSES; i++) {
        const struct step_cost_class *class = &cost->classes[i];
        if (class->us <= 0.0)
            continue;
        double one = 1.0 / class->us, rows = class->rows / class->us;
        s.one_one += one * one;
        s.one_rows += one * rows;
        s.rows_rows += rows * rows;
        s.one += one;
        s.rows += rows;
    }
    return s;
}

/* A line through few sizes; through one, or where the base would be below nothing, all time is the rows': too much for
 * long ones rather than nothing. */
static bool rough(const struct step_cost *cost, struct terms *out)
{
    const struct step_cost_class *largest;
    uint32_t n = seen(cost, &largest);
    struct line_sums s = sums_of(cost);
    if (n == 0)
        return false;
    double det = s.one_one * s.rows_rows - s.one_rows * s.one_rows;
    double base = n > 1 && det > 0.0 ? (s.one * s.rows_rows - s.rows * s.one_rows) / det : 0.0;
    double row = n > 1 && det > 0.0 ? (s.rows * s.one_one - s.one * s.one_rows) / det : 0.0;
    bool is_line = base >= 0.0 && row > 0.0;
    *out = (struct terms){ is_line ? base : 0.0, is_line ? row : s.rows / s.rows_rows, 0.0 };
    return true;
}

/* How much slower than these terms it was. */
static void scale_to(const struct step_cost *cost, struct terms *terms)
{
    double measured = 0, expected = 0;
    for (uint32_t i = 0; i < STEP_COST_CLASSES; i++) {
        const struct step_cost_class *class = &cost->classes[i];
        if (class->us <= 0.0)
            continue;
        measured += class->us;
        expected += terms->base + terms->row * class->rows + terms->position * class->attended;
    }
    double scale = measured > 0.0 && expected > 0.0 ? measured / expected : 1.0;
    *terms = (struct terms){ scale * terms->base, scale * terms->row, scale * terms->position };
}

/* The shape of others' times with its own speed, where it was measured at few sizes only. */
static bool terms_of(const struct step_cost *const costs[FLEET_RATE_SOURCES], bool rows_cost, struct terms *out)
{
    for (int i = 0; i < FLEET_RATE_SOURCES; i++)
        if (fitted(costs[i], rows_cost, out)) {
            if (i > 0)
                scale_to(costs[0], out);
            return true;
        }
    for (int i = 0; i < FLEET_RATE_SOURCES; i++)
        if (rough(costs[i], out))
            return true;
    return false;
}

static struct pick_line line_of(const struct step_cost *const costs[FLEET_RATE_SOURCES], struct pick_line unknown)
{
    struct terms terms;
    if (!terms_of(costs, false, &terms))
        return unknown;
    return (struct pick_line){ (float)terms.base, (float)(terms.row / KIB) };
}

/* The first line that there is, at the speed of the first that was measured at all. */
static struct pick_line pull_of(const struct recent_times *const from[FLEET_RATE_SOURCES], struct pick_line unknown)
{
    int shape = 0, speed = 0;
    double share;
    while (shape < FLEET_RATE_SOURCES && !recent_times_line(from[shape], &unknown))
        shape++;
    for (; speed < shape && speed < FLEET_RATE_SOURCES; speed++)
        if (recent_times_against(from[speed], &unknown, &share))
            return (struct pick_line){ (float)(share * (double)unknown.base), (float)(share * (double)unknown.byte) };
    return unknown;
}

void fleet_rates_read(const struct fleet_rates *const from[FLEET_RATE_SOURCES], struct pick_rates *out)
{
    const struct pick_line handoff = { RATE_HANDOFF_BASE_US, RATE_HANDOFF_BYTE_US };
    const struct pick_line pull = { RATE_PULL_BASE_US, RATE_PULL_BYTE_US };
    const struct step_cost *costs[FLEET_RATE_SOURCES];
    const struct recent_times *times[FLEET_RATE_SOURCES];
    struct terms terms = { 0, RATE_PREFILL_TOKEN_US, 0 };
    for (int k = 0; k < FLEET_RATE_SOURCES; k++)
        costs[k] = &from[k]->prefill;
    (void)terms_of(costs, true, &terms);
    out->queue = from[FLEET_RATES_TYPICAL]->queue.median;
    out->prefill_base = (float)terms.base;
    out->prefill_token = (float)terms.row;
    out->prefill_pair = (float)terms.position;
    for (int i = 0; i < 2; i++) {
        for (int k = 0; k < FLEET_RATE_SOURCES; k++)
            costs[k] = &from[k]->handoff[i];
        out->handoff[i] = line_of(costs, handoff);
    }
    for (int i = 0; i < KV_TIER_COUNT; i++) {
        for (int k = 0; k < FLEET_RATE_SOURCES; k++)
            times[k] = &from[k]->pull[i];
        out->pull[i] = pull_of(times, pull);
    }
}
