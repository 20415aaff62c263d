/* Every operation of each fast backend against the reference, bit for bit, on
 * random shapes, and the reference's products against plain binary64.
 *
 *     unit_engine_kernels [ROUNDS [FILTER]]   rounds of random shapes, and the tests to run, as in "*avx512" */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention_merge.h"
#include "engine/backend.h"
#include "engine/philox.h"
#include "engine/quantised.h"
#include "tests/unit/effort.h"

static int rounds = SANITIZED ? 20 : 60;
static uint32_t random_counter;

static uint32_t random_u32(void)
{
    uint32_t word[4] = { random_counter++, 0, 0, 0 };
    philox4x32(word, (uint32_t[]){ 42, 7 }, word);
    return word[0];
}

static uint32_t random_below(uint32_t n)
{
    return random_u32() % n;
}

/* In [-1, 1), now and then large, tiny or zero. */
static float random_f32(void)
{
    float x = (float)(int32_t)random_u32() * 0x1p-31f;
    switch (random_below(64)) {
    case 0:
        return 0.0f;
    case 1:
        return x * 300.0f;
    case 2:
        return x * 1e-20f;
    default:
        return x;
    }
}

static float *random_array(size_t n)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_f32();
    return x;
}

static void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0xa5, (bytes + 63) / 64 * 64);
    return p;
}

/* A backend under test, what it must equal, and what this processor lacks for it. */
struct fast {
    const struct backend *backend, *reference;
    const char *(*missing)(void);
    enum contract_class class;
};

/* The kernels of engine/amx/ with tiles in plain C. */
struct backend amx_software_backend(enum contract_class class);

static const char *amx_missing(void)
{
    return backend_amx_missing(CLASS_AMX);
}

static struct backend tables[2][2]; /* [tiles in software][class] */
static struct backend reference_amx;
static struct fast avx2 = { &backend_avx2, &backend_reference, backend_avx2_missing, CLASS_PORTABLE };
static struct fast avx512 = { &backend_avx512, &backend_reference, backend_avx512_missing, CLASS_PORTABLE };
static struct fast amx = { &tables[0][CLASS_PORTABLE], &backend_reference, amx_missing, CLASS_PORTABLE };
static struct fast amx_class = { &tables[0][CLASS_AMX], &reference_amx, amx_missing, CLASS_AMX };
static struct fast software = { &tables[1][CLASS_PORTABLE], &backend_reference, backend_avx512_bf16_missing,
                                CLASS_PORTABLE };
static struct fast software_class = { &tables[1][CLASS_AMX], &reference_amx, backend_avx512_bf16_missing, CLASS_AMX };

static const struct backend *reference_of(void **state)
{
    return ((const struct fast *)*state)->reference;
}

static enum contract_class class_of(void **state)
{
    return ((const struct fast *)*state)->class;
}

static const struct backend *backend_of(void **state)
{
    const struct fast *fast = *state;
    const char *missing = fast->missing();
    if (missing != NULL) {
        print_message("skipped: this processor lacks %s\n", missing);
        skip();
    }
    return fast->backend;
}

static void assert_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            fail_msg("%s: value %zu of %zu is %a, not %a", what, i, n, (double)b[i], (double)a[i]);
}

/* A weight with random bytes but sane scales. */
static struct tensor random_tensor(enum dtype type, uint32_t n_out, uint32_t n_in)
{
    struct tensor t = { .name = "w", .type = type, .n_dims = 2, .shape = { n_out, n_in } };
    t.bytes = n_out * dtype_row_bytes(type, n_in);
    uint8_t *data = take(t.bytes);
    const size_t block = dtype_block_bytes(type);
    const size_t d_at = type == DTYPE_Q6_K ? 208 : 0;
    for (size_t i = 0; i < t.bytes; i++)
        data[i] = (uint8_t)random_u32();
    for (size_t at = 0; at < t.bytes; at += block) {
        float d = random_f32();
        uint16_t half[2] = { type == DTYPE_BF16 ? f32_to_bf16(d) : f32_to_f16(d), f32_to_f16(random_f32()) };
        if (type == DTYPE_F32)
            memcpy(data + at, &d, sizeof d);
        else
            memcpy(data + at + d_at, half, quant_has_minimum(type) ? 4 : 2);
    }
    t.data = data;
    return t;
}

