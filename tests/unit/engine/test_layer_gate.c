/* Gates: steps that compute behind KV which another thread brings layer by layer give the bits that they give when it
 * was there before, and one whose KV does not come harms nobody else. The pool begins as NaNs, so that a layer which
 * is read before it is there shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/layer_gate.h"
#include "tests/unit/effort.h"
#include "tests/unit/engine/toy_engine.h"

#define N_SEQS   3u
#define FIRST    32u /* positions before it come through the gate: whole blocks */
#define END      46u
#define SAMPLED  9u
#define N_BLOCKS (FIRST / BLOCK_TOKENS)
#define FAR_US   60000000u /* no test waits so long unless something is broken */

#ifdef __SANITIZE_THREAD__
#define SLOWED true
#else
#define SLOWED SANITIZED
#endif

/* ---- the gate alone ------------------------------------------------------------------------------- */

static void test_opens_and_closes(void **state)
{
    (void)state;
    struct layer_gate gate;
    layer_gate_init(&gate, 7);
    assert_int_equal(gate.deadline_us, 7);
    assert_false(layer_gate_is_open(&gate, 0) || layer_gate_is_closed(&gate));
    layer_gate_open(&gate, 2);
    layer_gate_open(&gate, 1);
    assert_true(layer_gate_is_open(&gate, 0) && layer_gate_is_open(&gate, 1));
    assert_false(layer_gate_is_open(&gate, 2));
    layer_gate_wait(&gate, 1, UINT32_MAX);
    layer_gate_wait(&gate, 2, 1);
    assert_false(layer_gate_is_open(&gate, 2) || layer_gate_is_closed(&gate));
    layer_gate_close(&gate);
    layer_gate_open(&gate, 3);
    layer_gate_close(&gate);
    assert_true(layer_gate_is_closed(&gate));
    assert_false(layer_gate_is_open(&gate, 0) || layer_gate_is_open(&gate, 2));
    layer_gate_wait(&gate, 2, UINT32_MAX);
}

/* Until the step sleeps for so many layers or more, or too long; for how many. */
static uint32_t await_sleep(struct layer_gate *gate, uint32_t layers)
{
    const uint64_t end = clock_now_us() + FAR_US / 4;
    uint32_t awaited = atomic_load(&gate->awaited);
    for (; awaited < layers && clock_now_us() < end; awaited = atomic_load(&gate->awaited))
        usleep(20);
    return awaited; /* as seen: at the end of a slice it is 0 for a moment */
}

static void *wake_late(void *arg)
{
    struct layer_gate *gate = arg;
    (void)await_sleep(gate, 3);
    layer_gate_open(gate, 1); /* of no use to who waits for the third */
    usleep(1000);
    if (gate->deadline_us == 1)
        layer_gate_open(gate, 3);
    else
        layer_gate_close(gate);
    return NULL;
}

/* A wake-up that is lost would be noticed by the test's own time limit. */
static void test_wakes(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 100; round++) {
        struct layer_gate gate;
        pthread_t thread;
        layer_gate_init(&gate, round % 2);
        assert_int_equal(pthread_create(&thread, NULL, wake_late, &gate), 0);
        while (!layer_gate_is_open(&gate, 2) && !layer_gate_is_closed(&gate))
            layer_gate_wait(&gate, 2, UINT32_MAX);
        pthread_join(thread, NULL);
        assert_int_equal(layer_gate_is_open(&gate, 2), round % 2);
        assert_int_equal(atomic_load(&gate.awaited), 0);
    }
}

/* ---- steps ---------------------------------------------------------------------------------------- */

struct scene {
    struct toy toy;
    struct bench b;
    uint32_t tokens[N_SEQS][END];
    struct hashes want[N_SEQS]; /* of each alone */
    struct sampled want_sampled;
    uint8_t *source[N_SEQS]; /* [n_layers][N_BLOCKS][bytes of a layer] */
    atomic_uint announced;   /* layers of the step under way */
};

static const struct sampling greedy = {
    .prompt_len = SAMPLED, .max_tokens = 8, .top_p = 1, .repetition_penalty = 1, .want_hash = true
};

static uint8_t *layer_of(const struct scene *s, uint32_t seq, uint32_t block, uint32_t layer)
{
    const struct kv_layout *l = &s->b.options.kv;
    return s->b.options.kv_pool.host + s->b.blocks[seq][block] * kv_block_bytes(l) + kv_offset(l, layer, KV_K, 0, 0);
}

