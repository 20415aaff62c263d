#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/model_gguf.h"
#include "tests/unit/engine/model_files.h"

#define BUILTIN BATON_SOURCE_DIR "/models/baton-tiny"

static struct scratch scratch;
static const char *const folder_files[] = {
    "config.json",           "tokenizer.json",    "tokenizer_config.json",
    "chat_template.jinja",   "model.safetensors", "model.safetensors.index.json",
    "one.safetensors",       "two.safetensors",   "m.v1.gguf",
    "generation_config.json"
};

static void link_builtin(const char *name, const char *as)
{
    char from[256];
    snprintf(from, sizeof from, "%s/%s", BUILTIN, name);
    scratch_remove_file(&scratch, as);
    if (symlink(from, scratch.path) != 0)
        abort();
}

static char *read_builtin(const char *name, size_t *n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", BUILTIN, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = malloc(8 << 20);
    *n = fread(text, 1, (8 << 20) - 1, f);
    text[*n] = '\0';
    fclose(f);
    return text;
}

/* The built-in model in a folder of the test's own, by links. */
static void reset_folder(void)
{
    for (size_t i = 0; i < sizeof folder_files / sizeof *folder_files; i++)
        scratch_remove_file(&scratch, folder_files[i]);
    link_builtin("config.json", "config.json");
    link_builtin("tokenizer.json", "tokenizer.json");
    link_builtin("tokenizer_config.json", "tokenizer_config.json");
    link_builtin("model.safetensors", "model.safetensors");
}

/* Writes name with the one place where from stands replaced. */
static void write_replaced(const char *name, const char *from, const char *to)
{
    size_t n;
    char *text = read_builtin(name, &n), *at = strstr(text, from);
    char *changed = malloc(n + strlen(to) + 1);
    if (!at)
        fail_msg("%s holds no %s", name, from);
    size_t before = (size_t)(at - text), after = n - before - strlen(from);
    memcpy(changed, text, before);
    memcpy(changed + before, to, strlen(to));
    memcpy(changed + before + strlen(to), at + strlen(from), after);
    scratch_remove_file(&scratch, name);
    scratch_write(&scratch, name, changed, before + strlen(to) + after);
    free(changed);
    free(text);
}

static struct model *open_good(const char *path, unsigned flags)
{
    struct model *m = NULL;
    struct error err = { "" };
    if (model_open(path, flags, &m, &err) != ST_OK)
        fail_msg("%s", err.text);
    return m;
}

static void check_refused(const char *path, status want, const char *words)
{
    struct model *m = NULL;
    struct error err = { "" };
    status st = model_open(path, MODEL_WEIGHTS, &m, &err);
    assert_null(m);
    if (st != want || !strstr(err.text, words) || !strstr(err.text, path))
        fail_msg("wanted %s with \"%s\", got %s: %s", status_text(want), words, status_text(st), err.text);
}

static void test_builtin_config(void **state)
{
    (void)state;
    struct model *m = open_good(BUILTIN "/", 0);
    const struct model_config *c = model_config(m);
    assert_string_equal(model_name(m), "baton-tiny");
    assert_int_equal(c->arch, ARCH_QWEN3);
    assert_int_equal(c->n_layers, 4);
    assert_int_equal(c->n_embd, 256);
    assert_int_equal(c->n_heads, 8);
    assert_int_equal(c->n_kv_heads, 4);
    assert_int_equal(c->head_dim, 32);
    assert_int_equal(c->n_ffn, 512);
    assert_int_equal(c->n_vocab, 1024);
    assert_int_equal(c->max_positions, 4096);
    assert_true(c->rms_eps == 1e-6f);
    assert_true(c->rope.theta == 100000.0f);
    assert_false(c->rope_interleaved);
    assert_true(c->qk_norm);
    assert_true(c->tied_embeddings);
    assert_non_null(model_tokenizer(m));
    assert_non_null(model_chat_template(m));
    assert_null(model_weights(m));
    assert_int_equal(model_tensor_count(m), 4 * 11 + 2);
    model_close(&m);
    assert_null(m);
}

/* What a worker opens: the same weights and identity, and a fingerprint of the text that it does not read. */
static void check_no_text(const char *path)
{
    struct model *whole = open_good(path, MODEL_WEIGHTS), *m = open_good(path, MODEL_WEIGHTS | MODEL_NO_TEXT);
    assert_null(model_tokenizer(m));
    assert_null(model_chat_template(m));
    assert_non_null(model_weights(m));
    assert_true(model_fingerprint(m) == model_fingerprint(whole));
    assert_true(model_text_fingerprint(m) == model_text_fingerprint(whole) && model_text_fingerprint(m) != 0);
    model_close(&m);
    model_close(&whole);
}

static void test_builtin_without_text(void **state)
{
    (void)state;
    check_no_text(BUILTIN);
}

/* Dropped pages are read from the file again. */
static void test_dropped_tensors_stay_readable(void **state)
{
    (void)state;
    struct model *m = open_good(BUILTIN, MODEL_WEIGHTS);
    uint64_t before = 0, after = 0;
    for (int round = 0; round < 2; round++) {
        uint64_t *hash = round == 0 ? &before : &after;
        for (uint64_t i = 0; i < model_tensor_count(m); i++) {
            const struct tensor *t = model_tensor_at(m, i);
            for (size_t k = 0; k < t->bytes; k++)
                *hash = *hash * 31 + ((const uint8_t *)t->data)[k];
            if (round == 0)
                model_drop(m, t, i % 2);
        }
        model_will_need(m);
    }
    assert_true(before == after);
    model_close(&m);
}

