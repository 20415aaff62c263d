#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "engine/cores.h"
#include "engine/forward.h"

struct engine {
    const struct backend *backend;
    struct cores cores;  /* of the team; none when the kernel places its threads */
    struct backend made; /* for the class; backend may point to it */
    struct team *team;
    struct weights *weights;
    struct forward *forward;
    struct model_config config;
};

static const char *const isa_words[] = {
#define X(name, text) text,
    ENGINE_ISAS(X)
#undef X
};

static const char *const class_words[] = {
#define X(name, text) text,
    CONTRACT_CLASSES(X)
#undef X
};

/* n when it is none of them. */
static size_t find_word(const char *word, const char *const *words, size_t n)
{
    size_t i = 0;
    while (i < n && strcmp(word, words[i]) != 0)
        i++;
    return i;
}

bool engine_isa_parse(const char *word, enum engine_isa *out)
{
    const size_t n = sizeof isa_words / sizeof *isa_words;
    size_t i = find_word(word, isa_words, n);
    if (i < n)
        *out = (enum engine_isa)i;
    return i < n;
}

bool engine_class_parse(const char *word, enum contract_class *out)
{
    const size_t n = sizeof class_words / sizeof *class_words;
    size_t i = find_word(word, class_words, n);
    if (i < n)
        *out = (enum contract_class)i;
    return i < n;
}

const char *engine_class_name(enum contract_class class)
{
    return class_words[class];
}

status engine_isa_check(enum engine_isa isa, enum contract_class class, struct error *err)
{
    const bool only_tiles = class == CLASS_AMX && isa == ENGINE_AUTO;
    const char *missing = backend_avx2_missing();
    if (missing != NULL)
        return error_set(err, ST_UNSUPPORTED, "this processor lacks %s, which every build needs", missing);
    if (class == CLASS_AMX && (isa == ENGINE_AVX2 || isa == ENGINE_AVX512))
        return error_set(err, ST_UNSUPPORTED, "the %s kernels make class portable only, not amx: reference and amx do",
                         isa_words[isa]);
    missing = isa == ENGINE_AVX512              ? backend_avx512_missing()
              : isa == ENGINE_AMX || only_tiles ? backend_amx_missing(class)
                                                : NULL;
    if (missing != NULL && only_tiles)
        return error_set(
            err, ST_UNSUPPORTED,
            "this processor lacks %s, which class amx needs: take class portable, or the reference kernels, "
            "which make it slowly",
            missing);
    if (missing != NULL)
        return error_set(err, ST_UNSUPPORTED, "this processor lacks %s, which the %s kernels need", missing,
                         isa_words[isa]);
    return ST_OK;
}

/* With AVX2 at least. */
const struct backend *engine_backend(enum engine_isa isa, enum contract_class class, struct backend *made)
{
    if (isa == ENGINE_REFERENCE) {
        *made = reference_backend(class);
        return made;
    }
    if (isa == ENGINE_AMX || (isa == ENGINE_AUTO && backend_amx_missing(class) == NULL)) {
        *made = amx_backend(class);
        return made;
    }
    return isa == ENGINE_AVX2 || backend_avx512_missing() != NULL ? &backend_avx2 : &backend_avx512;
}

static status check_options(const struct engine_options *o, const struct model_config *c, struct error *err)
{
    const enum dtype type = o->kv.type;
    if (type != DTYPE_F32 && type != DTYPE_F16 && type != DTYPE_BF16 && type != DTYPE_INT8)
        return error_set(err, ST_INVALID, "the KV cache must be F32, F16, BF16 or INT8, not %s", dtype_name(type));
    if (o->kv.n_layers != c->n_layers || o->kv.n_kv_heads != c->n_kv_heads || o->kv.head_dim != c->head_dim)
        return error_set(err, ST_INVALID, "the KV layout is of another model");
    if (o->kv.block_tokens == 0 || o->kv_pool.host == NULL || o->kv_blocks == 0 || (uintptr_t)o->kv_pool.host % 64 != 0)
        return error_set(err, ST_INVALID, "the KV pool must have blocks and be aligned to 64 bytes");
    if (o->f32_math && o->class != CLASS_PORTABLE)
        return error_set(err, ST_INVALID, "f32_math is arithmetic of its own: it goes with class portable, not %s",
                         class_words[o->class]);
    if (o->max_rows == 0 || o->max_seqs == 0)
        return error_set(err, ST_INVALID, "max_rows and max_seqs must be at least 1");
    return ST_OK;
}

/* model: NULL for weights that are of none. */
static status create(const struct model_config *config, const struct model_weights *source, const struct model *model,
                     const struct engine_options *options, struct engine **out, struct error *err)
{
    status st = engine_isa_check(options->isa, options->class, err);
    if (st == ST_OK)
        st = check_options(options, config, err);
    if (st != ST_OK)
        return st;
    struct engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the engine");
    e->config = *config;
    e->backend = engine_backend(options->isa, options->class, &e->made);
    if (options->pin_threads)
        (void)cores_claim(options->n_threads, &e->cores);
    st = team_create(options->n_threads, e->cores.processors, &e->team, err);
    if (st == ST_OK)
        st = weights_create(
            &(struct weights_options){
                .config = &e->config,
                .source = source,
                .model = model,
                .backend = e->backend,
                .class = options->class,
                .f32_math = options->f32_math,
                .team = e->team,
                .store = model == NULL ? NULL : options->weights_store,
            },
            &e->weights, err);
    if (st == ST_OK)
        st = forward_create(&e->config, e->weights, e->backend, e->team, options, &e->forward, err);
    if (st != ST_OK) {
        engine_destroy(&e);
        return st;
    }
    *out = e;
    return ST_OK;
}

status engine_create_from(const struct model_config *config, const struct model_weights *weights,
                          const struct engine_options *options, struct engine **out, struct error *err)
{
    return create(config, weights, NULL, options, out, err);
}

status engine_create(const struct engine_options *options, struct engine **out, struct error *err)
{
    const struct model_weights *weights = model_weights(options->model);
    if (weights == NULL)
        return error_set(err, ST_INVALID, "the model was opened without its weights");
    return create(model_config(options->model), weights, options->model, options, out, err);
}

void engine_destroy(struct engine **engine)
{
    struct engine *e = *engine;
    if (e == NULL)
        return;
    forward_destroy(&e->forward);
    weights_destroy(&e->weights);
    team_destroy(&e->team);
    cores_release(&e->cores);
    free(e);
    *engine = NULL;
}

struct engine_weights engine_weights(const struct engine *engine)
{
    const struct weights *w = engine->weights;
    return (struct engine_weights){ w->image.content_bytes, w->image.pages, w->shared, w->packed_here };
}

bool engine_is_pinned(const struct engine *engine)
{
    return engine->cores.n > 0;
}

const char *engine_isa_name(const struct engine *engine)
{
    return engine->backend->name;
}

void engine_enter(struct engine *engine)
{
    team_enter(engine->team);
}

void engine_run(struct engine *engine, struct step *step)
{
    struct error err;
    if (forward_run(engine->forward, step, &err) != ST_OK) {
        log_error("the device failed, and this process ends", "error=\"%s\"", err.text);
        abort();
    }
}

struct engine_times engine_times(const struct engine *engine)
{
    return forward_times(engine->forward);
}

uint64_t engine_progress(const struct engine *engine)
{
    return team_progress(engine->team);
}
