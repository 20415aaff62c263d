/* models.h - the models that this router serves: their names, tokenizers and
 * chat templates. Immutable after models_open: any thread may read. */
#ifndef BATON_ROUTER_MODELS_H
#define BATON_ROUTER_MODELS_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/chat_template.h"
#include "engine/model.h"
#include "engine/model_defaults.h"
#include "engine/tokenizer.h"

#define MODELS_MAX            32
#define MODELS_MAX_NAME_BYTES 128

struct served_model {
    char name[MODELS_MAX_NAME_BYTES];
    struct model *model;
    const struct tokenizer *tokenizer;
    const struct chat_template *chat_template; /* NULL: it has none */
    uint32_t n_vocab;
    uint32_t max_positions;
    int64_t opened_s;               /* seconds since 1970 */
    struct model_defaults defaults; /* of requests */
};

struct models;

/* list: "[NAME=]PATH,...", at least one; the name is the file's or folder's where none is given.
 * own_defaults: those that a model brings along; else they are neutral and its file of them is not looked at. */
MUST_CHECK status models_open(const char *list, bool own_defaults, struct models **out, struct error *err);
void models_close(struct models **models);
size_t models_count(const struct models *models);
const struct served_model *models_at(const struct models *models, size_t i);
/* NULL when no model has this name. */
const struct served_model *models_find(const struct models *models, const char *name, size_t len);

#endif
