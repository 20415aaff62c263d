/* The exactness that everything else rests on: a token's logits have one hash,
 * however its prompt was cut, whatever ran beside it, on every instruction set,
 * thread count and block placement. On generated weights of odd shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "tests/unit/effort.h"
#include "tests/unit/engine/toy_engine.h"

/* Chunks of random lengths; now and then all blocks are lost, and it begins again in others. */
static void run_preempted(struct bench *b, const uint32_t *tokens, uint32_t n, uint32_t n_vocab, struct hashes *out)
{
    for (uint32_t lost = 0; lost < 3; lost++) {
        struct hashes before = { { 0 } };
        uint32_t upto = lost < 2 ? 1 + random_u32() % n : n;
        shuffle_blocks(b);
        run_chunks(b, tokens, upto, 1 + random_u32() % 40, random_u32() % MAX_SEQS, n_vocab, &before);
        for (uint32_t i = 0; i < upto; i++)
            if (out->of[i] == 0)
                out->of[i] = before.of[i];
            else
                assert_int_equal(out->of[i], before.of[i]);
    }
}

/* All schedules on one engine give the hashes of base; base is filled when it is empty. */
static void check_schedules(const struct toy *toy, enum engine_isa isa, uint32_t n_threads, enum dtype kv_type,
                            bool f32_math, const uint32_t *tokens, uint32_t n, struct hashes *base)
{
    const struct {
        uint32_t chunk, others;
    } schedules[] = { { 512, 0 }, { 16, 0 }, { 7, 0 }, { 1, 0 }, { 13, 31 }, { 64, 3 }, { 1, 15 } };
    /* Sanitizers slow the reference down by ten, and the last is most of the work and has nothing new for them. */
    const size_t left_out = SANITIZED && !is_long() && isa == ENGINE_REFERENCE;
    struct bench b;
    bench_create(&b, toy, isa, n_threads, kv_type, f32_math);
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules - left_out; i++) {
        struct hashes got = { { 0 } };
        char what[96];
        snprintf(what, sizeof what, "%s, %u threads, chunk %u beside %u", engine_isa_name(b.engine), n_threads,
                 schedules[i].chunk, schedules[i].others);
        shuffle_blocks(&b);
        memset(b.options.kv_pool.host, 0xff, POOL_BLOCKS * kv_block_bytes(&b.options.kv));
        run_chunks(&b, tokens, n, schedules[i].chunk, schedules[i].others, toy->config.n_vocab, &got);
        if (base->of[0] == 0)
            *base = got;
        expect_same(base, &got, n, what);
    }
    for (uint32_t others = 0; others < MAX_SEQS && is_long(); others++) {
        struct hashes got = { { 0 } };
        shuffle_blocks(&b);
        run_chunks(&b, tokens, n, 1 + random_u32() % 20, others, toy->config.n_vocab, &got);
        expect_same(base, &got, n, "a batch of any size");
    }
    struct hashes got = { { 0 } };
    run_preempted(&b, tokens, n, toy->config.n_vocab, &got);
    expect_same(base, &got, n, "preempted");
    bench_destroy(&b);
}

/* More threads than some machines have cores: few steps, as every one waits for the slowest. */
static void check_crowded(const struct toy *toy, enum dtype kv_type, bool f32_math, const uint32_t *tokens, uint32_t n,
                          const struct hashes *base)
{
    struct hashes got = { { 0 } };
    struct bench b;
    bench_create(&b, toy, toy->class == CLASS_AMX ? ENGINE_REFERENCE : ENGINE_AUTO, 4, kv_type, f32_math);
    run_chunks(&b, tokens, n, 40, 5, toy->config.n_vocab, &got);
    expect_same(base, &got, n, "four threads");
    bench_destroy(&b);
}

