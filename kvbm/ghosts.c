#include "kvbm/eviction_internal.h"

#include <stdlib.h>

#define FREE_CELL UINT32_MAX

/* Spreads the hash once more: whoever makes hashes may have used their bits for a table already. */
static uint32_t home_of(const struct ghosts *g, uint64_t hash)
{
    hash = (hash ^ (hash >> 31)) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)((hash >> 32) * g->n_cells >> 32);
}

status ghosts_create(struct ghosts *g, uint32_t limit)
{
    g->limit = limit ? limit : 1;
    g->n_cells = 2 * g->limit;
    g->hashes = calloc(g->limit, sizeof *g->hashes);
    g->cells = malloc(g->n_cells * sizeof *g->cells);
    if (!g->hashes || !g->cells)
        return ST_NO_MEMORY;
    for (uint32_t i = 0; i < g->n_cells; i++)
        g->cells[i] = FREE_CELL;
    return ST_OK;
}

void ghosts_free(struct ghosts *g)
{
    free(g->hashes);
    free(g->cells);
}

static uint32_t after(const struct ghosts *g, uint32_t cell)
{
    return cell + 1 == g->n_cells ? 0 : cell + 1;
}

/* The cell of the hash, or the free one where it would be. */
static uint32_t cell_of(const struct ghosts *g, uint64_t hash)
{
    uint32_t cell = home_of(g, hash);
    while (g->cells[cell] != FREE_CELL && g->hashes[g->cells[cell]] != hash)
        cell = after(g, cell);
    return cell;
}

/* How far a cell lies behind another, around the end. */
static uint32_t distance(const struct ghosts *g, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + g->n_cells - from;
}

/* What stands behind the hole and belongs before it moves up, so that no search ends too early. */
static void empty_cell(struct ghosts *g, uint32_t hole)
{
    for (uint32_t cell = after(g, hole); g->cells[cell] != FREE_CELL; cell = after(g, cell)) {
        uint32_t home = home_of(g, g->hashes[g->cells[cell]]);
        if (distance(g, home, cell) < distance(g, hole, cell))
            continue;
        g->cells[hole] = g->cells[cell];
        hole = cell;
    }
    g->cells[hole] = FREE_CELL;
}

bool ghosts_take(struct ghosts *g, uint64_t hash)
{
    uint32_t cell = cell_of(g, hash);
    if (g->cells[cell] == FREE_CELL)
        return false;
    empty_cell(g, cell);
    return true;
}

void ghosts_add(struct ghosts *g, uint64_t hash)
{
    (void)ghosts_take(g, hash);
    uint32_t oldest = cell_of(g, g->hashes[g->next]); /* of this place, unless it was taken or was never filled */
    if (g->cells[oldest] == g->next)
        empty_cell(g, oldest);
    g->hashes[g->next] = hash;
    g->cells[cell_of(g, hash)] = g->next;
    g->next = g->next + 1 == g->limit ? 0 : g->next + 1;
}
