#include "engine/scheduler.h"

/* What is left of the step that is being formed. */
struct share {
    const struct scheduler_limits *limits;
    const struct step_cost *cost;
    const struct scheduler_want *wants;
    uint32_t *rows;
    uint32_t budget, seqs, beside;
    uint32_t n_rows;
    uint64_t attended;
    bool decodes;
};

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool is_decoding(const struct scheduler_want *want)
{
    return want->rows == 1;
}

static bool is_overdue(const struct scheduler_limits *limits, uint64_t waited)
{
    return waited > limits->patience;
}

/* Overdue ones by how long they waited; then by priority, then decoding ones by how long they waited, then prompts by
 * arrival. */
static bool goes_first(const struct scheduler_limits *limits, const struct scheduler_want *a,
                       const struct scheduler_want *b)
{
    bool overdue = is_overdue(limits, a->waited);
    if (overdue != is_overdue(limits, b->waited))
        return overdue;
    if (overdue)
        return a->waited > b->waited;
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (is_decoding(a) != is_decoding(b))
        return is_decoding(a);
    return is_decoding(a) && a->waited > b->waited;
}

/* Insertion keeps the order of arrival among equals, and costs little where nearly all are. */
static void sort(const struct scheduler_limits *limits, const struct scheduler_want *wants, uint32_t n, uint32_t *order)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && goes_first(limits, &wants[i], &wants[order[at - 1]]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static uint64_t attended_by(const struct share *s, uint32_t i, uint32_t n)
{
    return step_attended(s->wants[i].first_pos + s->rows[i], n);
}

static void give(struct share *s, uint32_t i, uint32_t n)
{
    s->attended += attended_by(s, i, n);
    s->seqs -= s->rows[i] == 0 && n > 0;
    s->rows[i] += n;
    s->n_rows += n;
    s->budget -= n;
}

static bool fits_target(const struct share *s, uint32_t i, uint32_t n)
{
    return step_cost_predict(s->cost, s->n_rows + n, s->attended + attended_by(s, i, n)) <=
           (double)s->limits->target_us;
}

/* The most of n rows that keep the step under its target. */
static uint32_t within_target(const struct share *s, uint32_t i, uint32_t n)
{
    if (s->limits->target_us == 0 || !s->decodes || fits_target(s, i, n))
        return n;
    uint32_t fits = 0;
    for (uint32_t beyond = n; beyond - fits > 1;) {
        uint32_t middle = fits + (beyond - fits) / 2;
        if (fits_target(s, i, middle))
            fits = middle;
        else
            beyond = middle;
    }
    return fits;
}

static void give_first_rows(struct share *s, const uint32_t *order, uint32_t n)
{
    for (uint32_t k = 0; k < n && s->budget > 0 && s->seqs > 0; k++) {
        const struct scheduler_want *want = &s->wants[order[k]];
        if (!is_decoding(want) && !is_overdue(s->limits, want->waited))
            continue;
        s->decodes |= is_decoding(want);
        give(s, order[k], least(want->rows, 1));
    }
}

static void give_drafts(struct share *s, const uint32_t *order, uint32_t n, bool prompts_wait)
{
    uint32_t spare = prompts_wait ? s->budget / 2 : s->budget;
    for (uint32_t k = 0; k < n && spare > 0; k++) {
        uint32_t i = order[k];
        if (s->rows[i] == 0 || !is_decoding(&s->wants[i]))
            continue;
        uint32_t take = within_target(s, i, least(s->wants[i].drafts, spare));
        give(s, i, take);
        spare -= take;
    }
}

static void give_chunks(struct share *s, const uint32_t *order, uint32_t n)
{
    bool first = true;
    for (uint32_t k = 0; k < n && s->budget > 0 && s->beside > 0; k++) {
        uint32_t i = order[k];
        const struct scheduler_want *want = &s->wants[i];
        if (is_decoding(want) || want->rows == 0 || (s->rows[i] == 0 && s->seqs == 0))
            continue;
        uint32_t most = least(least(want->rows, s->limits->chunk_tokens) - s->rows[i], least(s->budget, s->beside));
        uint32_t take = within_target(s, i, most);
        if (first && take < SCHEDULER_LEAST_CHUNK)
            take = least(most, SCHEDULER_LEAST_CHUNK);
        first = false;
        give(s, i, take);
        s->beside -= take;
    }
}

uint32_t scheduler_form(const struct scheduler_limits *limits, const struct step_cost *cost,
                        const struct scheduler_want *wants, uint32_t n, uint32_t *order, uint32_t *rows)
{
    struct share s = {
        .limits = limits,
        .cost = cost,
        .wants = wants,
        .rows = rows,
        .budget = limits->budget_rows,
        .seqs = limits->max_seqs,
    };
    bool prompts_wait = false;
    for (uint32_t i = 0; i < n; i++) {
        rows[i] = 0;
        prompts_wait |= wants[i].rows > 1;
    }
    sort(limits, wants, n, order);
    give_first_rows(&s, order, n);
    give_drafts(&s, order, n, prompts_wait);
    s.beside = s.decodes && limits->beside_rows > 0 ? limits->beside_rows : UINT32_MAX;
    give_chunks(&s, order, n);
    return s.n_rows;
}

bool scheduler_goes_before(const struct scheduler_limits *limits, const struct scheduler_claim *a,
                           const struct scheduler_claim *b)
{
    bool overdue = is_overdue(limits, a->waited);
    if (overdue != is_overdue(limits, b->waited))
        return overdue;
    if (!overdue && a->priority != b->priority)
        return a->priority < b->priority;
    if (a->preempted != b->preempted)
        return a->preempted;
    return a->arrival < b->arrival;
}

bool scheduler_yields_before(const struct scheduler_claim *a, const struct scheduler_claim *b)
{
    if (a->sheltered != b->sheltered)
        return b->sheltered;
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return a->arrival > b->arrival;
}
