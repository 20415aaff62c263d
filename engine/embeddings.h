/* embeddings.h - the table of token embeddings, in the file's own format: a row is read for each token. */
#ifndef BATON_ENGINE_EMBEDDINGS_H
#define BATON_ENGINE_EMBEDDINGS_H

#include "engine/device.h"
#include "engine/tensor.h"

struct embeddings {
    enum dtype type;
    uint32_t n_vocab, n_embd;
    struct device_memory data; /* [n_vocab] rows; host: the file's mapping */
};

/* What CPU tables do: x [n][n_embd], widened. Tokens are below n_vocab. */
void embeddings_widen(const struct embeddings *e, const uint32_t *tokens, uint32_t n, float *x);

#endif
