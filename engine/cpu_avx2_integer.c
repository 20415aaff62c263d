/* Integer products with AVX2: an output is a 32-bit lane, two vectors a panel.
 * Weights are taken as nibbles, 0 .. 15, so that the products of bytes with
 * activation bytes (vpmaddubsw, which saturates at 16 bits) can be summed over a
 * whole group in 16 bits without overflow: 16 * 15 * 128 = 30720. Q8_0 is two
 * nibbles, of which the high one counts sixteen times. The sums are integers, so
 * their order does not matter to the contract. */
#include <immintrin.h>
#include <string.h>

#include "engine/lanes/kernels.h"
#include "engine/pack.h"

#define SLICES         8u /* of 4 values in a group */
#define VECTORS        2u /* of 8 outputs in a panel */
#define VECTOR_BYTES   32u
#define SLICE_BYTES    (VECTORS * VECTOR_BYTES)
#define MOST_ROWS      4u /* that meet one weight in registers */
#define PREFETCH_BYTES 1024u

/* One panel against a few rows of a tile. */
struct tile {
    const uint8_t *weights, *scales, *minima;
    size_t groups;
    uint32_t tile_rows;      /* distance of slices and groups in the activations */
    const int8_t *q, *q_low; /* q_low NULL: 8 bits */
    const float *scale;      /* dx; the sums come tile_rows later */
    const int32_t *bias;     /* of the weights' offset */
    float *out;
    size_t stride;
    uint32_t n_outputs; /* of the panel that exist */
};

/* --- activations --- */

struct four {
    __m256i part[4]; /* 32 values */
};

static __m256i quantise(const float *x, float most, __m256 inv)
{
    __m256 v = _mm256_min_ps(_mm256_mul_ps(_mm256_loadu_ps(x), inv), _mm256_set1_ps(most));
    return _mm256_cvtps_epi32(_mm256_max_ps(v, _mm256_set1_ps(-most)));
}

/* A NaN is passed over: maxps gives its second operand then. */
static float largest(const float *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 max = _mm256_setzero_ps();
    for (uint32_t i = 0; i < CONTRACT_GROUP; i += 8)
        max = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), max);
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps(max, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_shuffle_ps(m, m, 1));
    return _mm_cvtss_f32(m);
}

static int32_t sum_of(const struct four *q)
{
    __m256i s = _mm256_add_epi32(_mm256_add_epi32(q->part[0], q->part[1]), _mm256_add_epi32(q->part[2], q->part[3]));
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    return _mm_cvtsi128_si32(h);
}

