#include "cli/baseline.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/state_dir.h"

#define FOLDER_MODE 0755

status baseline_check_name(const char *name, struct error *err)
{
    size_t len = 0;
    while (isalnum((unsigned char)name[len]) || (name[len] && strchr("._-", name[len])))
        len++;
    if (name[len] || len == 0 || len > BASELINE_MAX_NAME || name[0] == '.')
        return error_set(
            err, ST_INVALID,
            "\"%.80s\" is no name of a baseline; it takes 1 to %u letters, digits and . _ -, and no . first", name,
            BASELINE_MAX_NAME);
    return ST_OK;
}

/* The folder, as what writes files by rename takes it. */
static status find_folder(const char *dir, struct state_dir *out, struct error *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = dir                        ? snprintf(out->path, sizeof out->path, "%s", dir)
            : state && state[0] == '/' ? snprintf(out->path, sizeof out->path, "%s/baton-baselines", state)
                                       : snprintf(out->path, sizeof out->path, "%s/.local/state/baton-baselines",
                                                  home && home[0] ? home : "/tmp");
    if (n <= 0 || (size_t)n >= sizeof out->path)
        return error_set(err, ST_INVALID, "the folder of baselines has no name, or one that is too long");
    return ST_OK;
}

static void write_file_name(const char *name, char *out, size_t size)
{
    (void)snprintf(out, size, "%s.json", name);
}

status baseline_save(const char *dir, const char *name, const char *text, size_t len, struct error *err)
{
    struct state_dir folder;
    char file[BASELINE_MAX_NAME + 8];
    status st = find_folder(dir, &folder, err);
    if (st == ST_OK)
        st = make_folders(folder.path, FOLDER_MODE, err);
    write_file_name(name, file, sizeof file);
    return st == ST_OK ? state_dir_write(&folder, file, text, len, err) : st;
}

status baseline_load(const char *dir, const char *name, const char *schema, json_t **out, struct error *err)
{
    struct state_dir folder;
    char file[BASELINE_MAX_NAME + 8], path[STATE_PATH_MAX_BYTES];
    json_error_t why;
    status st = find_folder(dir, &folder, err);
    if (st != ST_OK)
        return st;
    write_file_name(name, file, sizeof file);
    FILE *f = fopen(state_dir_path(&folder, file, path), "re");
    if (!f)
        return error_set(err, ST_NOT_FOUND, "there is no baseline \"%s\": %s: %s", name, path, strerror(errno));
    json_t *root = json_loadf(f, 0, &why);
    (void)fclose(f);
    const char *found = json_string_value(json_object_get(root, "schema"));
    if (found && !strcmp(found, schema)) {
        *out = root;
        return ST_OK;
    }
    if (!root)
        return error_set(err, ST_INVALID, "%s: %s (line %d)", path, why.text, why.line);
    json_decref(root);
    return error_set(err, ST_INVALID, "%s: \"schema\" is not \"%s\"", path, schema);
}
