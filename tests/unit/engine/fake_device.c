#include "fake_device.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_CALLS  4096u
#define MAX_PIECES 32u

/* What is allocated: the addresses at own cannot be followed, the bytes can. */
struct piece {
    uint8_t *own, *bytes;
    size_t size;
};

static struct piece pieces[MAX_PIECES];
static int n_alive; /* streams, events and pinned memory */

/* One queued call; what it points to outside the device was copied into extra. */
struct call {
    void (*run)(struct call *c);
    uint64_t to, from;
    const void *host_in;
    void *host_out;
    float *x, *out;
    const float *y;
    float value;
    uint32_t n, rows, row0, panel0, panel1;
    unsigned rules;
    size_t bytes;
    enum kv_side side;
    void (*pairwise)(float *, const float *, uint32_t);
    struct embeddings embed;
    struct activations acts;
    struct matrix matrix;
    struct rotation rotation;
    struct kv_layout layout;
    struct kv_rows kv;
    struct attention attention;
    void *extra;
    struct fake_stream *after; /* with after_call: an event to follow */
    uint32_t after_call;
};

struct fake_stream {
    struct device_stream base;
    struct call calls[MAX_CALLS];
    uint32_t n_queued, n_done; /* calls stand at their number modulo MAX_CALLS */
    status failed;
};

struct fake_event {
    struct device_event base;
    struct fake_stream *stream; /* NULL: never recorded */
    uint32_t call;              /* reached when so many are done */
};

static _Thread_local struct fake_stream *entered;

static struct fake_stream *stream_of(struct device_stream *s)
{
    return (struct fake_stream *)(void *)s;
}

static struct fake_event *event_of(struct device_event *e)
{
    return (struct fake_event *)(void *)e;
}

static struct fake_device *device_of(struct device *d)
{
    return (struct fake_device *)(void *)d;
}

void *fake_device_bytes(uint64_t address, size_t n)
{
    for (uint32_t i = 0; i < MAX_PIECES; i++) {
        const struct piece *p = &pieces[i];
        const uint64_t begin = device_number(p->own);
        if (p->own != NULL && address >= begin && address < begin + p->size) {
            if (n > begin + p->size - address)
                fail_msg("%zu bytes at %#lx reach past their allocation", n, (unsigned long)address);
            return p->bytes + (address - begin);
        }
    }
    fail_msg("%#lx is no address of the device", (unsigned long)address);
    return NULL;
}

/* ---- queues ---------------------------------------------------------------------------------- */

static void run_until(struct fake_stream *s, uint32_t end)
{
    struct fake_device *d = device_of(s->base.device);
    while (s->n_done < end && !d->stuck) {
        struct call *c = &s->calls[s->n_done % MAX_CALLS];
        if (c->after != NULL)
            run_until(c->after, c->after_call);
        if (s->failed == ST_OK && ++d->n_done == d->fail_at)
            s->failed = ST_IO;
        if (s->failed == ST_OK && c->run != NULL)
            c->run(c);
        free(c->extra);
        s->n_done++;
    }
}

static struct call *add(struct fake_stream *s, void (*run)(struct call *))
{
    assert_non_null(s);
    assert_true(s->n_queued - s->n_done < MAX_CALLS);
    struct call *c = &s->calls[s->n_queued++ % MAX_CALLS];
    *c = (struct call){ .run = run };
    device_of(s->base.device)->n_queued++;
    return c;
}

static status say(struct fake_stream *s, struct error *err)
{
    return s->failed == ST_OK ? ST_OK : error_set(err, s->failed, "the fake device failed as it was told");
}

