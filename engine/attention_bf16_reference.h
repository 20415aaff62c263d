/* attention_bf16_reference.h - attention of class amx in plain C, one row and head at a time. */
#ifndef BATON_ENGINE_ATTENTION_BF16_REFERENCE_H
#define BATON_ENGINE_ATTENTION_BF16_REFERENCE_H

#include "engine/attention.h"

size_t attention_bf16_reference_scratch_bytes(uint32_t head_dim, uint32_t group);
void attention_bf16_reference(const struct attention *a, const struct attention_item *item, void *scratch);

#endif