/* All of the 32 values fit a byte; slice j goes to q[j * tile_rows]. */
static void store_slices(const struct four *v, uint32_t tile_rows, int32_t *q)
{
    int32_t slices[SLICES];
    __m256i low = _mm256_packs_epi32(v->part[0], v->part[1]);
    __m256i high = _mm256_packs_epi32(v->part[2], v->part[3]);
    /* packs works on each half on its own. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)slices, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
    for (uint32_t j = 0; j < SLICES; j++)
        q[j * tile_rows] = slices[j];
}

/* Where a group of one row goes, in its tile. */
struct group_place {
    int32_t *q, *q_low; /* q_low NULL: 8 bits */
    float *scale;
    int32_t *bias;
};

/* Into high bytes, which stay in q, and low ones. */
static struct four split_low(struct four *q)
{
    struct four low;
    for (uint32_t i = 0; i < 4; i++) {
        __m256i high = _mm256_srai_epi32(_mm256_add_epi32(q->part[i], _mm256_set1_epi32(128)), 8);
        low.part[i] = _mm256_sub_epi32(q->part[i], _mm256_slli_epi32(high, 8));
        q->part[i] = high;
    }
    return low;
}

static void quantise_group(const float *x, uint32_t tile_rows, const struct group_place *to)
{
    float most = to->q_low != NULL ? CONTRACT_INT16_MAX : CONTRACT_INT8_MAX;
    float amax = largest(x);
    float dx = 0.0f;
    struct four q;
    memset(&q, 0, sizeof q);
    if (!(amax < CONTRACT_TINY)) {
        __m256 inv = _mm256_set1_ps(most / amax);
        for (uint32_t i = 0; i < 4; i++)
            q.part[i] = quantise(x + (size_t)i * 8, most, inv);
        dx = amax / most;
    }
    int32_t sum = sum_of(&q);
    to->scale[0] = dx;
    to->scale[tile_rows] = dx * (float)sum;
    to->bias[0] = -8 * sum;
    to->bias[tile_rows] = -128 * sum;
    if (to->q_low != NULL) {
        struct four low = split_low(&q);
        store_slices(&low, tile_rows, to->q_low);
    }
    store_slices(&q, tile_rows, to->q);
}

void avx2_prepare_int(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x)
{
    size_t groups = a->n_in / CONTRACT_GROUP;
    for (uint32_t done = 0; done < n;) {
        uint32_t row = row0 + done;
        uint32_t tile_rows = act_tile_rows(a->n_rows - row);
        int32_t *q = (int32_t *)(void *)(a->q + (size_t)row * a->n_in);
        int32_t *q_low = wide ? (int32_t *)(void *)(a->q_low + (size_t)row * a->n_in) : NULL;
        float *scale = a->scale + row * groups * 2;
        int32_t *bias = a->bias + row * groups * 2;
        for (size_t g = 0; g < groups; g++)
            for (uint32_t r = 0; r < tile_rows; r++) {
                size_t at = g * 2 * tile_rows + r;
                size_t q_at = g * SLICES * tile_rows + r;
                struct group_place to = { q + q_at, wide ? q_low + q_at : NULL, scale + at, bias + at };
                quantise_group(x + (size_t)(done + r) * a->n_in + g * CONTRACT_GROUP, tile_rows, &to);
            }
        done += tile_rows;
    }
}

/* --- products --- */

ALWAYS_INLINE __m256i broadcast_slice(const int8_t *q)
{
    int32_t word;
    memcpy(&word, q, sizeof word);
    return _mm256_set1_epi32(word);
}

/* The compiler would add up a tree of products, for which there are not enough registers. */
ALWAYS_INLINE void stay(__m256i *sum)
{
    __asm__("" : "+x"(*sum));
}

/* sums[r * VECTORS + v] += one slice of nibbles times the slice q of each row, in 16-bit pairs. */
ALWAYS_INLINE void multiply_slice(const uint32_t R, const int8_t *q, const __m256i *nibbles, __m256i *sums)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        __m256i x = broadcast_slice(q + r * (size_t)4);
        UNROLL
        for (uint32_t v = 0; v < VECTORS; v++) {
            sums[r * VECTORS + v] = _mm256_add_epi16(sums[r * VECTORS + v], _mm256_maddubs_epi16(nibbles[v], x));
            stay(&sums[r * VECTORS + v]);
        }
    }
}

enum nibble { LOW, HIGH };

ALWAYS_INLINE void load_nibbles(const enum nibble which, const uint8_t *src, __m256i *nibbles)
{
    UNROLL
    for (uint32_t v = 0; v < VECTORS; v++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(src + (size_t)v * VECTOR_BYTES));
        nibbles[v] = _mm256_and_si256(which == HIGH ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
    }
}

/* The low or the high nibbles of n weight slices times the n slices of activations from q on. */
ALWAYS_INLINE void multiply_nibbles(const uint32_t R, const uint32_t n, const enum nibble which, const uint8_t *src,
                                    const int8_t *q, size_t q_step, __m256i *sums)
{
    UNROLL
    for (uint32_t j = 0; j < n; j++) {
        __m256i nibbles[VECTORS];
        load_nibbles(which, src + (size_t)j * SLICE_BYTES, nibbles);
        multiply_slice(R, q + j * q_step, nibbles, sums);
    }
}

