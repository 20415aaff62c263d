/* The models of the published profiles. */
#include <string.h>

#include "sim/profile_forms.h"

#define ACCELERATOR_BYTES 80e9
#define USABLE            0.9

struct model {
    const char *name;
    uint32_t n_layers;
    double token_bytes;  /* keys and values of all layers, 16-bit */
    double weight_bytes; /* 16-bit */
};

static const struct model models[] = {
    { "facebook/opt-13b", 40, 2.0 * 40 * 5120 * 2, 26e9 },
    { "facebook/opt-66b", 64, 2.0 * 64 * 9216 * 2, 132e9 },
    { "llama2-70b", 80, 2.0 * 80 * 1024 * 2, 138e9 },
    { "bloom-176b", 70, 2.0 * 70 * 14336 * 2, 352e9 },
};

void profile_know_model(struct profile *p, const char *model, uint32_t n_accelerators)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const struct model *m = &models[i];
        if (strcmp(m->name, model) != 0)
            continue;
        double room = USABLE * ACCELERATOR_BYTES * n_accelerators - m->weight_bytes;
        p->n_layers = m->n_layers;
        p->kv_token_bytes = m->token_bytes;
        p->kv_tokens = room > 0 ? (uint64_t)(room / m->token_bytes) : 0;
    }
}