static uint8_t *source_of(const struct scene *s, uint32_t seq, uint32_t block, uint32_t layer)
{
    return s->source[seq] + ((size_t)layer * N_BLOCKS + block) * kv_layer_bytes(&s->b.options.kv);
}

static void fill_layer(const struct scene *s, uint32_t seq, uint32_t layer)
{
    for (uint32_t i = 0; i < N_BLOCKS; i++)
        memcpy(layer_of(s, seq, i, layer), source_of(s, seq, i, layer), kv_layer_bytes(&s->b.options.kv));
}

static void on_layer(void *ctx, uint32_t layer)
{
    struct scene *s = ctx;
    atomic_store(&s->announced, layer + 1);
}

static struct step_seq rows_of(struct scene *s, uint32_t seq, uint32_t first, uint32_t end, struct sink *sink)
{
    return (struct step_seq){ .tokens = s->tokens[seq] + first,
                              .n_rows = end - first,
                              .first_pos = first,
                              .blocks = s->b.blocks[seq],
                              .logits = STEP_ALL_LOGITS,
                              .on_logits = on_logits,
                              .ctx = sink };
}

static struct step_seq sampled_rows_of(struct scene *s, uint32_t seq, uint32_t end)
{
    return (struct step_seq){ .tokens = s->tokens[seq],
                              .n_rows = end,
                              .blocks = s->b.blocks[seq],
                              .logits = STEP_SAMPLE,
                              .sampling = &greedy,
                              .history = s->tokens[seq],
                              .n_history = end };
}

static uint64_t run(struct scene *s, struct step_seq *seqs, uint32_t n)
{
    struct step step = { .seqs = seqs, .n_seqs = n, .on_layer = on_layer, .ctx = s, .gates_us = 7 };
    atomic_store(&s->announced, 0);
    engine_run(s->b.engine, &step);
    return step.gates_us;
}

/* What each sequence gives alone, and the KV of its beginning. */
static void record(struct scene *s, uint32_t seq)
{
    struct sink sink = { &s->want[seq], 0, true };
    struct step_seq rows = rows_of(s, seq, 0, END, &sink);
    assert_int_equal(run(s, &rows, 1), 0);
    assert_true(rows.done && !rows.gate_failed && sink.finite);
    s->source[seq] = malloc((size_t)s->toy.config.n_layers * N_BLOCKS * kv_layer_bytes(&s->b.options.kv));
    assert_non_null(s->source[seq]);
    for (uint32_t l = 0; l < s->toy.config.n_layers; l++)
        for (uint32_t i = 0; i < N_BLOCKS; i++)
            memcpy(source_of(s, seq, i, l), layer_of(s, seq, i, l), kv_layer_bytes(&s->b.options.kv));
}

static void forget(struct scene *s)
{
    shuffle_blocks(&s->b);
    memset(s->b.options.kv_pool.host, 0xff, POOL_BLOCKS * kv_block_bytes(&s->b.options.kv));
}

static void open_scene(struct scene *s, const struct model_config *shape, enum contract_class class,
                       enum engine_isa isa, uint32_t n_threads, enum dtype kv)
{
    *s = (struct scene){ 0 };
    toy_create(&s->toy, shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0 });
    s->toy.class = class;
    bench_create(&s->b, &s->toy, isa, n_threads, kv, false);
    for (uint32_t i = 0; i < N_SEQS; i++) {
        random_tokens(s->tokens[i], END, shape->n_vocab);
        record(s, i);
    }
    struct step_seq sampled = sampled_rows_of(s, 1, SAMPLED);
    run(s, &sampled, 1);
    s->want_sampled = sampled.sampled;
}

static void close_scene(struct scene *s)
{
    for (uint32_t i = 0; i < N_SEQS; i++)
        free(s->source[i]);
    bench_destroy(&s->b);
    toy_release(&s->toy);
}

/* Another thread, which brings the KV of a sequence's beginning. */
enum after { STAYS, CLOSES, CANCELS, CANCELS_AND_CLOSES };
struct bringer {
    struct scene *scene;
    uint32_t seq, n_layers;
    bool in_step;      /* brings a layer only when the step sleeps for it; otherwise when it likes */
    enum after after;  /* those layers */
    uint32_t delay_us; /* before each layer */
    uint32_t n_wrong;  /* times that the step slept for another layer, or had not announced its own */
    struct layer_gate gate;
    atomic_bool cancelled;
};