struct product_case {
    enum dtype type;
    enum product_rule rule;
    uint32_t n_rows, n_in, n_out;
};

static void take_activations(struct activations *a, uint32_t n_rows, uint32_t n_in)
{
    size_t values = (size_t)n_rows * n_in;
    *a = (struct activations){ .n_rows = n_rows,
                               .n_in = n_in,
                               .f32 = take(values * 4),
                               .q = take(values),
                               .q_low = take(values),
                               .scale = take(values / 4 + 64),
                               .bias = take(values / CONTRACT_GROUP * ACT_BIASES * 4 + 64),
                               .bf16 = take(n_rows * act_bf16_stride(n_in) * 2) };
}

static void free_activations(struct activations *a)
{
    free(a->f32);
    free(a->q);
    free(a->q_low);
    free(a->scale);
    free(a->bias);
    free(a->bf16);
}

/* Packs, prepares and multiplies; out is [n_rows][n_out]. */
static void multiply(const struct backend *b, const struct product_case *c, const struct tensor *t, const float *x,
                     float *out)
{
    bool f32_math = c->rule == RULE_F32;
    uint8_t *packed = take(b->pack_bytes(t, f32_math) + 64);
    float *row = take(c->n_in * sizeof *row);
    struct matrix m;
    struct activations a;
    b->pack_describe(t, f32_math, packed, &m);
    if (b->pack_bytes(t, f32_math) > 0)
        for (uint32_t p = 0; p < matrix_panels(&m); p++)
            b->pack_panel(t, &m, p, row);
    m.rule = c->rule;
    take_activations(&a, c->n_rows, c->n_in);
    for (uint32_t r = 0; r < c->n_rows; r += ACT_TILE)
        b->prepare(&a, c->rule, r, c->n_rows - r < ACT_TILE ? c->n_rows - r : ACT_TILE, x + (size_t)r * c->n_in);
    uint32_t row_cut = ACT_TILE * (1 + random_below(random_below(2) == 0 ? 4 : 60));
    uint32_t panel_cut = 1 + random_below(9);
    for (uint32_t r = 0; r < c->n_rows; r += row_cut)
        for (uint32_t p = 0; p < matrix_panels(&m); p += panel_cut)
            b->product(&m, &a, r, r + row_cut < c->n_rows ? r + row_cut : c->n_rows, p,
                       p + panel_cut < matrix_panels(&m) ? p + panel_cut : matrix_panels(&m), out, c->n_out);
    free_activations(&a);
    free(packed);
    free(row);
}

/* Deep enough now and then for weights of several chunks. */
static struct product_case random_case(enum contract_class class)
{
    struct product_case c = { .type = (enum dtype)random_below(DTYPE_COUNT) };
    bool quantised = dtype_is_quantised(c.type);
    const uint32_t block = (uint32_t)dtype_block_values(c.type);
    const enum product_rule rules[] = { RULE_INT8, RULE_INT16, RULE_F32 };
    c.rule = quantised ? rules[random_below(3)] : RULE_F32;
    if (class == CLASS_AMX && (quantised || c.type == DTYPE_BF16) && random_below(4) != 0)
        c.rule = RULE_BF16;
    const uint32_t most = random_below(8) == 0 ? 1300 : quantised ? 640 : 300;
    c.n_in = quantised ? block * (1 + random_below(most / block)) : 1 + random_below(most);
    c.n_out = 1 + random_below(200);
    c.n_rows = 1 + random_below(40);
    if (random_below(16) == 0) { /* more than kernels take at once */
        c.n_rows += 520;
        c.n_in = block > 1 ? block : 1 + random_below(100);
        c.n_out = 1 + random_below(40);
    }
    return c;
}

