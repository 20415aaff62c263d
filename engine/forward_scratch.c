#include "engine/forward_scratch.h"

#include <stdlib.h>

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Scratch is two allocations, the backend's own and the host's; the first pass of carve() measures, the second hands
 * out. */
struct carver {
    uint8_t *base;
    size_t used;
};

static void *carve(struct carver *c, size_t bytes)
{
    void *p = c->base == NULL ? NULL : c->base + c->used;
    c->used += (bytes + 63) / 64 * 64;
    return p;
}

static float *carve_f32(struct carver *c, size_t a, size_t b)
{
    return carve(c, a * b * sizeof(float));
}

static void carve_activations(struct activations *acts, size_t rows, size_t widest, size_t low_values, struct carver *c)
{
    const size_t values = rows * widest;
    acts->f32 = carve_f32(c, values, 1);
    acts->q = carve(c, values);
    acts->q_low = carve(c, low_values);
    acts->scale = carve_f32(c, values / CONTRACT_GROUP, 2);
    acts->bias = carve(c, values / CONTRACT_GROUP * ACT_BIASES * sizeof *acts->bias);
    acts->bf16 = carve(c, rows * act_bf16_stride(widest) * sizeof *acts->bf16);
}

struct carvers {
    struct carver own, host;
};

/* Where the host keeps a copy of a buffer: nowhere, when it is the host's already. */
static float *carve_copy(const struct forward *f, struct carvers *c, float *own, size_t a, size_t b)
{
    return f->backend->device == NULL ? own : carve_f32(&c->host, a, b);
}

static void carve_host(struct forward *f, struct carvers *c, size_t rows)
{
    const struct model_config *m = f->config;
    const size_t angles = (size_t)f->n_ropes * f->n_rotated;
    f->inv_freq = carve(&c->host, angles / 2 * sizeof *f->inv_freq);
    f->places = carve(&c->host, rows * sizeof *f->places);
    f->tokens = carve(&c->host, rows * sizeof *f->tokens);
    f->host_cosines = carve_copy(f, c, f->cosines, rows, angles);
    f->host_sines = carve_copy(f, c, f->sines, rows, angles);
    f->host_logits = carve_copy(f, c, f->logits, min_u32(LOGIT_ROWS, (uint32_t)rows), m->n_vocab);
}

static void carve_scratch(struct forward *f, struct carvers *c, size_t rows)
{
    const struct model_config *m = f->config;
    struct carver *own = &c->own;
    size_t n_q = (size_t)m->n_heads * m->head_dim;
    size_t n_kv = (size_t)m->n_kv_heads * m->head_dim;
    size_t widest = max_u32(max_u32(m->n_embd, m->n_ffn), (uint32_t)n_q);
    f->x = carve_f32(own, rows, m->n_embd);
    f->y = carve_f32(own, rows, m->n_embd);
    f->cosines = carve_f32(own, rows, (size_t)f->n_ropes * f->n_rotated);
    f->sines = carve_f32(own, rows, (size_t)f->n_ropes * f->n_rotated);
    f->q = carve_f32(own, rows, n_q);
    f->attended = carve_f32(own, rows, n_q);
    f->k = carve_f32(own, rows, n_kv);
    f->v = carve_f32(own, rows, n_kv);
    f->gate = carve_f32(own, rows, m->n_ffn);
    f->up = carve_f32(own, rows, m->n_ffn);
    f->logits = carve_f32(own, min_u32(LOGIT_ROWS, (uint32_t)rows), m->n_vocab);
    carve_activations(&f->acts, rows, widest, min_u32(LOGIT_ROWS, (uint32_t)rows) * (size_t)m->n_embd, own);
    carve_host(f, c, rows);
    for (uint32_t t = 0; t < f->n_threads; t++) {
        struct desk unused, *desk = f->desks == NULL ? &unused : &f->desks[t];
        desk->vocab = carve_f32(&c->host, 2, m->n_vocab);
        if (t > 0 && f->backend->whole) /* its items come one at a time */
            continue;
        desk->rows = carve_f32(own, f->item_rows, widest);
        desk->attend = carve(own, f->backend->attend_scratch_bytes(m->head_dim, m->n_heads / m->n_kv_heads));
    }
}

static void set_sizes(struct forward *f, uint32_t max_rows)
{
    f->n_rotated = model_rotated(f->config);
    f->n_ropes = f->config->local_rope.theta > 0 ? 2 : 1;
    f->item_rows = f->backend->whole ? max_rows : ACT_TILE;
}

size_t forward_scratch_bytes(const struct model_config *config, const struct backend *backend, uint32_t n_threads,
                             uint32_t max_rows, uint32_t max_seqs)
{
    struct forward f = { .config = config, .backend = backend, .n_threads = n_threads };
    set_sizes(&f, max_rows);
    struct carvers carvers = { 0 };
    carve_scratch(&f, &carvers, max_rows);
    return carvers.own.used + carvers.host.used + attention_step_bytes(config, backend, n_threads, max_rows, max_seqs) +
           (config->n_experts > 0 ? experts_scratch_bytes(config, n_threads, max_rows) : 0);
}

status forward_scratch_take(struct forward *f, uint32_t max_rows, struct error *err)
{
    struct device *device = f->backend->device;
    struct carvers carvers = { 0 };
    set_sizes(f, max_rows);
    f->desks = calloc(f->n_threads, sizeof *f->desks);
    if (f->desks == NULL)
        return error_set(err, ST_NO_MEMORY, "out of memory for the scratch of %u threads", f->n_threads);
    carve_scratch(f, &carvers, max_rows);
    status st = device_allocate(device, DEVICE_LOCAL, carvers.own.used, &f->memory, err);
    if (st == ST_OK)
        st = device_allocate(device, DEVICE_PINNED, carvers.host.used, &f->host_memory, err);
    if (st != ST_OK)
        return st;
    carvers = (struct carvers){ { .base = device_address(device, f->memory) }, { .base = f->host_memory.host } };
    carve_scratch(f, &carvers, max_rows);
    for (uint32_t t = 0; t < f->n_threads; t++)
        attention_step_lend(f->attention, t, f->desks[t].attend);
    return ST_OK;
}

void forward_scratch_release(struct forward *f)
{
    device_release(f->backend->device, &f->memory);
    device_release(f->backend->device, &f->host_memory);
    free(f->desks);
}