static void expect_sleep(struct bringer *b, uint32_t layer)
{
    const uint32_t awaited = await_sleep(&b->gate, layer + 1);
    b->n_wrong += awaited != layer + 1 || atomic_load(&b->scene->announced) != layer + 1;
}

static void *bring(void *arg)
{
    struct bringer *b = arg;
    for (uint32_t l = 0; l < b->n_layers; l++) {
        if (b->in_step)
            expect_sleep(b, l);
        usleep(b->delay_us * ((l + 1) % 3));
        fill_layer(b->scene, b->seq, l);
        layer_gate_open(&b->gate, l + 1);
    }
    if (b->after != STAYS && b->in_step)
        expect_sleep(b, b->n_layers);
    if (b->after == CANCELS || b->after == CANCELS_AND_CLOSES)
        atomic_store(&b->cancelled, true);
    if (b->after == CLOSES || b->after == CANCELS_AND_CLOSES)
        layer_gate_close(&b->gate);
    return NULL;
}

/* The gated sequence stands at `place` among the others, of which one is sampled. */
static void run_beside(struct bringer *b, uint32_t place, struct step_seq *out, struct hashes *got)
{
    struct scene *s = b->scene;
    struct hashes other = { { 0 } };
    struct sink sink = { got, FIRST, true }, other_sink = { &other, 0, true };
    struct step_seq others[2] = { sampled_rows_of(s, 1, SAMPLED), rows_of(s, 2, 0, 11, &other_sink) };
    struct step_seq seqs[N_SEQS];
    pthread_t thread;
    for (uint32_t i = 0, o = 0; i < N_SEQS; i++)
        seqs[i] = i == place ? rows_of(s, b->seq, FIRST, END, &sink) : others[o++];
    seqs[place].gate = &b->gate;
    seqs[place].cancelled = &b->cancelled;
    assert_int_equal(pthread_create(&thread, NULL, bring, b), 0);
    const uint64_t waited_us = run(s, seqs, N_SEQS);
    pthread_join(thread, NULL);
    if (b->in_step)
        assert_true(waited_us > 0);
    assert_int_equal(b->n_wrong, 0);
    assert_int_equal(atomic_load(&s->announced), s->toy.config.n_layers);
    const struct step_seq *sampled = &seqs[place == 0 ? 1 : 0], *shown = &seqs[place == 2 ? 1 : 2];
    assert_true(sampled->done && shown->done && !sampled->gate_failed && !shown->gate_failed);
    assert_memory_equal(&sampled->sampled, &s->want_sampled, sizeof s->want_sampled);
    expect_same(&s->want[2], &other, 11, "beside a gate");
    *out = seqs[place];
}

static void begin(struct bringer *b, struct scene *s, uint32_t n_layers, enum after after, uint64_t within_us)
{
    *b = (struct bringer){ .scene = s, .n_layers = n_layers, .after = after, .delay_us = random_u32() % 300 };
    b->in_step = within_us == FAR_US && random_u32() % 2;
    forget(s);
    layer_gate_init(&b->gate, clock_now_us() + within_us);
}

static void expect_rows(const struct scene *s, const struct hashes *got, const char *what)
{
    for (uint32_t i = FIRST; i < END; i++)
        if (got->of[i] != s->want[0].of[i])
            fail_msg("%s: the logits of position %u differ", what, i);
}

/* What the caller does then: all of it again, in the same blocks. */
static void compute_again(struct scene *s)
{
    struct hashes got = { { 0 } };
    struct sink sink = { &got, 0, true };
    struct step_seq rows = rows_of(s, 0, 0, END, &sink);
    assert_int_equal(run(s, &rows, 1), 0);
    assert_true(rows.done);
    expect_same(&s->want[0], &got, END, "computed again");
}

static void check_comes(struct scene *s, uint32_t place)
{
    for (uint32_t in_step = 0; in_step < 2; in_step++) {
        struct bringer b;
        struct step_seq ran;
        struct hashes got = { { 0 } };
        begin(&b, s, s->toy.config.n_layers, STAYS, FAR_US);
        b.in_step = in_step;
        run_beside(&b, place, &ran, &got);
        assert_true(ran.done && !ran.gate_failed && !layer_gate_is_closed(&b.gate));
        expect_rows(s, &got, in_step ? "each layer when it is waited for" : "layers that come when they come");
    }
}

