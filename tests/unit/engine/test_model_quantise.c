#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "engine/chat_template.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/model_keys.h"
#include "engine/model_quantise.h"
#include "engine/tokenizer.h"
#include "tests/unit/engine/model_files.h"

#define BUILTIN BATON_SOURCE_DIR "/models/baton-tiny"
#define VOCAB   BATON_SOURCE_DIR "/tests/unit/engine/data/spm/ggml-vocab-llama-spm.gguf"

static struct scratch scratch;
static const char *const folder_files[] = { "config.json", "tokenizer.json", "tokenizer_config.json",
                                            "model.safetensors" };
#define N_FILES (sizeof folder_files / sizeof *folder_files)

static const char *in_scratch(const char *name, char path[160])
{
    snprintf(path, 160, "%s/%s", scratch.dir, name);
    return path;
}

static char *read_all(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *data = malloc(16 << 20);
    *n = fread(data, 1, (16 << 20) - 1, f);
    data[*n] = '\0';
    fclose(f);
    return data;
}

/* The built-in model in a folder of the test's own; in one of its files from is replaced once, where it is given. */
static void make_folder(const char *name, const char *from, const char *to)
{
    for (size_t i = 0; i < N_FILES; i++) {
        char path[256];
        size_t n;
        snprintf(path, sizeof path, "%s/%s", BUILTIN, folder_files[i]);
        char *text = read_all(path, &n);
        char *changed = malloc(n + 1024), *at = name && !strcmp(name, folder_files[i]) ? strstr(text, from) : NULL;
        assert_true(at || !name || strcmp(name, folder_files[i]) != 0);
        size_t before = at ? (size_t)(at - text) : n, skipped = at ? strlen(from) : 0, put = at ? strlen(to) : 0;
        memcpy(changed, text, before);
        memcpy(changed + before, at ? to : "", put);
        memcpy(changed + before + put, text + before + skipped, n - before - skipped);
        scratch_write(&scratch, folder_files[i], changed, n + put - skipped);
        free(changed);
        free(text);
    }
}

static status quantise(const char *source, const char *out, enum quantise_mix mix, uint32_t n_threads, bool force,
                       struct quantise_report *report, struct error *err)
{
    const struct quantise_options o = {
        .source = source, .out = out, .mix = mix, .n_threads = n_threads, .force = force
    };
    return model_quantise(&o, report, err);
}

static void quantise_well(const char *source, const char *out, enum quantise_mix mix, uint32_t n_threads)
{
    struct quantise_report report;
    struct error err = { "" };
    if (quantise(source, out, mix, n_threads, true, &report, &err) != ST_OK)
        fail_msg("%s", err.text);
    struct stat info;
    assert_int_equal(stat(out, &info), 0);
    assert_int_equal(info.st_size, report.bytes);
}

static struct model *open_good(const char *path)
{
    struct model *m = NULL;
    struct error err = { "" };
    if (model_open(path, MODEL_WEIGHTS, &m, &err) != ST_OK)
        fail_msg("%s", err.text);
    return m;
}

static void assert_same_ids(const struct model *a, const struct model *b, const char *text)
{
    struct token_list x = { 0 }, y = { 0 };
    const unsigned flags = TOKENIZE_SPECIAL | TOKENIZE_ADD_BOS;
    assert_int_equal(tokenizer_encode(model_tokenizer(a), text, strlen(text), flags, 0, &x), ST_OK);
    assert_int_equal(tokenizer_encode(model_tokenizer(b), text, strlen(text), flags, 0, &y), ST_OK);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.ids, y.ids, x.n * sizeof *x.ids);
    token_list_free(&x);
    token_list_free(&y);
}