/* dot[r * VECTORS + v]: one group of the weights, without their offset, times the bytes q of each row. */
ALWAYS_INLINE void multiply_group(const enum dtype type, const uint32_t R, const uint8_t *src, const int8_t *q,
                                  size_t q_step, __m256i *dot)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[MOST_ROWS * VECTORS];
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        sums[i] = _mm256_setzero_si256();
    if (type != DTYPE_Q8_0) {
        multiply_nibbles(R, SLICES / 2, LOW, src, q, q_step, sums);
        multiply_nibbles(R, SLICES / 2, HIGH, src, q + SLICES / 2 * q_step, q_step, sums);
        UNROLL
        for (uint32_t i = 0; i < R * VECTORS; i++)
            dot[i] = _mm256_madd_epi16(sums[i], ones);
        return;
    }
    multiply_nibbles(R, SLICES, HIGH, src, q, q_step, sums);
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++) {
        dot[i] = _mm256_madd_epi16(sums[i], _mm256_set1_epi16(16));
        sums[i] = _mm256_setzero_si256();
    }
    multiply_nibbles(R, SLICES, LOW, src, q, q_step, sums);
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(sums[i], ones));
}

/* What the weights' offset takes off every output of a row. */
ALWAYS_INLINE void add_bias(const uint32_t R, const int32_t *bias, __m256i *dot)
{
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        dot[i] = _mm256_add_epi32(dot[i], _mm256_set1_epi32(bias[i / VECTORS]));
}

ALWAYS_INLINE __m256 load_halves(const uint8_t *src)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)src));
}

/* acc += the group's dots, scaled as the contract says. */
ALWAYS_INLINE void add_group(const enum dtype type, const uint32_t R, const struct tile *t, size_t g,
                             const __m256i *dot, __m256 *acc)
{
    const size_t at = g * PANEL * sizeof(uint16_t);
    const float *scale = t->scale + g * 2 * t->tile_rows;
    UNROLL
    for (uint32_t v = 0; v < VECTORS; v++) {
        __m256 d = load_halves(t->scales + at + v * (size_t)16);
        UNROLL
        for (uint32_t r = 0; r < R; r++)
            acc[r * VECTORS + v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r * VECTORS + v]),
                                                   _mm256_mul_ps(d, _mm256_set1_ps(scale[r])), acc[r * VECTORS + v]);
        if (type != DTYPE_Q4_1)
            continue;
        __m256 min = load_halves(t->minima + at + v * (size_t)16);
        UNROLL
        for (uint32_t r = 0; r < R; r++)
            acc[r * VECTORS + v] = _mm256_fmadd_ps(min, _mm256_set1_ps(scale[t->tile_rows + r]), acc[r * VECTORS + v]);
    }
}

static void store_outputs(const __m256 *acc, uint32_t n_outputs, float *out)
{
    if (n_outputs == PANEL) {
        _mm256_storeu_ps(out, acc[0]);
        _mm256_storeu_ps(out + 8, acc[1]);
        return;
    }
    float all[PANEL];
    _mm256_storeu_ps(all, acc[0]);
    _mm256_storeu_ps(all + 8, acc[1]);
    memcpy(out, all, n_outputs * sizeof *out);
}

ALWAYS_INLINE void run_tile(const enum dtype type, const bool wide, const uint32_t R, const struct tile *t)
{
    const size_t group_bytes = type == DTYPE_Q8_0 ? SLICES * SLICE_BYTES : SLICES / 2 * SLICE_BYTES;
    const size_t q_step = (size_t)t->tile_rows * 4;
    __m256 acc[MOST_ROWS * VECTORS];
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t g = 0; g < t->groups; g++) {
        const uint8_t *src = t->weights + g * group_bytes;
        __m256i dot[MOST_ROWS * VECTORS];
        for (size_t at = 0; R == 1 && at < group_bytes; at += 64)
            _mm_prefetch((const char *)src + PREFETCH_BYTES + at, _MM_HINT_T0);
        multiply_group(type, R, src, t->q + g * SLICES * q_step, q_step, dot);
        if (wide) {
            __m256i low[MOST_ROWS * VECTORS];
            multiply_group(type, R, src, t->q_low + g * SLICES * q_step, q_step, low);
            UNROLL
            for (uint32_t i = 0; i < R * VECTORS; i++)
                dot[i] = _mm256_add_epi32(_mm256_slli_epi32(dot[i], 8), low[i]);
        }
        if (type != DTYPE_Q4_1)
            add_bias(R, t->bias + g * 2 * t->tile_rows, dot);
        add_group(type, R, t, g, dot, acc);
    }
    UNROLL
    for (uint32_t r = 0; r < R; r++)
        store_outputs(acc + r * VECTORS, t->n_outputs, t->out + r * t->stride);
}

