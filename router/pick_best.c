#include "router/pick_best.h"

#include <stddef.h>

#include "router/pick_time.h"

/* Lower is better, member by member. */
struct rank {
    uint64_t us, work;
    uint32_t turn;
    uint32_t index;
};

static bool goes_before(const struct rank *a, const struct rank *b)
{
    if (a->us != b->us)
        return a->us < b->us;
    return a->work != b->work ? a->work < b->work : a->turn < b->turn;
}

/* The best of those offered, in order. */
struct shortlist {
    struct rank at[PICK_BEST_BY_TIME];
    uint32_t n, max;
    uint64_t most_us; /* what takes longer cannot enter; UINT64_MAX until it is full */
};

static void offer(struct shortlist *list, const struct rank *rank)
{
    if (list->n == list->max && !goes_before(rank, &list->at[list->n - 1]))
        return;
    if (list->n < list->max)
        list->n++;
    uint32_t i = list->n - 1; /* the last one made room */
    for (; i > 0 && goes_before(rank, &list->at[i - 1]); i--)
        list->at[i] = list->at[i - 1];
    list->at[i] = *rank;
    if (list->n == list->max)
        list->most_us = list->at[list->n - 1].us;
}

/* One side's candidates for pairs. */
struct side {
    struct shortlist by_time, by_cached, by_load;
    struct rank all[PICK_FINALISTS]; /* their union, ranked by their own side's time */
    uint32_t n;
};

static struct shortlist shortlist_of(uint32_t max)
{
    return (struct shortlist){ .n = 0, .max = max, .most_us = UINT64_MAX };
}

static void side_init(struct side *side)
{
    side->by_time = shortlist_of(PICK_BEST_BY_TIME);
    side->by_cached = side->by_load = shortlist_of(PICK_BEST_BY_REST);
    side->n = 0;
}

static uint32_t longest(const struct pick_candidate *c)
{
    return c->cached[KV_TIER_COUNT - 1];
}

static void side_offer(struct side *side, struct rank rank, uint64_t load_us, uint32_t cached)
{
    offer(&side->by_time, &rank);
    rank.us = load_us;
    offer(&side->by_load, &rank);
    rank.us = UINT32_MAX - cached;
    if (cached)
        offer(&side->by_cached, &rank);
}

static bool is_in(const struct side *side, uint32_t index)
{
    for (uint32_t i = 0; i < side->n; i++)
        if (side->all[i].index == index)
            return true;
    return false;
}

uint64_t pick_work(const struct pick_candidate *c)
{
    return c->queued_tokens + c->later_tokens + c->running_tokens;
}

static uint32_t turn_from(uint32_t first, uint32_t place, uint32_t places)
{
    return place >= first ? place - first : place + places - first;
}

uint32_t pick_turn(uint32_t place, uint32_t places, uint64_t turn)
{
    return places == 0 ? place : turn_from((uint32_t)(turn % places), place, places);
}

/* A scan of the workers of one format, and what it needs of the request. */
struct scan {
    const struct pick_input *in;
    uint64_t format;
    struct pick_cold cold;
    uint32_t first_prefill, first_decode; /* whose turn it is */
};

static struct scan scan_of(const struct pick_input *in)
{
    uint64_t turn = in->request.turn;
    return (struct scan){ .in = in,
                          .cold = pick_time_cold(&in->request),
                          .first_prefill = in->prefill_places ? (uint32_t)(turn % in->prefill_places) : 0,
                          .first_decode = in->decode_places ? (uint32_t)(turn % in->decode_places) : 0 };
}

static bool takes_part(const struct scan *scan, const struct pick_candidate *c)
{
    return c->usable && c->format == scan->format;
}

static struct rank rank_prefill(const struct scan *scan, uint32_t index, uint64_t us)
{
    const struct pick_candidate *c = &scan->in->prefills[index];
    return (struct rank){ us, pick_work(c), turn_from(scan->first_prefill, c->place, scan->in->prefill_places), index };
}

static struct rank rank_decode(const struct scan *scan, uint32_t index, uint64_t us)
{
    const struct pick_candidate *c = &scan->in->decodes[index];
    return (struct rank){ us, pick_work(c), turn_from(scan->first_decode, c->place, scan->in->decode_places), index };
}

/* What computing and fetching take; *computed is how much is computed. */
static uint64_t plan_us(const struct scan *scan, const struct pick_candidate *c, uint32_t *computed)
{
    struct pick_plan plan;
    if (pick_time_is_cold(c))
        return pick_time_cold_us(&scan->cold, c, computed);
    pick_time_plan(&scan->in->request, c, &plan);
    *computed = plan.computed;
    return plan.prefill_us + plan.pull_us;
}

/* A prefill worker's part of the time. */
static uint64_t prefill_us(const struct scan *scan, uint32_t index)
{
    const struct pick_candidate *c = &scan->in->prefills[index];
    uint32_t computed;
    return pick_time_wait(c, false) + plan_us(scan, c, &computed);
}

