/* model_folder_rope.h - the rotary embedding that a config.json asks for, in any of the ways it has been written. */
#ifndef BATON_ENGINE_MODEL_FOLDER_ROPE_H
#define BATON_ENGINE_MODEL_FOLDER_ROPE_H

#include <jansson.h>

#include "engine/architecture.h"

/* Fills in rope and what is rotated; head_dim and max_positions are known, of which the latter may shrink. */
MUST_CHECK status model_folder_rope(const json_t *json, const char *file, const struct architecture *arch,
                                    struct model_config *c, struct error *err);

#endif
