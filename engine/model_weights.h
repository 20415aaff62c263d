/* model_weights.h - finds each weight of the network among a file's tensors and
 * checks its shape. */
#ifndef BATON_ENGINE_MODEL_WEIGHTS_H
#define BATON_ENGINE_MODEL_WEIGHTS_H

#include "engine/model.h"
#include "engine/model_index.h"

enum model_naming { MODEL_NAMES_GGUF, MODEL_NAMES_FOLDER };

/* Reads names and shapes only, save for tensors that must hold known values:
 * rope_freqs (few bytes), and a second copy of tied embeddings when compare_tied.
 * Any tensor that is missing, unknown or of another shape or kind is an error
 * naming file, tensor and reason. */
MUST_CHECK status model_weights_bind(const struct model_config *config, const struct model_index *index,
                                     enum model_naming naming, bool compare_tied, const char *file,
                                     struct model_weights *out, struct error *err);
/* Frees what binding took, also when it failed. */
void model_weights_release(struct model_weights *weights);

#define MODEL_TENSOR_NAME_BYTES 96

/* The name that a GGUF file has for a tensor of a folder; false for one that it leaves out, as the second copy of a
 * tied head. */
MUST_CHECK bool model_weights_gguf_name(const struct model_config *config, const struct model_weights *weights,
                                        const struct tensor *t, char out[MODEL_TENSOR_NAME_BYTES]);

#endif
