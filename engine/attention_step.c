#include "engine/attention_step.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "engine/attention_merge.h"
#include "engine/attention_plan.h"

#define PARTIAL_SPLITS 256u /* of all heads' that fit: 16 Ki positions of a sequence; what does not fit stays whole */
#define PARTS_A_THREAD 16u  /* that are more than there are items, at most */

/* An item that is divided. */
struct division {
    atomic_uint parts_left;
    uint32_t n_partials; /* of each query */
    float *partials;
};

/* What a thread takes at a time. */
struct piece {
    uint32_t item;
    bool whole;
    struct attention_part part;
};

struct attention_step {
    const struct backend *backend;
    struct team *team;
    uint32_t n_kv_heads, group, head_dim, n_threads;
    uint32_t max_items, max_pieces, n_items, n_pieces;
    size_t max_values, used_values; /* of partials */
    struct attention_item *items;   /* [max_items] */
    struct division *divisions;     /* [max_items] */
    struct piece *pieces;           /* [max_pieces], filled from the end */
    float *partials;                /* [max_values] */
    void **scratch;                 /* [n_threads], borrowed */
    const struct attention *shared; /* of the layer under way */
    void *memory;
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Last rows first: they see most positions, and long items at the end would leave threads idle. */
static void list_items(struct attention_step *s, const struct rows *rows)
{
    const uint32_t step = s->backend->attend_rows(s->group);
    uint32_t n = 0;
    for (const struct row_span *span = rows->spans; span < rows->spans + rows->n_spans; span++)
        for (uint32_t left = span->n_rows; left > 0; left -= min_u32(step, left)) {
            const uint32_t taken = min_u32(step, left);
            for (uint32_t h = 0; h < s->n_kv_heads; h++)
                s->items[n++] = (struct attention_item){
                    .blocks = span->seq->blocks,
                    .first_row = span->first_row + left - taken,
                    .n_rows = taken,
                    .first_pos = span->first_pos + left - taken,
                    .kv_head = h,
                };
        }
    s->n_items = n;
}

static void add_piece(struct attention_step *s, const struct piece *piece)
{
    ASSERT(s->n_pieces < s->max_pieces);
    s->pieces[s->max_pieces - ++s->n_pieces] = *piece;
}

/* Room for so many partials of each of an item's queries. */
static size_t partial_values(const struct attention_step *s, uint32_t item, uint32_t n_partials)
{
    return n_partials * (size_t)s->items[item].n_rows * s->group * attention_partial_values(s->head_dim);
}

/* The splits before part p of n. */
static uint32_t splits_before(uint32_t p, uint32_t n, uint32_t splits)
{
    return (uint32_t)((uint64_t)p * splits / n);
}

/* False when their partials do not fit. */
static bool add_parts(struct attention_step *s, uint32_t item, uint32_t n, uint32_t splits)
{
    struct division *d = &s->divisions[item];
    const uint32_t merged = splits_before(1, n, splits); /* by the first part */
    const uint32_t first = attention_first_split(s->shared, &s->items[item]);
    const uint32_t end = s->items[item].first_pos + s->items[item].n_rows;
    d->n_partials = 1 + splits - merged;
    if (partial_values(s, item, d->n_partials) > s->max_values - s->used_values)
        return false;
    d->partials = s->partials + s->used_values;
    s->used_values += partial_values(s, item, d->n_partials);
    atomic_store_explicit(&d->parts_left, n, memory_order_relaxed);
    for (uint32_t p = n; p-- > 0;) {
        const uint32_t from = splits_before(p, n, splits);
        struct attention_part part = { .begin = first + from * CONTRACT_SPLIT, .merges = p == 0 };
        part.end = min_u32(first + splits_before(p + 1, n, splits) * CONTRACT_SPLIT, end);
        part.partials = d->partials + (p == 0 ? 0 : partial_values(s, item, 1 + from - merged));
        add_piece(s, &(struct piece){ .item = item, .part = part });
    }
    return true;
}

/* From the last item on, which then has the first choice of memory: what stays whole should not come last. */
static void list_pieces(struct attention_step *s)
{
    uint64_t part_cost = UINT64_MAX;
    if (s->backend->attend_part != NULL)
        part_cost = attention_plan(s->shared, s->items, s->n_items, s->n_threads);
    s->n_pieces = 0;
    s->used_values = 0;
    for (uint32_t item = s->n_items; item-- > 0;) {
        const uint32_t splits = attention_splits(s->shared, &s->items[item]);
        const uint32_t n = attention_plan_parts(attention_cost(s->shared, &s->items[item]), part_cost, splits);
        if (n == 1 || !add_parts(s, item, n, splits))
            add_piece(s, &(struct piece){ .item = item, .whole = true });
    }
}

static void run_piece(void *ctx, uint32_t number, uint32_t thread)
{
    struct attention_step *s = ctx;
    const struct piece *piece = &s->pieces[s->max_pieces - s->n_pieces + number];
    const struct attention_item *item = &s->items[piece->item];
    if (piece->whole) {
        s->backend->attend(s->shared, item, 1, s->scratch[thread]);
        return;
    }
    struct division *d = &s->divisions[piece->item];
    s->backend->attend_part(s->shared, item, &piece->part, s->scratch[thread]);
    if (atomic_fetch_sub_explicit(&d->parts_left, 1, memory_order_acq_rel) == 1)
        attention_merge(s->shared, item, d->partials, d->n_partials);
}

static void run_whole(void *ctx, uint32_t number, uint32_t thread)
{
    (void)number, (void)thread;
    const struct attention_step *s = ctx;
    s->backend->attend(s->shared, s->items, s->n_items, s->scratch[0]);
}

void attention_step_lend(struct attention_step *step, uint32_t thread, void *scratch)
{
    step->scratch[thread] = scratch;
}

void attention_step_run(struct attention_step *step, const struct attention *a, const struct rows *rows)
{
    step->shared = a;
    list_items(step, rows);
    if (step->backend->whole) {
        team_run(step->team, run_whole, step, 1);
        return;
    }
    list_pieces(step);
    team_run(step->team, run_piece, step, step->n_pieces);
}

static void *take(uint8_t *base, size_t *used, size_t bytes)
{
    void *p = base == NULL ? NULL : base + *used;
    *used += (bytes + 63) / 64 * 64;
    return p;
}

/* Sizes when base is NULL; otherwise also hands the parts out. */
static size_t lay_out(struct attention_step *s, uint8_t *base)
{
    size_t used = 0;
    s->items = take(base, &used, s->max_items * sizeof *s->items);
    s->divisions = take(base, &used, s->max_items * sizeof *s->divisions);
    s->pieces = take(base, &used, s->max_pieces * sizeof *s->pieces);
    s->partials = take(base, &used, s->max_values * sizeof *s->partials);
    s->scratch = take(base, &used, s->n_threads * sizeof *s->scratch);
    return used;
}

static struct attention_step describe(const struct model_config *c, const struct backend *backend, uint32_t n_threads,
                                      uint32_t max_rows, uint32_t max_seqs)
{
    struct attention_step s = {
        .backend = backend,
        .n_kv_heads = c->n_kv_heads,
        .group = c->n_heads / c->n_kv_heads,
        .head_dim = c->head_dim,
        .n_threads = n_threads,
    };
    const uint32_t most_splits = min_u32(c->max_positions / CONTRACT_SPLIT + 1, PARTIAL_SPLITS);
    s.max_items = (max_rows / backend->attend_rows(s.group) + max_seqs) * s.n_kv_heads;
    s.max_pieces = s.max_items + PARTS_A_THREAD * n_threads;
    if (backend->attend_part != NULL && !backend->whole && n_threads > 1)
        s.max_values = (size_t)most_splits * c->n_heads * attention_partial_values(c->head_dim);
    return s;
}

size_t attention_step_bytes(const struct model_config *config, const struct backend *backend, uint32_t n_threads,
                            uint32_t max_rows, uint32_t max_seqs)
{
    struct attention_step s = describe(config, backend, n_threads, max_rows, max_seqs);
    return lay_out(&s, NULL);
}

status attention_step_create(const struct model_config *config, const struct backend *backend, struct team *team,
                             uint32_t max_rows, uint32_t max_seqs, struct attention_step **out)
{
    struct attention_step *s = calloc(1, sizeof *s);
    if (s == NULL)
        return ST_NO_MEMORY;
    *s = describe(config, backend, team_threads(team), max_rows, max_seqs);
    s->team = team;
    s->memory = aligned_alloc(64, lay_out(s, NULL));
    if (s->memory == NULL) {
        attention_step_destroy(&s);
        return ST_NO_MEMORY;
    }
    (void)lay_out(s, s->memory);
    *out = s;
    return ST_OK;
}

void attention_step_destroy(struct attention_step **step)
{
    if (*step == NULL)
        return;
    free((*step)->memory);
    free(*step);
    *step = NULL;
}