static status allocate(struct device *d, enum device_place place, size_t bytes, struct device_memory *out,
                       struct error *err)
{
    (void)d;
    if (bytes > (size_t)1 << 40)
        return error_set(err, ST_NO_MEMORY, "the fake device has no %zu bytes", bytes);
    if (place == DEVICE_PINNED) {
        *out = (struct device_memory){ .host = aligned_alloc(64, (bytes + 63) / 64 * 64) };
        assert_non_null(out->host);
        n_alive++;
        return ST_OK;
    }
    uint32_t i = 0;
    while (i < MAX_PIECES && pieces[i].own != NULL)
        i++;
    assert_true(i < MAX_PIECES);
    pieces[i].own = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(pieces[i].own, MAP_FAILED);
    pieces[i].size = bytes;
    pieces[i].bytes = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(pieces[i].bytes);
    memset(pieces[i].bytes, 0xff, bytes);
    *out = (struct device_memory){ .device = device_number(pieces[i].own) };
    return ST_OK;
}

static void release(struct device *d, struct device_memory *memory)
{
    (void)d;
    if (memory->host != NULL) {
        free(memory->host);
        n_alive--;
    }
    for (uint32_t i = 0; memory->device != 0 && i < MAX_PIECES; i++)
        if (device_number(pieces[i].own) == memory->device) {
            munmap(pieces[i].own, pieces[i].size);
            free(pieces[i].bytes);
            pieces[i] = (struct piece){ 0 };
        }
    *memory = (struct device_memory){ 0 };
}

static void run_copy_in(struct call *c)
{
    memcpy(fake_device_bytes(c->to, c->bytes), c->host_in, c->bytes);
}

static void run_copy_out(struct call *c)
{
    memcpy(c->host_out, fake_device_bytes(c->from, c->bytes), c->bytes);
}

static void run_copy(struct call *c)
{
    assert_true(c->to + c->bytes <= c->from || c->from + c->bytes <= c->to);
    memcpy(fake_device_bytes(c->to, c->bytes), fake_device_bytes(c->from, c->bytes), c->bytes);
}

static status copy_in(struct device_stream *s, uint64_t to, const void *from, size_t bytes, struct error *err)
{
    struct call *c = add(stream_of(s), run_copy_in);
    c->to = to;
    c->host_in = from;
    c->bytes = bytes;
    return say(stream_of(s), err);
}

static status copy_out(struct device_stream *s, void *to, uint64_t from, size_t bytes, struct error *err)
{
    struct call *c = add(stream_of(s), run_copy_out);
    c->host_out = to;
    c->from = from;
    c->bytes = bytes;
    return say(stream_of(s), err);
}

static status copy(struct device_stream *s, uint64_t to, uint64_t from, size_t bytes, struct error *err)
{
    struct call *c = add(stream_of(s), run_copy);
    c->to = to;
    c->from = from;
    c->bytes = bytes;
    return say(stream_of(s), err);
}

static status stream_create(struct device *d, struct device_stream **out, struct error *err)
{
    (void)err;
    struct fake_stream *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->base.device = d;
    n_alive++;
    *out = &s->base;
    return ST_OK;
}

static void stream_destroy(struct device_stream **stream)
{
    if (*stream == NULL)
        return;
    struct fake_stream *s = stream_of(*stream);
    for (; s->n_done < s->n_queued; s->n_done++)
        free(s->calls[s->n_done % MAX_CALLS].extra);
    if (entered == s)
        entered = NULL;
    free(s);
    n_alive--;
    *stream = NULL;
}

static void stream_enter(struct device_stream *s)
{
    entered = stream_of(s);
}

static status stream_synchronise(struct device_stream *s, uint64_t deadline_ns, struct error *err)
{
    (void)deadline_ns;
    run_until(stream_of(s), stream_of(s)->n_queued);
    if (device_of(s->device)->stuck)
        return error_set(err, ST_TIMEOUT, "the fake device is stuck as it was told");
    return say(stream_of(s), err);
}

static status event_create(struct device *d, struct device_event **out, struct error *err)
{
    (void)err;
    struct fake_event *e = calloc(1, sizeof *e);
    assert_non_null(e);
    e->base.device = d;
    n_alive++;
    *out = &e->base;
    return ST_OK;
}

static void event_destroy(struct device_event **event)
{
    n_alive -= *event != NULL;
    free(*event);
    *event = NULL;
}

