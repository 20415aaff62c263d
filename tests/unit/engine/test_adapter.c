#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "engine/adapter.h"
#include "tests/unit/engine/model_files.h"

#define CONFIG  "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"
#define GOOD                                                                                                           \
    "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":8,\"bias\":\"none\",\"lora_dropout\":0.1,\"use_dora\":false,"      \
    "\"modules_to_save\":null,\"rank_pattern\":{},\"target_modules\":[\"q_proj\",\"model.layers.1.mlp.down_proj\"]"
#define PREFIX "base_model.model.model.layers."

static const struct model_config shape = {
    .n_layers = 2, .n_embd = 4, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4, .n_ffn = 6
};

static struct scratch scratch;

/* Tensors of a file: names and shapes; values count up from first_value through the file. */
static float first_value;

struct entry {
    const char *name;
    unsigned rows, cols;
};

static const struct entry good[] = {
    { PREFIX "0.self_attn.q_proj.lora_A.weight", 2, 4 },
    { PREFIX "0.self_attn.q_proj.lora_B.weight", 8, 2 },
    { PREFIX "1.mlp.down_proj.lora_A.weight", 2, 6 },
    { PREFIX "1.mlp.down_proj.lora_B.weight", 4, 2 },
};

static void write_weights(const struct entry *entries, size_t n)
{
    static struct bytes b;
    char header[4096] = "{";
    size_t used = 1;
    unsigned at = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned end = at + entries[i].rows * entries[i].cols * 4;
        used += (size_t)snprintf(header + used, sizeof header - used,
                                 "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%u,%u],\"data_offsets\":[%u,%u]}",
                                 i ? "," : "", entries[i].name, entries[i].rows, entries[i].cols, at, end);
        at = end;
    }
    used += (size_t)snprintf(header + used, sizeof header - used, "}");
    while (used % 8 != 0)
        header[used++] = ' ';
    b.n = 0;
    put_u64(&b, used);
    put(&b, header, used);
    for (unsigned i = 0; i < at / 4; i++)
        put(&b, &(float){ first_value + (float)i }, 4);
    scratch_write(&scratch, WEIGHTS, b.data, b.n);
}

static void write_config(const char *text)
{
    scratch_write(&scratch, CONFIG, text, strlen(text));
}

static struct adapter *open_good(const struct model_config *config)
{
    struct adapter *a = NULL;
    struct error err;
    if (adapter_open(scratch.dir, config, &a, &err) != ST_OK)
        fail_msg("%s", err.text);
    return a;
}

static void refused(status want, const char *words)
{
    struct adapter *a = NULL;
    struct error err = { "" };
    status st = adapter_open(scratch.dir, &shape, &a, &err);
    assert_null(a);
    if (st != want || !strstr(err.text, words))
        fail_msg("wanted %s with \"%s\", got %s: %s", status_text(want), words, status_text(st), err.text);
}

static void test_good_folder(void **state)
{
    (void)state;
    write_config(GOOD "}");
    write_weights(good, 4);
    struct adapter *a = open_good(&shape);
    assert_int_equal(a->rank, 2);
    assert_true(a->scale == 4.0f);
    const struct adapter_pair *q = adapter_pair_at(a, 0, ADAPTER_Q), *down = adapter_pair_at(a, 1, ADAPTER_DOWN);
    assert_null(adapter_pair_at(a, 1, ADAPTER_Q)->a.data);
    assert_int_equal(q->b.shape[0], 8);
    for (unsigned i = 0; i < 16; i++)
        assert_true(((const float *)q->b.data)[i] == (float)(8 + i));
    assert_true(((const float *)down->b.data)[0] == 8 + 16 + 12);
    adapter_close(&a);
    adapter_close(&a);
}

/* GGUF's llama has the rotary pairs of a head as neighbours: rows 0, 2, 1, 3 of each. */
static void test_rows_follow_the_model(void **state)
{
    (void)state;
    struct model_config interleaved = shape;
    interleaved.rope_interleaved = true;
    write_config(GOOD "}");
    write_weights(good, 4);
    struct adapter *a = open_good(&interleaved);
    const float *b = adapter_pair_at(a, 0, ADAPTER_Q)->b.data;
    const unsigned rows[] = { 0, 2, 1, 3, 4, 6, 5, 7 };
    for (unsigned i = 0; i < 8; i++)
        assert_true(b[2 * i] == (float)(8 + 2 * rows[i]));
    assert_true(((const float *)adapter_pair_at(a, 1, ADAPTER_DOWN)->b.data)[2] == 8 + 16 + 12 + 2);
    adapter_close(&a);
}

static uint64_t fingerprint(const char *config)
{
    write_config(config);
    struct adapter *a = open_good(&shape);
    uint64_t f = a->fingerprint;
    adapter_close(&a);
    return f;
}

static void test_scale_and_fingerprint(void **state)
{
    (void)state;
    write_weights(good, 4);
    uint64_t plain = fingerprint(GOOD "}");
    assert_true(plain == fingerprint(GOOD ",\"revision\":\"x\",\"inference_mode\":true}"));
    write_config(GOOD ",\"use_rslora\":true}");
    struct adapter *a = open_good(&shape);
    assert_true(fabsf(a->scale - 8 / sqrtf(2)) < 1e-6f);
    assert_true(a->fingerprint != plain);
    adapter_close(&a);
    struct entry other[4];
    memcpy(other, good, sizeof good);
    other[2].name = PREFIX "1.mlp.gate_proj.lora_A.weight";
    other[2].cols = 4;
    other[3].name = PREFIX "1.mlp.gate_proj.lora_B.weight";
    other[3].rows = 6;
    write_weights(other, 4);
    assert_true(fingerprint(GOOD "}") != plain);
}