/* A decode worker's part, as if it and the prefill worker were on one host. */
static uint64_t decode_us(const struct scan *scan, uint32_t index)
{
    const struct pick_candidate *c = &scan->in->decodes[index];
    const struct pick_request *request = &scan->in->request;
    return pick_time_pressure(request, c) + pick_time_handoff(c, pick_time_moved(request, c), false);
}

static void unite(const struct scan *scan, bool is_decode, struct side *side)
{
    const struct shortlist *const others[] = { &side->by_cached, &side->by_load };
    for (side->n = 0; side->n < side->by_time.n; side->n++)
        side->all[side->n] = side->by_time.at[side->n];
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < others[k]->n; i++) {
            uint32_t index = others[k]->at[i].index;
            if (!is_in(side, index))
                side->all[side->n++] = is_decode ? rank_decode(scan, index, decode_us(scan, index))
                                                 : rank_prefill(scan, index, prefill_us(scan, index));
        }
}

/* Neither its load nor its time, or what it at least is, nor what it holds lets it in: most of thousands end here. */
static bool is_out(const struct side *side, uint64_t load_us, uint64_t us, uint32_t cached)
{
    return cached == 0 && us > side->by_time.most_us && load_us > side->by_load.most_us;
}

static void scan_prefills(const struct scan *scan, struct side *side)
{
    side_init(side);
    for (uint32_t i = 0; i < scan->in->n_prefills; i++) {
        const struct pick_candidate *c = &scan->in->prefills[i];
        if (!takes_part(scan, c))
            continue;
        uint64_t load_us = pick_time_wait(c, false);
        uint32_t computed, cached = longest(c);
        if (is_out(side, load_us, load_us, cached))
            continue;
        uint64_t us = load_us + plan_us(scan, c, &computed);
        if (!is_out(side, load_us, us, cached))
            side_offer(side, rank_prefill(scan, i, us), load_us, cached);
    }
    unite(scan, false, side);
}

/* The best so far. */
struct best {
    bool found, local;
    struct rank first; /* of the decode worker, with the whole time */
    uint32_t prefill_turn;
    uint32_t prefill;
};

static bool beats(const struct best *a, const struct best *b)
{
    if (!b->found || a->first.us != b->first.us || a->first.work != b->first.work)
        return !b->found || goes_before(&a->first, &b->first);
    if (a->local != b->local)
        return a->local;
    return a->first.turn != b->first.turn ? a->first.turn < b->first.turn : a->prefill_turn < b->prefill_turn;
}

static void take_better(struct best *best, const struct best *other)
{
    if (beats(other, best))
        *best = *other;
}

static void scan_decodes(const struct scan *scan, struct side *side)
{
    const struct pick_request *request = &scan->in->request;
    side_init(side);
    for (uint32_t i = 0; i < scan->in->n_decodes; i++) {
        const struct pick_candidate *c = &scan->in->decodes[i];
        if (!takes_part(scan, c))
            continue;
        uint64_t load_us = pick_time_pressure(request, c);
        uint32_t cached = longest(c);
        if (is_out(side, load_us, load_us, cached))
            continue;
        uint64_t us = load_us + pick_time_handoff(c, pick_time_moved(request, c), false);
        if (!is_out(side, load_us, us, cached))
            side_offer(side, rank_decode(scan, i, us), load_us, cached);
    }
    unite(scan, true, side);
}

/* Of a decode worker's time, what is so with prefill workers on other hosts. */
static uint64_t far_us(const struct scan *scan, const struct rank *decode)
{
    const struct pick_candidate *c = &scan->in->decodes[decode->index];
    uint32_t moved = pick_time_moved(&scan->in->request, c);
    return decode->us - pick_time_handoff(c, moved, false) + pick_time_handoff(c, moved, true);
}

static bool share_host(const struct scan *scan, const struct rank *decode, const struct rank *prefill)
{
    return scan->in->decodes[decode->index].host == scan->in->prefills[prefill->index].host;
}

static bool is_late(const struct best *best, uint64_t us)
{
    return best->found && us > best->first.us;
}

static void best_pair(const struct scan *scan, const struct side *decodes, const struct side *prefills,
                      struct best *best)
{
    for (uint32_t i = 0; i < decodes->n; i++) {
        const struct rank *d = &decodes->all[i];
        uint64_t far = far_us(scan, d);
        for (uint32_t j = 0; j < prefills->n; j++) {
            const struct rank *p = &prefills->all[j];
            uint64_t us = p->us + (share_host(scan, d, p) ? d->us : far);
            if (is_late(best, us))
                continue;
            struct best pair = { .found = true, .first = *d, .prefill_turn = p->turn, .prefill = p->index };
            pair.first.us = us;
            pair.first.work += p->work;
            take_better(best, &pair);
        }
    }
}

static bool keeps_pace(const struct scan *scan, const struct pick_candidate *c, uint32_t computed)
{
    uint64_t target_us = scan->in->request.itl_target_us;
    return !target_us || pick_time_itl(&scan->in->request, c, computed) <= target_us;
}

/* Where the prompt would be computed by the decode worker; whatever: that does to its streams. Most end at a part of
 * their time. */
