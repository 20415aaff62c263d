#include "cli/cluster_options.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/model_store.h"

static const char *const role_names[] = {
#define X(name, text) text,
    ROLES(X)
#undef X
};

const char *role_name(enum role role)
{
    ASSERT((unsigned)role < ROLE_COUNT);
    return role_names[role];
}

enum role role_parse(const char *name)
{
    unsigned role = 0;
    while (role < ROLE_COUNT && strcmp(name, role_names[role]) != 0)
        role++;
    return (enum role)role;
}

bool role_is_worker(enum role role)
{
    return role == ROLE_PREFILL || role == ROLE_DECODE;
}

uint32_t role_most(enum role role, uint32_t *least)
{
    *least = role == ROLE_ROUTER;
    return role == ROLE_ETCD || role >= ROLE_COUNT ? 0 : role == ROLE_KVBM ? 1 : CLUSTER_MAX_REPLICAS;
}

/* As the daemons name a model: the last part of the path, a file's without its extension. */
static void name_after_path(struct cluster_model *model)
{
    struct stat info;
    const char *slash = strrchr(model->path, '/');
    snprintf(model->name, sizeof model->name, "%.127s", slash ? slash + 1 : model->path);
    char *extension = strrchr(model->name, '.');
    if (extension && extension != model->name && stat(model->path, &info) == 0 && !S_ISDIR(info.st_mode))
        *extension = '\0';
}

static status resolve_model(struct cluster_model *model, const char *text, struct error *err)
{
    char found[PATH_MAX];
    bool known = false;
    status st = model_store_resolve(text, found, sizeof found, &known, err);
    if (st != ST_OK)
        return st;
    if (strlen(found) >= sizeof model->path)
        return error_set(err, ST_LIMIT, "--model: the path %.80s... is longer than %zu bytes", found,
                         sizeof model->path - 1);
    if (strchr(found, ','))
        return error_set(err, ST_INVALID, "--model: the path %s holds a comma, which separates models", found);
    memcpy(model->path, found, strlen(found) + 1);
    if (known)
        snprintf(model->name, sizeof model->name, "%.127s", text);
    else
        name_after_path(model);
    return ST_OK;
}

static status add_model(struct cluster_options *o, char *text, struct error *err)
{
    struct cluster_model model = { 0 };
    char *equals = strchr(text, '=');
    if (o->n_models == CLUSTER_MAX_MODELS)
        return error_set(err, ST_LIMIT, "--model: at most %d models in one cluster", CLUSTER_MAX_MODELS);
    status st = resolve_model(&model, equals ? equals + 1 : text, err);
    if (st != ST_OK)
        return st;
    if (equals) {
        *equals = '\0';
        if (!text[0] || strlen(text) >= sizeof model.name)
            return error_set(err, ST_INVALID, "--model: the name before '=' is empty or too long");
        snprintf(model.name, sizeof model.name, "%s", text);
    }
    for (uint32_t i = 0; i < o->n_models; i++)
        if (!strcmp(o->models[i].name, model.name))
            return error_set(err, ST_INVALID, "--model: two models are named \"%s\"; give one another name: NAME=PATH",
                             model.name);
    o->models[o->n_models++] = model;
    return ST_OK;
}

status cluster_options_add_models(struct cluster_options *o, const char *text, struct error *err)
{
    char *copy = strdup(text), *rest = copy;
    status st = copy ? ST_OK : error_set(err, ST_NO_MEMORY, "out of memory");
    while (st == ST_OK && rest) {
        char *one = strsep(&rest, ",");
        st = *one ? add_model(o, one, err) : error_set(err, ST_INVALID, "--model: a name is empty in \"%.80s\"", text);
    }
    free(copy);
    return st;
}

static bool is_setting_role(const char *role)
{
    return !strcmp(role, "all") || !strcmp(role, "worker") || !strcmp(role, "prefill") || !strcmp(role, "decode") ||
           !strcmp(role, "router") || !strcmp(role, "kvbm");
}

