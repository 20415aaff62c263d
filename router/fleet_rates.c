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
    observe_bytes(&rates->pull[tier], bytes, us);
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
    float base, row, position;
};

/* False: nothing was measured. After few sizes all time is the rows': too much for the long ones rather than nothing.
 */
static bool terms_of(const struct step_cost *cost, bool rows_cost, struct terms *out)
{
    const struct step_cost_class *largest;
    uint32_t n = seen(cost, &largest);
    if (n == 0)
        return false;
    if (n < CLASSES_TO_FIT || (rows_cost && cost->row_us <= 0.0))
        *out = (struct terms){ 0, (float)(largest->us / largest->rows), 0 };
    else
        *out = (struct terms){ (float)(cost->drift * cost->base_us), (float)(cost->drift * cost->row_us),
                               (float)(cost->drift * cost->position_us) };
    return true;
}

static struct pick_line line_of(const struct step_cost *own, const struct step_cost *typical, struct pick_line unknown)
{
    struct terms terms;
    if (!terms_of(own, false, &terms) && !terms_of(typical, false, &terms))
        return unknown;
    return (struct pick_line){ terms.base, terms.row / (float)KIB };
}

void fleet_rates_read(const struct fleet_rates *own, const struct fleet_rates *typical, struct pick_rates *out)
{
    const struct pick_line handoff = { RATE_HANDOFF_BASE_US, RATE_HANDOFF_BYTE_US };
    const struct pick_line pull = { RATE_PULL_BASE_US, RATE_PULL_BYTE_US };
    struct terms terms = { 0, RATE_PREFILL_TOKEN_US, 0 };
    if (!terms_of(&own->prefill, true, &terms))
        (void)terms_of(&typical->prefill, true, &terms);
    out->prefill_base = terms.base;
    out->prefill_token = terms.row;
    out->prefill_pair = terms.position;
    for (int i = 0; i < 2; i++)
        out->handoff[i] = line_of(&own->handoff[i], &typical->handoff[i], handoff);
    for (int i = 0; i < KV_TIER_COUNT; i++)
        out->pull[i] = line_of(&own->pull[i], &typical->pull[i], pull);
}
