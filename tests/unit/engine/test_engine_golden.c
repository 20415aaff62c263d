/* The engine against answers that Hugging Face transformers gave in float32,
 * teacher-forced: prompt_ids and greedy_ids go in, the logits before each
 * greedy id are compared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "engine/engine.h"
#include "tests/unit/effort.h"

#define MAX_TOKENS      2048u
#define BLOCK_TOKENS    16u
#define TINY_MODEL      BATON_SOURCE_DIR "/models/baton-tiny"
#define TINY_ANSWERS    BATON_SOURCE_DIR "/tests/golden/baton-tiny/completions.jsonl"
#define SMOLLM2_ANSWERS BATON_SOURCE_DIR "/tests/golden/smollm2/completions.jsonl"

struct setup {
    const char *model, *answers;
    enum engine_isa isa;
    enum contract_class class;
    bool f32_math;
    enum dtype kv_type;
    size_t max_answers; /* 0: all */
    uint32_t chunk;     /* rows of a step; 0: all of an answer */
};

struct score {
    uint32_t positions, top_equal, listed;
    double worst;  /* largest difference of a listed log-probability */
    uint64_t hash; /* over all logits in order */
};

/* One answer on its way through the engine. */
struct forcing {
    struct score *score;
    const json_t *top_logprobs;
    uint32_t prompt_len;
    uint32_t first_pos; /* of the step */
};

