/* profile_forms.h - the forms in which profile.h reads; nobody else includes it. */
#ifndef BATON_SIM_PROFILE_FORMS_H
#define BATON_SIM_PROFILE_FORMS_H

#include "sim/profile.h"

#define PROFILE_DEFAULT_LAYERS      80u
#define PROFILE_DEFAULT_BYTES_PER_S 25e9
#define PROFILE_DEFAULT_LATENCY_US  100.0

/* Own form and DistServe's. */
status profile_read_json(const char *text, size_t len, const char *name, const struct profile_choice *choice,
                         struct profile *p, struct error *err);
status profile_read_splitwise(const char *text, size_t len, const char *name, const struct profile_choice *choice,
                              struct profile *p, struct error *err);

/* What the published forms leave out of the models that they have: layers, KV, and the room for it in so many
 * accelerators of 80 GB, of which a tenth is left for other things and the weights are 16-bit. A model that is not
 * known keeps what p has. */
void profile_know_model(struct profile *p, const char *model, uint32_t n_accelerators);

#endif