static void test_folder_keeps_its_meaning(void **state)
{
    (void)state;
    char out[160];
    quantise_well(BUILTIN, in_scratch("a.gguf", out), MIX_Q8_0, 2);
    struct model *a = open_good(BUILTIN), *b = open_good(out);
    assert_true(model_keys_mean(model_config(a), model_config(b)));
    size_t m, n, n_eos, n_eos_b;
    const char *x = chat_template_source(model_chat_template(a), &m);
    const char *y = chat_template_source(model_chat_template(b), &n);
    assert_int_equal(m, n);
    assert_memory_equal(x, y, n);
    const uint32_t *eos = tokenizer_eos(model_tokenizer(a), &n_eos);
    assert_memory_equal(eos, tokenizer_eos(model_tokenizer(b), &n_eos_b), n_eos * sizeof *eos);
    assert_int_equal(n_eos, n_eos_b);
    assert_same_ids(a, b, "Once there were 1234 tokens, <|im_start|>\xC3\xA9t\xC3\xA9<|im_end|>\n\n  and\ttabs");
    const struct model_weights *v = model_weights(a), *w = model_weights(b);
    assert_int_equal(w->embed->type, DTYPE_Q8_0);
    assert_int_equal(w->layers[3].down->type, DTYPE_Q8_0);
    assert_int_equal(w->layers[3].q_norm->type, DTYPE_F32);
    float wanted[512], got[512];
    dtype_to_f32(v->layers[1].wk->type, v->layers[1].wk->data, wanted, 256);
    dtype_to_f32(DTYPE_Q8_0, w->layers[1].wk->data, got, 256);
    for (uint32_t i = 0; i < 256; i++)
        assert_float_equal(got[i], wanted[i], 0.01f);
    dtype_to_f32(v->final_norm->type, v->final_norm->data, wanted, 256);
    assert_memory_equal(w->final_norm->data, wanted, 256 * sizeof *wanted);
    model_close(&a);
    model_close(&b);
    unlink(out);
}

/* A file is copied key by key; what llama.cpp calls the mix decides the formats. */
static void test_gguf_keeps_its_keys(void **state)
{
    (void)state;
    char first[160], second[160];
    quantise_well(BUILTIN, in_scratch("a.gguf", first), MIX_Q8_0, 1);
    quantise_well(first, in_scratch("b.gguf", second), MIX_Q4_K_M, 1);
    struct gguf *a = NULL, *b = NULL;
    struct error err;
    assert_int_equal(gguf_open(first, &a, &err), ST_OK);
    assert_int_equal(gguf_open(second, &b, &err), ST_OK);
    assert_int_equal(gguf_key_count(a), gguf_key_count(b));
    for (size_t i = 0; i < gguf_key_count(a); i++) {
        struct gguf_string x = gguf_key_at(a, i), y = gguf_key_at(b, i);
        assert_int_equal(x.len, y.len);
        assert_memory_equal(x.data, y.data, x.len);
        x = gguf_value_at(a, i);
        y = gguf_value_at(b, i);
        assert_int_equal(x.len, y.len);
        assert_true(memcmp(x.data, y.data, x.len) == 0 || i + 1 == gguf_key_count(a)); /* general.file_type */
    }
    assert_int_equal(gguf_tensor(b, "token_embd.weight")->type, DTYPE_Q6_K); /* the head */
    assert_int_equal(gguf_tensor(b, "blk.0.attn_v.weight")->type, DTYPE_Q4_K);
    assert_int_equal(gguf_tensor(b, "blk.2.attn_v.weight")->type, DTYPE_Q6_K);
    assert_int_equal(gguf_tensor(b, "blk.3.ffn_down.weight")->type, DTYPE_Q6_K);
    assert_int_equal(gguf_tensor(b, "blk.3.ffn_up.weight")->type, DTYPE_Q4_K);
    gguf_close(&a);
    gguf_close(&b);
    unlink(first);
    unlink(second);
}

static void test_threads_change_nothing(void **state)
{
    (void)state;
    char one[160], three[160];
    size_t m, n;
    quantise_well(BUILTIN, in_scratch("a.gguf", one), MIX_Q4_K_M, 1);
    char *x = read_all(one, &m);
    quantise_well(BUILTIN, in_scratch("a.gguf", three), MIX_Q4_K_M, 3);
    char *y = read_all(three, &n);
    assert_int_equal(m, n);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
    unlink(one);
}

static void assert_folder_holds(size_t wanted)
{
    DIR *dir = opendir(scratch.dir);
    size_t n = 0;
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    assert_int_equal(n, wanted + 2);
}

static void check_refused(const char *source, status want, const char *words)
{
    struct quantise_report report;
    struct error err = { "" };
    char out[160];
    status st = quantise(source, in_scratch("a.gguf", out), MIX_Q8_0, 1, false, &report, &err);
    if (st != want || !strstr(err.text, words))
        fail_msg("wanted %s with \"%s\", got %s: %s", status_text(want), words, status_text(st), err.text);
}