static status event_record(struct device_event *event, struct device_stream *s, struct error *err)
{
    struct fake_event *e = event_of(event);
    e->stream = stream_of(s);
    e->call = e->stream->n_queued;
    return say(e->stream, err);
}

static status event_order(struct device_event *event, struct device_stream *s, struct error *err)
{
    struct call *c = add(stream_of(s), NULL);
    c->after = event_of(event)->stream;
    c->after_call = event_of(event)->call;
    return say(stream_of(s), err);
}

static status event_query(struct device_event *event, struct error *err)
{
    struct fake_event *e = event_of(event);
    if (e->stream == NULL)
        return ST_OK;
    if (e->stream->n_done < e->call)
        run_until(e->stream, e->stream->n_done + 1);
    status st = say(e->stream, err);
    return st == ST_OK && e->stream->n_done < e->call ? ST_AGAIN : st;
}

static status event_wait(struct device_event *event, uint64_t deadline_ns, struct error *err)
{
    (void)deadline_ns;
    struct fake_event *e = event_of(event);
    if (e->stream == NULL)
        return ST_OK;
    run_until(e->stream, e->call);
    if (e->stream->n_done < e->call)
        return error_set(err, ST_TIMEOUT, "the fake device is stuck as it was told");
    return say(e->stream, err);
}

static const struct device_ops ops = {
    .allocate = allocate,
    .release = release,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .copy = copy,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_enter = stream_enter,
    .stream_synchronise = stream_synchronise,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_order = event_order,
    .event_query = event_query,
    .event_wait = event_wait,
};

struct device *fake_device_open(void)
{
    struct fake_device *d = calloc(1, sizeof *d);
    assert_non_null(d);
    d->base = (struct device){ &ops, "fake" };
    return &d->base;
}

void fake_device_close(struct device **device)
{
    assert_int_equal(n_alive, 0);
    for (uint32_t i = 0; i < MAX_PIECES; i++)
        assert_null(pieces[i].own);
    free(*device);
    *device = NULL;
}

/* ---- the table --------------------------------------------------------------------------------- */

static float *values(const float *own, size_t n)
{
    return fake_device_bytes(device_number(own), n * sizeof *own);
}

static void *bytes_at(const void *own)
{
    return own == NULL ? NULL : fake_device_bytes(device_number(own), 1);
}

static struct activations followed(const struct activations *a)
{
    return (struct activations){ .n_rows = a->n_rows,
                                 .n_in = a->n_in,
                                 .f32 = bytes_at(a->f32),
                                 .q = bytes_at(a->q),
                                 .q_low = bytes_at(a->q_low),
                                 .scale = bytes_at(a->scale),
                                 .bias = bytes_at(a->bias),
                                 .bf16 = bytes_at(a->bf16) };
}

static size_t pack_bytes(const struct tensor *t, bool f32_math)
{
    (void)f32_math;
    return (t->bytes + 63) / 64 * 64;
}

static void pack_describe(const struct tensor *t, bool f32_math, uint8_t *dst, struct matrix *out)
{
    backend_reference.pack_describe(t, f32_math, dst, out);
    out->data.host = dst;
    out->panel_bytes = PANEL * dtype_row_bytes(t->type, t->shape[1]);
}

static void pack_panel(const struct tensor *t, const struct matrix *m, uint32_t panel, float *row)
{
    (void)row;
    const size_t at = panel * m->panel_bytes, left = t->bytes - at;
    memcpy(m->data.host + at, (const uint8_t *)t->data + at, left < m->panel_bytes ? left : m->panel_bytes);
}

static void *copied(const void *from, size_t bytes)
{
    void *to = malloc(bytes);
    assert_non_null(to);
    memcpy(to, from, bytes);
    return to;
}

static void run_embed(struct call *c)
{
    c->embed.data.host =
        fake_device_bytes(c->embed.data.device, c->embed.n_vocab * dtype_row_bytes(c->embed.type, c->embed.n_embd));
    backend_reference.embed(&c->embed, c->extra, c->n, values(c->x, (size_t)c->n * c->embed.n_embd));
}

