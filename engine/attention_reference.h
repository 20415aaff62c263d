/* attention_reference.h - attention in plain C, one row and head at a time. */
#ifndef BATON_ENGINE_ATTENTION_REFERENCE_H
#define BATON_ENGINE_ATTENTION_REFERENCE_H

#include "engine/attention.h"

/* What is read of a cache at a position, into slot [head_dim]. Returns slot. */
const float *attention_reference_slot(const struct attention *a, const struct attention_item *item, enum kv_side side,
                                      uint32_t pos, float *slot);

size_t attention_reference_scratch_bytes(uint32_t head_dim, uint32_t group);
uint32_t attention_reference_rows(uint32_t group);
void attention_reference(const struct attention *a, const struct attention_item *item, void *scratch);
void attention_reference_part(const struct attention *a, const struct attention_item *item,
                              const struct attention_part *part, void *scratch);

#endif
