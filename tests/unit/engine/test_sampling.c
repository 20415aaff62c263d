#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/philox.h"
#include "engine/sampling.h"

#define VOCAB   500u
#define HISTORY 40u

static uint32_t random_counter;

static uint32_t random_u32(void)
{
    uint32_t word[4] = { random_counter++, 5, 0, 0 };
    philox4x32(word, (uint32_t[]){ 1, 2 }, word);
    return word[0];
}

static void random_logits(float *logits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        logits[i] = roundf((float)(int32_t)random_u32() * 0x1p-28f * 16.0f) / 16.0f; /* ties are common */
}

static struct sampling plain(void)
{
    return (struct sampling){ .max_tokens = 100, .top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = -1 };
}

static struct sampled choose(const struct sampling *s, const uint32_t *history, uint32_t n, const float *logits)
{
    static float scratch[2 * VOCAB];
    struct sampled out;
    for (uint32_t i = 0; i < 2 * VOCAB; i++)
        scratch[i] = NAN;
    sampling_choose(s, history, n, logits, VOCAB, scratch, &out);
    return out;
}

/* The vectors published with the generator (Random123's kat_vectors). */
static void test_philox(void **state)
{
    (void)state;
    const struct {
        uint32_t counter[4], key[2], expected[4];
    } rows[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t out[4];
        philox4x32(rows[i].counter, rows[i].key, out);
        assert_memory_equal(out, rows[i].expected, sizeof out);
    }
}

static void test_uniform(void **state)
{
    (void)state;
    double sum = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        float u = sampling_uniform(77, 0, i);
        assert_true(u >= 0.0f && u < 1.0f);
        sum += (double)u;
    }
    assert_true(fabs(sum / 10000 - 0.5) < 0.02);
    assert_true(sampling_uniform(77, 0, 5) == sampling_uniform(77, 0, 5));
    assert_true(sampling_uniform(77, 0, 5) != sampling_uniform(77, 1, 5));
    assert_true(sampling_uniform(77, 0, 5) != sampling_uniform(77ull << 32, 0, 5));
    assert_true(sampling_uniform(0, 0, 0) == (float)(0x6627e8d5 >> 8) * 0x1p-24f);
}

static void test_greedy(void **state)
{
    (void)state;
    struct sampling s = plain();
    float logits[VOCAB];
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = -5.0f;
    logits[497] = logits[123] = logits[31] = 2.0f;
    assert_int_equal(choose(&s, NULL, 0, logits).id, 31);
    logits[497] = 3.0f;
    assert_int_equal(choose(&s, NULL, 0, logits).id, 497);
    logits[0] = NAN;
    assert_int_equal(choose(&s, NULL, 0, logits).id, 497);
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = -INFINITY;
    assert_int_equal(choose(&s, NULL, 0, logits).id, 0);
}

/* Adjusted logits the long way. */
static void adjust_naively(const struct sampling *s, const uint32_t *history, uint32_t n, const float *logits,
                           float *out)
{
    uint32_t in_all[VOCAB] = { 0 };
    uint32_t in_answer[VOCAB] = { 0 };
    for (uint32_t i = 0; i < n; i++) {
        in_all[history[i]]++;
        in_answer[history[i]] += i >= s->prompt_len;
    }
    memcpy(out, logits, VOCAB * sizeof *out);
    for (uint32_t i = 0; i < s->n_bias; i++)
        out[s->bias[i].id] += s->bias[i].bias;
    for (uint32_t i = 0; i < VOCAB; i++) {
        if (in_all[i] > 0)
            out[i] = out[i] > 0 ? out[i] / s->repetition_penalty : out[i] * s->repetition_penalty;
        if (in_answer[i] > 0) {
            out[i] -= s->frequency_penalty * (float)in_answer[i];
            out[i] -= s->presence_penalty;
        }
    }
    for (uint32_t i = 0; i < s->n_stop_ids && n - s->prompt_len < s->min_tokens; i++)
        out[s->stop_ids[i]] = -INFINITY;
}

static void test_penalties(void **state)
{
    (void)state;
    const uint32_t stops[] = { 3, 250 };
    for (int round = 0; round < 300; round++) {
        struct logit_bias bias[3];
        uint32_t history[HISTORY];
        float logits[VOCAB];
        float expected[VOCAB];
        random_logits(logits, VOCAB);
        for (uint32_t i = 0; i < HISTORY; i++)
            history[i] = random_u32() % 30 * (round % 2 ? 1 : 16);
        for (uint32_t i = 0; i < 3; i++)
            bias[i] = (struct logit_bias){ random_u32() % VOCAB, (float)(random_u32() % 20) };
        struct sampling s = plain();
        s.prompt_len = random_u32() % (HISTORY + 1);
        s.repetition_penalty = round % 3 ? 1.7f : 1.0f;
        s.presence_penalty = round % 4 ? 0.9f : 0.0f;
        s.frequency_penalty = round % 5 ? 0.6f : 0.0f;
        s.n_bias = (uint32_t)round % 4;
        s.bias = bias;
        s.stop_ids = stops;
        s.n_stop_ids = 2;
        s.min_tokens = (uint32_t)round % 3 * 15;
        adjust_naively(&s, history, HISTORY, logits, expected);
        uint32_t best = 0;
        for (uint32_t i = 1; i < VOCAB; i++)
            best = expected[i] > expected[best] ? i : best;
        assert_int_equal(choose(&s, history, HISTORY, logits).id, best);
    }
}

