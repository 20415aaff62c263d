/* model_keys.h - a network's shape as the metadata of a GGUF file. Pure. */
#ifndef BATON_ENGINE_MODEL_KEYS_H
#define BATON_ENGINE_MODEL_KEYS_H

#include "engine/gguf_write.h"
#include "engine/model.h"

/* general.architecture and the keys of that architecture; ST_UNSUPPORTED with what GGUF has no key for. */
MUST_CHECK status model_write_keys(const struct model_config *config, struct gguf_writer *w, struct error *err);

/* Llama 3.1's scaling stands in GGUF as the numbers [head_dim / 2] that the frequencies are divided by (the tensor
 * rope_freqs); false where the model has no such scaling. */
MUST_CHECK bool model_rope_factors(const struct model_config *config, float *out);

/* Whether the keys, read again, mean the same network. Row order of the rotary pairs and the form in which
 * frequencies are scaled may differ: the writer of the tensors answers for those. */
bool model_keys_mean(const struct model_config *config, const struct model_config *again);

#endif
