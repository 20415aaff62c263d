/* safetensors.h - reads one file of Hugging Face's safetensors format: an 8-byte
 * length, a JSON header of that length, then the bytes of the tensors.
 * The file is mapped read-only and checked as a whole at open; a failure names
 * the file, the tensor and the reason. Thread-safe once open. */
#ifndef BATON_ENGINE_SAFETENSORS_H
#define BATON_ENGINE_SAFETENSORS_H

#include "common/status.h"
#include "engine/model_index.h"
#include "engine/model_map.h"

#define SAFETENSORS_MAX_HEADER_BYTES 100000000u /* the format's own bound */

struct safetensors;

MUST_CHECK status safetensors_open(const char *path, struct safetensors **out, struct error *err);
void safetensors_close(struct safetensors **file);

/* Its tensors by name; lives until safetensors_close. */
const struct model_index *safetensors_index(const struct safetensors *file);
/* Borrowed. */
const struct model_map *safetensors_map(const struct safetensors *file);

#endif