static void test_builtin_weights(void **state)
{
    (void)state;
    struct model *m = open_good(BUILTIN, MODEL_WEIGHTS);
    const struct model_weights *w = model_weights(m);
    assert_non_null(w);
    assert_ptr_equal(w->head, w->embed);
    assert_string_equal(w->embed->name, "model.embed_tokens.weight");
    assert_string_equal(w->final_norm->name, "model.norm.weight");
    assert_string_equal(w->layers[3].wo->name, "model.layers.3.self_attn.o_proj.weight");
    assert_string_equal(w->layers[0].k_norm->name, "model.layers.0.self_attn.k_norm.weight");
    assert_string_equal(w->layers[2].ffn_norm->name, "model.layers.2.post_attention_layernorm.weight");
    assert_int_equal(w->layers[1].down->shape[0], 256);
    assert_int_equal(w->layers[1].down->shape[1], 512);
    assert_null(w->layers[4].wq);
    struct kv_layout kv;
    model_kv_layout(model_config(m), 16, DTYPE_BF16, &kv);
    assert_int_equal(kv_token_bytes(&kv), 4 * 2 * 4 * 32 * 2);
    model_close(&m);
}

static void test_config_fields(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        status want;
        const char *words;
    } cases[] = {
        { "\"qwen3\"", "\"gemma\"", ST_UNSUPPORTED, "model_type gemma is not supported" },
        { "\"qwen3\"", "\"llama\"", ST_UNSUPPORTED, "architectures: only [\"LlamaForCausalLM\"]" },
        { "\"model_type\"", "\"model_kind\"", ST_INVALID, "model_type is missing" },
        { "\"Qwen3ForCausalLM\"", "\"Qwen3ForSequenceClassification\"", ST_UNSUPPORTED, "architectures: only" },
        { "\"silu\"", "\"gelu\"", ST_UNSUPPORTED, "hidden_act: only \"silu\" is supported" },
        { "\"attention_bias\": false", "\"attention_bias\": true", ST_UNSUPPORTED, "attention_bias: only false" },
        { "\"attention_bias\": false", "\"attention_bias\": 0", ST_INVALID, "attention_bias: neither true nor" },
        { "\"use_cache\"", "\"mlp_bias\": true, \"use_cache\"", ST_UNSUPPORTED, "mlp_bias: only false" },
        { "\"use_sliding_window\": false", "\"use_sliding_window\": 1", ST_INVALID, "use_sliding_window: neither" },
        { "\"use_sliding_window\": false", "\"sliding_window\": -1", ST_INVALID, "sliding_window: not a count" },
        { "\"use_cache\"", "\"layer_types\": [\"sliding_attention\"], \"use_cache\"", ST_INVALID,
          "layer_types is not an array of one for each layer" },
        { "\"use_cache\"", "\"layer_types\": [\"full_attention\", \"a\", \"b\", \"c\"], \"use_cache\"", ST_UNSUPPORTED,
          "layer_types: only" },
        { "\"use_cache\"",
          "\"sliding_window\": 0, \"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", "
          "\"sliding_attention\"], \"use_cache\"",
          ST_INVALID, "sliding_window is no number of positions" },
        { "\"use_cache\"", "\"partial_rotary_factor\": 0.5, \"use_cache\"", ST_UNSUPPORTED, "partial_rotary_factor" },
        { "\"use_cache\"", "\"quantization_config\": {}, \"use_cache\"", ST_UNSUPPORTED, "quantization_config" },
        { "\"use_cache\"", "\"auto_map\": {}, \"use_cache\"", ST_UNSUPPORTED, "auto_map" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", ST_UNSUPPORTED,
          "rope_scaling: only" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"default\", \"factor\": 2}", ST_UNSUPPORTED,
          "rope_scaling: factor is not understood" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"linear\", \"low_freq_factor\": 2}",
          ST_UNSUPPORTED, "rope_scaling: low_freq_factor is not understood" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"linear\"}", ST_INVALID,
          "rotary scaling factor is not" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": \"2\"}", ST_INVALID,
          "factor: not a number" },
        { "\"rope_scaling\": null", "\"rope_scaling\": \"yarn\"", ST_INVALID, "rope_scaling is not an object" },
        { "\"rope_scaling\": null", "\"rope_parameters\": {\"rope_type\": \"longrope\"}", ST_INVALID,
          "short_factor is not an array" },
        { "\"rope_scaling\": null",
          "\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [1, 1], \"long_factor\": [1, 1], "
          "\"original_max_position_embeddings\": 64}",
          ST_INVALID, "2 rotary factors for 16 pairs" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"su\", \"short_factor\": [0]}", ST_INVALID,
          "short_factor: element 0 is no factor" },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"short_factor\": [1]}", ST_UNSUPPORTED,
          "rope_scaling: short_factor is not understood" },
        { "\"hidden_size\": 256", "\"hidden_size\": null", ST_INVALID, "hidden_size is missing" },
        { "\"hidden_size\": 256", "\"hidden_size\": \"256\"", ST_INVALID, "hidden_size: not a count" },
        { "\"hidden_size\": 256", "\"hidden_size\": -1", ST_INVALID, "hidden_size: not a count" },
        { "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 0", ST_INVALID, "layers: 0 is not from 1 to 256" },
        { "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 257", ST_INVALID, "layers: 257 is not from 1" },
        { "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5", ST_INVALID,
          "tensor model.layers.4.input_layernorm.weight is missing" },
        { "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", ST_UNSUPPORTED,
          "tensor model.layers.3.input_layernorm.weight is not part of" },
        { "\"num_attention_heads\": 8", "\"num_attention_heads\": 7", ST_INVALID, "cannot share 4 key/value heads" },
        { "\"num_attention_heads\": 8", "\"num_attention_heads\": 4", ST_INVALID,
          "q_proj.weight: its shape is [256, 256], not [128, 256]" },
        { "\"head_dim\": 32", "\"head_dim\": 31", ST_INVALID, "head size 31 is odd" },
        { "\"intermediate_size\": 512", "\"intermediate_size\": 4294967295", ST_INVALID, "feed-forward width" },
        { "\"vocab_size\": 1024", "\"vocab_size\": 1000", ST_INVALID,
          "model.embed_tokens.weight: its shape is [1024, 256], not [1000, 256]" },
        { "\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 0", ST_INVALID, "epsilon" },
        { "\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": \"x\"", ST_INVALID, "rms_norm_eps: not a number" },
        { "\"rope_theta\": 100000.0", "\"rope_theta\": -1", ST_INVALID, "rotary base" },
        { "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", ST_INVALID,
          "tensor lm_head.weight is missing" },
        { "\"use_cache\"", "\"hidden_size\"", ST_INVALID, "duplicate" },
        { "{", "[", ST_INVALID, "config.json: line" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reset_folder();
        write_replaced("config.json", cases[i].from, cases[i].to);
        check_refused(scratch.dir, cases[i].want, cases[i].words);
    }
}