static void test_products_equal(void **state)
{
    const struct backend *fast = backend_of(state);
    for (int i = 0; i < 3 * rounds; i++) {
        struct product_case c = random_case(class_of(state));
        struct tensor t = random_tensor(c.type, c.n_out, c.n_in);
        float *x = random_array((size_t)c.n_rows * c.n_in);
        float *expected = take((size_t)c.n_rows * c.n_out * 4);
        float *got = take((size_t)c.n_rows * c.n_out * 4);
        char what[96];
        snprintf(what, sizeof what, "%s rule %d rows %u in %u out %u", dtype_name(c.type), (int)c.rule, c.n_rows,
                 c.n_in, c.n_out);
        multiply(reference_of(state), &c, &t, x, expected);
        multiply(fast, &c, &t, x, got);
        assert_bits(expected, got, (size_t)c.n_rows * c.n_out, what);
        free((void *)(uintptr_t)t.data);
        free(x);
        free(expected);
        free(got);
    }
}

/* How far a result may be from exact arithmetic, as a part of the sum of |w x|. */
static double tolerance(enum product_rule rule)
{
    return rule == RULE_INT8 ? 0.02 : rule == RULE_BF16 ? 0.005 : 2e-4;
}

static void check_row(const struct product_case *c, const struct tensor *t, const float *x, const float *out,
                      uint32_t row, float *w)
{
    for (uint32_t o = 0; o < c->n_out; o++) {
        dtype_to_f32(t->type, (const uint8_t *)t->data + o * dtype_row_bytes(t->type, c->n_in), w, c->n_in);
        double sum = 0;
        double scale = 1e-6;
        for (uint32_t g = 0; g < c->n_in; g += 32) {
            double amax_x = 0;
            double sum_w = 0;
            for (uint32_t k = g; k < g + 32 && k < c->n_in; k++) {
                double xk = x[(size_t)row * c->n_in + k];
                sum += w[k] * xk;
                amax_x = fmax(amax_x, fabs(xk));
                sum_w += fabs((double)w[k]);
            }
            scale += amax_x * sum_w;
        }
        double off = fabs(sum - out[(size_t)row * c->n_out + o]);
        if (off > tolerance(c->rule) * scale)
            fail_msg("%s rule %d: %g is %g away from %g", dtype_name(c->type), (int)c->rule,
                     (double)out[(size_t)row * c->n_out + o], off, sum);
    }
}

static void test_reference_products_are_right(void **state)
{
    (void)state;
    for (int i = 0; i < 2 * rounds; i++) {
        const enum contract_class class = i % 2 == 0 ? CLASS_PORTABLE : CLASS_AMX;
        struct product_case c = random_case(class);
        struct tensor t = random_tensor(c.type, c.n_out, c.n_in);
        float *x = random_array((size_t)c.n_rows * c.n_in);
        float *out = take((size_t)c.n_rows * c.n_out * 4);
        float *w = take(c.n_in * sizeof *w);
        multiply(class == CLASS_AMX ? &reference_amx : &backend_reference, &c, &t, x, out);
        for (uint32_t r = 0; r < c.n_rows; r++)
            check_row(&c, &t, x, out, r, w);
        free((void *)(uintptr_t)t.data);
        free(x);
        free(out);
        free(w);
    }
}

/* A row's result does not depend on the rows beside it. */
static void check_rows_alone(const struct backend *b, enum contract_class class)
{
    for (int i = 0; i < rounds / 4; i++) {
        struct product_case c = random_case(class);
        struct tensor t = random_tensor(c.type, c.n_out, c.n_in);
        float *x = random_array((size_t)c.n_rows * c.n_in);
        float *all = take((size_t)c.n_rows * c.n_out * 4);
        float *one = take(c.n_out * sizeof *one);
        multiply(b, &c, &t, x, all);
        uint32_t row = random_below(c.n_rows);
        struct product_case alone = c;
        alone.n_rows = 1;
        multiply(b, &alone, &t, x + (size_t)row * c.n_in, one);
        assert_bits(all + (size_t)row * c.n_out, one, c.n_out, dtype_name(c.type));
        free((void *)(uintptr_t)t.data);
        free(x);
        free(all);
        free(one);
    }
}

static void test_reference_rows_are_independent(void **state)
{
    (void)state;
    check_rows_alone(&backend_reference, CLASS_PORTABLE);
    check_rows_alone(&reference_amx, CLASS_AMX);
}

static void test_rows_are_independent(void **state)
{
    check_rows_alone(backend_of(state), class_of(state));
}