/* pinned is the hash of all hashes: it must be the same on every machine and from every compiler, for good. */
static void check_class(enum contract_class class, const struct model_config *config, const enum dtype types[3],
                        enum dtype kv_type, bool f32_math, uint32_t n, uint64_t pinned)
{
    const enum engine_isa fast[] = { ENGINE_AVX2, ENGINE_AVX512, ENGINE_AMX };
    random_counter = 0;
    struct toy toy;
    struct hashes base = { { 0 } };
    uint32_t tokens[MAX_POSITIONS];
    struct error err;
    toy_create(&toy, config, types);
    toy.class = class;
    random_tokens(tokens, n, config->n_vocab);
    check_schedules(&toy, ENGINE_REFERENCE, 1, kv_type, f32_math, tokens, n, &base);
    /* Nor do they see anything new in each number of threads. */
    if (!SANITIZED || is_long())
        check_schedules(&toy, ENGINE_REFERENCE, 2, kv_type, f32_math, tokens, n, &base);
    for (size_t i = class == CLASS_AMX ? 2 : 0; i < sizeof fast / sizeof *fast; i++)
        if (engine_isa_check(fast[i], class, &err) == ST_OK) {
            if (!SANITIZED || is_long())
                check_schedules(&toy, fast[i], 1, kv_type, f32_math, tokens, n, &base);
            check_schedules(&toy, fast[i], 2, kv_type, f32_math, tokens, n, &base);
        } else {
            print_message("skipped: %s\n", err.text);
        }
    check_crowded(&toy, kv_type, f32_math, tokens, n, &base);
    assert_int_equal(XXH3_64bits(base.of, n * sizeof *base.of), pinned);
    toy_release(&toy);
}

static void check_everything(const struct model_config *config, const enum dtype types[3], enum dtype kv_type,
                             bool f32_math, uint32_t n, uint64_t pinned)
{
    check_class(CLASS_PORTABLE, config, types, kv_type, f32_math, n, pinned);
}

static void test_llama_q4_1(void **state)
{
    (void)state;
    check_everything(&llama_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_1 }, DTYPE_BF16, false, 147,
                     0xdc95b0f00c3be214);
}

static void test_qwen_q4_0(void **state)
{
    (void)state;
    check_everything(&qwen_shape, (enum dtype[]){ DTYPE_BF16, DTYPE_Q4_0, DTYPE_F16 }, DTYPE_F16, false, 83,
                     0x3668d3490176f184);
}

static void test_qwen_float(void **state)
{
    (void)state;
    check_everything(&qwen_shape, (enum dtype[]){ DTYPE_Q4_0, DTYPE_Q8_0, DTYPE_F32 }, DTYPE_F32, true, 70,
                     0x1ab54c44f5dabebc);
}

static void test_biases_window_and_yarn(void **state)
{
    (void)state;
    check_everything(&odd_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q5_1, DTYPE_Q5_0 }, DTYPE_BF16, false, 150,
                     0x265fa029794abe99);
}

/* A slot of INT8 is of an odd size, and its scale lies behind its values. */
static void test_int8_kv(void **state)
{
    (void)state;
    check_everything(&odd_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q5_0 }, DTYPE_INT8, false, 150,
                     0xb3a07ee94c0b3ea8);
}

static void test_experts(void **state)
{
    (void)state;
    check_everything(&experts_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q4_1 }, DTYPE_BF16, false, 130,
                     0x1db4e33ed3ebc0c6);
    check_everything(&experts_shape, (enum dtype[]){ DTYPE_BF16, DTYPE_BF16, DTYPE_BF16 }, DTYPE_F32, false, 60,
                     0x5bf7b845ab600dc8);
}

static void test_gemma(void **state)
{
    (void)state;
    check_everything(&gemma_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_Q4_1 }, DTYPE_BF16, false, 150,
                     0xe755c7e2ff6c428a);
}

static void test_class_amx(void **state)
{
    (void)state;
    check_class(CLASS_AMX, &qwen_shape, (enum dtype[]){ DTYPE_BF16, DTYPE_BF16, DTYPE_Q4_K }, DTYPE_BF16, false, 83,
                0x71b4c34087dba1ca);
    check_class(CLASS_AMX, &odd_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_BF16, DTYPE_F16 }, DTYPE_F16, false, 150,
                0x438f0e8197528206);
    check_class(CLASS_AMX, &experts_shape, (enum dtype[]){ DTYPE_BF16, DTYPE_BF16, DTYPE_BF16 }, DTYPE_INT8, false, 40,
                0x18cb2f483feebc56);
    check_class(CLASS_AMX, &gemma_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_BF16, DTYPE_Q4_1 }, DTYPE_BF16, false, 90,
                0xe77462267005fddc);
}

