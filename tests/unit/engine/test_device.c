/* engine/device.h: what a device must do, asked of one in plain memory and of a CUDA device where there is one; and
 * the forward pass through a backend whose memory the host cannot follow.
 *
 *     unit_engine_device [filter]        "*cuda*": what needs nothing but the device */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/clock.h"
#include "engine/cuda/device.h"
#include "engine/forward.h"
#include "fake_device.h"

#define SECOND       1000000000ull
#define BLOCK_TOKENS 16u
#define N_BLOCKS     24u
#define MAX_ROWS     40u
#define MODEL        BATON_SOURCE_DIR "/models/baton-tiny"

/* ---- the operations of a device ---------------------------------------------------------------- */

static void fake_or_cuda(void **state, struct device **out)
{
    struct error err;
    if (*state == NULL) {
        *out = fake_device_open();
        return;
    }
    if (cuda_device_open(0, out, &err) != ST_OK) {
        print_message("skipped: %s\n", err.text);
        skip();
    }
    print_message("on %s\n", (*out)->name);
}

static void close_device(void **state, struct device **d)
{
    if (*state == NULL)
        fake_device_close(d);
    else
        cuda_device_close(d);
}

static void expect_ok(status st, const struct error *err)
{
    if (st != ST_OK)
        fail_msg("%s", err->text);
}

static struct device_memory take(struct device *d, enum device_place place, size_t bytes)
{
    struct error err;
    struct device_memory m = { 0 };
    expect_ok(device_allocate(d, place, bytes, &m, &err), &err);
    return m;
}

static struct device_stream *take_stream(struct device *d)
{
    struct error err;
    struct device_stream *s = NULL;
    expect_ok(d->ops->stream_create(d, &s, &err), &err);
    return s;
}

static struct device_event *take_event(struct device *d)
{
    struct error err;
    struct device_event *e = NULL;
    expect_ok(d->ops->event_create(d, &e, &err), &err);
    return e;
}

static void await_stream(struct device_stream *s)
{
    struct error err;
    expect_ok(s->device->ops->stream_synchronise(s, clock_now_ns() + 30 * SECOND, &err), &err);
}

static void test_memory(void **state)
{
    struct device *d = NULL;
    struct error err;
    fake_or_cuda(state, &d);
    struct device_memory local = take(d, DEVICE_LOCAL, 1000), pinned = take(d, DEVICE_PINNED, 1000);
    assert_null(local.host);
    assert_true(local.device != 0 && local.device % 256 == 0);
    assert_non_null(pinned.host);
    memset(pinned.host, 1, 1000);
    struct device_memory none = { 0 };
    assert_int_equal(d->ops->allocate(d, DEVICE_LOCAL, (size_t)1 << 50, &none, &err), ST_NO_MEMORY);
    assert_true(none.device == 0 && strstr(err.text, "1125899906842624 bytes") != NULL);
    device_release(d, &local);
    device_release(d, &pinned);
    assert_true(local.device == 0 && pinned.host == NULL);
    device_release(d, &local); /* nothing is there any more */
    close_device(state, &d);
}

