/* GET /v1/models and GET /v1/models/ID. */
#include <stdio.h>
#include <string.h>

#include "common/json_writer.h"
#include "router/api_call.h"

#define MODELS_PREFIX "/v1/models/"

#define MAX_CLASSES 16u

/* Of the decode workers of a model that are up, each once. */
static void write_classes(const struct api *api, const char *model, struct json_writer *w)
{
    const char *seen[MAX_CLASSES];
    uint32_t n = 0;
    const struct fleet_worker *worker;
    json_write_key(w, "classes");
    json_write_array(w);
    TAILQ_FOREACH(worker, fleet_workers(api->options.fleet), entry)
    {
        uint32_t i = 0;
        while (i < n && strcmp(seen[i], worker->instance.class) != 0)
            i++;
        if (i < n || n == MAX_CLASSES || !worker->is_decode || !worker->up || !worker->instance.class[0] ||
            strcmp(worker->instance.model, model) != 0)
            continue;
        seen[n++] = worker->instance.class;
        json_write_string(w, worker->instance.class);
    }
    json_write_end(w);
}

/* adapter: by id; NULL: the model itself. */
static void write_model(const struct api *api, const struct served_model *m, const struct known_adapter *adapter,
                        struct json_writer *w)
{
    char name[MODELS_MAX_NAME_BYTES + INSTANCE_ADAPTER_NAME_BYTES];
    uint32_t most = fleet_max_model_len(api->options.fleet, m->name);
    snprintf(name, sizeof name, "%s%s%.*s", m->name, adapter ? ":" : "",
             adapter ? (int)instance_adapter_name_len(adapter->id) : 0, adapter ? adapter->id : "");
    json_write_object(w);
    json_field_string(w, "id", name);
    json_field_string(w, "object", "model");
    json_field_int(w, "created", m->opened_s);
    json_field_string(w, "owned_by", "baton");
    json_field_uint(w, "max_model_len", most ? most : m->max_positions);
    write_classes(api, m->name, w);
    if (adapter)
        json_field_string(w, "parent", m->name);
    json_write_end(w);
}

/* The model, and its adapters. */
static void write_family(const struct api *api, const struct served_model *m, struct json_writer *w)
{
    const struct known_adapters *known = fleet_adapters(api->options.fleet);
    write_model(api, m, NULL, w);
    for (uint32_t i = 0; i < known->n; i++)
        if (!strcmp(known->list[i].model, m->name))
            write_model(api, m, &known->list[i], w);
}

/* "MODEL", or "MODEL:ADAPTER"; NULL: there is none. */
static const struct served_model *find_model(const struct api *api, const char *name,
                                             const struct known_adapter **adapter)
{
    const char *colon = strrchr(name, ':');
    const struct served_model *m = models_find(api->options.models, name, strlen(name));
    *adapter = NULL;
    if (m || !colon)
        return m;
    m = models_find(api->options.models, name, (size_t)(colon - name));
    if (m)
        *adapter = known_adapters_find(fleet_adapters(api->options.fleet), m->name, colon + 1, strlen(colon + 1));
    return *adapter ? m : NULL;
}

static void respond(struct api *api, struct http_exchange *x)
{
    http_respond(x, 200, "application/json", api->out.data, api->out.len);
    metric_add(metrics_series(api->options.metrics, &router_metric_table, ROUTER_REQUESTS,
                              (const char *[]){ "models", "200" }),
               1);
}

void api_list_models(struct api *api, struct http_exchange *x)
{
    struct json_writer w;
    text_buffer_clear(&api->out);
    json_writer_init(&w, &api->out);
    json_write_object(&w);
    json_field_string(&w, "object", "list");
    json_write_key(&w, "data");
    json_write_array(&w);
    for (size_t i = 0; i < models_count(api->options.models); i++)
        write_family(api, models_at(api->options.models, i), &w);
    json_write_end(&w);
    json_write_end(&w);
    respond(api, x);
}

void api_show_model(struct api *api, struct http_exchange *x)
{
    struct json_writer w;
    const char *name = http_path(x) + strlen(MODELS_PREFIX);
    const struct known_adapter *adapter;
    const struct served_model *m = find_model(api, name, &adapter);
    if (!m) {
        struct api_error err;
        (void)api_error_set(&err, API_NO_MODEL, "model", "The model '%.200s' does not exist.", name);
        api_refuse(api, x, "models", &err);
        return;
    }
    text_buffer_clear(&api->out);
    json_writer_init(&w, &api->out);
    write_model(api, m, adapter, &w);
    respond(api, x);
}
