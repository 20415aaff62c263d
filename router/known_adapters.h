/* known_adapters.h - the adapters that decode workers serve, and served: while a model's workers
 * restart they stay known, as the model does. Loop thread only. */
#ifndef BATON_ROUTER_KNOWN_ADAPTERS_H
#define BATON_ROUTER_KNOWN_ADAPTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/instance.h"

#define KNOWN_ADAPTERS_MAX 256u /* further ones are not known */

struct known_adapter {
    char model[sizeof((struct instance *)NULL)->model];
    char id[INSTANCE_ADAPTER_BYTES]; /* "NAME@FINGERPRINT" */
};

struct known_adapters {
    uint32_t n;
    struct known_adapter list[KNOWN_ADAPTERS_MAX];
};

/* Those of a model are about to be told anew. */
void known_adapters_forget(struct known_adapters *known, const char *model);
/* All of a worker's; of two with one name the first one told counts. */
void known_adapters_add(struct known_adapters *known, const struct instance *worker);
/* NULL: no worker of this model has it. */
const struct known_adapter *known_adapters_find(const struct known_adapters *known, const char *model, const char *name,
                                                size_t len);

#endif