/* There and back; on its way it moves down over itself. */
static void test_copies(void **state)
{
    enum { N = 100000 };
    struct device *d = NULL;
    fake_or_cuda(state, &d);
    struct device_memory there = take(d, DEVICE_LOCAL, N), here = take(d, DEVICE_PINNED, 2 * N);
    struct device_stream *s = take_stream(d);
    for (uint32_t i = 0; i < N; i++)
        here.host[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(d->ops->copy_in(s, there.device, here.host, N, NULL), ST_OK);
    uint8_t *own = device_address(d, there);
    device_move_down(s, own + 10, own + 10010, N - 10010);
    assert_int_equal(d->ops->copy_out(s, here.host + N, there.device, N, NULL), ST_OK);
    await_stream(s);
    uint8_t *expected = malloc(N);
    memcpy(expected, here.host, N);
    device_move_down(NULL, expected + 10, expected + 10010, N - 10010);
    assert_memory_equal(here.host + N, expected, N);
    free(expected);
    d->ops->stream_destroy(&s);
    device_release(d, &there);
    device_release(d, &here);
    close_device(state, &d);
}

/* What another stream copies follows the event, whoever is asked first. */
static void test_order(void **state)
{
    enum { N = 64 << 20, ROUNDS = 8 };
    struct device *d = NULL;
    struct error err;
    fake_or_cuda(state, &d);
    const size_t n = *state == NULL ? 4096 : N;
    struct device_memory a = take(d, DEVICE_LOCAL, n), b = take(d, DEVICE_LOCAL, n), here = take(d, DEVICE_PINNED, n);
    struct device_stream *first = take_stream(d), *second = take_stream(d);
    struct device_event *copied = take_event(d), *all = take_event(d);
    assert_int_equal(d->ops->event_query(copied, &err), ST_OK); /* stands for nothing */
    for (uint32_t round = 0; round < ROUNDS; round++) {
        memset(here.host, (int)round + 1, n);
        assert_int_equal(d->ops->copy_in(first, a.device, here.host, n, &err), ST_OK);
        assert_int_equal(d->ops->copy(first, b.device, a.device, n, &err), ST_OK);
        assert_int_equal(d->ops->event_record(copied, first, &err), ST_OK);
        assert_int_equal(d->ops->event_order(copied, second, &err), ST_OK);
        assert_int_equal(d->ops->copy_out(second, here.host, b.device, n, &err), ST_OK);
        assert_int_equal(d->ops->event_record(all, second, &err), ST_OK);
        if (round == 0)
            assert_int_equal(d->ops->event_query(all, &err), ST_AGAIN);
        expect_ok(d->ops->event_wait(all, clock_now_ns() + 30 * SECOND, &err), &err);
        assert_int_equal(d->ops->event_query(copied, &err), ST_OK);
        assert_true(here.host[0] == round + 1 && here.host[n - 1] == round + 1);
    }
    d->ops->event_destroy(&copied);
    d->ops->event_destroy(&all);
    d->ops->stream_destroy(&first);
    d->ops->stream_destroy(&second);
    device_release(d, &a);
    device_release(d, &b);
    device_release(d, &here);
    close_device(state, &d);
}

/* Waits end at their deadline, and what was waited for goes on. */
static void test_deadline(void **state)
{
    enum { N = 256 << 20, COPIES = 64 };
    struct device *d = NULL;
    struct error err;
    fake_or_cuda(state, &d);
    const size_t n = *state == NULL ? 4096 : N;
    struct device_memory a = take(d, DEVICE_LOCAL, n), b = take(d, DEVICE_LOCAL, n);
    struct device_stream *s = take_stream(d);
    struct device_event *e = take_event(d);
    if (*state == NULL)
        ((struct fake_device *)(void *)d)->stuck = true;
    for (uint32_t i = 0; i < COPIES; i++)
        assert_int_equal(d->ops->copy(s, i % 2 ? a.device : b.device, i % 2 ? b.device : a.device, n, &err), ST_OK);
    assert_int_equal(d->ops->event_record(e, s, &err), ST_OK);
    assert_int_equal(d->ops->event_wait(e, clock_now_ns(), &err), ST_TIMEOUT);
    assert_int_equal(d->ops->stream_synchronise(s, clock_now_ns(), &err), ST_TIMEOUT);
    if (*state == NULL)
        ((struct fake_device *)(void *)d)->stuck = false;
    await_stream(s);
    assert_int_equal(d->ops->event_query(e, &err), ST_OK);
    d->ops->event_destroy(&e);
    d->ops->stream_destroy(&s);
    device_release(d, &a);
    device_release(d, &b);
    close_device(state, &d);
}

/* The first error stays with its stream, and with no other. */
static void test_error_stays(void **state)
{
    struct device *d = NULL;
    struct error err, again;
    fake_or_cuda(state, &d);
    struct device_memory m = take(d, DEVICE_LOCAL, 4096), here = take(d, DEVICE_PINNED, 4096);
    struct device_stream *s = take_stream(d), *other = take_stream(d);
    if (*state == NULL)
        ((struct fake_device *)(void *)d)->fail_at = 1;
    const uint64_t nowhere = *state == NULL ? m.device : m.device + ((uint64_t)1 << 44);
    (void)d->ops->copy_in(s, nowhere, here.host, 4096, NULL);
    assert_int_equal(d->ops->stream_synchronise(s, clock_now_ns() + 30 * SECOND, &err), ST_IO);
    assert_int_equal(d->ops->copy_in(s, m.device, here.host, 4096, &again), ST_IO);
    assert_string_equal(err.text, again.text);
    assert_int_equal(d->ops->stream_synchronise(s, clock_now_ns() + 30 * SECOND, &again), ST_IO);
    assert_string_equal(err.text, again.text);
    print_message("%s\n", err.text);
    assert_int_equal(d->ops->copy_in(other, m.device, here.host, 4096, &again), ST_OK);
    await_stream(other);
    d->ops->stream_destroy(&s);
    d->ops->stream_destroy(&other);
    device_release(d, &m);
    device_release(d, &here);
    close_device(state, &d);
}

/* ---- the forward pass ---------------------------------------------------------------------------- */

struct world {
    struct device *device; /* NULL: the host */
    struct backend backend;
    struct model *model;
    struct team *team;
    struct weights *weights;
    struct forward *forward;
    struct engine_options options;
    uint32_t blocks[2][N_BLOCKS / 2];
    uint64_t hash; /* of all logits that were shown */
    uint32_t n_shown, n_layers;
    atomic_bool cancelled;
};

static void open_world(struct world *w, bool fake, enum dtype kv)
{
    struct error err;
    *w = (struct world){ .device = fake ? fake_device_open() : NULL };
    w->backend = fake ? fake_backend(w->device) : backend_reference;
    expect_ok(model_open(MODEL, MODEL_WEIGHTS | MODEL_NO_TEXT, &w->model, &err), &err);
    expect_ok(team_create(2, NULL, &w->team, &err), &err);
    const struct model_config *c = model_config(w->model);
    w->options = (struct engine_options){ .kv_blocks = N_BLOCKS, .max_rows = MAX_ROWS, .max_seqs = 2 };
    model_kv_layout(c, BLOCK_TOKENS, kv, &w->options.kv);
    const size_t bytes = N_BLOCKS * kv_block_bytes(&w->options.kv);
    w->options.kv_pool = take(w->device, DEVICE_LOCAL, bytes);
    if (!fake)
        memset(w->options.kv_pool.host, 0xff, bytes);
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        w->blocks[i % 2][i / 2] = N_BLOCKS - 1 - i;
    expect_ok(weights_create(
                  &(struct weights_options){
                      .config = c, .source = model_weights(w->model), .backend = &w->backend, .team = w->team },
                  &w->weights, &err),
              &err);
    expect_ok(forward_create(c, w->weights, &w->backend, w->team, &w->options, &w->forward, &err), &err);
}

static void close_world(struct world *w)
{
    forward_destroy(&w->forward);
    weights_destroy(&w->weights);
    team_destroy(&w->team);
    model_close(&w->model);
    device_release(w->device, &w->options.kv_pool);
    if (w->device != NULL)
        fake_device_close(&w->device);
}

static void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    struct world *w = ctx;
    (void)row;
    w->hash = XXH3_64bits_withSeed(logits, n_vocab * sizeof *logits, w->hash);
    w->n_shown++;
}

