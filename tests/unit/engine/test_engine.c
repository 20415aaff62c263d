/* The exactness that everything else rests on: a token's logits have one hash,
 * however its prompt was cut, whatever ran beside it, on every instruction set,
 * thread count and block placement. On generated weights of odd shapes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/backend.h"
#include "engine/engine.h"
#include "engine/philox.h"
#include "engine/quantised.h"

#define MAX_POSITIONS 192u
#define MAX_SEQS      32u
#define MAX_EXPERTS   5u
#define BLOCK_TOKENS  16u
#define SEQ_BLOCKS    (MAX_POSITIONS / BLOCK_TOKENS)
#define POOL_BLOCKS   (MAX_SEQS * SEQ_BLOCKS + 5)

static uint32_t random_counter;

static uint32_t random_u32(void)
{
    uint32_t word[4] = { random_counter++, 1, 0, 0 };
    philox4x32(word, (uint32_t[]){ 3, 9 }, word);
    return word[0];
}

static float random_f32(void)
{
    return (float)(int32_t)random_u32() * 0x1p-31f;
}

/* A model in memory. */
struct toy {
    enum contract_class class; /* of the engines made of it */
    struct model_config config;
    struct model_weights weights;
    struct model_expert experts[3 * MAX_EXPERTS];
    struct tensor tensors[2 + (17 + 3 * MAX_EXPERTS) * 3];
    uint32_t n_tensors;
};

static const struct tensor *add_tensor(struct toy *toy, enum dtype type, uint32_t rows, uint32_t cols)
{
    struct tensor *t = &toy->tensors[toy->n_tensors++];
    size_t values = (size_t)(rows > 0 ? rows : 1) * cols;
    *t = (struct tensor){
        .name = "t", .type = type, .n_dims = rows > 0 ? 2 : 1, .bytes = dtype_row_bytes(type, values)
    };
    t->shape[0] = rows > 0 ? rows : cols;
    t->shape[1] = rows > 0 ? cols : 0;
    uint8_t *data = malloc(t->bytes);
    assert_non_null(data);
    float spread = 2.0f / sqrtf((float)cols);
    size_t block = dtype_block_bytes(type);
    for (size_t at = 0; at < t->bytes; at += block) {
        for (size_t i = 0; i < block; i++)
            data[at + i] = (uint8_t)random_u32();
        float x = rows > 0 ? random_f32() * spread : 1.0f + 0.1f * random_f32();
        float d = type == DTYPE_Q8_0 ? fabsf(x) / 100 : fabsf(x) / 7;
        uint16_t half[2] = { f32_to_f16(d), f32_to_f16(-7.5f * d) };
        uint16_t brain = f32_to_bf16(x);
        if (type == DTYPE_F32)
            memcpy(data + at, &x, sizeof x);
        else if (type == DTYPE_BF16)
            memcpy(data + at, &brain, sizeof brain);
        else if (type == DTYPE_F16)
            memcpy(data + at, &(uint16_t){ f32_to_f16(x) }, 2);
        else
            memcpy(data + at, half, quant_has_minimum(type) ? 4 : 2);
    }
    t->data = data;
    return t;
}

static void add_experts(struct toy *toy, uint32_t layer, enum dtype type)
{
    const struct model_config *c = &toy->config;
    struct model_layer *w = &toy->weights.layers[layer];
    struct model_expert *experts = toy->experts + (size_t)layer * MAX_EXPERTS;
    w->router = add_tensor(toy, DTYPE_F32, c->n_experts, c->n_embd);
    w->experts = experts;
    for (uint32_t e = 0; e < c->n_experts; e++)
        experts[e] = (struct model_expert){ add_tensor(toy, type, c->n_expert_ffn, c->n_embd),
                                            add_tensor(toy, type, c->n_expert_ffn, c->n_embd),
                                            add_tensor(toy, type, c->n_embd, c->n_expert_ffn) };
}