static void embed(const struct embeddings *e, const uint32_t *tokens, uint32_t n, float *x)
{
    struct call *c = add(entered, run_embed);
    c->embed = *e;
    c->extra = copied(tokens, n * sizeof *tokens);
    c->n = n;
    c->x = x;
}

static void run_prepare(struct call *c)
{
    struct activations a = followed(&c->acts);
    for (uint32_t r = 0; r < c->n; r += ACT_TILE)
        backend_reference.prepare(&a, c->rules, c->row0 + r, c->n - r < ACT_TILE ? c->n - r : ACT_TILE,
                                  values(c->y, (size_t)c->n * a.n_in) + (size_t)r * a.n_in);
}

static void prepare(struct activations *a, unsigned rules, uint32_t row0, uint32_t n, const float *x)
{
    struct call *c = add(entered, run_prepare);
    assert_true(row0 == 0 && n == a->n_rows);
    c->acts = *a;
    c->rules = rules;
    c->row0 = row0;
    c->n = n;
    c->y = x;
}

static void run_product(struct call *c)
{
    struct activations a = followed(&c->acts);
    struct matrix *m = &c->matrix;
    m->data.host = fake_device_bytes(m->data.device, m->n_out * dtype_row_bytes(m->type, m->n_in));
    backend_reference.product(m, &a, c->row0, c->rows, c->panel0, c->panel1,
                              values(c->out, (c->rows - 1) * c->bytes + m->n_out), c->bytes);
}

static void product(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1, uint32_t panel0,
                    uint32_t panel1, float *out, size_t stride)
{
    struct call *c = add(entered, run_product);
    assert_true(row0 == 0 && row1 == a->n_rows && panel0 == 0 && panel1 == matrix_panels(m));
    c->matrix = *m;
    c->matrix.data.host = NULL;
    c->acts = *a;
    c->row0 = row0;
    c->rows = row1;
    c->panel0 = panel0;
    c->panel1 = panel1;
    c->out = out;
    c->bytes = stride;
}

static void run_rms_norm(struct call *c)
{
    const size_t n = (size_t)c->rows * c->n;
    backend_reference.rms_norm(values(c->x, n), values(c->y, c->n), c->value, c->rows, c->n, values(c->out, n));
}

static void rms_norm(const float *x, const float *weight, float eps, uint32_t n_rows, uint32_t width, float *out)
{
    struct call *c = add(entered, run_rms_norm);
    c->x = (float *)(uintptr_t)x;
    c->y = weight;
    c->value = eps;
    c->rows = n_rows;
    c->n = width;
    c->out = out;
}

static void run_rope(struct call *c)
{
    struct rotation *r = &c->rotation;
    const size_t angles = (r->n_rows - 1) * r->stride + r->dim;
    r->cosines = values(r->cosines, angles);
    r->sines = values(r->sines, angles);
    backend_reference.rope(values(c->x, (size_t)r->n_rows * r->n_heads * r->head_dim), r);
}

static void rope(float *x, const struct rotation *r)
{
    struct call *c = add(entered, run_rope);
    c->x = x;
    c->rotation = *r;
}

static void run_scale(struct call *c)
{
    backend_reference.scale(values(c->x, c->n), c->value, c->n);
}

static void scale(float *x, float factor, uint32_t n)
{
    struct call *c = add(entered, run_scale);
    c->x = x;
    c->value = factor;
    c->n = n;
}

static void run_soft_cap(struct call *c)
{
    backend_reference.soft_cap(values(c->x, c->n), c->value, c->n);
}

static void soft_cap(float *x, float cap, uint32_t n)
{
    struct call *c = add(entered, run_soft_cap);
    c->x = x;
    c->value = cap;
    c->n = n;
}

static void run_pairwise(struct call *c)
{
    c->pairwise(values(c->x, c->n), values(c->y, c->n), c->n);
}