static void test_what_cannot_be_carried_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *file, *from, *to, *words;
    } cases[] = {
        { "config.json", "\"use_sliding_window\": false",
          "\"use_sliding_window\": true, \"sliding_window\": 64, \"max_window_layers\": 2",
          "no key for a sliding window" },
        { "tokenizer.json", "\"rstrip\": false", "\"rstrip\": true",
          "no key for added token <|endoftext|> with rstrip" },
        { "tokenizer.json", "\\\\p{N}", "\\\\p{Nd}", "no key for the way it cuts texts" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make_folder(cases[i].file, cases[i].from, cases[i].to);
        check_refused(scratch.dir, ST_UNSUPPORTED, cases[i].words);
        assert_folder_holds(N_FILES);
    }
    for (size_t i = 0; i < N_FILES; i++)
        scratch_remove_file(&scratch, folder_files[i]);
}

static void test_bad_weights_leave_nothing(void **state)
{
    (void)state;
    size_t n;
    char path[160];
    make_folder(NULL, "", "");
    char *data = read_all(in_scratch("model.safetensors", path), &n);
    const size_t norm = 256 * sizeof(uint16_t); /* the last tensor, behind layer 3's down */
    data[n - norm - 1] = 0x7f;                  /* a BF16 value that is no number */
    data[n - norm - 2] = (char)0xc0;
    scratch_write(&scratch, "model.safetensors", data, n);
    free(data);
    check_refused(scratch.dir, ST_INVALID, "down_proj.weight: a value is no number or beyond 65504");
    assert_folder_holds(N_FILES);
    for (size_t i = 0; i < N_FILES; i++)
        scratch_remove_file(&scratch, folder_files[i]);
}

static void test_files_are_not_overwritten(void **state)
{
    (void)state;
    char out[160];
    scratch_write(&scratch, "a.gguf", "mine", 4);
    check_refused(BUILTIN, ST_INVALID, "a.gguf: it is there already; --force replaces it");
    size_t n;
    char *text = read_all(in_scratch("a.gguf", out), &n);
    assert_string_equal(text, "mine");
    free(text);
    unlink(out);
    if (mkdir(out, 0700) != 0)
        fail();
    check_refused(BUILTIN, ST_INVALID, "a.gguf: it is there and no regular file");
    rmdir(out);
    check_refused(VOCAB, ST_INVALID, "ggml-vocab-llama-spm.gguf");
    struct error err;
    struct quantise_report report;
    assert_int_equal(quantise(BUILTIN, "/nowhere/a.gguf", MIX_Q8_0, 1, false, &report, &err), ST_IO);
    assert_non_null(strstr(err.text, "/nowhere/a.gguf: No such file"));
    assert_folder_holds(0);
}

struct stopper {
    atomic_bool stop;
    uint32_t n;
};

static void stop_at_fifth(void *ctx, const char *tensor, uint64_t done, uint64_t all)
{
    struct stopper *s = ctx;
    assert_non_null(tensor);
    assert_true(done < all);
    if (++s->n == 5)
        atomic_store(&s->stop, true);
}

static void test_interrupts_leave_nothing(void **state)
{
    (void)state;
    char out[160];
    struct stopper s = { .n = 0 };
    struct quantise_report report;
    struct error err;
    const struct quantise_options o = { .source = BUILTIN,
                                        .out = in_scratch("a.gguf", out),
                                        .n_threads = 1,
                                        .cancelled = &s.stop,
                                        .on_progress = stop_at_fifth,
                                        .ctx = &s };
    assert_int_equal(model_quantise(&o, &report, &err), ST_CANCELLED);
    assert_int_equal(s.n, 5);
    assert_folder_holds(0);
}

static int make_scratch(void **state)
{
    (void)state;
    scratch_make(&scratch);
    return 0;
}

static int remove_scratch(void **state)
{
    (void)state;
    scratch_remove(&scratch, NULL, 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder_keeps_its_meaning),  cmocka_unit_test(test_gguf_keeps_its_keys),
        cmocka_unit_test(test_threads_change_nothing),    cmocka_unit_test(test_what_cannot_be_carried_is_refused),
        cmocka_unit_test(test_bad_weights_leave_nothing), cmocka_unit_test(test_files_are_not_overwritten),
        cmocka_unit_test(test_interrupts_leave_nothing),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