/* Values that quantisation must survive alike. */
static void test_odd_activations(void **state)
{
    const struct backend *fast = backend_of(state);
    const float odd[] = { NAN, INFINITY, -INFINITY, 1e-38f, -1e-30f, 3e38f, 0.0f, -0.0f };
    struct product_case c = { DTYPE_Q4_1, RULE_INT8, 8, 64, 48 };
    struct tensor t = random_tensor(c.type, c.n_out, c.n_in);
    float x[8 * 64];
    float expected[8 * 48];
    float got[8 * 48];
    for (uint32_t r = 0; r < 8; r++)
        for (uint32_t k = 0; k < 64; k++)
            x[r * 64 + k] = k % 5 == 0 ? odd[r] : r == 3 || r == 6 ? 0.0f : random_f32();
    for (int wide = 0; wide < 2; wide++) {
        c.rule = wide ? RULE_INT16 : RULE_INT8;
        multiply(reference_of(state), &c, &t, x, expected);
        multiply(fast, &c, &t, x, got);
        for (size_t i = 0; i < 8 * 48; i++)
            if (isnan(expected[i]) ? !isnan(got[i]) : memcmp(&expected[i], &got[i], 4) != 0)
                fail_msg("row %zu: %a, not %a", i / 48, (double)got[i], (double)expected[i]);
    }
    free((void *)(uintptr_t)t.data);
}

/* Several rows, heads and strides; part of each head is rotated. */
static void test_whole_rows_equal(void **state)
{
    const struct backend *r = &backend_reference;
    const struct backend *v = backend_of(state);
    for (int i = 0; i < rounds; i++) {
        struct rotation turn = { .n_rows = 1 + random_below(5),
                                 .n_heads = 1 + random_below(4),
                                 .head_dim = 2 * (1 + random_below(70)),
                                 .interleaved = i % 2 };
        turn.dim = 2 * (1 + random_below(turn.head_dim / 2));
        turn.stride = turn.dim * (1 + random_below(2));
        const uint32_t width = turn.n_heads * turn.head_dim;
        const size_t n = (size_t)turn.n_rows * width;
        float *x = random_array(n);
        float *weight = random_array(width);
        float *angles = random_array(turn.n_rows * turn.stride);
        float *a = take(n * sizeof *a);
        float *b = take(n * sizeof *b);
        r->rms_norm(x, weight, 1e-6f, turn.n_rows, width, a);
        v->rms_norm(x, weight, 1e-6f, turn.n_rows, width, b);
        assert_bits(a, b, n, "rms_norm");
        r->rms_norm(x + n - width, weight, 1e-6f, 1, width, b);
        assert_bits(a + n - width, b, width, "rms_norm of the last row alone");
        r->add_to_rows(a, weight, turn.n_rows, width);
        r->add(b, weight, width);
        assert_bits(a + n - width, b, width, "add_to_rows");
        memcpy(b, a, n * sizeof *a);
        r->add_to_rows(a, weight, turn.n_rows, width);
        v->add_to_rows(b, weight, turn.n_rows, width);
        assert_bits(a, b, n, "add_to_rows of both");
        turn.cosines = turn.sines = angles;
        r->rope(a, &turn);
        v->rope(b, &turn);
        assert_bits(a, b, n, "rope");
        free(x);
        free(weight);
        free(angles);
        free(a);
        free(b);
    }
}

static void test_row_operations_equal(void **state)
{
    const struct backend *r = &backend_reference;
    const struct backend *v = backend_of(state);
    for (int i = 0; i < rounds; i++) {
        uint32_t n = 2 * (1 + random_below(320));
        float *x = random_array(n);
        float *y = random_array(n);
        float *a = take(n * sizeof *a);
        float *b = take(n * sizeof *b);
        r->rms_norm(x, y, 1e-6f, 1, n, a);
        v->rms_norm(x, y, 1e-6f, 1, n, b);
        assert_bits(a, b, n, "rms_norm");
        for (int interleaved = 0; interleaved < 2; interleaved++) {
            memcpy(a, x, n * sizeof *a);
            memcpy(b, x, n * sizeof *b);
            const struct rotation turn = {
                .cosines = y, .sines = x, .n_rows = 1, .n_heads = 1, .head_dim = n, .dim = n, .interleaved = interleaved
            };
            r->rope(a, &turn);
            v->rope(b, &turn);
            assert_bits(a, b, n, "rope");
        }
        r->add(a, y, n);
        v->add(b, y, n);
        r->scale(a, 0.3f, n);
        v->scale(b, 0.3f, n);
        assert_bits(a, b, n, "add and scale");
        r->scale(a, 40.0f, n);
        v->scale(b, 40.0f, n);
        r->silu_mul(a, y, n);
        v->silu_mul(b, y, n);
        assert_bits(a, b, n, "silu_mul");
        memcpy(a, x, n * sizeof *a);
        memcpy(b, x, n * sizeof *b);
        r->scale(a, 9.0f, n);
        v->scale(b, 9.0f, n);
        r->gelu_mul(a, y, n);
        v->gelu_mul(b, y, n);
        assert_bits(a, b, n, "gelu_mul");
        r->soft_cap(a, 3.5f, n);
        v->soft_cap(b, 3.5f, n);
        assert_bits(a, b, n, "soft_cap");
        free(x);
        free(y);
        free(a);
        free(b);
    }
}