/* Without BF16 weights its logits differ from portable's by attention alone: little, but they do. */
static void test_classes_differ(void **state)
{
    (void)state;
    struct toy toy;
    struct hashes of[2] = { { { 0 } } };
    uint32_t tokens[40];
    toy_create(&toy, &llama_shape, (enum dtype[]){ DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_Q4_1 });
    random_tokens(tokens, 40, llama_shape.n_vocab);
    for (uint32_t c = 0; c < 2; c++) {
        toy.class = (enum contract_class)c;
        check_schedules(&toy, ENGINE_REFERENCE, 1, DTYPE_BF16, false, tokens, 40, &of[c]);
    }
    assert_true(of[0].of[39] != of[1].of[39]);
    toy_release(&toy);
}

/* A file's own frequency factors, all two, are linear scaling by two. */
static void test_rope_factors(void **state)
{
    (void)state;
    const enum dtype types[3] = { DTYPE_Q8_0, DTYPE_Q8_0, DTYPE_Q8_0 };
    float factors[16];
    struct tensor tensor = {
        .name = "rope_freqs.weight", .type = DTYPE_F32, .n_dims = 1, .shape = { 16 }, .data = factors
    };
    struct hashes plain = { { 0 } };
    struct hashes linear = { { 0 } };
    struct hashes divided = { { 0 } };
    uint32_t tokens[40];
    struct toy toy;
    toy_create(&toy, &llama_shape, types);
    random_tokens(tokens, 40, llama_shape.n_vocab);
    for (uint32_t i = 0; i < 16; i++)
        factors[i] = 2;
    check_schedules(&toy, ENGINE_AVX2, 1, DTYPE_BF16, false, tokens, 40, &plain);
    toy.weights.rope_factors = &tensor;
    check_schedules(&toy, ENGINE_AVX2, 1, DTYPE_BF16, false, tokens, 40, &divided);
    toy.weights.rope_factors = NULL;
    toy.config.rope.scaling = ROPE_LINEAR;
    toy.config.rope.factor = 2;
    check_schedules(&toy, ENGINE_AVX2, 1, DTYPE_BF16, false, tokens, 40, &linear);
    expect_same(&linear, &divided, 40, "factors of two");
    assert_true(plain.of[39] != linear.of[39]);
    toy_release(&toy);
}

/* The blocks that a sequence leaves behind are the same bytes whatever the schedule. */
static void test_kv_is_exact(void **state)
{
    (void)state;
    struct toy toy;
    struct bench b;
    uint32_t tokens[50];
    struct hashes unused;
    uint64_t sums[2];
    toy_create(&toy, &qwen_shape, (enum dtype[]){ DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q8_0 });
    bench_create(&b, &toy, ENGINE_AUTO, 2, DTYPE_BF16, false);
    random_tokens(tokens, 50, toy.config.n_vocab);
    for (uint32_t round = 0; round < 2; round++) {
        shuffle_blocks(&b);
        run_chunks(&b, tokens, 50, round == 0 ? 50 : 3, round == 0 ? 0 : 9, toy.config.n_vocab, &unused);
        sums[round] = 0;
        for (uint32_t i = 0; i < 50 / BLOCK_TOKENS; i++)
            for (uint32_t l = 0; l < toy.config.n_layers; l++) {
                const uint8_t *block = b.options.kv_pool.host + b.blocks[0][i] * kv_block_bytes(&b.options.kv);
                sums[round] = sums[round] * 31 + XXH3_64bits(block + kv_offset(&b.options.kv, l, KV_K, 0, 0),
                                                             kv_layer_bytes(&b.options.kv));
            }
    }
    assert_int_equal(sums[0], sums[1]);
    bench_destroy(&b);
    toy_release(&toy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama_q4_1),     cmocka_unit_test(test_qwen_q4_0),
        cmocka_unit_test(test_qwen_float),     cmocka_unit_test(test_biases_window_and_yarn),
        cmocka_unit_test(test_int8_kv),        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_gemma),          cmocka_unit_test(test_class_amx),
        cmocka_unit_test(test_classes_differ), cmocka_unit_test(test_rope_factors),
        cmocka_unit_test(test_kv_is_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
