/* Steps of an engine: what they sample, what they tell of layers, how they are cancelled, and which engines there are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/backend.h"
#include "tests/unit/effort.h"
#include "tests/unit/engine/toy_engine.h"

/* The same token twice in a batch of equals, through STEP_SAMPLE and its hash. */
static void test_sampling_sees_the_logits(void **state)
{
    (void)state;
    struct toy toy;
    struct bench b;
    uint32_t tokens[40];
    struct hashes hashes;
    toy_create(&toy, &llama_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0 });
    bench_create(&b, &toy, ENGINE_AUTO, 2, DTYPE_BF16, false);
    random_tokens(tokens, 40, toy.config.n_vocab);
    run_chunks(&b, tokens, 40, 40, 0, toy.config.n_vocab, &hashes);
    struct sampling s = {
        .prompt_len = 40, .max_tokens = 8, .top_p = 1, .repetition_penalty = 1, .n_logprobs = 3, .want_hash = true
    };
    struct step_seq seqs[2];
    for (uint32_t i = 0; i < 2; i++)
        seqs[i] = (struct step_seq){ .tokens = tokens,
                                     .n_rows = 40,
                                     .blocks = b.blocks[i],
                                     .logits = STEP_SAMPLE,
                                     .sampling = &s,
                                     .history = tokens,
                                     .n_history = 40 };
    uint64_t before = engine_progress(b.engine);
    engine_run(b.engine, &(struct step){ .seqs = seqs, .n_seqs = 2 });
    assert_true(engine_progress(b.engine) > before);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(seqs[i].done);
        assert_int_equal(seqs[i].sampled.id, seqs[i].sampled.top[0].id);
        assert_int_equal(seqs[i].sampled.n_top, 3);
    }
    assert_memory_equal(&seqs[0].sampled, &seqs[1].sampled, sizeof seqs[0].sampled);
    assert_true(seqs[0].sampled.hash[0] != 0);
    bench_destroy(&b);
    toy_release(&toy);
}

#define ANSWER 60u

/* Samples the answer of tokens [40], a token a step. */
static void answer_plainly(struct bench *b, const struct sampling *s, uint32_t *tokens, struct sampled *out)
{
    for (uint32_t i = 0; i < ANSWER; i++) {
        struct step_seq seq = { .tokens = i == 0 ? tokens : tokens + 39 + i,
                                .n_rows = i == 0 ? 40 : 1,
                                .first_pos = i == 0 ? 0 : 39 + i,
                                .blocks = b->blocks[0],
                                .logits = STEP_SAMPLE,
                                .sampling = s,
                                .history = tokens,
                                .n_history = 40 + i };
        engine_run(b->engine, &(struct step){ .seqs = &seq, .n_seqs = 1 });
        assert_true(seq.done);
        out[i] = seq.sampled;
        tokens[40 + i] = seq.sampled.id;
    }
}

/* The same with guesses, of which about a third are wrong, beside sequences that neither guess nor sample. */
static void answer_guessing(struct bench *b, const struct sampling *s, const uint32_t *tokens, uint32_t n_vocab,
                            const struct sampled *want)
{
    uint32_t mine[40 + ANSWER];
    struct sampled got[40]; /* more than the engine has logits of at once */
    struct sampled last;
    struct step_seq prompt = { .tokens = tokens, .n_rows = 39, .blocks = b->blocks[0] };
    engine_run(b->engine, &(struct step){ .seqs = &prompt, .n_seqs = 1 });
    memcpy(mine, tokens, sizeof mine);
    for (uint32_t at = 0; at < ANSWER;) {
        uint32_t drafted = random_u32() % 40;
        drafted = drafted < ANSWER - at - 1 ? drafted : ANSWER - at - 1;
        for (uint32_t i = 0; i < drafted; i++)
            mine[40 + at + i] = random_u32() % 3 ? tokens[40 + at + i] : random_u32() % n_vocab;
        uint32_t first = 39 + at;
        struct step_seq seqs[3] = {
            { .tokens = tokens, .n_rows = 1 + random_u32() % 30, .blocks = b->blocks[1] },
            { .tokens = mine + first,
              .n_rows = 1 + drafted,
              .first_pos = first,
              .blocks = b->blocks[0],
              .logits = STEP_SAMPLE_EACH,
              .sampling = s,
              .history = mine,
              .n_history = 40 + at + drafted,
              .sampled_each = got },
            { .tokens = tokens, .n_rows = 40, .blocks = b->blocks[2], .logits = STEP_SAMPLE },
        };
        seqs[2].sampling = s;
        seqs[2].history = tokens;
        seqs[2].n_history = 40;
        engine_run(b->engine, &(struct step){ .seqs = seqs, .n_seqs = 3 });
        last = seqs[2].sampled;
        assert_memory_equal(&last, &want[0], sizeof last);
        uint32_t right = 0;
        while (right < drafted && mine[40 + at + right] == got[right].id)
            right++;
        assert_memory_equal(got, want + at, (right + 1) * sizeof *got);
        mine[40 + at + right] = got[right].id;
        at += right + 1;
    }
    assert_memory_equal(mine, tokens, sizeof mine);
}