static void check_fails(struct scene *s, uint32_t place, uint32_t n_layers, enum after after, uint64_t within_us)
{
    struct bringer b;
    struct step_seq ran;
    struct hashes got = { { 0 } };
    begin(&b, s, n_layers, after, within_us);
    run_beside(&b, place, &ran, &got);
    assert_false(ran.done);
    if (after == CANCELS_AND_CLOSES)
        assert_true(layer_gate_is_closed(&b.gate));
    else
        assert_int_equal(ran.gate_failed, after != CANCELS);
    assert_true(!ran.gate_failed || layer_gate_is_closed(&b.gate));
    for (uint32_t i = 0; i < END; i++)
        assert_true(got.of[i] == 0); /* nobody was shown any of it */
    if (after == STAYS || after == CLOSES)
        compute_again(s);
}

static void check_all(const struct model_config *shape, enum contract_class class, enum engine_isa isa,
                      uint32_t n_threads, enum dtype kv)
{
    struct scene s;
    struct error err;
    if (engine_isa_check(isa, class, &err) != ST_OK) {
        print_message("skipped: %s\n", err.text);
        return;
    }
    open_scene(&s, shape, class, isa, n_threads, kv);
    for (uint32_t place = 0; place < N_SEQS; place++)
        check_comes(&s, place);
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        check_fails(&s, l, l, CLOSES, FAR_US);
        check_fails(&s, (l + 1) % N_SEQS, l, STAYS, random_u32() % 3000);
        check_fails(&s, (l + 2) % N_SEQS, l, CANCELS, FAR_US);
        check_fails(&s, random_u32() % N_SEQS, l, CANCELS_AND_CLOSES, FAR_US);
    }
    close_scene(&s);
}

/* What is slowed down is looked at for races and memory, which are the same everywhere. */
static void test_same_bits(void **state)
{
    (void)state;
    check_all(&gemma_shape, CLASS_PORTABLE, ENGINE_AVX2, 2, DTYPE_F16); /* two sets of angles, and a window */
    if (SLOWED && !is_long())
        return;
    check_all(&llama_shape, CLASS_PORTABLE, ENGINE_REFERENCE, 1, DTYPE_BF16);
    check_all(&odd_shape, CLASS_PORTABLE, ENGINE_AVX2, 1, DTYPE_INT8);
    check_all(&experts_shape, CLASS_PORTABLE, ENGINE_AVX512, 2, DTYPE_F32);
    check_all(&llama_shape, CLASS_PORTABLE, ENGINE_AMX, 2, DTYPE_BF16);
    check_all(&qwen_shape, CLASS_AMX, ENGINE_REFERENCE, 2, DTYPE_BF16);
    check_all(&qwen_shape, CLASS_AMX, ENGINE_AMX, 2, DTYPE_BF16);
}

/* Two that come in turns, one of them to the end. */
struct pair {
    struct bringer each[2];
    bool both;
};

static void *bring_in_turns(void *arg)
{
    struct pair *p = arg;
    for (uint32_t l = 0; l < p->each[0].n_layers; l++)
        for (uint32_t i = 0; i < 2; i++) {
            struct bringer *b = &p->each[(l + i) % 2];
            usleep(100);
            fill_layer(b->scene, b->seq, l);
            layer_gate_open(&b->gate, l + 1);
            if (l == 1 && b == &p->each[0] && !p->both)
                layer_gate_close(&b->gate);
        }
    return NULL;
}

static void check_pair(struct scene *s, bool both)
{
    struct hashes got[3] = { 0 };
    struct sink sinks[3] = { { &got[0], FIRST, true }, { &got[1], FIRST, true }, { &got[2], 0, true } };
    struct step_seq seqs[3];
    struct pair pair = { .both = both };
    pthread_t thread;
    forget(s);
    for (uint32_t i = 0; i < 3; i++)
        seqs[i] = rows_of(s, i, i < 2 ? FIRST : 0, i < 2 ? END : 9, &sinks[i]);
    for (uint32_t i = 0; i < 2; i++) {
        pair.each[i] = (struct bringer){ .scene = s, .seq = i, .n_layers = s->toy.config.n_layers };
        layer_gate_init(&pair.each[i].gate, clock_now_us() + FAR_US);
        seqs[i].gate = &pair.each[i].gate;
    }
    assert_int_equal(pthread_create(&thread, NULL, bring_in_turns, &pair), 0);
    run(s, seqs, 3);
    pthread_join(thread, NULL);
    assert_true(seqs[1].done && seqs[2].done && !seqs[1].gate_failed);
    assert_true(seqs[0].done == both && seqs[0].gate_failed != both);
    for (uint32_t i = FIRST; i < END; i++)
        assert_true(got[1].of[i] == s->want[1].of[i] && (!both || got[0].of[i] == s->want[0].of[i]));
    expect_same(&s->want[2], &got[2], 9, "beside two gates");
}

