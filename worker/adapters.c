#include "worker/adapters.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

/* How much of a text an error repeats. */
static int shown(size_t len)
{
    return (int)(len < 100 ? len : 100);
}

/* name has len bytes; ids so far begin with "NAME@". */
static status check_name(const struct adapters *adapters, const char *name, size_t len, struct error *err)
{
    if (len == 0 || len >= INSTANCE_ADAPTER_NAME_BYTES || strspn(name, NAME_CHARACTERS) < len)
        return error_set(err, ST_INVALID,
                         "--adapters: a name has 1 to %d letters, digits, '-', '_' and '.', not \"%.*s\"",
                         INSTANCE_ADAPTER_NAME_BYTES - 1, shown(len), name);
    for (uint32_t i = 0; i < adapters->n; i++)
        if (instance_adapter_name_len(adapters->ids[i]) == len && !memcmp(adapters->ids[i], name, len))
            return error_set(err, ST_INVALID, "--adapters names \"%.*s\" twice", (int)len, name);
    return ST_OK;
}

static status open_one(struct adapters *adapters, const char *name, size_t name_len, const char *path, size_t path_len,
                       const struct model_config *config, struct error *err)
{
    char text[4096];
    status st = check_name(adapters, name, name_len, err);
    if (st != ST_OK)
        return st;
    if (adapters->n == INSTANCE_MAX_ADAPTERS)
        return error_set(err, ST_LIMIT, "--adapters names more than %d adapters", INSTANCE_MAX_ADAPTERS);
    snprintf(text, sizeof text, "%.*s", (int)path_len, path);
    struct adapter **a = &adapters->list[adapters->n];
    st = adapter_open(text, config, a, err);
    if (st != ST_OK)
        return st;
    char *id = adapters->ids[adapters->n++];
    snprintf(id, INSTANCE_ADAPTER_BYTES, "%.*s@%016" PRIx64, (int)name_len, name, (*a)->fingerprint);
    log_info("adapter", "id=%s rank=%u scale=%g path=%s", id, (*a)->rank, (double)(*a)->scale, text);
    return ST_OK;
}

/* One item of the list, of len bytes. */
static status open_item(struct adapters *adapters, const char *item, size_t len, const char *model_name,
                        const struct model_config *config, struct error *err)
{
    const char *equals = memchr(item, '=', len);
    if (!equals || equals + 1 == item + len)
        return error_set(err, ST_INVALID, "--adapters: \"%.*s\" is not [MODEL:]NAME=PATH", shown(len), item);
    const char *name = item;
    for (const char *c = item; c < equals; c++)
        name = *c == ':' ? c + 1 : name;
    const size_t model_len = name > item ? (size_t)(name - item) - 1 : 0;
    if (name > item && (strlen(model_name) != model_len || memcmp(model_name, item, model_len) != 0))
        return ST_OK;
    return open_one(adapters, name, (size_t)(equals - name), equals + 1, len - (size_t)(equals + 1 - item), config,
                    err);
}

status adapters_open(const char *list, const char *model_name, const struct model_config *config, struct adapters *out,
                     struct error *err)
{
    status st = ST_OK;
    *out = (struct adapters){ .n = 0 };
    while (st == ST_OK && *list) {
        size_t len = strcspn(list, ",");
        if (len > 0)
            st = open_item(out, list, len, model_name, config, err);
        list += len + (list[len] == ',');
    }
    if (st != ST_OK)
        adapters_close(out);
    return st;
}

void adapters_close(struct adapters *adapters)
{
    for (uint32_t i = 0; i < adapters->n; i++)
        adapter_close(&adapters->list[i]);
    *adapters = (struct adapters){ .n = 0 };
}

bool adapters_find(const struct adapters *adapters, const char *id, uint32_t *place)
{
    *place = 0;
    for (uint32_t i = 0; i < adapters->n && *place == 0; i++)
        if (!strcmp(adapters->ids[i], id))
            *place = i + 1;
    return *place != 0 || !id[0];
}

void adapters_describe(const struct adapters *adapters, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < adapters->n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? "," : "", adapters->ids[i]);
}
