#include "cli/place.h"

#include <stdio.h>
#include <time.h>

#include "cli/control.h"

status place_find(const struct place *place, struct state_dir *out, struct error *err)
{
    return state_dir_resolve(place->dir, place->name, out, err);
}

status place_status(const struct state_dir *dir, json_t **out, struct error *err)
{
    return control_call(dir, "{\"op\":\"status\"}", out, err);
}

status place_url(const struct state_dir *dir, char *out, size_t size, struct error *err)
{
    json_t *state;
    status st = place_status(dir, &state, err);
    if (st != ST_OK)
        return st;
    snprintf(out, size, "%s", json_text(state, "url"));
    json_decref(state);
    return out[0] ? ST_OK : error_set(err, ST_NOT_FOUND, "the cluster has no router yet");
}

const char *json_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

long long json_number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ ms / 1000, (long)(ms % 1000) * 1000000 }, NULL);
}
