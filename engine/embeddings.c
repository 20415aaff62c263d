#include "engine/embeddings.h"

void embeddings_widen(const struct embeddings *e, const uint32_t *tokens, uint32_t n, float *x)
{
    const size_t row_bytes = dtype_row_bytes(e->type, e->n_embd);
    for (uint32_t r = 0; r < n; r++)
        dtype_to_f32(e->type, e->data.host + tokens[r] * row_bytes, x + (size_t)r * e->n_embd, e->n_embd);
}
