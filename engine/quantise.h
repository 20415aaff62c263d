/* quantise.h - rows of float32 to the number formats of ggml that files are written in. Pure.
 * Q8_0, Q4_0, Q5_0: the bits of Python gguf's quantize, which are those of ggml's reference.
 * Q4_K, Q6_K: for each group scale and minimum by weighted least squares over several roundings, the better the
 * larger values are met; then the integer factors of the super-block that lose least with its rounded scales. */
#ifndef BATON_ENGINE_QUANTISE_H
#define BATON_ENGINE_QUANTISE_H

#include <stdbool.h>

#include "engine/quantised.h"

#define QUANTISE_MAX 65504.0f /* the greatest float16: no scale is larger than a value */

/* F32, F16, BF16 and the formats above. */
bool quantise_writes(enum dtype type);
/* n values, a multiple of the block, to dtype_row_bytes() bytes. False, with out unspecified, when a value is no number
 * or beyond QUANTISE_MAX (F32 and BF16 take every value). */
MUST_CHECK bool quantise_row(enum dtype type, const float *x, size_t n, void *out);

/* One super-block of 256 values within the limits. */
void quantise_q4_k(const float *x, uint8_t *block);
void quantise_q6_k(const float *x, uint8_t *block);

#endif