/* Rows of guesses sample what plain decoding samples, whether the guesses are right or not. */
static void test_guesses_change_nothing(void **state)
{
    (void)state;
    const struct sampling kinds[] = {
        { .top_p = 1, .repetition_penalty = 1 },
        { .seed = 7, .temperature = 0.9f, .top_p = 0.9f, .repetition_penalty = 1, .n_logprobs = 4 },
        { .seed = 9,
          .temperature = 1.6f,
          .top_p = 1,
          .repetition_penalty = 1.3f,
          .frequency_penalty = 0.5f,
          .presence_penalty = 0.2f,
          .n_logprobs = 1 },
    };
    struct toy toy;
    struct bench b;
    uint32_t tokens[40 + ANSWER];
    struct sampled plain[ANSWER];
    toy_create(&toy, &llama_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0 });
    for (uint32_t threads = 1; threads <= (is_long() ? 4 : 2); threads++) {
        bench_create(&b, &toy, ENGINE_AUTO, threads, DTYPE_BF16, false);
        for (uint32_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            struct sampling s = kinds[k];
            s.prompt_len = 40;
            s.max_tokens = ANSWER;
            s.want_hash = true;
            random_tokens(tokens, 40, toy.config.n_vocab);
            shuffle_blocks(&b);
            answer_plainly(&b, &s, tokens, plain);
            for (uint32_t round = 0; round < (is_long() ? 20 : 2); round++) {
                shuffle_blocks(&b);
                answer_guessing(&b, &s, tokens, toy.config.n_vocab, plain);
            }
        }
        bench_destroy(&b);
    }
    toy_release(&toy);
}

/* What on_layer promises: the layer's K and V of all rows are in the pool. */
struct layer_watch {
    struct bench *bench;
    uint32_t expected, n_tokens;
    atomic_bool *cancel_at_1;
    uint32_t seq;
};

static void on_layer(void *ctx, uint32_t layer)
{
    struct layer_watch *w = ctx;
    const struct kv_layout *l = &w->bench->options.kv;
    assert_int_equal(layer, w->expected++);
    for (uint32_t pos = 0; pos < w->n_tokens; pos++) {
        const uint8_t *block =
            w->bench->options.kv_pool.host + w->bench->blocks[w->seq][pos / BLOCK_TOKENS] * kv_block_bytes(l);
        for (uint32_t side = 0; side < 2; side++) {
            uint16_t value;
            memcpy(&value, block + kv_offset(l, layer, (enum kv_side)side, 0, pos % BLOCK_TOKENS), sizeof value);
            assert_int_not_equal(value, 0xffff);
        }
    }
    if (w->cancel_at_1 != NULL && layer == 1)
        atomic_store(w->cancel_at_1, true);
}