status cluster_options_add_setting(struct cluster_options *o, const char *text, struct error *err)
{
    struct cluster_setting s;
    const char *dot = strchr(text, '.'), *equals = strchr(text, '=');
    if (o->n_settings == CLUSTER_MAX_SETTINGS)
        return error_set(err, ST_LIMIT, "--set may be given %d times at most", CLUSTER_MAX_SETTINGS);
    if (!dot || !equals || dot > equals || equals == dot + 1)
        return error_set(err, ST_INVALID, "--set: \"%.80s\" is not ROLE.KEY=VALUE", text);
    size_t role = (size_t)(dot - text), key = (size_t)(equals - dot - 1);
    if (role >= sizeof s.role || key >= sizeof s.key || strlen(equals + 1) >= sizeof s.value)
        return error_set(err, ST_LIMIT, "--set: \"%.80s\" is too long", text);
    snprintf(s.role, sizeof s.role, "%.*s", (int)role, text);
    snprintf(s.key, sizeof s.key, "%.*s", (int)key, dot + 1);
    snprintf(s.value, sizeof s.value, "%s", equals + 1);
    if (!is_setting_role(s.role))
        return error_set(err, ST_INVALID,
                         "--set: there is no role \"%s\"; it takes router, prefill, decode, worker, kvbm or all",
                         s.role);
    o->settings[o->n_settings++] = s;
    return ST_OK;
}

status cluster_options_set_disk(struct cluster_options *o, const char *path, struct error *err)
{
    char here[PATH_MAX] = "";
    if (path[0] != '/' && !getcwd(here, sizeof here))
        return error_set(err, ST_IO, "--kv-disk: the working folder is not known: %s", strerror(errno));
    int n = snprintf(o->kv_disk, sizeof o->kv_disk, "%s%s%s", here, here[0] ? "/" : "", path);
    return n < (int)sizeof o->kv_disk
               ? ST_OK
               : error_set(err, ST_LIMIT, "--kv-disk: the path is longer than %zu bytes", sizeof o->kv_disk - 1);
}

bool cluster_setting_is_for(const struct cluster_setting *setting, enum role role)
{
    if (role == ROLE_ETCD)
        return false;
    if (!strcmp(setting->role, "all"))
        return true;
    if (!strcmp(setting->role, "worker"))
        return role_is_worker(role);
    return !strcmp(setting->role, role_name(role));
}

static bool is_same_key(const char *a, const char *b)
{
    while (*a && (*a == '-' ? '_' : *a) == (*b == '-' ? '_' : *b)) {
        a++;
        b++;
    }
    return !*a && !*b;
}

const char *cluster_options_value(const struct cluster_options *o, enum role role, const char *key)
{
    const char *value = NULL;
    for (uint32_t i = 0; i < o->n_settings; i++)
        if (cluster_setting_is_for(&o->settings[i], role) && is_same_key(o->settings[i].key, key))
            value = o->settings[i].value; /* the last one wins, as in the daemon */
    return value;
}

void cluster_options_write(const struct cluster_options *o, struct json_writer *w)
{
    json_write_object(w);
    json_write_key(w, "models");
    json_write_object(w);
    for (uint32_t i = 0; i < o->n_models; i++)
        json_field_string(w, o->models[i].name, o->models[i].path);
    json_write_end(w);
    for (unsigned role = ROLE_ETCD + 1; role < ROLE_COUNT; role++)
        json_field_uint(w, role_name((enum role)role), o->replicas[role]);
    json_field_string(w, "transfer", o->transfer);
    json_field_string(w, "kv_disk", o->kv_disk);
    json_field_uint(w, "port", o->port);
    json_field_string(w, "etcd", o->etcd);
    json_write_key(w, "set");
    json_write_array(w);
    for (uint32_t i = 0; i < o->n_settings; i++) {
        char text[512];
        snprintf(text, sizeof text, "%s.%s=%s", o->settings[i].role, o->settings[i].key, o->settings[i].value);
        json_write_string(w, text);
    }
    json_write_end(w);
    json_write_end(w);
}

bool cluster_options_match(const struct cluster_options *o, const json_t *written)
{
    struct text_buffer text;
    struct json_writer w;
    text_buffer_init(&text, (size_t)1 << 18);
    json_writer_init(&w, &text);
    cluster_options_write(o, &w);
    json_t *own = json_loads(text_buffer_text(&text), 0, NULL);
    bool equal = own && json_equal(own, written);
    json_decref(own);
    text_buffer_free(&text);
    return equal;
}
