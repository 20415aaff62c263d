/* lora.h - the adapters of an engine in its backend's layout, and what they add to the
 * outputs of linear layers: contract.h. Used by forward.c on the engine thread. */
#ifndef BATON_ENGINE_LORA_H
#define BATON_ENGINE_LORA_H

#include "engine/adapter.h"
#include "engine/products.h"
#include "engine/rows.h"

struct loras;

/* NULL in *out where n is 0. backend, team and the adapters, which fit the model, are borrowed. */
MUST_CHECK status loras_create(const struct adapter *const *adapters, uint32_t n, const struct model_config *config,
                               const struct backend *backend, struct team *team, uint32_t max_rows, struct loras **out);
void loras_destroy(struct loras **loras);

/* Finishes what products_run() did with PRODUCTS_KEEP: adds to the outputs of rows whose sequence has an adapter, then
 * does p->then for all rows. Part i of p is module first + i of the layer; p->in was prepared for rule F32, too. */
void loras_add(struct loras *loras, const struct products *p, const struct rows *rows, uint32_t layer,
               enum adapter_module first);

#endif