/* types: embedding, attention, ffn. */
static void toy_create(struct toy *toy, const struct model_config *config, const enum dtype types[3])
{
    *toy = (struct toy){ .config = *config };
    const struct model_config *c = config;
    uint32_t n_q = c->n_heads * c->head_dim;
    uint32_t n_kv = c->n_kv_heads * c->head_dim;
    toy->weights.embed = toy->weights.head = add_tensor(toy, types[0], c->n_vocab, c->n_embd);
    toy->weights.final_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        struct model_layer *w = &toy->weights.layers[l];
        w->attn_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
        w->ffn_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
        if (c->post_norms) {
            w->attn_post_norm = add_tensor(toy, DTYPE_F32, 0, c->n_embd);
            w->ffn_post_norm = add_tensor(toy, DTYPE_BF16, 0, c->n_embd);
        }
        if (c->qk_norm) {
            w->q_norm = add_tensor(toy, DTYPE_BF16, 0, c->head_dim);
            w->k_norm = add_tensor(toy, DTYPE_BF16, 0, c->head_dim);
        }
        if (c->qkv_bias) {
            w->bq = add_tensor(toy, DTYPE_F16, 0, n_q);
            w->bk = add_tensor(toy, DTYPE_F16, 0, n_kv);
            w->bv = add_tensor(toy, DTYPE_F32, 0, n_kv);
        }
        w->wq = add_tensor(toy, types[1], n_q, c->n_embd);
        w->wk = add_tensor(toy, types[1], n_kv, c->n_embd);
        w->wv = add_tensor(toy, DTYPE_Q8_0, n_kv, c->n_embd);
        w->wo = add_tensor(toy, types[1], c->n_embd, n_q);
        if (c->n_experts > 0 && !c->dense[l]) {
            add_experts(toy, l, types[2]);
            continue;
        }
        w->gate = add_tensor(toy, types[2], c->n_ffn, c->n_embd);
        w->up = add_tensor(toy, types[2], c->n_ffn, c->n_embd);
        w->down = add_tensor(toy, types[2], c->n_embd, c->n_ffn);
    }
}

static void toy_release(struct toy *toy)
{
    for (uint32_t i = 0; i < toy->n_tensors; i++)
        free((void *)(uintptr_t)toy->tensors[i].data);
}

static const struct model_config llama_shape = {
    .arch = ARCH_LLAMA,
    .n_layers = 3,
    .n_embd = 96,
    .n_heads = 3,
    .n_kv_heads = 1,
    .head_dim = 32,
    .n_ffn = 160,
    .n_vocab = 301,
    .max_positions = 512,
    .rms_eps = 1e-5f,
    .rope = { .theta = 10000 },
    .rope_interleaved = true,
    .tied_embeddings = true,
};
static const struct model_config qwen_shape = {
    .arch = ARCH_QWEN3,
    .n_layers = 2,
    .n_embd = 64,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 64,
    .n_ffn = 224,
    .n_vocab = 515,
    .max_positions = 512,
    .rms_eps = 1e-6f,
    .rope = { .theta = 1000000 },
    .qk_norm = true,
    .tied_embeddings = true,
};
/* What no model has all at once. */
static const struct model_config odd_shape = {
    .arch = ARCH_QWEN3,
    .n_layers = 2,
    .n_embd = 64,
    .n_heads = 4,
    .n_kv_heads = 2,
    .head_dim = 64,
    .n_ffn = 224,
    .n_vocab = 515,
    .max_positions = 512,
    .rms_eps = 1e-6f,
    .rope = { .theta = 1000000,
              .scaling = ROPE_YARN,
              .factor = 8,
              .original_positions = 64,
              .low = ROPE_YARN_LOW,
              .high = ROPE_YARN_HIGH },
    .qk_norm = true,
    .qkv_bias = true,
    .window = 45,
    .windowed = { [1] = true },
    .tied_embeddings = true,
};