static void expect_same(const float *a, const float *b, uint32_t n, const char *what)
{
    for (uint32_t i = 0; i < n; i++)
        if (isnan(a[i]) ? !isnan(b[i]) : memcmp(&a[i], &b[i], 4) != 0)
            fail_msg("%s: %a, not %a", what, (double)b[i], (double)a[i]);
}

static void test_functions_of_every_size(void **state)
{
    const struct backend *fast = backend_of(state);
    enum { N = 4096 };
    float a[N];
    float b[N];
    float one[N];
    float all[N];
    for (uint32_t i = 0; i < N; i++) {
        uint32_t bits = i * 0x100000u + 0x4321u; /* all signs and exponents, infinities and NaNs too */
        memcpy(&all[i], &bits, sizeof bits);
        one[i] = 1.0f;
    }
    memcpy(a, all, sizeof a);
    memcpy(b, all, sizeof b);
    backend_reference.silu_mul(a, one, N);
    fast->silu_mul(b, one, N);
    expect_same(a, b, N, "silu_mul");
    memcpy(a, all, sizeof a);
    memcpy(b, all, sizeof b);
    backend_reference.gelu_mul(a, one, N);
    fast->gelu_mul(b, one, N);
    expect_same(a, b, N, "gelu_mul");
    memcpy(a, all, sizeof a);
    memcpy(b, all, sizeof b);
    backend_reference.soft_cap(a, 50.0f, N);
    fast->soft_cap(b, 50.0f, N);
    expect_same(a, b, N, "soft_cap");
}

static const enum dtype kv_types[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_INT8 };

static void test_kv_store_equal(void **state)
{
    const struct backend *fast = backend_of(state);
    enum { N = 133, HEADS = 2, ROWS = 3, VALUES = N * HEADS * ROWS };
    static float x[VALUES];
    static uint8_t a[(N * 4 + 4) * HEADS * 2 * 2 * 4];
    static uint8_t b[sizeof a];
    struct kv_layout kv = { .n_layers = 2, .n_kv_heads = HEADS, .head_dim = N, .block_tokens = 2 };
    const struct kv_place places[ROWS] = { { 1, 1 }, { 0, 0 }, { 1, 0 } };
    struct kv_rows rows = { .kv = &kv, .layer = 1, .n_rows = ROWS, .places = places };
    for (int round = 0; round < 4 * rounds; round++) {
        for (uint32_t i = 0; i < VALUES; i++) {
            uint32_t bits = random_u32(); /* all signs and exponents, infinities and NaNs too */
            memcpy(&x[i], &bits, sizeof bits);
            x[i] = round % 3 == 0 ? x[i] : round % 3 == 1 ? random_f32() : random_f32() * 0x1p-110f;
        }
        kv.type = kv_types[round % 4];
        assert_true(2 * kv_block_bytes(&kv) <= sizeof a);
        memset(a, 0, sizeof a);
        memset(b, 0, sizeof b);
        rows.pool.host = a;
        backend_reference.kv_store(&rows, round % 2 ? KV_K : KV_V, x);
        rows.pool.host = b;
        fast->kv_store(&rows, round % 2 ? KV_K : KV_V, x);
        assert_memory_equal(a, b, sizeof a);
        float first[N];
        dtype_to_f32(kv.type, a + kv_block_bytes(&kv) + kv_offset(&kv, 1, round % 2 ? KV_K : KV_V, 0, 1), first, N);
        for (uint32_t i = 0; kv.type == DTYPE_F32 && i < N; i++)
            assert_memory_equal(&first[i], &x[i], sizeof *x);
    }
}