/* The good file with one piece of it replaced. */
static void write_config_with(const char *piece, const char *by)
{
    static const char all[] = GOOD "}";
    char text[1024];
    const char *at = strstr(all, piece);
    assert_non_null(at);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - all), all, by, at + strlen(piece));
    write_config(text);
}

static void test_refused_configs(void **state)
{
    (void)state;
    const struct {
        const char *piece, *by, *words;
        status st;
    } cases[] = {
        { "\"use_dora\":false", "\"use_dora\":true", "use_dora: only null, false or empty", ST_UNSUPPORTED },
        { "\"modules_to_save\":null", "\"modules_to_save\":[\"lm_head\"]", "modules_to_save", ST_UNSUPPORTED },
        { "\"rank_pattern\":{}", "\"rank_pattern\":{\"q_proj\":4}", "rank_pattern", ST_UNSUPPORTED },
        { "\"use_dora\":false", "\"what_comes_next\":1", "what_comes_next", ST_UNSUPPORTED },
        { "\"none\"", "\"all\"", "bias is all, only \"none\"", ST_UNSUPPORTED },
        { "\"LORA\"", "\"LOHA\"", "peft_type is LOHA, only \"LORA\"", ST_UNSUPPORTED },
        { "\"use_dora\":false", "\"init_lora_weights\":\"pissa_niter_4\"", "init_lora_weights is pissa",
          ST_UNSUPPORTED },
        { "\"q_proj\"", "\"lm_head\"", "target_modules has lm_head", ST_UNSUPPORTED },
        { "\"r\":2", "\"r\":0", "r is 0", ST_UNSUPPORTED },
        { "\"r\":2", "\"r\":100000", "r is 100000", ST_UNSUPPORTED },
        { "\"r\":2,", "", "r is missing", ST_INVALID },
        { "\"r\":2", "\"r\":3", "the model and rank 3 want [3, 4]", ST_INVALID },
        { ":8", ":\"8\"", "lora_alpha", ST_INVALID },
        { "}", "", "line", ST_INVALID },
    };
    write_weights(good, 4);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_config_with(cases[i].piece, cases[i].by);
        refused(cases[i].st, cases[i].words);
    }
}

static void test_refused_tensors(void **state)
{
    (void)state;
    const struct {
        struct entry entry; /* in the place of the first */
        const char *words;
        status st;
    } cases[] = {
        { { PREFIX "0.self_attn.q_proj.lora_A.weight", 2, 5 },
          "is [2, 5], the model and rank 2 want [2, 4]",
          ST_INVALID },
        { { PREFIX "0.self_attn.k_proj.lora_A.weight", 2, 4 },
          "layer 0, self_attn.q_proj: lora_A or lora_B",
          ST_INVALID },
        { { PREFIX "2.self_attn.q_proj.lora_A.weight", 2, 4 }, "the model has 2 layers", ST_INVALID },
        { { PREFIX "00.self_attn.q_proj.lora_A.weight", 2, 4 }, "only lora_A and lora_B", ST_UNSUPPORTED },
        { { PREFIX "0.self_attn.q_proj.lora_magnitude_vector", 2, 4 }, "only lora_A and lora_B", ST_UNSUPPORTED },
        { { PREFIX "0.self_attn.qkv_proj.lora_A.weight", 2, 4 }, "only lora_A and lora_B", ST_UNSUPPORTED },
        { { "base_model.model.lm_head.lora_A.weight", 2, 4 }, "tensor base_model.model.lm_head", ST_UNSUPPORTED },
    };
    write_config(GOOD "}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct entry entries[4];
        memcpy(entries, good, sizeof good);
        entries[0] = cases[i].entry;
        write_weights(entries, 4);
        refused(cases[i].st, cases[i].words);
    }
    write_weights(good, 0);
    refused(ST_INVALID, "it adapts nothing");
    scratch_remove_file(&scratch, WEIGHTS);
    refused(ST_NOT_FOUND, WEIGHTS);
    scratch_remove_file(&scratch, CONFIG);
    refused(ST_NOT_FOUND, CONFIG);
}

/* What a training that diverged leaves. */
static void test_values_are_numbers(void **state)
{
    (void)state;
    const float bad[] = { NAN, INFINITY, -INFINITY };
    write_config(GOOD "}");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        first_value = bad[i];
        write_weights(good, 4);
        first_value = 0;
        refused(ST_INVALID, "tensor " PREFIX "0.self_attn.q_proj.lora_A.weight has values that are no finite numbers");
    }
}

/* Layer 1's own network is there only while no experts stand in its place. */
static void test_layers_with_experts(void **state)
{
    (void)state;
    struct model_config config = shape;
    struct adapter *a = NULL;
    struct error err = { "" };
    config.n_experts = 4;
    write_config(GOOD "}");
    write_weights(good, 4);
    assert_int_equal(adapter_open(scratch.dir, &config, &a, &err), ST_UNSUPPORTED);
    assert_non_null(strstr(err.text, "1.mlp.down_proj.lora_A.weight: adapters of layers with experts"));
    config.dense[1] = true;
    a = open_good(&config);
    adapter_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_folder),           cmocka_unit_test(test_rows_follow_the_model),
        cmocka_unit_test(test_scale_and_fingerprint), cmocka_unit_test(test_refused_configs),
        cmocka_unit_test(test_refused_tensors),       cmocka_unit_test(test_layers_with_experts),
        cmocka_unit_test(test_values_are_numbers),
    };
    scratch_make(&scratch);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_remove(&scratch, (const char *const[]){ CONFIG, WEIGHTS }, 2);
    return failed;
}