/* What is the same model said otherwise loads; a fingerprint tells what differs. */
static void test_config_variants(void **state)
{
    (void)state;
    struct model *m = open_good(BUILTIN, 0);
    uint64_t fingerprint = model_fingerprint(m);
    model_close(&m);
    static const struct {
        const char *from, *to;
        bool same;
    } cases[] = {
        { "\"use_cache\": true", "\"unheard_of\": [1]", true },
        { "\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"default\"}", true },
        { "\"rope_theta\": 100000.0", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1e5}", true },
        { "\"use_cache\": true",
          "\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", \"full_attention\"]", true },
        { "\"use_sliding_window\": false", "\"sliding_window\": 512", true },
        { "\"use_sliding_window\": false", "\"use_sliding_window\": true, \"max_window_layers\": 2", false },
        { "\"rope_theta\": 100000.0", "\"rope_theta\": 10000", false },
        { "\"max_position_embeddings\": 4096", "\"max_position_embeddings\": 4095", false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        reset_folder();
        write_replaced("config.json", cases[i].from, cases[i].to);
        m = open_good(scratch.dir, 0);
        assert_int_equal(model_fingerprint(m) == fingerprint, cases[i].same);
        model_close(&m);
    }
}

static void test_fingerprint_sees_weights(void **state)
{
    (void)state;
    size_t n;
    char *data = read_builtin("model.safetensors", &n);
    reset_folder();
    struct model *m = open_good(scratch.dir, 0);
    uint64_t before = model_fingerprint(m);
    model_close(&m);
    data[n - 1] ^= 1;
    scratch_remove_file(&scratch, "model.safetensors");
    scratch_write(&scratch, "model.safetensors", data, n);
    m = open_good(scratch.dir, 0);
    assert_true(model_fingerprint(m) != before);
    model_close(&m);
    free(data);
}

static void test_folder_without_parts(void **state)
{
    (void)state;
    reset_folder();
    scratch_remove_file(&scratch, "config.json");
    check_refused(scratch.dir, ST_NOT_FOUND, "config.json");
    reset_folder();
    scratch_remove_file(&scratch, "model.safetensors");
    check_refused(scratch.dir, ST_NOT_FOUND, "neither model.safetensors nor");
    check_refused("/nowhere/model", ST_NOT_FOUND, "No such file");
    check_refused("/dev/null", ST_INVALID, "not a regular file");
}

/* A one-layer Llama of zeros, save for its last byte, and perhaps one more tensor of the head's shape. */
static void put_small_folder(const char *extra_name, const char *extra_dtype, uint8_t last_byte)
{
    static struct bytes b;
    char header[4096];
    size_t at = 0, n = (size_t)snprintf(header, sizeof header, "{");
    static const struct {
        const char *name, *shape;
        size_t bytes;
    } parts[] = {
        { "model.embed_tokens", "[1024,4]", 16384 },        { "model.norm", "[4]", 16 },
        { "model.layers.0.input_layernorm", "[4]", 16 },    { "model.layers.0.self_attn.q_proj", "[4,4]", 64 },
        { "model.layers.0.self_attn.k_proj", "[2,4]", 32 }, { "model.layers.0.self_attn.v_proj", "[2,4]", 32 },
        { "model.layers.0.self_attn.o_proj", "[4,4]", 64 }, { "model.layers.0.post_attention_layernorm", "[4]", 16 },
        { "model.layers.0.mlp.gate_proj", "[6,4]", 96 },    { "model.layers.0.mlp.up_proj", "[6,4]", 96 },
        { "model.layers.0.mlp.down_proj", "[4,6]", 96 },    { NULL, "[1024,4]", 16384 }
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++, n = strlen(header)) {
        bool extra = !parts[i].name;
        if (extra && !extra_name)
            break;
        size_t bytes = extra && strcmp(extra_dtype, "F32") != 0 ? parts[i].bytes / 2 : parts[i].bytes;
        snprintf(header + n, sizeof header - n,
                 "%s\"%s.weight\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", i ? "," : "",
                 extra ? extra_name : parts[i].name, extra ? extra_dtype : "F32", parts[i].shape, at, at + bytes);
        at += bytes;
    }
    snprintf(header + n, sizeof header - n, "}");
    while (strlen(header) % 8 != 0)
        strcat(header, " ");
    b.n = 0;
    put_u64(&b, strlen(header));
    put(&b, header, strlen(header));
    for (size_t i = 0; i < at; i++)
        put(&b, "", 1);
    b.data[b.n - 1] = last_byte;
    scratch_remove_file(&scratch, "model.safetensors");
    scratch_write(&scratch, "model.safetensors", b.data, b.n);
}

static void put_small_config(bool tied)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\":\"llama\",\"hidden_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,"
             "\"num_key_value_heads\":1,\"intermediate_size\":6,\"vocab_size\":1024,\"max_position_embeddings\":64,"
             "\"tie_word_embeddings\":%s}",
             tied ? "true" : "false");
    scratch_remove_file(&scratch, "config.json");
    scratch_write(&scratch, "config.json", text, strlen(text));
}