/* Experts in two of three layers, more rows than a tile for some of them and none for others. */
static const struct model_config experts_shape = {
    .arch = ARCH_QWEN3MOE,
    .n_layers = 3,
    .n_embd = 96,
    .n_heads = 3,
    .n_kv_heads = 1,
    .head_dim = 32,
    .n_ffn = 160,
    .n_vocab = 301,
    .max_positions = 512,
    .rms_eps = 1e-5f,
    .rope = { .theta = 10000 },
    .qk_norm = true,
    .n_experts = MAX_EXPERTS,
    .n_experts_used = 2,
    .n_expert_ffn = 64,
    .experts_sum_to_one = true,
    .dense = { [1] = true },
    .tied_embeddings = true,
};

/* All that Gemma 2, Gemma 3 and Phi-3 have. */
static const struct model_config gemma_shape = {
    .arch = ARCH_GEMMA3,
    .n_layers = 3,
    .n_embd = 96,
    .n_heads = 3,
    .n_kv_heads = 1,
    .head_dim = 32,
    .n_ffn = 160,
    .n_vocab = 301,
    .max_positions = 512,
    .rms_eps = 1e-5f,
    .rope = { .theta = 1000000 },
    .local_rope = { .theta = 100 },
    .n_rotated = 24,
    .qk_norm = true,
    .post_norms = true,
    .norms_from_one = true,
    .activation = ACTIVATION_GELU,
    .embed_scale = 9.8f,
    .attention_scale = 0.3f,
    .attention_cap = 2.5f,
    .logit_cap = 6.0f,
    .window = 21,
    .windowed = { true, false, true },
    .tied_embeddings = true,
};

/* An engine with a pool whose blocks are dealt in an order of their own. */
struct bench {
    struct engine *engine;
    struct engine_options options;
    uint32_t blocks[MAX_SEQS][SEQ_BLOCKS];
};

static void shuffle_blocks(struct bench *b)
{
    uint32_t all[POOL_BLOCKS];
    for (uint32_t i = 0; i < POOL_BLOCKS; i++)
        all[i] = i;
    for (uint32_t i = POOL_BLOCKS; i > 1; i--) {
        uint32_t other = random_u32() % i;
        uint32_t t = all[i - 1];
        all[i - 1] = all[other];
        all[other] = t;
    }
    memcpy(b->blocks, all, sizeof b->blocks);
}

/* The class is the toy's. */
static void bench_create(struct bench *b, const struct toy *toy, enum engine_isa isa, uint32_t n_threads,
                         enum dtype kv_type, bool f32_math)
{
    struct error err;
    b->options = (struct engine_options){ .isa = isa,
                                          .class = toy->class,
                                          .f32_math = f32_math,
                                          .n_threads = n_threads,
                                          .kv_blocks = POOL_BLOCKS,
                                          .max_rows = MAX_POSITIONS + MAX_SEQS,
                                          .max_seqs = MAX_SEQS };
    model_kv_layout(&toy->config, BLOCK_TOKENS, kv_type, &b->options.kv);
    size_t bytes = POOL_BLOCKS * kv_block_bytes(&b->options.kv);
    b->options.kv_pool.host = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(b->options.kv_pool.host);
    memset(b->options.kv_pool.host, 0xff, bytes); /* NaNs: reading a slot that nobody wrote would show */
    if (engine_create_from(&toy->config, &toy->weights, &b->options, &b->engine, &err) != ST_OK)
        fail_msg("%s", err.text);
    shuffle_blocks(b);
}

static void bench_destroy(struct bench *b)
{
    engine_destroy(&b->engine);
    free(b->options.kv_pool.host);
}

struct hashes {
    uint64_t of[MAX_POSITIONS];
};

struct sink {
    struct hashes *hashes;
    uint32_t first_pos;
    bool finite;
};

