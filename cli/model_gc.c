/* baton model gc - frees packed weights that a supervisor holds and no worker uses. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/control.h"
#include "cli/place.h"

#define MIB 1048576.0

struct gc {
    bool as_json;
    json_t *clusters; /* one answer each */
};

static void print_answer(const struct state_dir *dir, const json_t *answer)
{
    size_t i, k;
    json_t *one, *user;
    json_array_foreach(json_object_get(answer, "freed"), i, one)
    {
        printf("%s: freed %s, %.1f MiB\n", dir->cluster, json_text(one, "key"),
               (double)json_number(one, "bytes") / MIB);
    }
    json_array_foreach(json_object_get(answer, "kept"), i, one)
    {
        printf("%s: kept %s, %.1f MiB, used by", dir->cluster, json_text(one, "key"),
               (double)json_number(one, "bytes") / MIB);
        json_array_foreach(json_object_get(one, "users"), k, user)
        {
            printf(" %s", json_string_value(user));
        }
        putchar('\n');
    }
    if (!json_array_size(json_object_get(answer, "freed")) && !json_array_size(json_object_get(answer, "kept")))
        printf("%s: no packed weights are held\n", dir->cluster);
}

static status collect(struct gc *gc, const struct state_dir *dir, struct error *err)
{
    json_t *answer = NULL;
    status st = control_call(dir, "{\"op\":\"weights_gc\"}", &answer, err);
    if (st != ST_OK)
        return st;
    json_object_set_new(answer, "cluster", json_string(dir->cluster));
    if (!gc->as_json)
        print_answer(dir, answer);
    json_array_append_new(gc->clusters, answer);
    return ST_OK;
}

/* Every state folder beside the default one; those where nobody runs have nothing. */
static status collect_all(struct gc *gc, struct error *err)
{
    struct state_dir some, dir;
    status st = state_dir_resolve(NULL, NULL, &some, err);
    if (st != ST_OK)
        return st;
    *strrchr(some.path, '/') = '\0';
    DIR *folder = opendir(some.path);
    if (!folder)
        return ST_OK;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL && st == ST_OK;) {
        if (entry->d_name[0] == '.' || state_dir_resolve(NULL, entry->d_name, &dir, NULL) != ST_OK)
            continue;
        st = collect(gc, &dir, err);
        st = st == ST_NOT_FOUND ? ST_OK : st;
    }
    closedir(folder);
    return st;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct error err;
    struct gc gc = { false, NULL };
    bool all = false;
    int code;
    const struct option_row rows[] = {
        PLACE_ROWS(&place),
        { "all", 0, OPTION_FLAG, &all, "", "Of every cluster of this user that has no --state-dir of its own", 0, 0 },
        { "json", 0, OPTION_FLAG, &gc.as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (all && (place.dir || place.name))
        return command_misuse(self, "--all goes with neither --state-dir nor --name");
    if (!all && place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    gc.clusters = json_array();
    status st = all ? collect_all(&gc, &err) : collect(&gc, &dir, &err);
    if (st == ST_OK && gc.as_json) {
        json_t *page = json_pack("{s:O}", "clusters", gc.clusters);
        json_dumpf(page, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(page);
    }
    if (st == ST_OK && !gc.as_json && json_array_size(gc.clusters) == 0)
        puts("no cluster runs");
    json_decref(gc.clusters);
    return st == ST_OK ? EXIT_DONE : command_failed(self, "%s", err.text);
}

const struct command command_model_gc = { "model gc", "", "Free packed weights that no worker uses", run };