#define QWEN   "\"model_type\":\"qwen3_moe\","
#define GEMMA2 "\"model_type\":\"gemma2\","
#define GEMMA3 "\"model_type\":\"gemma3_text\","
#define PHI3   "\"model_type\":\"phi3\","

/* What is said about fields that only one kind of network has. */
static void test_fields_of_kinds(void **state)
{
    (void)state;
    static const struct {
        const char *fields;
        status want;
        const char *words;
    } cases[] = {
        { QWEN "\"num_experts_per_tok\":2", ST_INVALID, "num_local_experts is missing" },
        { QWEN "\"num_experts\":0,\"num_experts_per_tok\":2", ST_INVALID, "num_experts must be 1 or more" },
        { QWEN "\"num_experts\":4", ST_INVALID, "num_experts_per_tok is missing" },
        { QWEN "\"num_experts\":4,\"num_experts_per_tok\":0", ST_INVALID, "a token uses 0 of 4 experts" },
        { QWEN "\"num_experts\":4,\"num_experts_per_tok\":5", ST_INVALID, "a token uses 5 of 4 experts" },
        { QWEN "\"num_experts\":4,\"num_experts_per_tok\":2,\"decoder_sparse_step\":0", ST_INVALID,
          "decoder_sparse_step" },
        { QWEN "\"num_experts\":4,\"num_experts_per_tok\":2,\"mlp_only_layers\":[2]", ST_INVALID, "not from 0 to 1" },
        { QWEN "\"num_experts\":4,\"num_experts_per_tok\":2,\"mlp_only_layers\":1", ST_INVALID, "is not an array" },
        { QWEN "\"num_experts\":4,\"num_experts_per_tok\":2,\"shared_expert_intermediate_size\":8", ST_UNSUPPORTED,
          "shared_expert_intermediate_size: only null" },
        { GEMMA2 "\"hidden_activation\":\"gelu\"", ST_UNSUPPORTED, "hidden_activation: only \"gelu_pytorch_tanh\"" },
        { GEMMA2 "\"query_pre_attn_scalar\":0", ST_INVALID, "query_pre_attn_scalar is not above 0" },
        { GEMMA2 "\"attn_logit_softcapping\":-1", ST_INVALID, "caps -1 of scores and 30 of logits" },
        { GEMMA2 "\"use_bidirectional_attention\":true", ST_UNSUPPORTED, "use_bidirectional_attention: only false" },
        { GEMMA3 "\"attn_logit_softcapping\":50", ST_UNSUPPORTED, "attn_logit_softcapping: only null" },
        { GEMMA3 "\"sliding_window_pattern\":0", ST_INVALID, "sliding_window_pattern must be 1 or more" },
        { GEMMA3 "\"rope_local_base_freq\":0.5", ST_INVALID, "rotary base is not a number" },
        { PHI3 "\"partial_rotary_factor\":0.1", ST_INVALID, "partial_rotary_factor leaves nothing to rotate" },
        { PHI3 "\"partial_rotary_factor\":1.5", ST_INVALID, "partial_rotary_factor leaves nothing to rotate" },
        { PHI3 "\"head_dim\":4,\"partial_rotary_factor\":0.75", ST_INVALID, "3 of 4 dimensions of a head cannot be" },
    };
    reset_folder();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "{\"hidden_size\":4,\"num_hidden_layers\":2,\"num_attention_heads\":2,"
                 "\"num_key_value_heads\":1,\"intermediate_size\":6,\"vocab_size\":1024,"
                 "\"max_position_embeddings\":64,%s}",
                 cases[i].fields);
        scratch_remove_file(&scratch, "config.json");
        scratch_write(&scratch, "config.json", text, strlen(text));
        check_refused(scratch.dir, cases[i].want, cases[i].words);
    }
}