struct attention_case {
    struct kv_layout kv;
    uint32_t n_heads, n_rows, first_pos, window;
    float soft_cap;
};

static struct attention_case random_attention(void)
{
    const uint32_t dims[] = { 32, 64, 128, 16, 80, 8, 40 };
    const uint32_t block_tokens[] = { 16, 1, 7, 64 };
    struct attention_case c = { .kv = { .n_layers = 2,
                                        .n_kv_heads = 1 + random_below(3),
                                        .head_dim = dims[random_below(7)],
                                        .block_tokens = block_tokens[random_below(4)],
                                        .type = kv_types[random_below(4)] } };
    c.n_heads = c.kv.n_kv_heads * (1 + random_below(random_below(8) == 0 ? 70 : 9));
    c.n_rows = random_below(2) ? 1 + random_below(3) : 1 + random_below(50);
    c.first_pos = random_below(3) ? random_below(300) : 0;
    c.window = random_below(2) ? 0 : 1 + random_below(random_below(2) ? 20 : 200);
    c.soft_cap = random_below(3) ? 0 : 0.5f;
    return c;
}

static void attend_all(const struct backend *b, const struct attention_case *c, struct attention *a,
                       const uint32_t *blocks, float *out)
{
    uint32_t group = c->n_heads / c->kv.n_kv_heads;
    void *scratch = take(b->attend_scratch_bytes(c->kv.head_dim, group));
    a->out = out;
    for (uint32_t row = 0; row < c->n_rows; row += b->attend_rows(group))
        for (uint32_t h = 0; h < c->kv.n_kv_heads; h++) {
            uint32_t left = c->n_rows - row;
            b->attend(a,
                      &(struct attention_item){ .blocks = blocks,
                                                .first_row = row,
                                                .n_rows = left < b->attend_rows(group) ? left : b->attend_rows(group),
                                                .first_pos = c->first_pos + row,
                                                .kv_head = h },
                      1, scratch);
        }
    free(scratch);
}

/* One item in parts of random lengths, the last ones first. */
static void attend_item_parts(const struct backend *b, const struct attention *a, const struct attention_item *item,
                              void *scratch)
{
    const uint32_t first = attention_first_split(a, item);
    const uint32_t end = item->first_pos + item->n_rows;
    const uint32_t splits = attention_splits(a, item);
    const uint32_t merged = 1 + random_below(splits);
    const size_t values = attention_partial_values(a->kv->head_dim) * item->n_rows * (a->n_heads / a->kv->n_kv_heads);
    float *partials = take((1 + splits - merged) * values * sizeof *partials);
    for (uint32_t to = splits, from; to > 0; to = from) {
        from = to == merged ? 0 : to - 1 - random_below(to - merged);
        struct attention_part part = { .begin = first + from * CONTRACT_SPLIT, .merges = from == 0 };
        part.end = to == splits ? end : first + to * CONTRACT_SPLIT;
        part.partials = partials + (from == 0 ? 0 : 1 + from - merged) * values;
        b->attend_part(a, item, &part, scratch);
    }
    attention_merge(a, item, partials, 1 + splits - merged);
    free(partials);
}

static void attend_in_parts(const struct backend *b, const struct attention_case *c, struct attention *a,
                            const uint32_t *blocks, float *out)
{
    const uint32_t step = b->attend_rows(c->n_heads / c->kv.n_kv_heads);
    void *scratch = take(b->attend_scratch_bytes(c->kv.head_dim, c->n_heads / c->kv.n_kv_heads));
    a->out = out;
    for (uint32_t row = 0; row < c->n_rows; row += step)
        for (uint32_t h = 0; h < c->kv.n_kv_heads; h++) {
            const uint32_t left = c->n_rows - row;
            const struct attention_item item = { .blocks = blocks,
                                                 .first_row = row,
                                                 .n_rows = left < step ? left : step,
                                                 .first_pos = c->first_pos + row,
                                                 .kv_head = h };
            attend_item_parts(b, a, &item, scratch);
        }
    free(scratch);
}

