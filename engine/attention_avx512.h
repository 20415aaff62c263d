/* attention_avx512.h - attention with queries as lanes: a (row, head) pair is a
 * lane where scores, maxima and sums are made, so each of them is a chain of its
 * own; the products with V have the head's dimension as lanes. K and V of a
 * split are widened once and serve all rows and heads of the item. */
#ifndef BATON_ENGINE_ATTENTION_AVX512_H
#define BATON_ENGINE_ATTENTION_AVX512_H

#include "engine/attention.h"

size_t attention_avx512_scratch_bytes(uint32_t head_dim, uint32_t group);
uint32_t attention_avx512_rows(uint32_t group);
void attention_avx512(const struct attention *a, const struct attention_item *item, void *scratch);

#endif
