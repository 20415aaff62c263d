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
}

/* Whether something of so much time, or more, may still enter. */
static bool may_enter(const struct shortlist *list, uint64_t us)
{
    return list->n < list->max || us <= list->at[list->n - 1].us;
}

/* One side's candidates for pairs. */
struct side {
    struct shortlist by_time, by_cached, by_load;
    struct rank all[PICK_FINALISTS]; /* their union, ranked by their own side's time */
    uint32_t n;
};

static void side_init(struct side *side)
{
    side->by_time.n = side->by_cached.n = side->by_load.n = side->n = 0;
    side->by_time.max = PICK_BEST_BY_TIME;
    side->by_cached.max = side->by_load.max = PICK_BEST_BY_REST;
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

uint32_t pick_turn(uint32_t place, uint32_t places, uint64_t turn)
{
    if (places == 0)
        return place;
    uint32_t first = (uint32_t)(turn % places);
    return place >= first ? place - first : place + places - first;
}

/* Neither its load nor a time of at least that lets it in: most of thousands end here. */
static bool is_out(const struct side *side, uint64_t load_us, uint32_t cached)
{
    return cached == 0 && !may_enter(&side->by_load, load_us) && !may_enter(&side->by_time, load_us);
}

/* A prefill worker's part of the time. */
static uint64_t prefill_us(const struct pick_input *in, const struct pick_candidate *c)
{
    struct pick_plan plan;
    pick_time_plan(&in->request, c, &plan);
    return pick_time_wait(c, false) + plan.prefill_us + plan.pull_us;
}

static struct rank rank_prefill(const struct pick_input *in, uint32_t index)
{
    const struct pick_candidate *c = &in->prefills[index];
    return (struct rank){ prefill_us(in, c), pick_work(c), pick_turn(c->place, in->prefill_places, in->request.turn),
                          index };
}

/* A decode worker's part, as if it and the prefill worker were on one host. */
static struct rank rank_decode(const struct pick_input *in, uint32_t index)
{
    const struct pick_candidate *c = &in->decodes[index];
    uint64_t us = pick_time_pressure(&in->request, c) + pick_time_handoff(c, pick_time_moved(&in->request, c), false);
    return (struct rank){ us, pick_work(c), pick_turn(c->place, in->decode_places, in->request.turn), index };
}

static void unite(struct side *side, const struct shortlist *list, const struct pick_input *in,
                  struct rank (*rank)(const struct pick_input *, uint32_t))
{
    for (uint32_t i = 0; i < list->n; i++)
        if (!is_in(side, list->at[i].index))
            side->all[side->n++] = rank(in, list->at[i].index);
}

static void collect_prefills(const struct pick_input *in, uint64_t format, struct side *side)
{
    side_init(side);
    for (uint32_t i = 0; i < in->n_prefills; i++) {
        const struct pick_candidate *c = &in->prefills[i];
        if (!c->usable || c->format != format)
            continue;
        uint64_t load_us = pick_time_wait(c, false);
        if (!is_out(side, load_us, longest(c)))
            side_offer(side, rank_prefill(in, i), load_us, longest(c));
    }
    unite(side, &side->by_time, in, rank_prefill);
    unite(side, &side->by_cached, in, rank_prefill);
    unite(side, &side->by_load, in, rank_prefill);
}

static void collect_decodes(const struct pick_input *in, uint64_t format, struct side *side)
{
    side_init(side);
    for (uint32_t i = 0; i < in->n_decodes; i++) {
        const struct pick_candidate *c = &in->decodes[i];
        if (!c->usable || c->format != format)
            continue;
        uint64_t load_us = pick_time_pressure(&in->request, c);
        if (!is_out(side, load_us, longest(c)))
            side_offer(side, rank_decode(in, i), load_us, longest(c));
    }
    unite(side, &side->by_time, in, rank_decode);
    unite(side, &side->by_cached, in, rank_decode);
    unite(side, &side->by_load, in, rank_decode);
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

static void best_pair(const struct pick_input *in, const struct side *decodes, const struct side *prefills,
                      struct best *best)
{
    for (uint32_t i = 0; i < decodes->n; i++)
        for (uint32_t j = 0; j < prefills->n; j++) {
            const struct rank *d = &decodes->all[i], *p = &prefills->all[j];
            struct best pair = { .found = true, .first = *d, .prefill_turn = p->turn, .prefill = p->index };
            const struct pick_candidate *decode = &in->decodes[d->index];
            uint64_t near_us = 0, handoff_us = 0;
            if (decode->host != in->prefills[p->index].host) {
                uint32_t moved = pick_time_moved(&in->request, decode);
                near_us = pick_time_handoff(decode, moved, false);
                handoff_us = pick_time_handoff(decode, moved, true);
            }
            pair.first.us = d->us - near_us + handoff_us + p->us;
            pair.first.work += p->work;
            take_better(best, &pair);
        }
}

/* Of one format: where the prompt would be computed by the decode worker. */
static void best_local(const struct pick_input *in, uint64_t format, bool whatever, struct best *best)
{
    for (uint32_t i = 0; i < in->n_decodes; i++) {
        const struct pick_candidate *c = &in->decodes[i];
        if (!c->usable || c->format != format)
            continue;
        if (best->found && pick_time_wait(c, true) + pick_time_pressure(&in->request, c) > best->first.us)
            continue; /* and that is not all of it */
        struct best local = { .found = true, .local = true, .prefill = PICK_NONE };
        local.first = (struct rank){ pick_predict(in, i, PICK_NONE, NULL), pick_work(c),
                                     pick_turn(c->place, in->decode_places, in->request.turn), i };
        if (beats(&local, best) && (whatever || pick_local_holds(in, i)))
            *best = local;
    }
}

/* The lowest format that is higher than *format, of a usable decode worker; the first time, *format itself counts. */
static bool next_format(const struct pick_input *in, bool first, uint64_t *format)
{
    bool found = false;
    uint64_t next = 0;
    for (uint32_t i = 0; i < in->n_decodes; i++) {
        const struct pick_candidate *c = &in->decodes[i];
        if (c->usable && (first || c->format > *format) && (!found || c->format < next)) {
            next = c->format;
            found = true;
        }
    }
    *format = next;
    return found;
}

static void rank_helpers(const struct pick_input *in, const struct side *prefills, uint32_t decode, uint32_t first,
                         struct pick_choice *out)
{
    struct shortlist list = { .n = 0, .max = PICK_MAX_RANKED };
    for (uint32_t i = 0; i < prefills->n; i++) {
        struct rank rank = prefills->all[i];
        rank.us = rank.index == first ? 0 : pick_predict(in, decode, rank.index, NULL);
        offer(&list, &rank);
    }
    for (uint32_t i = 0; i < list.n; i++)
        out->prefills[out->n_prefills++] = list.at[i].index;
}

void pick_best(const struct pick_input *in, struct pick_choice *out)
{
    enum pick_route asked = in->request.asked;
    struct best best = { .found = false };
    struct side prefills, decodes, of_best = { .n = 0 };
    uint64_t format = 0;
    for (bool more = next_format(in, true, &format); more; more = next_format(in, false, &format)) {
        struct best of_format = { .found = false };
        side_init(&prefills);
        if (asked != PICK_ROUTE_LOCAL)
            collect_prefills(in, format, &prefills);
        if (prefills.n) {
            collect_decodes(in, format, &decodes);
            best_pair(in, &decodes, &prefills, &of_format);
        }
        if (asked != PICK_ROUTE_REMOTE || !prefills.n)
            best_local(in, format, asked == PICK_ROUTE_LOCAL || !prefills.n, &of_format);
        if (beats(&of_format, &best)) {
            best = of_format;
            of_best = prefills;
        }
    }
    if (!best.found)
        return;
    out->decode = best.first.index;
    out->route = best.local && asked != PICK_ROUTE_REMOTE ? PICK_ROUTE_LOCAL : PICK_ROUTE_REMOTE;
    if (!best.local)
        rank_helpers(in, &of_best, out->decode, best.prefill, out);
}

/* Who would compute the prompt itself need not be among the best for pairs. */
static void add_local(const struct pick_input *in, uint64_t format, struct side *side)
{
    for (int whatever = 0; whatever < 2; whatever++) {
        struct best best = { .found = false };
        best_local(in, format, whatever, &best);
        if (best.found && !is_in(side, best.first.index))
            side->all[side->n++] = best.first;
    }
}

uint32_t pick_finalists(const struct pick_input *in, bool decodes, uint32_t *out, uint32_t max)
{
    uint32_t n = 0;
    uint64_t format = 0;
    struct side side;
    for (bool more = next_format(in, true, &format); more; more = next_format(in, false, &format)) {
        (decodes ? collect_decodes : collect_prefills)(in, format, &side);
        if (decodes)
            add_local(in, format, &side);
        for (uint32_t i = 0; i < side.n && n < max; i++)
            out[n++] = side.all[i].index;
    }
    return n;
}