static void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    struct sink *sink = ctx;
    sink->hashes->of[sink->first_pos + row] = XXH3_64bits(logits, n_vocab * sizeof *logits);
    for (uint32_t i = 0; i < n_vocab; i++)
        sink->finite = sink->finite && isfinite(logits[i]);
}

/* Runs seq 0's tokens in chunks beside n_others sequences with tokens of their own in each step. */
static void run_chunks(struct bench *b, const uint32_t *tokens, uint32_t n, uint32_t chunk, uint32_t n_others,
                       uint32_t n_vocab, struct hashes *out)
{
    uint32_t others[MAX_SEQS][8];
    uint32_t other_pos[MAX_SEQS] = { 0 };
    for (uint32_t at = 0; at < n; at += chunk) {
        struct step_seq seqs[MAX_SEQS] = { 0 };
        struct sink sink = { out, at, true };
        uint32_t self = n_others > 0 ? random_u32() % (n_others + 1) : 0;
        for (uint32_t s = 0, o = 1; s <= n_others; s++) {
            if (s == self) {
                seqs[s] = (struct step_seq){ .tokens = tokens + at,
                                             .n_rows = n - at < chunk ? n - at : chunk,
                                             .first_pos = at,
                                             .blocks = b->blocks[0],
                                             .logits = STEP_ALL_LOGITS,
                                             .on_logits = on_logits,
                                             .ctx = &sink };
                continue;
            }
            uint32_t rows = 1 + random_u32() % 4;
            rows = other_pos[o] + rows > MAX_POSITIONS ? 1 : rows;
            other_pos[o] = other_pos[o] + rows > MAX_POSITIONS ? 0 : other_pos[o];
            for (uint32_t r = 0; r < rows; r++)
                others[o][r] = random_u32() % n_vocab;
            seqs[s] = (struct step_seq){
                .tokens = others[o], .n_rows = rows, .first_pos = other_pos[o], .blocks = b->blocks[o]
            };
            other_pos[o] += rows;
            o++;
        }
        engine_run(b->engine, &(struct step){ .seqs = seqs, .n_seqs = n_others + 1 });
        for (uint32_t s = 0; s <= n_others; s++)
            assert_true(seqs[s].done);
        assert_true(sink.finite);
    }
}

static void expect_same(const struct hashes *a, const struct hashes *b, uint32_t n, const char *what)
{
    for (uint32_t i = 0; i < n; i++)
        if (a->of[i] != b->of[i])
            fail_msg("%s: the logits of position %u differ", what, i);
}

static void random_tokens(uint32_t *tokens, uint32_t n, uint32_t n_vocab)
{
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = random_u32() % n_vocab;
}

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

static bool is_long(void)
{
    const char *set = getenv("BATON_TEST_LONG");
    return set != NULL && strcmp(set, "1") == 0;
}

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
    } schedules[] = { { 512, 0 }, { 16, 0 }, { 7, 0 }, { 1, 0 }, { 1, 15 }, { 13, 31 }, { 64, 3 } };
    struct bench b;
    bench_create(&b, toy, isa, n_threads, kv_type, f32_math);
    for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
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
    /* Sanitizers slow the reference down by ten, and have nothing new to see in each number of threads. */
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
        cmocka_unit_test(test_llama_q4_1),
        cmocka_unit_test(test_qwen_q4_0),
        cmocka_unit_test(test_qwen_float),
        cmocka_unit_test(test_biases_window_and_yarn),
        cmocka_unit_test(test_int8_kv),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_gemma),
        cmocka_unit_test(test_class_amx),
        cmocka_unit_test(test_classes_differ),
        cmocka_unit_test(test_rope_factors),
        cmocka_unit_test(test_sampling_sees_the_logits),
        cmocka_unit_test(test_guesses_change_nothing),
        cmocka_unit_test(test_layers_and_cancellation),
        cmocka_unit_test(test_kv_is_exact),
        cmocka_unit_test(test_class_without_kernels),
        cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
