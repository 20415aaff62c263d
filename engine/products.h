/* products.h - divides linear layers over the team: outputs by panels, rows by
 * blocks, never the sum over k. A whole backend gets each list's part as one item, in the list's order. */
#ifndef BATON_ENGINE_PRODUCTS_H
#define BATON_ENGINE_PRODUCTS_H

#include "engine/backend.h"
#include "engine/team.h"

#define PRODUCTS_MAX_PARTS 3u

enum products_then {
    PRODUCTS_KEEP,     /* each part's outputs stay in its out                        */
    PRODUCTS_ADD,      /* one part: residual += out                                   */
    PRODUCTS_SILU_MUL, /* two parts of one shape: out[0] = silu(out[0]) * out[1]      */
    PRODUCTS_GELU_MUL, /* likewise with gelu                                          */
};

/* Several matrices over the same rows: part i writes out[i], [n_rows][n_out]. */
struct products {
    const struct backend *backend;
    const struct activations *in;
    uint32_t n_parts;
    const struct matrix *matrix[PRODUCTS_MAX_PARTS];
    float *out[PRODUCTS_MAX_PARTS];
    enum products_then then;
    float *residual; /* [n_rows][n_out] */

    /* How it is cut, which products_run() fills in: items are [chunk of panels][block of rows]. */
    uint32_t n_lists; /* parts that are cut on their own */
    uint32_t n_panels, n_blocks, n_threads;
    uint32_t block_rows;
    uint32_t first_item;
};

/* All of them at once: none reads what another one writes. Those without rows are passed over. */
void products_run(struct products *list, uint32_t n, struct team *team);
/* What p->then does, alone, for rows [row0, row1): after a run with PRODUCTS_KEEP. */
void products_finish(const struct products *p, uint32_t row0, uint32_t row1);

#endif