static void check_layers_and_cancellation(const struct model_config *config)
{
    struct toy toy;
    struct bench b;
    uint32_t tokens[40];
    struct hashes alone;
    struct hashes beside = { { 0 } };
    atomic_bool cancelled = false;
    toy_create(&toy, config, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0 });
    bench_create(&b, &toy, ENGINE_AUTO, 2, DTYPE_BF16, false);
    random_tokens(tokens, 40, toy.config.n_vocab);
    run_chunks(&b, tokens, 40, 40, 0, toy.config.n_vocab, &alone);

    struct sink sink = { &beside, 0, true };
    struct step_seq seqs[] = {
        { .tokens = tokens, .n_rows = 17, .blocks = b.blocks[1], .cancelled = &cancelled },
        { .tokens = tokens,
          .n_rows = 40,
          .blocks = b.blocks[2],
          .logits = STEP_ALL_LOGITS,
          .on_logits = on_logits,
          .ctx = &sink },
        { .tokens = tokens, .n_rows = 9, .blocks = b.blocks[3] },
    };
    struct layer_watch watch = { .bench = &b, .n_tokens = 40, .cancel_at_1 = &cancelled, .seq = 2 };
    engine_run(b.engine, &(struct step){ .seqs = seqs, .n_seqs = 3, .on_layer = on_layer, .ctx = &watch });
    assert_int_equal(watch.expected, toy.config.n_layers);
    assert_false(seqs[0].done);
    assert_true(seqs[1].done);
    assert_true(seqs[2].done);
    expect_same(&alone, &beside, 40, "beside a cancelled sequence");
    /* The last layer was not computed for the cancelled one. */
    const uint8_t *block = b.options.kv_pool.host + b.blocks[1][0] * kv_block_bytes(&b.options.kv);
    uint16_t value;
    memcpy(&value, block + kv_offset(&b.options.kv, toy.config.n_layers - 1, KV_K, 0, 0), sizeof value);
    assert_int_equal(value, 0xffff);

    watch = (struct layer_watch){ .bench = &b };
    engine_run(b.engine, &(struct step){ .seqs = seqs, .n_seqs = 1, .on_layer = on_layer, .ctx = &watch });
    assert_int_equal(watch.expected, 0);
    assert_false(seqs[0].done);
    bench_destroy(&b);
    toy_release(&toy);
}

static void test_layers_and_cancellation(void **state)
{
    (void)state;
    check_layers_and_cancellation(&llama_shape);
    check_layers_and_cancellation(&gemma_shape); /* rows with two sets of angles */
}

/* What has no kernels of the class says so, in words that an operator can act on. */
static void test_class_without_kernels(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(engine_isa_check(ENGINE_REFERENCE, CLASS_AMX, &err), ST_OK);
    assert_int_equal(engine_isa_check(ENGINE_AVX2, CLASS_AMX, &err), ST_UNSUPPORTED);
    assert_string_equal(err.text, "the avx2 kernels make class portable only, not amx: reference and amx do");
    if (backend_amx_missing(CLASS_AMX) == NULL)
        return;
    assert_int_equal(engine_isa_check(ENGINE_AUTO, CLASS_PORTABLE, &err), ST_OK);
    assert_int_equal(engine_isa_check(ENGINE_AUTO, CLASS_AMX, &err), ST_UNSUPPORTED);
    assert_non_null(strstr(err.text, "which class amx needs"));
    assert_int_equal(engine_isa_check(ENGINE_AMX, CLASS_PORTABLE, &err), ST_UNSUPPORTED);
    assert_non_null(strstr(err.text, "which the amx kernels need"));
}

static void test_bad_options(void **state)
{
    (void)state;
    struct toy toy;
    struct engine *engine = NULL;
    struct error err;
    uint8_t *pool = aligned_alloc(64, 4096);
    toy_create(&toy, &llama_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_0 });
    struct engine_options good = { .n_threads = 1, .kv_pool.host = pool, .kv_blocks = 1, .max_rows = 1, .max_seqs = 1 };
    model_kv_layout(&toy.config, BLOCK_TOKENS, DTYPE_BF16, &good.kv);
    struct engine_options bad[7] = { good, good, good, good, good, good, good };
    bad[0].kv.type = DTYPE_Q8_0;
    bad[1].kv.n_layers++;
    bad[2].kv_pool.host = pool + 1;
    bad[3].max_rows = 0;
    bad[4].n_threads = 0;
    bad[5].n_threads = 100000;
    bad[6].isa = ENGINE_REFERENCE;
    bad[6].class = CLASS_AMX;
    bad[6].f32_math = true;
    for (size_t i = 0; i < 7; i++) {
        assert_int_equal(engine_create_from(&toy.config, &toy.weights, &bad[i], &engine, &err), ST_INVALID);
        assert_null(engine);
        assert_true(strlen(err.text) > 0);
    }
    assert_int_equal(engine_create_from(&toy.config, &toy.weights, &good, &engine, &err), ST_OK);
    engine_destroy(&engine);
    engine_destroy(&engine);
    toy_release(&toy);
    free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampling_sees_the_logits),
        cmocka_unit_test(test_guesses_change_nothing),
        cmocka_unit_test(test_layers_and_cancellation),
        cmocka_unit_test(test_class_without_kernels),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
