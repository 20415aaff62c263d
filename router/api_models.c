/* GET /v1/models and GET /v1/models/ID. */
#include <string.h>

#include "common/json_writer.h"
#include "router/api_call.h"

#define MODELS_PREFIX "/v1/models/"

static void write_model(const struct api *api, const struct served_model *m, struct json_writer *w)
{
    uint32_t most = fleet_max_model_len(api->options.fleet, m->name);
    json_write_object(w);
    json_field_string(w, "id", m->name);
    json_field_string(w, "object", "model");
    json_field_int(w, "created", m->opened_s);
    json_field_string(w, "owned_by", "baton");
    json_field_uint(w, "max_model_len", most ? most : m->max_positions);
    json_write_end(w);
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
        write_model(api, models_at(api->options.models, i), &w);
    json_write_end(&w);
    json_write_end(&w);
    respond(api, x);
}

void api_show_model(struct api *api, struct http_exchange *x)
{
    struct json_writer w;
    const char *name = http_path(x) + strlen(MODELS_PREFIX);
    const struct served_model *m = models_find(api->options.models, name, strlen(name));
    if (!m) {
        struct api_error err;
        (void)api_error_set(&err, API_NO_MODEL, "model", "The model '%.200s' does not exist.", name);
        api_refuse(api, x, "models", &err);
        return;
    }
    text_buffer_clear(&api->out);
    json_writer_init(&w, &api->out);
    write_model(api, m, &w);
    respond(api, x);
}