static void test_stop_ids(void **state)
{
    (void)state;
    const uint32_t stops[] = { 9, 7 };
    uint32_t history[2] = { 1, 2 };
    float logits[VOCAB] = { 0 };
    logits[7] = 5.0f;
    logits[8] = 4.0f;
    struct sampling s = plain();
    s.stop_ids = stops;
    s.n_stop_ids = 2;
    s.prompt_len = 1;
    struct sampled out = choose(&s, history, 2, logits);
    assert_int_equal(out.id, 7);
    assert_true(out.is_stop);
    s.ignore_eos = true;
    assert_false(choose(&s, history, 2, logits).is_stop);
    s.ignore_eos = false;
    s.min_tokens = 2;
    out = choose(&s, history, 2, logits);
    assert_int_equal(out.id, 8);
    assert_false(out.is_stop);
    s.min_tokens = 1;
    assert_int_equal(choose(&s, history, 2, logits).id, 7);
}

struct candidate {
    double p;
    uint32_t id;
};

static int by_rank(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Which tokens may be drawn, by sorting. */
static uint32_t allow_naively(const struct sampling *s, const float *logits, bool allowed[VOCAB])
{
    struct candidate c[VOCAB];
    uint32_t kept = VOCAB;
    double max = -INFINITY;
    for (uint32_t i = 0; i < VOCAB; i++)
        max = fmax(max, logits[i]);
    for (uint32_t i = 0; i < VOCAB; i++)
        c[i] = (struct candidate){ exp((logits[i] - max) / (double)s->temperature), i };
    qsort(c, VOCAB, sizeof *c, by_rank);
    if (s->top_k > 0 && (uint32_t)s->top_k < kept)
        kept = (uint32_t)s->top_k;
    double total = 0;
    for (uint32_t i = 0; i < kept; i++)
        total += c[i].p;
    double sum = 0;
    for (uint32_t i = 0; i < kept; i++) {
        sum += c[i].p;
        if (s->top_p < 1.0f && sum >= (double)s->top_p * total - 1e-9) {
            kept = i + 1;
            break;
        }
    }
    while (kept > 1 && c[kept - 1].p < (double)s->min_p)
        kept--;
    memset(allowed, 0, VOCAB);
    for (uint32_t i = 0; i < kept; i++)
        allowed[c[i].id] = true;
    return kept;
}

/* Every allowed token of some weight is drawn now and then, and no other one ever. */
static void test_filters(void **state)
{
    (void)state;
    const int32_t ks[] = { 0, -1, 1, 3, 20, 499, 10000 };
    const float ps[] = { 1.0f, 0.9f, 0.5f, 0.01f, 0.9999999f };
    const float mins[] = { 0.0f, 0.1f, 1.0f };
    for (uint32_t round = 0; round < 7 * 5 * 3; round++) {
        float logits[VOCAB];
        bool allowed[VOCAB];
        random_logits(logits, VOCAB);
        struct sampling s = plain();
        s.temperature = round % 2 ? 1.0f : 3.0f;
        s.top_k = ks[round % 7];
        s.top_p = ps[round / 7 % 5];
        s.min_p = mins[round / 35];
        uint32_t n = allow_naively(&s, logits, allowed);
        uint32_t history[HISTORY] = { 0 };
        uint32_t seen[VOCAB] = { 0 };
        uint32_t distinct = 0;
        for (uint32_t draw = 0; draw < 300; draw++) {
            s.seed = draw;
            uint32_t id = choose(&s, history, HISTORY, logits).id;
            if (!allowed[id])
                fail_msg("token %u is not among the %u of top_k %d top_p %g min_p %g", id, n, s.top_k, (double)s.top_p,
                         (double)s.min_p);
            distinct += seen[id]++ == 0;
        }
        assert_true(n > 3 || distinct >= (n + 1) / 2);
    }
}

/* Draws follow the softmax: each token's share within 5 standard deviations. */
static void test_distribution(void **state)
{
    (void)state;
    enum { DRAWS = 20000 };
    float logits[VOCAB];
    uint32_t seen[VOCAB] = { 0 };
    uint32_t history[1] = { 0 };
    for (uint32_t i = 0; i < VOCAB; i++)
        logits[i] = i < 6 ? (float)i * 0.5f : -30.0f;
    struct sampling s = plain();
    s.temperature = 0.8f;
    for (uint32_t i = 0; i < DRAWS; i++) {
        s.seed = i;
        seen[choose(&s, history, 1, logits).id]++;
    }
    double total = 0;
    for (uint32_t i = 0; i < 6; i++)
        total += exp((double)logits[i] / 0.8);
    for (uint32_t i = 0; i < 6; i++) {
        double p = exp((double)logits[i] / 0.8) / total;
        assert_true(fabs(seen[i] - p * DRAWS) < 5 * sqrt(p * (1 - p) * DRAWS));
    }
}

static void test_positions_draw_anew(void **state)
{
    (void)state;
    float logits[VOCAB] = { 0 };
    uint32_t history[HISTORY] = { 0 };
    struct sampling s = plain();
    s.temperature = 1.0f;
    s.seed = 12;
    uint32_t first = choose(&s, history, 10, logits).id;
    assert_int_equal(choose(&s, history, 10, logits).id, first);
    assert_int_not_equal(choose(&s, history, 11, logits).id, first);
    s.choice = 1;
    assert_int_not_equal(choose(&s, history, 10, logits).id, first);
}

/* Of the raw logits, whatever temperature and penalties say. */
static void test_logprobs(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        float logits[VOCAB];
        uint32_t history[HISTORY] = { 4, 5, 6 };
        struct candidate c[VOCAB];
        double sum = 0;
        random_logits(logits, VOCAB);
        for (uint32_t i = 0; i < VOCAB; i++) {
            sum += exp((double)logits[i]);
            c[i] = (struct candidate){ (double)logits[i], i };
        }
        qsort(c, VOCAB, sizeof *c, by_rank);
        struct sampling s = plain();
        s.temperature = round % 2 ? 0.0f : 1.3f;
        s.seed = (uint64_t)round;
        s.repetition_penalty = 1.5f;
        s.n_logprobs = round % (SAMPLING_MAX_TOP_LOGPROBS + 1);
        struct sampled out = choose(&s, history, HISTORY, logits);
        assert_true(fabs((double)out.logprob - ((double)logits[out.id] - log(sum))) < 1e-5);
        assert_int_equal(out.n_top, s.n_logprobs);
        for (uint32_t i = 0; i < out.n_top; i++) {
            assert_int_equal(out.top[i].id, c[i].id);
            assert_true(fabs((double)out.top[i].logprob - (c[i].p - log(sum))) < 1e-5);
        }
    }
}

