#include "router/models.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"

struct models {
    size_t n;
    struct served_model list[MODELS_MAX];
};

/* How much of a text an error repeats, so that the reason still fits. */
static int shown(size_t len)
{
    return (int)(len < MODELS_MAX_NAME_BYTES ? len : MODELS_MAX_NAME_BYTES);
}

static status set_name(struct models *models, struct served_model *m, const char *name, size_t len, struct error *err)
{
    if (len == 0 || len >= sizeof m->name)
        return error_set(err, ST_INVALID, "--models: a model's name has 1 to %zu bytes, \"%.*s\" has %zu",
                         sizeof m->name - 1, shown(len), name, len);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return error_set(err, ST_INVALID, "--models: a model's name holds a control character");
    if (models_find(models, name, len))
        return error_set(err, ST_INVALID, "--models names \"%.*s\" twice", (int)len, name);
    memcpy(m->name, name, len);
    m->name[len] = '\0';
    return ST_OK;
}

/* An operator who misses the likeliest answers, or long ones, finds the reason here. */
static void log_served(const struct served_model *m)
{
    const struct model_defaults *d = &m->defaults, neutral = MODEL_DEFAULTS_NEUTRAL;
    log_info("model served", "model=%s vocabulary=%u positions=%u chat=%d", m->name, m->n_vocab, m->max_positions,
             m->chat_template != NULL);
    if (d->temperature != neutral.temperature || d->top_p != neutral.top_p || d->min_p != neutral.min_p ||
        d->repetition_penalty != neutral.repetition_penalty || d->top_k > 0 || d->max_tokens > 0)
        log_info("requests take defaults of the model",
                 "model=%s temperature=%g top_p=%g top_k=%d min_p=%g repetition_penalty=%g max_tokens=%u", m->name,
                 (double)d->temperature, (double)d->top_p, d->top_k, (double)d->min_p, (double)d->repetition_penalty,
                 d->max_tokens);
}

static status open_one(struct models *models, unsigned flags, const char *item, size_t len, struct error *err)
{
    char path[4096];
    if (models->n == MODELS_MAX)
        return error_set(err, ST_LIMIT, "--models names more than %d models", MODELS_MAX);
    struct served_model *m = &models->list[models->n];
    const char *equals = memchr(item, '=', len);
    const char *from = equals ? equals + 1 : item;
    size_t path_len = len - (size_t)(from - item);
    if (path_len == 0 || path_len >= sizeof path)
        return error_set(err, ST_INVALID, "--models: \"%.*s\" has no usable path ([NAME=]PATH,...)", shown(len), item);
    memcpy(path, from, path_len);
    path[path_len] = '\0';
    status st = model_open(path, flags, &m->model, err);
    if (st != ST_OK)
        return st;
    const char *own = model_name(m->model);
    st = equals ? set_name(models, m, item, (size_t)(equals - item), err) : set_name(models, m, own, strlen(own), err);
    if (st != ST_OK) {
        model_close(&m->model);
        return st;
    }
    m->tokenizer = model_tokenizer(m->model);
    m->chat_template = model_chat_template(m->model);
    m->n_vocab = model_config(m->model)->n_vocab;
    m->max_positions = model_config(m->model)->max_positions;
    m->opened_s = (int64_t)time(NULL);
    m->defaults = *model_defaults(m->model);
    models->n++;
    log_served(m);
    return ST_OK;
}

status models_open(const char *list, bool own_defaults, struct models **out, struct error *err)
{
    struct models *models = calloc(1, sizeof *models);
    if (!models)
        return error_set(err, ST_NO_MEMORY, "no memory");
    status st = ST_OK;
    while (st == ST_OK && *list) {
        size_t len = strcspn(list, ",");
        if (len > 0)
            st = open_one(models, own_defaults ? MODEL_DEFAULTS : 0, list, len, err);
        list += len + (list[len] == ',');
    }
    if (st == ST_OK && models->n == 0)
        st = error_set(err, ST_INVALID, "--models is empty: name at least one model ([NAME=]PATH)");
    if (st != ST_OK) {
        models_close(&models);
        return st;
    }
    *out = models;
    return ST_OK;
}

void models_close(struct models **models)
{
    if (!*models)
        return;
    for (size_t i = 0; i < (*models)->n; i++)
        model_close(&(*models)->list[i].model);
    free(*models);
    *models = NULL;
}

size_t models_count(const struct models *models)
{
    return models->n;
}

const struct served_model *models_at(const struct models *models, size_t i)
{
    ASSERT(i < models->n);
    return &models->list[i];
}

const struct served_model *models_find(const struct models *models, const char *name, size_t len)
{
    for (size_t i = 0; i < models->n; i++)
        if (strlen(models->list[i].name) == len && !memcmp(models->list[i].name, name, len))
            return &models->list[i];
    return NULL;
}
