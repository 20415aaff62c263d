/* experts.h - the feed-forward networks of a layer that has several, of which each row goes through a few.
 * Rows are gathered by expert; what a row gets does not depend on the rows beside it (contract.h says what it is).
 * Owned by a forward pass: one layer of one step runs at a time. */
#ifndef BATON_ENGINE_EXPERTS_H
#define BATON_ENGINE_EXPERTS_H

#include "engine/backend.h"
#include "engine/model.h"
#include "engine/team.h"
#include "engine/weights.h"

struct experts;

/* For steps of up to max_rows rows. */
MUST_CHECK status experts_create(const struct model_config *config, const struct backend *backend, struct team *team,
                                 uint32_t max_rows, struct experts **out);
void experts_destroy(struct experts **experts);
/* What experts_create takes for rows. */
size_t experts_scratch_bytes(const struct model_config *config, uint32_t n_threads, uint32_t max_rows);

/* Norms x [n_rows][n_embd], runs each row through its experts and adds the weighted sum to x. The time that products
 * took is added to *products_ns. */
void experts_run(struct experts *e, const struct layer_weights *w, float *x, uint32_t n_rows, uint64_t *products_ns);

/* The n_used largest of n logits, ascending by place, and their weights. */
void experts_choose(const float *logits, uint32_t n, uint32_t n_used, bool sum_to_one, uint32_t *chosen,
                    float *weights);
/* Sorts pairs (row, expert), n_used of them a row, by expert, rows ascending: the pairs of expert e come to the places
 * first[e] .. first[e + 1] - 1, pair i comes to places[i], and row_of[place] is its row. first holds n + 1. */
void experts_gather(const uint32_t *chosen, uint32_t n_rows, uint32_t n_used, uint32_t n, uint32_t *first,
                    uint32_t *places, uint32_t *row_of);

#endif