static double log_sum_exp(const float *logits, uint32_t n)
{
    double max = -INFINITY;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        max = fmax(max, logits[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return max + log(sum);
}

static void compare_position(struct score *score, const json_t *listed, const float *logits, uint32_t n_vocab)
{
    double norm = log_sum_exp(logits, n_vocab);
    uint32_t best = 0;
    for (uint32_t i = 1; i < n_vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    score->positions++;
    score->top_equal += best == (uint32_t)json_integer_value(json_array_get(json_array_get(listed, 0), 0));
    for (size_t i = 0; i < json_array_size(listed); i++) {
        const json_t *entry = json_array_get(listed, i);
        double expected = json_number_value(json_array_get(entry, 1));
        double got = logits[json_integer_value(json_array_get(entry, 0))] - norm;
        score->worst = fmax(score->worst, fabs(got - expected));
        score->listed++;
    }
}

static void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    const struct forcing *f = ctx;
    uint32_t next = f->first_pos + row + 1;
    f->score->hash = XXH3_64bits_withSeed(logits, n_vocab * sizeof *logits, f->score->hash);
    if (next >= f->prompt_len)
        compare_position(f->score, json_array_get(f->top_logprobs, next - f->prompt_len), logits, n_vocab);
}

static uint32_t append_ids(const json_t *ids, size_t n, uint32_t *tokens, uint32_t at)
{
    assert_true(at + n <= MAX_TOKENS);
    for (size_t i = 0; i < n; i++)
        tokens[at++] = (uint32_t)json_integer_value(json_array_get(ids, i));
    return at;
}

static void force_answer(struct engine *engine, const json_t *answer, uint32_t chunk, struct score *score)
{
    static uint32_t tokens[MAX_TOKENS];
    uint32_t blocks[MAX_TOKENS / BLOCK_TOKENS];
    for (uint32_t i = 0; i < MAX_TOKENS / BLOCK_TOKENS; i++)
        blocks[i] = i;
    const json_t *prompt = json_object_get(answer, "prompt_ids");
    const json_t *greedy = json_object_get(answer, "greedy_ids");
    struct forcing f = { score, json_object_get(answer, "top_logprobs"), (uint32_t)json_array_size(prompt), 0 };
    assert_int_equal(json_array_size(f.top_logprobs), json_array_size(greedy));
    uint32_t n = append_ids(prompt, json_array_size(prompt), tokens, 0);
    n = append_ids(greedy, json_array_size(greedy) - 1, tokens, n);
    chunk = chunk == 0 ? n : chunk;
    for (f.first_pos = 0; f.first_pos < n; f.first_pos += chunk) {
        struct step_seq seq = {
            .tokens = tokens + f.first_pos,
            .n_rows = n - f.first_pos < chunk ? n - f.first_pos : chunk,
            .first_pos = f.first_pos,
            .blocks = blocks,
            .logits = STEP_ALL_LOGITS,
            .on_logits = on_logits,
            .ctx = &f,
        };
        engine_run(engine, &(struct step){ .seqs = &seq, .n_seqs = 1 });
        assert_true(seq.done);
    }
}

static void force_answers(struct engine *engine, const struct setup *setup, struct score *score)
{
    FILE *file = fopen(setup->answers, "r");
    assert_non_null(file);
    for (size_t i = 0; setup->max_answers == 0 || i < setup->max_answers; i++) {
        json_error_t error;
        json_t *answer = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error);
        if (answer == NULL)
            break;
        force_answer(engine, answer, setup->chunk, score);
        json_decref(answer);
    }
    fclose(file);
}

static void force_all(const struct setup *setup, struct score *score)
{
    struct error err = { "" };
    struct model *model = NULL;
    struct engine *engine = NULL;
    struct engine_options options = { .isa = setup->isa,
                                      .class = setup->class,
                                      .f32_math = setup->f32_math,
                                      .n_threads = 2,
                                      .kv_blocks = MAX_TOKENS / BLOCK_TOKENS,
                                      .max_rows = MAX_TOKENS,
                                      .max_seqs = 1 };
    if (model_open(setup->model, MODEL_WEIGHTS, &model, &err) != ST_OK)
        fail_msg("%s", err.text);
    options.model = model;
    model_kv_layout(model_config(model), BLOCK_TOKENS, setup->kv_type, &options.kv);
    options.kv_pool.host = aligned_alloc(64, options.kv_blocks * kv_block_bytes(&options.kv));
    assert_non_null(options.kv_pool.host);
    if (engine_create(&options, &engine, &err) != ST_OK)
        fail_msg("%s", err.text);
    *score = (struct score){ 0 };
    force_answers(engine, setup, score);
    print_message("%s %s, class %s, %s, KV %s: %u positions, top equal %u, worst of %u log-probabilities %.6f\n",
                  model_name(model), engine_isa_name(engine), engine_class_name(setup->class),
                  setup->f32_math ? "float32" : "as stored", dtype_name(setup->kv_type), score->positions,
                  score->top_equal, score->listed, score->worst);
    engine_destroy(&engine);
    model_close(&model);
    free(options.kv_pool.host);
}

/* Answers for a short run under a sanitizer, and for others; 0: all, as in a long one. */
static size_t answers(size_t sanitized, size_t usual)
{
    if (is_long())
        return 0;
    return SANITIZED ? sanitized : usual;
}

/* Of those that the slow reference kernels compute. */
static size_t reference_answers(void)
{
    return is_long() ? 24 : answers(4, 8);
}

static bool lacks(enum engine_isa isa, enum contract_class class)
{
    struct error err;
    if (engine_isa_check(isa, class, &err) == ST_OK)
        return false;
    print_message("skipped: %s\n", err.text);
    return true;
}

static void check_exact(const struct setup *setup)
{
    struct score score;
    force_all(setup, &score);
    assert_true(score.positions > 0 && score.listed >= score.positions);
    assert_true(score.worst <= 2e-3);
}

static void check_fast(const struct setup *setup)
{
    struct score score;
    force_all(setup, &score);
    assert_true(score.positions > 0);
    assert_true(score.top_equal >= 0.97 * score.positions);
}

/* One hash, whatever the instruction set and the chunks. */
static void check_same_bits(const char *model, const char *answers, enum engine_isa isa, size_t n)
{
    const uint32_t chunks[] = { 1, 7, 16, 512 };
    struct score expected;
    struct score got;
    force_all(&(struct setup){ model, answers, ENGINE_REFERENCE, CLASS_PORTABLE, false, DTYPE_BF16, n, 0 }, &expected);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        force_all(&(struct setup){ model, answers, isa, CLASS_PORTABLE, false, DTYPE_BF16, n, chunks[i] }, &got);
        assert_int_equal(expected.hash, got.hash);
    }
}

