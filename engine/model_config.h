/* model_config.h - what every model's shape must satisfy, whatever file it came
 * from, before a size is computed from it. Pure. */
#ifndef BATON_ENGINE_MODEL_CONFIG_H
#define BATON_ENGINE_MODEL_CONFIG_H

#include "engine/model.h"

#define MODEL_MAX_EMBD      (1u << 16)
#define MODEL_MAX_FFN       (1u << 18)
#define MODEL_MAX_HEADS     1024u
#define MODEL_MAX_VOCAB     (1u << 22)
#define MODEL_MAX_POSITIONS (1u << 28)

/* ST_INVALID or ST_UNSUPPORTED naming file, field and range. */
MUST_CHECK status model_config_check(const struct model_config *config, const char *file, struct error *err);

/* As general.architecture calls it. */
const char *model_arch_name(enum model_arch arch);

#endif
