/* model_gguf.h - the network's shape and the chat template out of a GGUF file. */
#ifndef BATON_ENGINE_MODEL_GGUF_H
#define BATON_ENGINE_MODEL_GGUF_H

#include "engine/gguf_files.h"
#include "engine/model.h"

/* A hyperparameter that is not understood is an error, since it may change the
 * mathematics: each one of the architecture's own keys is known or refused. */
MUST_CHECK status model_gguf_config(const struct gguf_files *files, const char *path, struct model_config *out,
                                    struct error *err);
/* *out is NULL when the file has none. */
MUST_CHECK status model_gguf_template(const struct gguf *file, const char *path, struct chat_template **out,
                                      struct error *err);

#endif
