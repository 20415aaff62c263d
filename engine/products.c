#include "engine/products.h"

#define ROW_BLOCK      (8 * ACT_TILE) /* rows of an item: their activations stay in the second-level cache */
#define PANELS_MIN     4u
#define PANELS_MAX     16u
#define ITEMS_A_THREAD 8u /* so that a thread which started late still finds work */

/* How one call is cut: items are [chunk of panels][block of rows]. */
struct plan {
    const struct products *p;
    uint32_t n_lists; /* parts that are cut on their own */
    uint32_t chunk;   /* panels of an item */
    uint32_t n_blocks;
    uint32_t chunks[PRODUCTS_MAX_PARTS];
};

/* What one item computes. */
struct region {
    uint32_t part, row0, row1, panel0, panel1;
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static uint32_t make_plan(const struct products *p, uint32_t n_threads, struct plan *plan)
{
    *plan = (struct plan){ .p = p, .n_lists = p->then == PRODUCTS_SILU_MUL ? 1 : p->n_parts };
    uint32_t panels = 0;
    for (uint32_t i = 0; i < plan->n_lists; i++)
        panels += matrix_panels(p->matrix[i]);
    plan->n_blocks = ceil_div(p->in->n_rows, ROW_BLOCK);
    uint32_t chunk = ceil_div(panels * plan->n_blocks, n_threads * ITEMS_A_THREAD);
    chunk = ceil_div(chunk, PANELS_MIN) * PANELS_MIN;
    plan->chunk = min_u32(chunk, PANELS_MAX);
    uint32_t items = 0;
    for (uint32_t i = 0; i < plan->n_lists; i++) {
        plan->chunks[i] = ceil_div(matrix_panels(p->matrix[i]), plan->chunk);
        items += plan->chunks[i] * plan->n_blocks;
    }
    return items;
}

static struct region find_region(const struct plan *plan, uint32_t item)
{
    struct region g = { .row0 = item % plan->n_blocks * ROW_BLOCK };
    uint32_t chunk = item / plan->n_blocks;
    while (chunk >= plan->chunks[g.part])
        chunk -= plan->chunks[g.part++];
    g.row1 = min_u32(g.row0 + ROW_BLOCK, plan->p->in->n_rows);
    g.panel0 = chunk * plan->chunk;
    g.panel1 = min_u32(g.panel0 + plan->chunk, matrix_panels(plan->p->matrix[g.part]));
    return g;
}

static void compute(const struct products *p, uint32_t part, const struct region *g)
{
    p->backend->product(p->matrix[part], p->in, g->row0, g->row1, g->panel0, g->panel1, p->out[part],
                        p->matrix[part]->n_out);
}

static void finish(const struct products *p, const struct region *g)
{
    uint32_t n_out = p->matrix[0]->n_out;
    uint32_t first = g->panel0 * PANEL;
    uint32_t n = min_u32(g->panel1 * PANEL, n_out) - first;
    for (uint32_t r = g->row0; r < g->row1; r++) {
        size_t at = (size_t)r * n_out + first;
        if (p->then == PRODUCTS_ADD)
            p->backend->add(p->residual + at, p->out[0] + at, n);
        else
            p->backend->silu_mul(p->out[0] + at, p->out[1] + at, n);
    }
}

static void run_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct plan *plan = ctx;
    const struct products *p = plan->p;
    struct region g = find_region(plan, item);
    compute(p, g.part, &g);
    if (p->then == PRODUCTS_SILU_MUL)
        compute(p, 1, &g);
    if (p->then != PRODUCTS_KEEP)
        finish(p, &g);
}

void products_run(const struct products *p, struct team *team)
{
    struct plan plan;
    uint32_t items = make_plan(p, team_threads(team), &plan);
    team_run(team, run_item, &plan, items);
}
