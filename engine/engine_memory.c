#include "engine/engine_memory.h"

#include "engine/backend.h"
#include "engine/forward.h"

/* A stack of matrices is packed one by one. */
static uint64_t matrix_bytes(const struct tensor *t, const struct backend *backend, bool f32_math)
{
    struct tensor one = *t;
    uint64_t n = 1;
    while (one.n_dims > 2) {
        n *= one.shape[0];
        for (uint32_t i = 1; i < one.n_dims; i++)
            one.shape[i - 1] = one.shape[i];
        one.n_dims--;
    }
    one.bytes = t->bytes / n;
    return n * backend->pack_bytes(&one, f32_math);
}

/* Of what the experts take the part that a token leaves alone. */
static uint64_t unused_experts(const struct model_config *c, const struct model_weights *w,
                               const struct backend *backend, bool f32_math)
{
    uint64_t bytes = 0;
    for (uint32_t l = 0; l < c->n_layers; l++)
        for (uint32_t e = 0; w->layers[l].experts != NULL && e < c->n_experts; e++) {
            const struct model_expert *expert = &w->layers[l].experts[e];
            const struct tensor *const matrices[] = { expert->gate, expert->up, expert->down };
            for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
                const uint64_t packed = backend->pack_bytes(matrices[i], f32_math);
                bytes += packed > 0 ? packed : matrices[i]->bytes;
            }
        }
    return c->n_experts > 0 ? bytes / c->n_experts * (c->n_experts - c->n_experts_used) : 0;
}

void engine_memory(const struct model *model, const struct engine_options *options, struct engine_memory *out)
{
    struct backend made;
    const struct backend *backend = engine_backend(options->isa, options->class, &made);
    const struct model_weights *w = model_weights(model);
    struct engine_memory m = { .isa = backend->name };
    uint64_t in_place = dtype_row_bytes(w->embed->type, w->embed->shape[1]);
    for (uint64_t i = 0; i < model_tensor_count(model); i++) {
        const struct tensor *t = model_tensor_at(model, i);
        const bool multiplied = t->n_dims > 1 && (t != w->embed || t == w->head);
        const uint64_t packed = multiplied ? matrix_bytes(t, backend, options->f32_math) : 0;
        m.weight_bytes += t->n_dims == 1 ? t->shape[0] * sizeof(float) : packed;
        in_place += multiplied && packed == 0 ? t->bytes : 0;
    }
    m.read_bytes = m.weight_bytes + in_place - unused_experts(model_config(model), w, backend, options->f32_math);
    m.scratch_bytes =
        forward_scratch_bytes(model_config(model), backend, options->n_threads, options->max_rows, options->max_seqs);
    *out = m;
}