static void test_attention_equal(void **state)
{
    const struct backend *fast = backend_of(state);
    for (int i = 0; i < 4 * rounds; i++) {
        struct attention_case c = random_attention();
        uint32_t n_pos = c.first_pos + c.n_rows;
        uint32_t n_blocks = (n_pos + c.kv.block_tokens - 1) / c.kv.block_tokens;
        size_t values = (size_t)c.n_rows * c.n_heads * c.kv.head_dim;
        uint32_t *blocks = take(n_blocks * sizeof *blocks);
        uint8_t *pool = take(n_blocks * kv_block_bytes(&c.kv));
        float *q = random_array(values);
        float *expected = take(values * 4);
        float *got = take(values * 4);
        /* Slots nobody wrote hold 0xa5: large negative numbers, which would show. */
        for (uint32_t p = 0; p < n_blocks; p++)
            blocks[p] = p;
        for (uint32_t p = n_blocks; p > 1; p--) {
            uint32_t other = random_below(p);
            uint32_t t = blocks[p - 1];
            blocks[p - 1] = blocks[other];
            blocks[other] = t;
        }
        struct attention a = {
            .kv = &c.kv,
            .pool = { .host = pool },
            .layer = 1,
            .n_heads = c.n_heads,
            .window = c.window,
            .soft_cap = c.soft_cap,
            .q = q,
        };
        const uint32_t unseen = attention_first_seen(&a, c.first_pos);
        float slots[3 * 128];
        for (uint32_t pos = 0; pos < n_pos; pos++)
            for (uint32_t side = 0; side < 2; side++) {
                const struct kv_place place = { blocks[pos / c.kv.block_tokens], pos % c.kv.block_tokens };
                for (uint32_t d = 0; d < c.kv.n_kv_heads * c.kv.head_dim; d++)
                    slots[d] = pos < unseen ? INFINITY : random_f32();
                backend_reference.kv_store(
                    &(struct kv_rows){ .kv = &c.kv, .pool.host = pool, .layer = 1, .n_rows = 1, .places = &place },
                    (enum kv_side)side, slots);
            }
        attend_all(reference_of(state), &c, &a, blocks, expected);
        attend_all(fast, &c, &a, blocks, got);
        char what[128];
        snprintf(what, sizeof what, "attention %s dim %u heads %u/%u rows %u from %u window %u cap %g",
                 dtype_name(c.kv.type), c.kv.head_dim, c.n_heads, c.kv.n_kv_heads, c.n_rows, c.first_pos, c.window,
                 (double)c.soft_cap);
        assert_bits(expected, got, values, what);
        if (fast->attend_part != NULL) {
            memset(got, 0xa5, values * sizeof *got);
            attend_in_parts(i % 8 == 0 ? reference_of(state) : fast, &c, &a, blocks, got);
            assert_bits(expected, got, values, what);
        }
        free(blocks);
        free(pool);
        free(q);
        free(expected);
        free(got);
    }
}

/* Softmax-weighted means in binary64, of what the pool holds. */
static void exact_attention(const struct attention_case *c, const struct attention *a, const uint32_t *blocks,
                            uint32_t row, uint32_t head, double *out)
{
    const uint32_t dim = c->kv.head_dim;
    const uint32_t kv_head = head / (c->n_heads / c->kv.n_kv_heads);
    const float *q = a->q + ((size_t)row * c->n_heads + head) * dim;
    const uint32_t last = c->first_pos + row;
    double sum = 0;
    float slot[128];
    memset(out, 0, dim * sizeof *out);
    for (uint32_t pos = attention_first_seen(a, last); pos <= last; pos++) {
        double s = 0;
        dtype_to_f32(c->kv.type, attention_slot(a, blocks, KV_K, kv_head, pos), slot, dim);
        for (uint32_t d = 0; d < dim; d++)
            s += (double)q[d] * slot[d];
        s = a->soft_cap > 0 ? a->soft_cap * tanh(s / a->soft_cap) : s;
        const double p = exp(s);
        dtype_to_f32(c->kv.type, attention_slot(a, blocks, KV_V, kv_head, pos), slot, dim);
        sum += p;
        for (uint32_t d = 0; d < dim; d++)
            out[d] += p * slot[d];
    }
    for (uint32_t d = 0; d < dim; d++)
        out[d] /= sum;
}