static void pairwise(void (*operation)(float *, const float *, uint32_t), float *x, const float *y, uint32_t n)
{
    struct call *c = add(entered, run_pairwise);
    c->pairwise = operation;
    c->x = x;
    c->y = y;
    c->n = n;
}

static void add_values(float *x, const float *y, uint32_t n)
{
    pairwise(backend_reference.add, x, y, n);
}

static void silu_mul(float *gate, const float *up, uint32_t n)
{
    pairwise(backend_reference.silu_mul, gate, up, n);
}

static void gelu_mul(float *gate, const float *up, uint32_t n)
{
    pairwise(backend_reference.gelu_mul, gate, up, n);
}

static void run_add_to_rows(struct call *c)
{
    backend_reference.add_to_rows(values(c->x, (size_t)c->rows * c->n), values(c->y, c->n), c->rows, c->n);
}

static void add_to_rows(float *x, const float *y, uint32_t n_rows, uint32_t width)
{
    struct call *c = add(entered, run_add_to_rows);
    c->x = x;
    c->y = y;
    c->rows = n_rows;
    c->n = width;
}

static void run_kv_store(struct call *c)
{
    c->kv.kv = &c->layout;
    c->kv.places = c->extra;
    c->kv.pool.host = fake_device_bytes(c->kv.pool.device, 1);
    backend_reference.kv_store(&c->kv, c->side,
                               values(c->y, (size_t)c->kv.n_rows * c->layout.n_kv_heads * c->layout.head_dim));
}

static void kv_store(const struct kv_rows *rows, enum kv_side side, const float *x)
{
    struct call *c = add(entered, run_kv_store);
    assert_null(rows->pool.host);
    c->kv = *rows;
    c->layout = *rows->kv;
    c->extra = copied(rows->places, rows->n_rows * sizeof *rows->places);
    c->side = side;
    c->y = x;
}

static void run_attend(struct call *c)
{
    struct attention *a = &c->attention;
    const struct attention_item *items = c->extra;
    a->kv = &c->layout;
    a->pool.host = fake_device_bytes(a->pool.device, 1);
    a->q = bytes_at(a->q);
    a->out = bytes_at(a->out);
    backend_reference.attend(a, items, c->n, bytes_at(c->x));
}

/* The items, and behind them the blocks of each. */
static void attend(const struct attention *a, const struct attention_item *items, uint32_t n_items, void *scratch)
{
    struct call *c = add(entered, run_attend);
    size_t n_blocks = 0;
    for (uint32_t i = 0; i < n_items; i++)
        n_blocks += (items[i].first_pos + items[i].n_rows - 1) / a->kv->block_tokens + 1;
    struct attention_item *kept = malloc(n_items * sizeof *kept + n_blocks * sizeof(uint32_t));
    assert_non_null(kept);
    uint32_t *blocks = (uint32_t *)(kept + n_items);
    for (uint32_t i = 0; i < n_items; i++) {
        const uint32_t n = (items[i].first_pos + items[i].n_rows - 1) / a->kv->block_tokens + 1;
        kept[i] = items[i];
        kept[i].blocks = blocks;
        memcpy(blocks, items[i].blocks, n * sizeof *blocks);
        blocks += n;
    }
    c->attention = *a;
    c->layout = *a->kv;
    c->extra = kept;
    c->n = n_items;
    c->x = scratch;
}

struct backend fake_backend(struct device *device)
{
    return (struct backend){
        .name = "fake",
        .device = device,
        .whole = true,
        .pack_bytes = pack_bytes,
        .pack_describe = pack_describe,
        .pack_panel = pack_panel,
        .embed = embed,
        .prepare = prepare,
        .product = product,
        .rms_norm = rms_norm,
        .rope = rope,
        .scale = scale,
        .add = add_values,
        .add_to_rows = add_to_rows,
        .silu_mul = silu_mul,
        .gelu_mul = gelu_mul,
        .soft_cap = soft_cap,
        .kv_store = kv_store,
        .attend_scratch_bytes = backend_reference.attend_scratch_bytes,
        .attend_rows = backend_reference.attend_rows,
        .attend = attend,
    };
}