/* In order, and only when the last token's K and V are in the pool, which was NaNs. */
static void on_layer(void *ctx, uint32_t layer)
{
    struct world *w = ctx;
    const struct kv_layout *l = &w->options.kv;
    const size_t at = w->blocks[1][0] * kv_block_bytes(l) + kv_offset(l, layer, KV_V, l->n_kv_heads - 1, 4);
    const uint8_t *slot = w->device == NULL ? w->options.kv_pool.host + at
                                            : fake_device_bytes(w->options.kv_pool.device + at, kv_slot_bytes(l));
    const uint8_t unwritten[] = { 0xff, 0xff, 0xff, 0xff };
    assert_int_equal(layer, w->n_layers);
    assert_memory_not_equal(slot, unwritten, sizeof unwritten);
    w->n_layers++;
}

static struct step_seq sequence(struct world *w, uint32_t which, const uint32_t *tokens, uint32_t first, uint32_t n)
{
    return (struct step_seq){ .tokens = tokens + first,
                              .n_rows = n,
                              .first_pos = first,
                              .blocks = w->blocks[which],
                              .logits = STEP_ALL_LOGITS,
                              .on_logits = on_logits,
                              .ctx = w };
}

static void run(struct world *w, struct step_seq *seqs, uint32_t n)
{
    struct error err = { "" };
    struct step step = { .seqs = seqs, .n_seqs = n, .on_layer = on_layer, .ctx = w };
    w->n_layers = 0;
    expect_ok(forward_run(w->forward, &step, &err), &err);
    assert_int_equal(w->n_layers, model_config(w->model)->n_layers);
}

static void make_tokens(uint32_t *tokens, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (i * 2654435761u >> 7) % 250 + 3;
}

/* A prompt of which nobody sees logits beside one that is seen, rows that leave, one that is sampled, single tokens,
 * one whose gate closes, and one that is cancelled; the last sequence always begins at 0, for on_layer. */