/* Both classes mean what attention is; random_f32() is in [-1, 1) here. */
static void test_attention_is_right(void **state)
{
    (void)state;
    const struct backend *const backends[] = { &backend_reference, &reference_amx };
    const double tolerance[] = { 1e-5, 2e-2 };
    struct attention_case c = {
        .kv = { .n_layers = 2, .n_kv_heads = 2, .head_dim = 80, .block_tokens = 16, .type = DTYPE_BF16 },
        .n_heads = 6,
        .n_rows = 5,
        .first_pos = 190,
    };
    const uint32_t n_blocks = 13;
    uint32_t blocks[13];
    const size_t values = (size_t)c.n_rows * c.n_heads * c.kv.head_dim;
    uint16_t *pool = take(n_blocks * kv_block_bytes(&c.kv));
    float *q = take(values * sizeof *q);
    float *got = take(values * sizeof *got);
    for (uint32_t p = 0; p < n_blocks; p++)
        blocks[p] = n_blocks - 1 - p;
    for (size_t i = 0; i < n_blocks * kv_block_bytes(&c.kv) / 2; i++)
        pool[i] = f32_to_bf16((float)(int32_t)random_u32() * 0x1p-31f);
    for (size_t i = 0; i < values; i++)
        q[i] = (float)(int32_t)random_u32() * 0x1p-31f;
    for (uint32_t window = 0; window <= 100; window += 100)
        for (uint32_t b = 0; b < 2; b++) {
            struct attention a = { .kv = &c.kv,
                                   .pool = { .host = (uint8_t *)pool },
                                   .layer = 1,
                                   .n_heads = c.n_heads,
                                   .window = window,
                                   .q = q };
            a.soft_cap = window > 0 ? 1.5f : 0;
            double exact[128];
            double worst = 0;
            attend_all(backends[b], &c, &a, blocks, got);
            for (uint32_t i = 0; i < c.n_rows * c.n_heads; i++) {
                exact_attention(&c, &a, blocks, i / c.n_heads, i % c.n_heads, exact);
                for (uint32_t d = 0; d < c.kv.head_dim; d++)
                    worst = fmax(worst, fabs(got[(size_t)i * c.kv.head_dim + d] - exact[d]));
            }
            if (worst > tolerance[b])
                fail_msg("class %u, window %u: %g away", b, window, worst);
        }
    free(pool);
    free(q);
    free(got);
}

#define FAST_TEST(test)                                                                                                \
    { #test " avx2", test, NULL, NULL, &avx2 },                                                                        \
    {                                                                                                                  \
#test " avx512", test, NULL, NULL, &avx512                                                                     \
    }

#define TILE_TEST(test)                                                                                                \
    { #test " amx", test, NULL, NULL, &amx }, { #test " class amx", test, NULL, NULL, &amx_class },                    \
        { #test " software tiles", test, NULL, NULL, &software },                                                      \
    {                                                                                                                  \
#test " software tiles, class amx", test, NULL, NULL, &software_class                                          \
    }

int main(int argc, char **argv)
{
    reference_amx = reference_backend(CLASS_AMX);
    for (int c = 0; c < 2; c++) {
        tables[0][c] = amx_backend((enum contract_class)c);
        tables[1][c] = amx_software_backend((enum contract_class)c);
    }
    if (argc > 1)
        rounds = atoi(argv[1]);
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_products_are_right),
        cmocka_unit_test(test_reference_rows_are_independent),
        cmocka_unit_test(test_attention_is_right),
        FAST_TEST(test_products_equal),
        TILE_TEST(test_products_equal),
        FAST_TEST(test_rows_are_independent),
        TILE_TEST(test_rows_are_independent),
        FAST_TEST(test_odd_activations),
        TILE_TEST(test_odd_activations),
        FAST_TEST(test_whole_rows_equal),
        FAST_TEST(test_row_operations_equal),
        FAST_TEST(test_functions_of_every_size),
        FAST_TEST(test_kv_store_equal),
        FAST_TEST(test_attention_equal),
        TILE_TEST(test_attention_equal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
