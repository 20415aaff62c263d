/* model_json.h - reads the JSON files of a model folder, and their fields with
 * errors that name file and field. */
#ifndef BATON_ENGINE_MODEL_JSON_H
#define BATON_ENGINE_MODEL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define MODEL_MAX_PATH       4096
#define MODEL_MAX_JSON_BYTES (64u << 20)

/* dir/name into buf; ST_LIMIT when it does not fit. */
MUST_CHECK status model_json_path(const char *dir, const char *name, char buf[MODEL_MAX_PATH], struct error *err);
/* An object, or an error; ST_NOT_FOUND when there is no such file. Integers that
 * do not fit in 64 bits are read as reals when real_integers. */
MUST_CHECK status model_json_read(const char *path, bool real_integers, json_t **out, struct error *err);

bool model_json_is(const json_t *value, const char *text);
/* ST_UNSUPPORTED naming the field and what it may be. */
MUST_CHECK status model_json_unsupported(const char *file, const char *field, const char *only, struct error *err);

/* Absent and null are the same: ST_INVALID when required, else *out stays. */
MUST_CHECK status model_json_count(const json_t *object, const char *file, const char *field, bool required,
                                   uint32_t *out, struct error *err);
MUST_CHECK status model_json_float(const json_t *object, const char *file, const char *field, float *out,
                                   struct error *err);
MUST_CHECK status model_json_bool(const json_t *object, const char *file, const char *field, bool *out,
                                  struct error *err);

#endif
