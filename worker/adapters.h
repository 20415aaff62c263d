/* adapters.h - the LoRA adapters that a worker serves beside its model, as others name them. Immutable once open. */
#ifndef BATON_WORKER_ADAPTERS_H
#define BATON_WORKER_ADAPTERS_H

#include "engine/adapter.h"
#include "proto/instance.h"

struct adapters {
    uint32_t n;
    struct adapter *list[INSTANCE_MAX_ADAPTERS];
    char ids[INSTANCE_MAX_ADAPTERS][INSTANCE_ADAPTER_BYTES]; /* "NAME@FINGERPRINT" */
};

/* list: "[MODEL:]NAME=PATH,..."; those of other models are passed over. On failure nothing is held. */
MUST_CHECK status adapters_open(const char *list, const char *model_name, const struct model_config *config,
                                struct adapters *out, struct error *err);
void adapters_close(struct adapters *adapters);

/* What the engine knows it by: its place from 1 on; 0 for an empty id. False when it is not here. */
bool adapters_find(const struct adapters *adapters, const char *id, uint32_t *place);
/* All ids with commas between them. */
void adapters_describe(const struct adapters *adapters, char *out, size_t size);

#endif
