/* model_defaults.h - how the makers of a model would have it sampled where a request
 * does not say: generation_config.json of a Hugging Face folder. Pure but for reading the file. */
#ifndef BATON_ENGINE_MODEL_DEFAULTS_H
#define BATON_ENGINE_MODEL_DEFAULTS_H

#include <stdint.h>

#include "common/status.h"

/* As the fields of struct sampling. */
struct model_defaults {
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    uint32_t max_tokens; /* max_new_tokens; 0: the file does not say */
};

/* What applies where neither the request nor the model says anything: nothing is changed or left out. */
#define MODEL_DEFAULTS_NEUTRAL ((struct model_defaults){ 1.0f, 1.0f, 0.0f, 1.0f, -1, 0 })

/* Neutral where the folder has no such file or the file no such field; null is the same as absent. As in
 * vLLM do_sample is not looked at. A value that the sampler would not take from a request is ST_INVALID naming file and
 * field. */
MUST_CHECK status model_defaults_read(const char *dir, struct model_defaults *out, struct error *err);

#endif