static void test_tiny_reference(void **state)
{
    const size_t n = reference_answers();
    (void)state;
    check_exact(&(struct setup){ TINY_MODEL, TINY_ANSWERS, ENGINE_REFERENCE, CLASS_PORTABLE, true, DTYPE_F32, n, 0 });
    check_fast(&(struct setup){ TINY_MODEL, TINY_ANSWERS, ENGINE_REFERENCE, CLASS_PORTABLE, false, DTYPE_BF16, n, 0 });
}

/* The fidelity of the class is the reference's, whoever computes it; prefill and decode agree. */
static void test_tiny_class_amx(void **state)
{
    (void)state;
    const size_t n = reference_answers();
    struct score whole;
    struct score parts;
    check_fast(&(struct setup){ TINY_MODEL, TINY_ANSWERS, ENGINE_REFERENCE, CLASS_AMX, false, DTYPE_BF16, n, 0 });
    force_all(&(struct setup){ TINY_MODEL, TINY_ANSWERS, ENGINE_REFERENCE, CLASS_AMX, false, DTYPE_BF16, 4, 0 },
              &whole);
    force_all(&(struct setup){ TINY_MODEL, TINY_ANSWERS, ENGINE_REFERENCE, CLASS_AMX, false, DTYPE_BF16, 4, 1 },
              &parts);
    assert_int_equal(whole.hash, parts.hash);
    if (!lacks(ENGINE_AMX, CLASS_AMX)) {
        force_all(&(struct setup){ TINY_MODEL, TINY_ANSWERS, ENGINE_AMX, CLASS_AMX, false, DTYPE_BF16, 4, 7 }, &parts);
        assert_int_equal(whole.hash, parts.hash);
    }
}

static void test_tiny(void **state)
{
    enum engine_isa isa = *(const enum engine_isa *)*state;
    const size_t n = answers(8, 0);
    if (lacks(isa, CLASS_PORTABLE))
        skip();
    check_exact(&(struct setup){ TINY_MODEL, TINY_ANSWERS, isa, CLASS_PORTABLE, true, DTYPE_F32, n, 0 });
    check_fast(&(struct setup){ TINY_MODEL, TINY_ANSWERS, isa, CLASS_PORTABLE, false, DTYPE_BF16, n, 0 });
    check_fast(&(struct setup){ TINY_MODEL, TINY_ANSWERS, isa, CLASS_PORTABLE, false, DTYPE_F16, n, 0 });
    check_same_bits(TINY_MODEL, TINY_ANSWERS, isa, is_long() ? 6 : answers(1, 3));
}

static void test_smollm2(void **state)
{
    enum engine_isa isa = *(const enum engine_isa *)*state;
    const char *path = getenv("BATON_TEST_SMOLLM2");
    if (path == NULL) {
        print_message("skipped: BATON_TEST_SMOLLM2 does not name the SmolLM2 GGUF file\n");
        skip();
    }
    if (lacks(isa, CLASS_PORTABLE))
        skip();
    check_exact(&(struct setup){ path, SMOLLM2_ANSWERS, isa, CLASS_PORTABLE, true, DTYPE_F32, answers(1, 2), 0 });
    if (is_long() || isa == ENGINE_AVX2) /* the others have the same bits */
        check_fast(&(struct setup){ path, SMOLLM2_ANSWERS, isa, CLASS_PORTABLE, false, DTYPE_BF16, answers(1, 0), 0 });
    check_same_bits(path, SMOLLM2_ANSWERS, isa, is_long() ? 2 : 1);
}

int main(void)
{
    static enum engine_isa avx2 = ENGINE_AVX2;
    static enum engine_isa avx512 = ENGINE_AVX512;
    static enum engine_isa amx = ENGINE_AMX;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiny_reference),
        { "test_tiny avx2", test_tiny, NULL, NULL, &avx2 },
        { "test_tiny avx512", test_tiny, NULL, NULL, &avx512 },
        { "test_tiny amx", test_tiny, NULL, NULL, &amx },
        cmocka_unit_test(test_tiny_class_amx),
        { "test_smollm2 avx2", test_smollm2, NULL, NULL, &avx2 },
        { "test_smollm2 avx512", test_smollm2, NULL, NULL, &avx512 },
        { "test_smollm2 amx", test_smollm2, NULL, NULL, &amx },
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