/* One function for each type, width of activations and number of rows. */
#define ROW_COUNTS(X, type) X(type, 4) X(type, 2) X(type, 1)
#define DEFINE_TILE(type, R)                                                                                           \
    static __attribute__((noinline)) void tile_##type##_##R(const struct tile *t)                                      \
    {                                                                                                                  \
        run_tile(DTYPE_##type, false, R, t);                                                                           \
    }                                                                                                                  \
    static __attribute__((noinline)) void wide_##type##_##R(const struct tile *t)                                      \
    {                                                                                                                  \
        run_tile(DTYPE_##type, true, R, t);                                                                            \
    }
ROW_COUNTS(DEFINE_TILE, Q8_0)
ROW_COUNTS(DEFINE_TILE, Q4_0)
ROW_COUNTS(DEFINE_TILE, Q4_1)

typedef void (*tile_fn)(const struct tile *);

static tile_fn find_tile(enum dtype type, bool wide, uint32_t rows)
{
#define FIND_TILE(name, R)                                                                                             \
    if (type == DTYPE_##name && rows == (R))                                                                           \
        return wide ? wide_##name##_##R : tile_##name##_##R;
    ROW_COUNTS(FIND_TILE, Q8_0)
    ROW_COUNTS(FIND_TILE, Q4_0)
    ROW_COUNTS(FIND_TILE, Q4_1)
#undef FIND_TILE
    assert_failed("a number of rows without a function", __FILE__, __LINE__);
}

/* A tile of 12 or 8 is computed in parts. */
static uint32_t rows_at_once(uint32_t tile_rows)
{
    return tile_rows > MOST_ROWS ? MOST_ROWS : tile_rows;
}

static void multiply_tile(const struct matrix *m, const struct activations *a, uint32_t row, uint32_t panel,
                          uint32_t tile_rows, float *out, size_t stride)
{
    size_t groups = m->n_in / CONTRACT_GROUP;
    bool wide = m->rule == RULE_INT16;
    uint32_t rows = rows_at_once(tile_rows);
    const uint8_t *weights = m->data + panel * m->panel_bytes;
    const uint8_t *scales = weights + groups * pack_group_bytes(m->type);
    tile_fn fn = find_tile(m->type, wide, rows);
    for (uint32_t r = 0; r < tile_rows; r += rows) {
        struct tile t = {
            .weights = weights,
            .scales = scales,
            .minima = scales + groups * PANEL * sizeof(uint16_t),
            .groups = groups,
            .tile_rows = tile_rows,
            .q = a->q + (size_t)row * a->n_in + r * (size_t)4,
            .q_low = wide ? a->q_low + (size_t)row * a->n_in + r * (size_t)4 : NULL,
            .scale = a->scale + row * groups * 2 + r,
            .bias = a->bias + row * groups * 2 + r + (m->type == DTYPE_Q8_0 ? tile_rows : 0),
            .out = out + (row + r) * stride + panel * PANEL,
            .stride = stride,
            .n_outputs = m->n_out - panel * PANEL < PANEL ? m->n_out - panel * PANEL : PANEL,
        };
        fn(&t);
    }
}

void avx2_product_int(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    for (uint32_t panel = panel0; panel < panel1; panel++)
        for (uint32_t row = row0; row < row1;) {
            uint32_t rows = act_tile_rows(a->n_rows - row);
            multiply_tile(m, a, row, panel, rows, out, stride);
            row += rows;
        }
}