static void run_all(struct world *w)
{
    uint32_t tokens[64];
    make_tokens(tokens, 64);
    struct step_seq seqs[2] = { sequence(w, 0, tokens, 0, 30), sequence(w, 1, tokens + 7, 0, 5) };
    seqs[0].logits = STEP_NO_LOGITS;
    run(w, seqs, 2);
    assert_true(seqs[0].done && seqs[1].done);
    seqs[0] = sequence(w, 0, tokens, 30, 9);
    seqs[1] = sequence(w, 1, tokens + 7, 0, 31); /* over what it wrote before: the same again */
    seqs[0].sampling = seqs[1].sampling = &(const struct sampling){ .seed = 7 };
    seqs[0].logits = STEP_SAMPLE;
    seqs[0].history = tokens;
    seqs[0].n_history = 39;
    run(w, seqs, 2);
    w->hash = XXH3_64bits_withSeed(&seqs[0].sampled.id, sizeof seqs[0].sampled.id, w->hash);
    for (uint32_t i = 39; i < 44; i++) {
        seqs[0] = sequence(w, 0, tokens, i, 1);
        run(w, seqs, 1);
    }
    struct layer_gate gate; /* of which nothing comes behind the first layer */
    layer_gate_init(&gate, 0);
    layer_gate_open(&gate, 1);
    seqs[0] = sequence(w, 0, tokens, 44, 3);
    seqs[0].gate = &gate;
    seqs[1] = sequence(w, 1, tokens + 7, 0, 17);
    run(w, seqs, 2);
    assert_true(!seqs[0].done && seqs[0].gate_failed && seqs[1].done);
    atomic_store(&w->cancelled, true);
    seqs[0] = sequence(w, 0, tokens, 44, 3);
    seqs[0].cancelled = &w->cancelled;
    seqs[1] = sequence(w, 1, tokens + 7, 0, 12);
    run(w, seqs, 2);
    assert_true(!seqs[0].done && seqs[1].done);
}

static void test_same_bits(void **state)
{
    (void)state;
    const enum dtype types[] = { DTYPE_BF16, DTYPE_INT8 };
    for (uint32_t i = 0; i < 2; i++) {
        struct world w;
        open_world(&w, false, types[i]);
        run_all(&w);
        const uint64_t hash = w.hash;
        const uint32_t n_shown = w.n_shown;
        close_world(&w);
        open_world(&w, true, types[i]);
        run_all(&w);
        assert_int_equal(w.n_shown, n_shown);
        assert_true(n_shown == 5 + 31 + 5 + 17 + 12 && w.hash == hash);
        close_world(&w);
    }
}

static void test_failure(void **state)
{
    (void)state;
    struct world w;
    struct error err;
    uint32_t tokens[64];
    make_tokens(tokens, 64);
    open_world(&w, true, DTYPE_BF16);
    struct fake_device *d = (struct fake_device *)(void *)w.device;
    struct step_seq seq = sequence(&w, 1, tokens, 0, 9);
    struct step step = { .seqs = &seq, .n_seqs = 1, .on_layer = on_layer, .ctx = &w };
    d->stuck = true;
    assert_int_equal(forward_run(w.forward, &step, &err), ST_TIMEOUT);
    assert_non_null(strstr(err.text, "stuck"));
    assert_true(!seq.done && w.n_shown == 0 && w.n_layers == 0);
    seq.logits = STEP_NO_LOGITS; /* the host waits for nothing but the end */
    assert_int_equal(forward_run(w.forward, &step, &err), ST_TIMEOUT);
    assert_true(!seq.done && w.n_layers == 0);
    seq.logits = STEP_ALL_LOGITS;
    d->stuck = false;
    d->fail_at = d->n_queued + 60; /* some layers later */
    assert_int_equal(forward_run(w.forward, &step, &err), ST_IO);
    assert_non_null(strstr(err.text, "as it was told"));
    assert_true(!seq.done && w.n_shown == 0 && w.n_layers < model_config(w.model)->n_layers);
    close_world(&w);
}

static void test_refused(void **state)
{
    (void)state;
    struct world w;
    struct error err;
    struct forward *forward = NULL;
    open_world(&w, true, DTYPE_BF16);
    struct engine_options options = w.options;
    options.n_adapters = 1;
    assert_int_equal(forward_create(model_config(w.model), w.weights, &w.backend, w.team, &options, &forward, &err),
                     ST_UNSUPPORTED);
    assert_non_null(strstr(err.text, "neither experts nor adapters"));
    assert_null(forward);
    close_world(&w);
}

int main(int argc, char **argv)
{
    static bool cuda = true;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_error_stays),
        { "test_memory cuda", test_memory, NULL, NULL, &cuda },
        { "test_copies cuda", test_copies, NULL, NULL, &cuda },
        { "test_order cuda", test_order, NULL, NULL, &cuda },
        { "test_deadline cuda", test_deadline, NULL, NULL, &cuda },
        { "test_error_stays cuda", test_error_stays, NULL, NULL, &cuda },
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