static void best_local(const struct scan *scan, bool whatever, struct best *best)
{
    for (uint32_t i = 0; i < scan->in->n_decodes; i++) {
        const struct pick_candidate *c = &scan->in->decodes[i];
        if (!takes_part(scan, c))
            continue;
        uint32_t computed;
        uint64_t us = pick_time_wait(c, true);
        if (is_late(best, us))
            continue;
        us += plan_us(scan, c, &computed) + pick_time_beside(c, computed);
        if (is_late(best, us) || !(whatever || keeps_pace(scan, c, computed)))
            continue;
        us += pick_time_pressure(&scan->in->request, c);
        struct best local = { .found = true, .local = true, .prefill = PICK_NONE, .first = rank_decode(scan, i, us) };
        take_better(best, &local);
    }
}

/* The formats of usable decode workers, upwards. */
struct formats {
    uint64_t at, last;
};

static bool first_format(const struct pick_input *in, struct formats *formats)
{
    bool found = false;
    *formats = (struct formats){ UINT64_MAX, 0 };
    for (uint32_t i = 0; i < in->n_decodes; i++) {
        const struct pick_candidate *c = &in->decodes[i];
        if (!c->usable)
            continue;
        formats->at = c->format < formats->at ? c->format : formats->at;
        formats->last = c->format > formats->last ? c->format : formats->last;
        found = true;
    }
    return found;
}

static bool next_format(const struct pick_input *in, struct formats *formats)
{
    uint64_t next = formats->last;
    if (formats->at == formats->last)
        return false;
    for (uint32_t i = 0; i < in->n_decodes; i++) {
        const struct pick_candidate *c = &in->decodes[i];
        if (c->usable && c->format > formats->at && c->format < next)
            next = c->format;
    }
    formats->at = next;
    return true;
}

static void rank_helpers(const struct scan *scan, const struct side *prefills, uint32_t decode, uint32_t first,
                         struct pick_choice *out)
{
    struct shortlist list = shortlist_of(PICK_MAX_RANKED);
    const struct rank near = rank_decode(scan, decode, decode_us(scan, decode));
    uint64_t far = far_us(scan, &near);
    for (uint32_t i = 0; i < prefills->n; i++) {
        struct rank rank = prefills->all[i];
        rank.us = rank.index == first ? 0 : rank.us + (share_host(scan, &near, &rank) ? near.us : far);
        offer(&list, &rank);
    }
    for (uint32_t i = 0; i < list.n; i++)
        out->prefills[out->n_prefills++] = list.at[i].index;
}

/* The best of one format; *prefills: its prefill workers. */
static struct best best_of(const struct scan *scan, struct side *prefills)
{
    enum pick_route asked = scan->in->request.asked;
    struct best best = { .found = false };
    struct side decodes;
    side_init(prefills);
    if (asked != PICK_ROUTE_LOCAL)
        scan_prefills(scan, prefills);
    if (prefills->n) {
        scan_decodes(scan, &decodes);
        best_pair(scan, &decodes, prefills, &best);
    }
    if (asked != PICK_ROUTE_REMOTE || !prefills->n)
        best_local(scan, !prefills->n, &best);
    return best;
}

void pick_best(const struct pick_input *in, struct pick_choice *out)
{
    enum pick_route asked = in->request.asked;
    struct best best = { .found = false };
    struct side prefills, of_best = { .n = 0 };
    struct scan scan = scan_of(in);
    struct formats formats;
    for (bool more = first_format(in, &formats); more; more = next_format(in, &formats)) {
        scan.format = formats.at;
        const struct best of_format = best_of(&scan, &prefills);
        if (of_format.found && beats(&of_format, &best)) {
            best = of_format;
            of_best = prefills;
        }
    }
    if (!best.found)
        return;
    out->decode = best.first.index;
    out->route = best.local && asked != PICK_ROUTE_REMOTE ? PICK_ROUTE_LOCAL : PICK_ROUTE_REMOTE;
    if (!best.local)
        rank_helpers(&scan, &of_best, out->decode, best.prefill, out);
}

/* Who would compute the prompt itself need not be among the best for pairs. */
static void scan_all_decodes(const struct scan *scan, struct side *side)
{
    scan_decodes(scan, side);
    for (int whatever = 0; whatever < 2; whatever++) {
        struct best best = { .found = false };
        best_local(scan, whatever, &best);
        if (best.found && !is_in(side, best.first.index))
            side->all[side->n++] = best.first;
    }
}

uint32_t pick_finalists(const struct pick_input *in, bool decodes, uint32_t *out, uint32_t max)
{
    uint32_t n = 0;
    struct side side;
    struct scan scan = scan_of(in);
    struct formats formats;
    for (bool more = first_format(in, &formats); more; more = next_format(in, &formats)) {
        scan.format = formats.at;
        (decodes ? scan_all_decodes : scan_prefills)(&scan, &side);
        for (uint32_t i = 0; i < side.n && n < max; i++)
            out[n++] = side.all[i].index;
    }
    return n;
}