static void test_heads(void **state)
{
    (void)state;
    reset_folder();
    put_small_config(true);
    put_small_folder(NULL, NULL, 0);
    struct model *m = open_good(scratch.dir, MODEL_WEIGHTS);
    assert_int_equal(model_config(m)->head_dim, 2); /* hidden_size / heads */
    assert_true(model_config(m)->rope.theta == 10000.0f);
    assert_null(model_weights(m)->layers[0].q_norm);
    model_close(&m);
    put_small_folder("lm_head", "F32", 0);
    m = open_good(scratch.dir, MODEL_WEIGHTS);
    assert_string_equal(model_weights(m)->head->name, "model.embed_tokens.weight");
    model_close(&m);
    put_small_folder("lm_head", "F32", 1);
    check_refused(scratch.dir, ST_INVALID, "lm_head.weight differs from the embeddings");
    put_small_folder("lm_head", "BF16", 0);
    check_refused(scratch.dir, ST_INVALID, "lm_head.weight differs from the embeddings");
    put_small_folder("model.other", "F32", 0);
    check_refused(scratch.dir, ST_UNSUPPORTED, "tensor model.other.weight is not part of a supported llama network");
    put_small_config(false);
    put_small_folder("lm_head", "F32", 1);
    m = open_good(scratch.dir, MODEL_WEIGHTS);
    assert_string_equal(model_weights(m)->head->name, "lm_head.weight");
    model_close(&m);
}

/* A safetensors file of one tensor. */
static void write_shard(const char *name, const char *tensor, const char *shape, size_t bytes)
{
    static uint8_t zeros[1 << 20];
    char header[256];
    int n = snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,%zu]}}",
                     tensor, shape, bytes);
    uint64_t len = (uint64_t)(n + 7) / 8 * 8;
    memset(header + n, ' ', sizeof header - (size_t)n);
    memcpy(zeros, &len, 8);
    memcpy(zeros + 8, header, len);
    memset(zeros + 8 + len, 0, bytes);
    scratch_remove_file(&scratch, name);
    scratch_write(&scratch, name, zeros, 8 + len + bytes);
}

static void put_index(const char *map)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":%s}", map);
    scratch_write(&scratch, "model.safetensors.index.json", text, strlen(text));
}

static void test_shards(void **state)
{
    (void)state;
    reset_folder();
    scratch_remove_file(&scratch, "model.safetensors");
    link_builtin("model.safetensors", "two.safetensors");
    put_index("{\"model.norm.weight\":\"two.safetensors\"}");
    struct model *m = open_good(scratch.dir, MODEL_WEIGHTS);
    assert_int_equal(model_tensor_count(m), 46);
    model_close(&m);
    write_shard("one.safetensors", "extra.weight", "[2]", 8);
    put_index("{\"model.norm.weight\":\"two.safetensors\",\"extra.weight\":\"one.safetensors\"}");
    check_refused(scratch.dir, ST_UNSUPPORTED, "tensor extra.weight is not part of");
    put_index("{\"model.norm.weight\":\"one.safetensors\"}");
    check_refused(scratch.dir, ST_INVALID, "tensor model.norm.weight is not in one.safetensors");
    write_shard("one.safetensors", "model.norm.weight", "[256]", 1024);
    put_index("{\"model.layers.0.mlp.up_proj.weight\":\"two.safetensors\",\"model.norm.weight\":\"one.safetensors\"}");
    check_refused(scratch.dir, ST_INVALID, "tensor model.norm.weight is there twice");
    put_index("{\"model.norm.weight\":\"../two.safetensors\"}");
    check_refused(scratch.dir, ST_INVALID, "which is no file of this folder");
    put_index("{\"model.norm.weight\":\"absent.safetensors\"}");
    check_refused(scratch.dir, ST_NOT_FOUND, "absent.safetensors");
    put_index("{\"model.norm.weight\":7}");
    check_refused(scratch.dir, ST_INVALID, "has no file name");
    put_index("[]");
    check_refused(scratch.dir, ST_INVALID, "weight_map is not an object");
}