static void test_several_gates(void **state)
{
    (void)state;
    struct scene s;
    open_scene(&s, &llama_shape, CLASS_PORTABLE, ENGINE_AUTO, 2, DTYPE_BF16);
    check_pair(&s, true);
    check_pair(&s, false);
    close_scene(&s);
}

/* Rows of which only K and V are wanted need nothing of the last layer: its gate says whether what came counts. */
static void test_last_layer(void **state)
{
    (void)state;
    struct scene s;
    struct bringer b;
    struct hashes got = { { 0 } };
    struct sink sink = { &got, END - 1, true };
    open_scene(&s, &llama_shape, CLASS_PORTABLE, ENGINE_AUTO, 2, DTYPE_BF16);
    const uint32_t last = llama_shape.n_layers - 1;
    begin(&b, &s, last, STAYS, 1000);
    b.in_step = false;
    bring(&b);
    struct step_seq rows = rows_of(&s, 0, FIRST, END - 1, NULL);
    rows.logits = STEP_NO_LOGITS;
    rows.gate = &b.gate;
    run(&s, &rows, 1);
    assert_true(!rows.done && rows.gate_failed && layer_gate_is_closed(&b.gate));
    layer_gate_init(&b.gate, clock_now_us() + FAR_US);
    fill_layer(&s, 0, last);
    layer_gate_open(&b.gate, last + 1);
    assert_int_equal(run(&s, &rows, 1), 0); /* what is open is not waited for */
    assert_true(rows.done && !rows.gate_failed);
    rows = rows_of(&s, 0, END - 1, END, &sink);
    rows.gate = &b.gate; /* that of the sequence, which stays open */
    assert_int_equal(run(&s, &rows, 1), 0);
    assert_true(rows.done && got.of[END - 1] == s.want[0].of[END - 1]);
    close_scene(&s);
}

/* With nobody else in it the step ends where the gate fails; open layers behind a closed gate count for nothing. */
static void test_alone(void **state)
{
    (void)state;
    struct scene s;
    struct bringer b;
    open_scene(&s, &llama_shape, CLASS_PORTABLE, ENGINE_AUTO, 2, DTYPE_BF16);
    for (uint32_t n = 0; n < llama_shape.n_layers; n++) {
        begin(&b, &s, n, STAYS, 0);
        bring(&b);
        struct step_seq rows = rows_of(&s, 0, FIRST, END, NULL);
        rows.gate = &b.gate;
        for (uint32_t i = 0; i < 2; i++) {
            run(&s, &rows, 1);
            assert_true(!rows.done && rows.gate_failed && layer_gate_is_closed(&b.gate));
            assert_int_equal(atomic_load(&s.announced), i == 0 ? n + 1 : 1);
        }
    }
    close_scene(&s);
}

static void *watch(void *arg)
{
    struct bringer *b = arg;
    expect_sleep(b, 0);
    const uint64_t before = engine_progress(b->scene->b.engine);
    while (engine_progress(b->scene->b.engine) < before + 3 && !layer_gate_is_closed(&b->gate))
        usleep(1000);
    b->n_wrong += layer_gate_is_closed(&b->gate);
    layer_gate_close(&b->gate);
    return NULL;
}

/* Who waits in good order is not held for frozen. */
static void test_wait_shows_life(void **state)
{
    (void)state;
    struct scene s;
    struct bringer b;
    pthread_t thread;
    open_scene(&s, &llama_shape, CLASS_PORTABLE, ENGINE_AUTO, 2, DTYPE_BF16);
    begin(&b, &s, 0, STAYS, FAR_US);
    struct step_seq rows = rows_of(&s, 0, FIRST, END, NULL);
    rows.gate = &b.gate;
    assert_int_equal(pthread_create(&thread, NULL, watch, &b), 0);
    assert_true(run(&s, &rows, 1) > ENGINE_GATE_SLICE_US);
    pthread_join(thread, NULL);
    assert_int_equal(b.n_wrong, 0);
    assert_true(rows.gate_failed);
    close_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_and_closes), cmocka_unit_test(test_wakes),      cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_several_gates),    cmocka_unit_test(test_last_layer), cmocka_unit_test(test_alone),
        cmocka_unit_test(test_wait_shows_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