static void test_hash(void **state)
{
    (void)state;
    float logits[VOCAB];
    uint32_t history[1] = { 0 };
    struct sampling s = plain();
    random_logits(logits, VOCAB);
    s.want_hash = true;
    s.temperature = 2.0f;
    s.repetition_penalty = 2.0f;
    XXH128_hash_t expected = XXH3_128bits(logits, sizeof logits);
    struct sampled out = choose(&s, history, 1, logits);
    assert_true(out.hash[0] == expected.low64 && out.hash[1] == expected.high64);
}

static void test_check(void **state)
{
    (void)state;
    struct error err;
    struct logit_bias bias = { VOCAB - 1, 1.0f };
    uint32_t stop = VOCAB - 1;
    struct sampling good = plain();
    good.bias = &bias;
    good.n_bias = 1;
    good.stop_ids = &stop;
    good.n_stop_ids = 1;
    assert_int_equal(sampling_check(&good, VOCAB, &err), ST_OK);
    const struct {
        size_t offset;
        float value;
        const char *field;
    } rows[] = {
        { offsetof(struct sampling, temperature), -0.1f, "temperature" },
        { offsetof(struct sampling, temperature), 2.1f, "temperature" },
        { offsetof(struct sampling, temperature), NAN, "temperature" },
        { offsetof(struct sampling, temperature), INFINITY, "temperature" },
        { offsetof(struct sampling, top_p), 0.0f, "top_p" },
        { offsetof(struct sampling, top_p), 1.1f, "top_p" },
        { offsetof(struct sampling, min_p), 1.1f, "min_p" },
        { offsetof(struct sampling, repetition_penalty), 0.0f, "repetition_penalty" },
        { offsetof(struct sampling, presence_penalty), 2.1f, "presence_penalty" },
        { offsetof(struct sampling, frequency_penalty), -2.1f, "frequency_penalty" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sampling bad = good;
        memcpy((char *)&bad + rows[i].offset, &rows[i].value, sizeof(float));
        assert_int_equal(sampling_check(&bad, VOCAB, &err), ST_INVALID);
        assert_non_null(strstr(err.text, rows[i].field));
    }
    struct sampling bad[5] = { good, good, good, good, good };
    bad[0].top_k = -2;
    bad[1].n_logprobs = 21;
    bad[2].n_bias = SAMPLING_MAX_BIAS + 1;
    bad[3].n_stop_ids = SAMPLING_MAX_STOP_IDS + 1;
    bad[4].min_tokens = 101;
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(sampling_check(&bad[i], VOCAB, &err), ST_INVALID);
    assert_int_equal(sampling_check(&good, VOCAB - 1, &err), ST_INVALID);
    bias.bias = NAN;
    assert_int_equal(sampling_check(&good, VOCAB, &err), ST_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox),       cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_greedy),       cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_stop_ids),     cmocka_unit_test(test_filters),
        cmocka_unit_test(test_distribution), cmocka_unit_test(test_positions_draw_anew),
        cmocka_unit_test(test_logprobs),     cmocka_unit_test(test_hash),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
