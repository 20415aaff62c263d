#include "engine/products.h"

#define PANELS_MIN 4u
#define PANELS_MAX 16u /* of a chunk that several blocks of rows share, so that it stays in the second-level cache */

/* Each list's panels stand in one line; parts whose outputs are combined share theirs. Chunks shrink towards the end
 * (guided self-scheduling: Polychronopoulos and Kuck, 1987): long runs of memory first, and no thread waits long for
 * another's last item. */
struct batch {
    const struct products *list;
    uint32_t n;
};

struct chunk {
    uint32_t begin, end; /* panels in the line of all */
};

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

/* Its two parts are computed side by side. */
static bool is_gated(const struct products *p)
{
    return p->then == PRODUCTS_SILU_MUL || p->then == PRODUCTS_GELU_MUL;
}

/* The chunk that begins at this panel: half of a fair share of what is left. */
static struct chunk chunk_at(const struct products *p, uint32_t begin)
{
    uint32_t left = p->n_panels - begin;
    if (p->backend->whole)
        return (struct chunk){ begin, p->n_panels };
    uint32_t n = ceil_div(ceil_div(left * p->n_blocks, 2 * p->n_threads), PANELS_MIN) * PANELS_MIN;
    if (p->n_blocks > 1)
        n = min_u32(n, PANELS_MAX);
    return (struct chunk){ begin, begin + min_u32(n, left) };
}

/* How many items it is cut into. */
static uint32_t cut(struct products *p, uint32_t n_threads)
{
    uint32_t chunks = 0;
    p->n_lists = is_gated(p) ? 1 : p->n_parts;
    p->n_panels = 0;
    p->block_rows = p->backend->whole ? p->in->n_rows : p->backend->product_rows;
    p->n_blocks = p->in->n_rows == 0 ? 0 : ceil_div(p->in->n_rows, p->block_rows);
    p->n_threads = n_threads;
    for (uint32_t i = 0; i < p->n_lists; i++)
        p->n_panels += matrix_panels(p->matrix[i]);
    for (uint32_t at = 0; p->n_blocks > 0 && at < p->n_panels; at = chunk_at(p, at).end)
        chunks++;
    return chunks * p->n_blocks;
}

static struct chunk find_chunk(const struct products *p, uint32_t number)
{
    struct chunk c = chunk_at(p, 0);
    while (number-- > 0)
        c = chunk_at(p, c.end);
    return c;
}

/* The last one that begins at the item or before: those without rows begin where the next one does. */
static const struct products *find_products(const struct batch *batch, uint32_t item)
{
    uint32_t low = 0, high = batch->n;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        *(batch->list[middle].first_item <= item ? &low : &high) = middle;
    }
    return &batch->list[low];
}

/* Rows and panels of one part. */
struct region {
    uint32_t row0, row1, panel0, panel1;
};

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
    uint32_t step = 1;
    if (n == n_out) { /* all outputs: the rows follow one another */
        step = g->row1 - g->row0;
        n *= step;
    }
    for (uint32_t r = g->row0; r < g->row1; r += step) {
        size_t at = (size_t)r * n_out + first;
        if (p->then == PRODUCTS_ADD)
            p->backend->add(p->residual + at, p->out[0] + at, n);
        else if (p->then == PRODUCTS_GELU_MUL)
            p->backend->gelu_mul(p->out[0] + at, p->out[1] + at, n);
        else
            p->backend->silu_mul(p->out[0] + at, p->out[1] + at, n);
    }
}

static void run_part(const struct products *p, uint32_t part, const struct region *g)
{
    compute(p, part, g);
    if (is_gated(p))
        compute(p, 1, g);
    if (p->then != PRODUCTS_KEEP)
        finish(p, g);
}

void products_finish(const struct products *p, uint32_t row0, uint32_t row1)
{
    struct region g = { .row0 = row0, .row1 = row1, .panel1 = matrix_panels(p->matrix[0]) };
    if (p->then != PRODUCTS_KEEP)
        finish(p, &g);
}

static void run_item(void *ctx, uint32_t item, uint32_t thread)
{
    (void)thread;
    const struct products *p = find_products(ctx, item);
    item -= p->first_item;
    const struct chunk c = find_chunk(p, item / p->n_blocks);
    struct region g = { .row0 = item % p->n_blocks * p->block_rows };
    g.row1 = min_u32(g.row0 + p->block_rows, p->in->n_rows);
    uint32_t first = 0; /* panel of the part */
    for (uint32_t part = 0; part < p->n_lists && first < c.end; part++) {
        uint32_t next = first + matrix_panels(p->matrix[part]);
        if (next > c.begin) {
            g.panel0 = c.begin > first ? c.begin - first : 0;
            g.panel1 = min_u32(c.end, next) - first;
            run_part(p, part, &g);
        }
        first = next;
    }
}

void products_run(struct products *list, uint32_t n, struct team *team)
{
    struct batch batch = { list, n };
    uint32_t items = 0;
    for (struct products *p = list; p < list + n; p++) {
        p->first_item = items;
        items += cut(p, team_threads(team));
    }
    team_run(team, run_item, &batch, items);
}
