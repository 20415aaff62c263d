#include "router/known_adapters.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"

void known_adapters_forget(struct known_adapters *known, const char *model)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < known->n; i++)
        if (strcmp(known->list[i].model, model) != 0)
            known->list[kept++] = known->list[i];
    known->n = kept;
}

const struct known_adapter *known_adapters_find(const struct known_adapters *known, const char *model, const char *name,
                                                size_t len)
{
    for (uint32_t i = 0; i < known->n; i++) {
        const struct known_adapter *a = &known->list[i];
        if (!strcmp(a->model, model) && instance_adapter_name_len(a->id) == len && !memcmp(a->id, name, len))
            return a;
    }
    return NULL;
}

static void add_one(struct known_adapters *known, const struct instance *worker, const char *id)
{
    const struct known_adapter *old = known_adapters_find(known, worker->model, id, instance_adapter_name_len(id));
    if (old && strcmp(old->id, id) != 0)
        log_warn("workers have different adapters of one name",
                 "worker=%s adapter=%s other=%s remedy=\"give the workers of a model the same files\"", worker->id, id,
                 old->id);
    if (old)
        return;
    if (known->n == KNOWN_ADAPTERS_MAX) {
        log_warn("no room for an adapter", "worker=%s adapter=%s most=%u", worker->id, id, KNOWN_ADAPTERS_MAX);
        return;
    }
    struct known_adapter *a = &known->list[known->n++];
    snprintf(a->model, sizeof a->model, "%s", worker->model);
    snprintf(a->id, sizeof a->id, "%s", id);
}

void known_adapters_add(struct known_adapters *known, const struct instance *worker)
{
    const char *at = worker->adapters;
    char id[INSTANCE_ADAPTER_BYTES];
    while (instance_next_adapter(&at, id))
        add_one(known, worker, id);
}