static void test_folder_templates(void **state)
{
    (void)state;
    const char *bad = "{% for %}{";
    reset_folder();
    scratch_write(&scratch, "chat_template.jinja", bad, strlen(bad));
    check_refused(scratch.dir, ST_INVALID, "chat_template.jinja: chat template: ");
    reset_folder();
    write_replaced("tokenizer_config.json", "{% for message in messages %}", "{% for %}{");
    check_refused(scratch.dir, ST_INVALID, "tokenizer_config.json: chat template: ");
    reset_folder();
    write_replaced("tokenizer_config.json", "\"model_max_length\": 4096",
                   "\"model_max_length\": 1000000000000000019884624838656");
    struct model *m = open_good(scratch.dir, 0);
    assert_non_null(model_chat_template(m));
    model_close(&m);
    reset_folder();
    write_replaced("tokenizer_config.json", "\"chat_template\"", "\"no_chat_template\"");
    m = open_good(scratch.dir, 0);
    assert_null(model_chat_template(m));
    model_close(&m);
    reset_folder();
    write_replaced("tokenizer_config.json", "\"chat_template\"",
                   "\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"{{\"}, {\"name\": \"default\", "
                   "\"template\": \"{{ 1 }}\"}], \"other\"");
    m = open_good(scratch.dir, 0);
    assert_non_null(model_chat_template(m));
    model_close(&m);
}

/* Only who asks for the defaults is held up by what is wrong with them. */
static void test_folder_defaults(void **state)
{
    (void)state;
    static const char good[] = "{\"temperature\": 0.5, \"eos_token_id\": 1023}", bad[] = "{\"temperature\": \"hot\"}",
                      no_token[] = "{\"eos_token_id\": -1}";
    struct model *m = NULL;
    struct error err = { "" };
    reset_folder();
    scratch_write(&scratch, "generation_config.json", good, sizeof good - 1);
    m = open_good(scratch.dir, MODEL_DEFAULTS);
    assert_true(model_defaults(m)->temperature == 0.5f);
    model_close(&m);
    m = open_good(scratch.dir, 0);
    assert_true(model_defaults(m)->temperature == 1);
    model_close(&m);
    scratch_write(&scratch, "generation_config.json", bad, sizeof bad - 1);
    m = open_good(scratch.dir, 0);
    model_close(&m);
    assert_int_equal(model_open(scratch.dir, MODEL_DEFAULTS, &m, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "/generation_config.json: temperature"));
    scratch_write(&scratch, "generation_config.json", no_token, sizeof no_token - 1);
    check_refused(scratch.dir, ST_INVALID, "/generation_config.json: eos_token_id");
}

/* A Llama of one layer with a byte-level vocabulary and one merge. */
struct small_gguf {
    const char *arch, *template, *extra_key;
    uint32_t extra_value;
    uint32_t n_layers; /* as its key says; 0: the one that it has */
    uint32_t n_experts;
    const char *extra_tensor;
    uint64_t extra_outer, extra_inner;
    uint32_t q_type;
    float fill; /* of every F32 tensor */
};

enum { G_WIDTH = 32, G_HEADS = 2, G_VOCAB = 258, F32 = 0, Q8_0 = 8, STRING = 8, I32 = 5 };

static void put_small_keys(struct bytes *b, const struct small_gguf *g)
{
    char key[96];
    const struct {
        const char *name;
        uint32_t value;
    } counts[] = { { "block_count", g->n_layers ? g->n_layers : 1 },
                   { "context_length", 128 },
                   { "embedding_length", G_WIDTH },
                   { "feed_forward_length", 64 },
                   { "attention.head_count", 2 },
                   { "attention.head_count_kv", 1 } };
    put_key_text(b, "general.architecture", g->arch);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        snprintf(key, sizeof key, "%s.%s", g->arch, counts[i].name);
        put_key_u32(b, key, counts[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", g->arch);
    put_key_f32(b, key, 1e-5f);
    if (g->n_experts > 0) {
        snprintf(key, sizeof key, "%s.expert_count", g->arch);
        put_key_u32(b, key, g->n_experts);
        snprintf(key, sizeof key, "%s.expert_used_count", g->arch);
        put_key_u32(b, key, 2);
    }
    put_key_text(b, "tokenizer.chat_template", g->template ? g->template : "{{ 1 }}");
    put_key_u32(b, g->extra_key ? g->extra_key : "general.nothing", g->extra_value);
}

/* GPT-2's stand-in for a byte, in UTF-8. */
static void byte_text(uint32_t byte, char out[3])
{
    static uint32_t code[256];
    for (uint32_t b = 0, moved = 256; code[255] == 0 && b < 256; b++)
        code[b] = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : moved++;
    uint32_t c = code[byte];
    memset(out, 0, 3);
    if (c < 128) {
        out[0] = (char)c;
        return;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
}

static void put_small_tokenizer(struct bytes *b)
{
    char text[3];
    put_key_text(b, "tokenizer.ggml.model", "gpt2");
    put_key_text(b, "tokenizer.ggml.pre", "gpt-2");
    put_key_array(b, "tokenizer.ggml.tokens", STRING, G_VOCAB);
    for (uint32_t i = 0; i < 256; i++) {
        byte_text(i, text);
        put_text(b, text);
    }
    put_text(b, "ab");
    put_text(b, "<|end|>");
    put_key_array(b, "tokenizer.ggml.token_type", I32, G_VOCAB);
    for (uint32_t i = 0; i < G_VOCAB; i++)
        put_u32(b, i == G_VOCAB - 1 ? 3 : 1);
    put_key_array(b, "tokenizer.ggml.merges", STRING, 1);
    put_text(b, "a b");
    put_key_u32(b, "tokenizer.ggml.eos_token_id", G_VOCAB - 1);
}

static const char *write_small_gguf(const struct small_gguf *g)
{
    static struct bytes b;
    const struct {
        const char *name;
        uint64_t outer, inner;
        uint32_t type;
    } tensors[] = {
        { "token_embd.weight", G_VOCAB, G_WIDTH, Q8_0 },       { "output_norm.weight", 0, G_WIDTH, F32 },
        { "blk.0.attn_norm.weight", 0, G_WIDTH, F32 },         { "blk.0.attn_q.weight", G_WIDTH, G_WIDTH, g->q_type },
        { "blk.0.attn_k.weight", G_WIDTH / 2, G_WIDTH, F32 },  { "blk.0.attn_v.weight", G_WIDTH / 2, G_WIDTH, F32 },
        { "blk.0.attn_output.weight", G_WIDTH, G_WIDTH, F32 }, { "blk.0.ffn_norm.weight", 0, G_WIDTH, F32 },
        { "blk.0.ffn_gate.weight", 64, G_WIDTH, F32 },         { "blk.0.ffn_up.weight", 64, G_WIDTH, F32 },
        { "blk.0.ffn_down.weight", G_WIDTH, 64, F32 },         { g->extra_tensor, g->extra_outer, g->extra_inner, F32 }
    };
    size_t n = sizeof tensors / sizeof *tensors - (g->extra_tensor ? 0 : 1);
    uint64_t offset = 0;
    b.n = 0;
    put_gguf_header(&b, n, 10 + 6 + (g->n_experts > 0 ? 2 : 0));
    put_small_keys(&b, g);
    put_small_tokenizer(&b);
    for (size_t i = 0; i < n; i++) {
        uint64_t values = (tensors[i].outer ? tensors[i].outer : 1) * tensors[i].inner;
        put_gguf_tensor(&b, tensors[i].name, tensors[i].outer, tensors[i].inner, tensors[i].type, offset);
        offset += (tensors[i].type == Q8_0 ? values / 32 * 34 : values * 4) + 31;
        offset -= offset % 32;
    }
    put_padding(&b, 32);
    for (uint64_t i = 0; i < offset / 4; i++)
        put(&b, &g->fill, 4);
    return scratch_write(&scratch, "m.v1.gguf", b.data, b.n);
}

static void test_small_gguf(void **state)
{
    (void)state;
    struct model *m = open_good(write_small_gguf(&(struct small_gguf){ .arch = "llama", .fill = 1 }), MODEL_WEIGHTS);
    assert_string_equal(model_name(m), "m.v1");
    const struct model_config *c = model_config(m);
    assert_int_equal(c->arch, ARCH_LLAMA);
    assert_int_equal(c->head_dim, 16);
    assert_int_equal(c->n_vocab, G_VOCAB);
    assert_true(c->rope.theta == 10000.0f);
    assert_true(c->rope_interleaved);
    assert_true(c->tied_embeddings);
    assert_false(c->qk_norm);
    assert_non_null(model_tokenizer(m));
    assert_non_null(model_chat_template(m));
    assert_string_equal(model_weights(m)->layers[0].down->name, "blk.0.ffn_down.weight");
    uint64_t text = model_text_fingerprint(m);
    model_close(&m);
    check_no_text(write_small_gguf(&(struct small_gguf){ .arch = "llama", .fill = 1 }));
    m = open_good(write_small_gguf(&(struct small_gguf){ .arch = "llama", .fill = 2 }), MODEL_NO_TEXT);
    assert_true(model_text_fingerprint(m) == text); /* of the weights nothing */
    model_close(&m);
    struct small_gguf untied = {
        .arch = "llama", .extra_tensor = "output.weight", .extra_outer = G_VOCAB, .extra_inner = G_WIDTH
    };
    m = open_good(write_small_gguf(&untied), MODEL_WEIGHTS);
    assert_false(model_config(m)->tied_embeddings);
    assert_string_equal(model_weights(m)->head->name, "output.weight");
    model_close(&m);
}

static float attention_scale_of(const char *arch, uint32_t n_layers)
{
    struct gguf_files files = { 0 };
    struct model_config c = { 0 };
    struct error err;
    const char *path = write_small_gguf(&(struct small_gguf){ .arch = arch, .n_layers = n_layers });
    assert_int_equal(gguf_files_open(path, &files, &err), ST_OK);
    assert_int_equal(model_gguf_config(&files, path, &c, &err), ST_OK);
    gguf_files_close(&files);
    return c.attention_scale;
}

/* Files do not say that queries of the 27B models are scaled by width and number of heads, not by the head's size. */
static void test_gguf_scale_of_the_largest(void **state)
{
    (void)state;
    assert_true(attention_scale_of("gemma2", 42) == 0);
    assert_true(attention_scale_of("gemma2", 46) == 0.25f);
    assert_true(attention_scale_of("gemma3", 46) == 0);
    assert_true(attention_scale_of("gemma3", 62) == 0.25f);
}

static void test_bad_gguf(void **state)
{
    (void)state;
    static const struct {
        struct small_gguf file;
        status want;
        const char *words;
    } cases[] = {
        { { .arch = "gemma" }, ST_UNSUPPORTED, "architecture gemma is not supported" },
        { { .arch = "qwen3" }, ST_INVALID, "tensor blk.0.attn_q_norm.weight is missing" },
        { { .arch = "llama", .extra_key = "llama.expert_count", .extra_value = 8 },
          ST_INVALID,
          "key llama.expert_used_count is missing" },
        { { .arch = "qwen2", .extra_key = "qwen2.expert_count", .extra_value = 8 },
          ST_UNSUPPORTED,
          "key qwen2.expert_count: only 0 is supported" },
        { { .arch = "llama", .n_experts = 4 }, ST_INVALID, "tensor blk.0.ffn_gate_inp.weight is missing" },
        { { .arch = "llama", .n_experts = 1 }, ST_INVALID, "a token uses 2 of 1 experts" },
        { { .arch = "llama", .n_experts = 5000 }, ST_INVALID, "5000 experts of width 64: only up to 1024" },
        { { .arch = "llama",
            .n_experts = 4,
            .extra_tensor = "blk.0.ffn_gate_inp.weight",
            .extra_outer = 4,
            .extra_inner = G_WIDTH },
          ST_INVALID,
          "tensor blk.0.ffn_gate_exps.weight is missing" },
        { { .arch = "llama",
            .n_experts = 4,
            .extra_tensor = "blk.0.ffn_gate.0.weight",
            .extra_outer = 64,
            .extra_inner = G_WIDTH },
          ST_UNSUPPORTED,
          "tensor blk.0.ffn_gate.0.weight: experts in tensors of their own are not supported" },
        { { .arch = "qwen3", .extra_key = "qwen3.attention.sliding_window", .extra_value = 512 },
          ST_UNSUPPORTED,
          "key qwen3.attention.sliding_window: only 0" },
        { { .arch = "llama", .extra_key = "llama.rope.scaling.factor", .extra_value = 2 },
          ST_INVALID,
          "key llama.rope.scaling.factor: not a floating-point number" },
        { { .arch = "llama", .extra_key = "llama.rope.scaling.type", .extra_value = 0 },
          ST_UNSUPPORTED,
          "key llama.rope.scaling.type: only \"none\", \"linear\"" },
        { { .arch = "llama", .extra_key = "llama.logit_scale", .extra_value = 1 },
          ST_UNSUPPORTED,
          "key llama.logit_scale is not understood" },
        { { .arch = "llama", .extra_key = "llama.rope.dimension_count", .extra_value = 8 },
          ST_UNSUPPORTED,
          "16, values of 16 and 8 rotated" },
        { { .arch = "llama", .extra_key = "llama.attention.key_length", .extra_value = 8 },
          ST_INVALID,
          "tensor blk.0.attn_q.weight: its shape is [32, 32], not [16, 32]" },
        { { .arch = "llama", .extra_key = "llama.vocab_size", .extra_value = 300 },
          ST_INVALID,
          "llama.vocab_size is 300, but token_embd.weight has 258 rows" },
        { { .arch = "llama", .extra_key = "llama.rope.freq_base", .extra_value = 5 },
          ST_INVALID,
          "key llama.rope.freq_base: not a floating-point number" },
        { { .arch = "llama", .extra_key = "split.count", .extra_value = 2 },
          ST_INVALID,
          "one of 2 files, but not named NAME-00001-of-00002.gguf" },
        { { .arch = "llama", .extra_key = "split.count", .extra_value = 513 }, ST_LIMIT, "one of 513 files" },
        { { .arch = "llama", .extra_key = "general.type", .extra_value = 2 }, ST_UNSUPPORTED, "general.type" },
        { { .arch = "llama", .q_type = 10 },
          ST_UNSUPPORTED,
          "tensor blk.0.attn_q.weight: number format Q2_K is not supported" },
        { { .arch = "llama", .extra_tensor = "blk.0.attn_q.bias", .extra_inner = 32 },
          ST_UNSUPPORTED,
          "tensor blk.0.attn_q.bias is not part of a supported llama network" },
        { { .arch = "llama", .extra_tensor = "output.weight", .extra_outer = 32, .extra_inner = 32 },
          ST_INVALID,
          "tensor output.weight: its shape is [32, 32], not [258, 32]" },
        { { .arch = "llama", .extra_tensor = "rope_freqs.weight", .extra_inner = 8, .fill = -2 },
          ST_INVALID,
          "rope_freqs.weight: -2 is no factor" },
        { { .arch = "llama", .extra_tensor = "rope_freqs.weight", .extra_inner = 16, .fill = 1 },
          ST_INVALID,
          "rope_freqs.weight is not 8 values of F32" },
        { { .arch = "llama", .template = "{% for %}{" }, ST_INVALID, "key tokenizer.chat_template: " },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(write_small_gguf(&cases[i].file), cases[i].want, cases[i].words);
    struct small_gguf ones = { .arch = "llama", .extra_tensor = "rope_freqs.weight", .extra_inner = 8, .fill = 1 };
    struct model *m = open_good(write_small_gguf(&ones), 0); /* frequencies times one are the same */
    model_close(&m);
}

static int setup(void **state)
{
    (void)state;
    scratch_make(&scratch);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove(&scratch, folder_files, sizeof folder_files / sizeof *folder_files);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_builtin_config),
        cmocka_unit_test(test_builtin_weights),
        cmocka_unit_test(test_builtin_without_text),
        cmocka_unit_test(test_dropped_tensors_stay_readable),
        cmocka_unit_test(test_config_fields),
        cmocka_unit_test(test_config_variants),
        cmocka_unit_test(test_fingerprint_sees_weights),
        cmocka_unit_test(test_folder_without_parts),
        cmocka_unit_test(test_fields_of_kinds),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_folder_templates),
        cmocka_unit_test(test_folder_defaults),
        cmocka_unit_test(test_small_gguf),
        cmocka_unit_test(test_gguf_scale_of_the_largest),
        cmocka_unit_test(test_bad_gguf),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
