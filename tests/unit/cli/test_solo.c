/* An engine for one sequence: the built-in model's reference answers, however the text is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_engine.h"
#include "bench/solo.h"
#include "cli/score.h"

#define TINY      BATON_SOURCE_DIR "/models/baton-tiny"
#define GOLDEN    BATON_SOURCE_DIR "/tests/golden/baton-tiny/completions.jsonl"
#define MAX_TOKEN 1024u
#define N_SEQS    3u

static struct error err;

struct collected {
    float *rows; /* [MAX_TOKEN][n_vocab] */
    uint32_t n;
};

static void collect(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    struct collected *c = ctx;
    (void)row;
    assert_true(c->n < MAX_TOKEN);
    memcpy(c->rows + (size_t)c->n++ * n_vocab, logits, n_vocab * sizeof *logits);
}

static struct solo *create(bool f32, uint32_t threads)
{
    struct solo *solo = NULL;
    struct solo_options o = {
        .path = TINY,
        .f32_math = f32,
        .kv_type = f32 ? DTYPE_F32 : DTYPE_BF16,
        .n_threads = threads,
        .max_tokens = MAX_TOKEN,
        .max_rows = 64,
        .n_seqs = N_SEQS,
    };
    assert_int_equal(solo_create(&o, &solo, &err), ST_OK);
    return solo;
}

static void run_in_chunks(struct solo *solo, const uint32_t *tokens, uint32_t n, uint32_t chunk, struct collected *out)
{
    out->n = 0;
    for (uint32_t done = 0; done < n; done += chunk)
        solo_step(solo, tokens + done, n - done < chunk ? n - done : chunk, done, collect, out);
    assert_int_equal(out->n, n);
}

static void cutting_changes_no_bit(void **state)
{
    (void)state;
    uint32_t tokens[100];
    static const uint32_t chunks[] = { 1, 7, 33 };
    struct solo *solo = create(false, 2);
    size_t n_vocab = model_config(solo_model(solo))->n_vocab, bytes = MAX_TOKEN * n_vocab * sizeof(float);
    struct collected whole = { malloc(bytes), 0 }, parts = { malloc(bytes), 0 };
    for (uint32_t i = 0; i < 100; i++)
        tokens[i] = (i * 37 + 11) % (uint32_t)n_vocab;
    run_in_chunks(solo, tokens, 100, 64, &whole);
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        run_in_chunks(solo, tokens, 100, chunks[i], &parts);
        assert_memory_equal(whole.rows, parts.rows, 100 * n_vocab * sizeof(float));
    }
    free(whole.rows);
    free(parts.rows);
    solo_destroy(&solo);
}

static void check_line(struct solo *solo, const char *line, struct collected *c, struct score_pair *pairs)
{
    uint32_t n_vocab = model_config(solo_model(solo))->n_vocab;
    struct score_input in;
    assert_int_equal(score_read(line, strlen(line), n_vocab, MAX_TOKEN, &in, &err), ST_OK);
    json_t *root = json_loads(line, 0, NULL), *golden = json_object_get(root, "top_logprobs");
    run_in_chunks(solo, in.tokens, in.first + in.n_rows, 64, c);
    for (uint32_t i = 0; i < in.n_rows; i++) {
        json_t *best = json_array_get(json_array_get(golden, i), 0);
        score_top(c->rows + (size_t)(in.first + i) * n_vocab, n_vocab, 1, pairs);
        assert_int_equal(pairs[0].id, json_integer_value(json_array_get(best, 0)));
        assert_true(fabs(pairs[0].logprob - json_number_value(json_array_get(best, 1))) < 2e-3);
    }
    score_input_free(&in);
    json_decref(root);
}

static void reference_answers_hold(void **state)
{
    (void)state;
    static char line[1 << 20];
    struct solo *solo = create(true, 0);
    uint32_t n_vocab = model_config(solo_model(solo))->n_vocab;
    struct collected c = { malloc(MAX_TOKEN * n_vocab * sizeof(float)), 0 };
    struct score_pair *pairs = calloc(n_vocab, sizeof *pairs);
    FILE *file = fopen(GOLDEN, "r");
    assert_non_null(file);
    for (int i = 0; i < 5 && fgets(line, sizeof line, file); i++)
        check_line(solo, line, &c, pairs);
    fclose(file);
    free(pairs);
    free(c.rows);
    solo_destroy(&solo);
}

static void sequences_side_by_side_answer_as_alone(void **state)
{
    (void)state;
    struct solo *solo = create(false, 2);
    uint32_t n_vocab = model_config(solo_model(solo))->n_vocab;
    uint32_t prompt[N_SEQS][7], alone[N_SEQS][5], tokens[N_SEQS];
    for (uint32_t s = 0; s < N_SEQS; s++) {
        for (uint32_t i = 0; i < 7; i++)
            prompt[s][i] = (s * 131 + i * 37 + 5) % n_vocab;
        alone[s][0] = solo_step(solo, prompt[s], 7, 0, NULL, NULL);
        for (uint32_t i = 1; i < 5; i++)
            alone[s][i] = solo_step(solo, &alone[s][i - 1], 1, 6 + i, NULL, NULL);
    }
    for (uint32_t s = 0; s < N_SEQS; s++)
        tokens[s] = solo_step_of(solo, s, prompt[s], 7, 0);
    for (uint32_t i = 0; i < 5; i++) {
        for (uint32_t s = 0; s < N_SEQS; s++)
            assert_int_equal(tokens[s], alone[s][i]);
        solo_decode(solo, tokens, 7 + i);
    }
    struct engine_times times = solo_times(solo);
    assert_true(times.products_ns > 0 && times.attention_ns > 0);
    assert_true(times.products_ns + times.attention_ns <= times.steps_ns);
    solo_destroy(&solo);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct solo *solo = NULL;
    struct solo_options o = {
        .path = TINY, .kv_type = DTYPE_BF16, .n_threads = 1, .max_tokens = 1u << 20, .max_rows = 64
    };
    assert_int_equal(solo_create(&o, &solo, &err), ST_LIMIT);
    o.path = "/no/such/model";
    assert_int_equal(solo_create(&o, &solo, &err), ST_NOT_FOUND);
    assert_null(solo);
}

static void the_bench_measures_something(void **state)
{
    (void)state;
    struct bench_engine_options o = {
        .path = TINY, .n_threads = 1, .prompt = 33, .generate = 3, .chunk = 16, .repeats = 2, .sequences = 3
    };
    struct bench_engine_result r;
    assert_int_equal(bench_engine(&o, &r, &err), ST_OK);
    assert_string_equal(r.model, "baton-tiny");
    assert_int_equal(r.n_threads, 1);
    assert_true(r.prefill.tps > 0 && r.decode.tps > 0);
    assert_true(r.product_ops > 0 && r.prefill.product_share > 0 && r.prefill.product_share < 1);
    assert_true(r.attention_ops > 0 && r.prefill.attention_share > 0 && r.prefill.attention_share < 1);
    assert_true(r.decode.product_share + r.decode.attention_share < 1);
    assert_true(r.step_bytes > 1e6 && r.read_bytes_per_s > r.step_bytes);
    assert_int_equal(r.layers, DTYPE_BF16);
    assert_string_equal(r.class, "portable");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cutting_changes_no_bit),
        cmocka_unit_test(reference_answers_hold),
        cmocka_unit_test(sequences_side_by_side_answer_as_alone),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(the_bench_measures_something),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
