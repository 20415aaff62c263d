/* Integer products with AVX2: an output is a 32-bit lane, two vectors a panel.
 * Weights are taken as nibbles, 0 .. 15, so that the products of bytes with
 * activation bytes (vpmaddubsw, which saturates at 16 bits) can be summed over a
 * whole group in 16 bits without overflow: 16 * 15 * 128 = 30720. What a format has
 * above four bits is a second such sum, which counts sixteen times. The sums are
 * integers, so their order does not matter to the contract. */
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
    const uint8_t *panel;
    size_t groups;
    uint32_t tile_rows;      /* distance of slices and groups in the activations */
    const int8_t *q, *q_low; /* q_low NULL: 8 bits */
    const float *scale;      /* dx; the sums come tile_rows later */
    const int32_t *bias;     /* of the weights' offset, [ACT_BIASES] likewise */
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

static int32_t sum_of(__m256i a, __m256i b)
{
    __m256i s = _mm256_add_epi32(a, b);
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
    int32_t first = sum_of(q.part[0], q.part[1]);
    int32_t sum = first + sum_of(q.part[2], q.part[3]);
    to->scale[0] = dx;
    to->scale[tile_rows] = dx * (float)sum;
    to->bias[0] = -8 * sum;
    to->bias[tile_rows] = -128 * sum;
    to->bias[2 * (size_t)tile_rows] = -8 * first;
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
        int32_t *bias = a->bias + row * groups * ACT_BIASES;
        for (size_t g = 0; g < groups; g++)
            for (uint32_t r = 0; r < tile_rows; r++) {
                size_t at = g * 2 * tile_rows + r;
                size_t q_at = g * SLICES * tile_rows + r;
                size_t bias_at = g * ACT_BIASES * tile_rows + r;
                struct group_place to = { q + q_at, wide ? q_low + q_at : NULL, scale + at, bias + bias_at };
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

/* Two vectors of bytes, shifted right by a constant and masked. */
ALWAYS_INLINE void load_bits(const uint8_t *src, const uint32_t shift, const char mask, __m256i *out)
{
    UNROLL
    for (uint32_t v = 0; v < VECTORS; v++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)(src + (size_t)v * VECTOR_BYTES));
        if (shift > 0) /* what comes from the next byte is masked off */
            bytes = _mm256_srlv_epi32(bytes, _mm256_set1_epi32((int)shift));
        out[v] = _mm256_and_si256(bytes, _mm256_set1_epi8(mask));
    }
}

/* Where a group lies in its panel. */
struct group {
    const uint8_t *low, *high;
};

/* The four low bits of slice s. */
ALWAYS_INLINE void load_low(const enum dtype type, const struct group *g, const uint32_t s, __m256i *out)
{
    if (quant_bits(type) == 8)
        load_bits(g->low + (size_t)s * SLICE_BYTES, 0, 15, out);
    else
        load_bits(g->low + (size_t)s % 4 * SLICE_BYTES, s / 4 * 4, 15, out);
}

/* What slice s has above them. */
ALWAYS_INLINE void load_high(const enum dtype type, const struct group *g, const uint32_t s, __m256i *out)
{
    const uint32_t upper = quant_bits(type) - 4;
    if (upper == 4)
        load_bits(g->low + (size_t)s * SLICE_BYTES, 4, 15, out);
    else
        load_bits(g->high + (size_t)(s * upper / 8) * SLICE_BYTES, s * upper % 8, upper == 1 ? 1 : 3, out);
}

typedef void (*load_fn)(const enum dtype type, const struct group *g, const uint32_t s, __m256i *out);

/* dot[r * VECTORS + v] += factor times what load gives of slices [first, first + n), times the bytes q of each row. */
ALWAYS_INLINE void multiply_slices(const enum dtype type, const uint32_t R, const load_fn load, const struct group *g,
                                   const uint32_t first, const uint32_t n, const int8_t *q, size_t q_step,
                                   const short factor, __m256i *dot)
{
    __m256i sums[MOST_ROWS * VECTORS];
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        sums[i] = _mm256_setzero_si256();
    UNROLL
    for (uint32_t j = 0; j < n; j++) {
        __m256i weights[VECTORS];
        load(type, g, first + j, weights);
        multiply_slice(R, q + (first + j) * q_step, weights, sums);
    }
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        dot[i] = _mm256_add_epi32(dot[i], _mm256_madd_epi16(sums[i], _mm256_set1_epi16(factor)));
}

/* dot[r * VECTORS + v] += half h of a group (all of it where the format has one half), without the
 * weights' offset, times the bytes q of each row. */
ALWAYS_INLINE void multiply_half(const enum dtype type, const uint32_t R, const struct group *g, const uint32_t h,
                                 const int8_t *q, size_t q_step, __m256i *dot)
{
    const uint32_t n = SLICES / quant_halves(type);
    if (quant_bits(type) > 4)
        multiply_slices(type, R, load_high, g, h * n, n, q, q_step, 16, dot);
    multiply_slices(type, R, load_low, g, h * n, n, q, q_step, 1, dot);
}

/* What the offset of the format takes off every output of a row: bias is that of the row. */
ALWAYS_INLINE int32_t offset_dot(const enum dtype type, const int32_t *bias, uint32_t tile_rows, const uint32_t h)
{
    switch (quant_offset(type)) {
    case 8:
        return bias[0];
    case 16:
        return bias[0] * 2;
    case 32: /* a half of its own */
        return (h == 0 ? bias[2 * (size_t)tile_rows] : bias[0] - bias[2 * (size_t)tile_rows]) * 4;
    case 128:
        return bias[tile_rows];
    default:
        return 0;
    }
}

/* dot[r * VECTORS + v]: the exact dots of half h of group number g. */
ALWAYS_INLINE void dot_half(const enum dtype type, const bool wide, const uint32_t R, const struct tile *t,
                            const struct group *group, size_t g, const uint32_t h, __m256i *dot)
{
    const size_t q_step = (size_t)t->tile_rows * 4;
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        dot[i] = _mm256_setzero_si256();
    multiply_half(type, R, group, h, t->q + g * SLICES * q_step, q_step, dot);
    if (wide) {
        UNROLL
        for (uint32_t i = 0; i < R * VECTORS; i++)
            dot[i] = _mm256_slli_epi32(dot[i], 8);
        multiply_half(type, R, group, h, t->q_low + g * SLICES * q_step, q_step, dot);
    }
    if (quant_offset(type) == 0)
        return;
    const int32_t *bias = t->bias + g * ACT_BIASES * t->tile_rows;
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        dot[i] = _mm256_add_epi32(dot[i], _mm256_set1_epi32(offset_dot(type, bias + i / VECTORS, t->tile_rows, h)));
}

ALWAYS_INLINE __m256 load_halves(const uint8_t *src)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)src));
}

ALWAYS_INLINE __m256 load_factors(const uint8_t *src, const bool is_signed)
{
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)src);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
}

/* Vector v of the scales of half h of group g. */
ALWAYS_INLINE __m256 load_scales(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g,
                                 const uint32_t h, const uint32_t v)
{
    const size_t block = quant_is_super(type) ? g / QUANT_SUPER_GROUPS : g;
    __m256 d = load_halves(panel + at->d + (block * PANEL + v * (size_t)8) * sizeof(uint16_t));
    if (!quant_is_super(type))
        return d;
    return _mm256_mul_ps(
        d, load_factors(panel + at->d_factors + (g * quant_halves(type) + h) * PANEL + v * (size_t)8, true));
}

ALWAYS_INLINE __m256 load_minima(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g,
                                 const uint32_t v)
{
    const bool super = quant_is_super(type);
    const size_t block = super ? g / QUANT_SUPER_GROUPS : g;
    __m256 m = load_halves(panel + at->m + (block * PANEL + v * (size_t)8) * sizeof(uint16_t));
    if (!super)
        return m;
    m = _mm256_mul_ps(m, load_factors(panel + at->m_factors + g * PANEL + v * (size_t)8, false));
    return _mm256_xor_ps(m, _mm256_set1_ps(-0.0f));
}

/* acc += dots of half h, scaled as the contract says. */
ALWAYS_INLINE void add_half(const enum dtype type, const uint32_t R, const struct tile *t, const struct pack_places *at,
                            size_t g, const uint32_t h, const __m256i *dot, __m256 *acc)
{
    const float *scale = t->scale + g * 2 * t->tile_rows;
    UNROLL
    for (uint32_t v = 0; v < VECTORS; v++) {
        __m256 d = load_scales(type, t->panel, at, g, h, v);
        UNROLL
        for (uint32_t r = 0; r < R; r++)
            acc[r * VECTORS + v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r * VECTORS + v]),
                                                   _mm256_mul_ps(d, _mm256_set1_ps(scale[r])), acc[r * VECTORS + v]);
    }
}

ALWAYS_INLINE void add_minima(const enum dtype type, const uint32_t R, const struct tile *t,
                              const struct pack_places *at, size_t g, __m256 *acc)
{
    const float *sums = t->scale + (g * 2 + 1) * t->tile_rows;
    UNROLL
    for (uint32_t v = 0; v < VECTORS; v++) {
        __m256 m = load_minima(type, t->panel, at, g, v);
        UNROLL
        for (uint32_t r = 0; r < R; r++)
            acc[r * VECTORS + v] = _mm256_fmadd_ps(m, _mm256_set1_ps(sums[r]), acc[r * VECTORS + v]);
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
    const struct pack_places at = pack_places(type, t->groups);
    __m256 acc[MOST_ROWS * VECTORS];
    UNROLL
    for (uint32_t i = 0; i < R * VECTORS; i++)
        acc[i] = _mm256_setzero_ps();
    for (size_t g = 0; g < t->groups; g++) {
        const struct group group = { t->panel + g * at.low_bytes, t->panel + at.high + g * at.high_bytes };
        for (size_t line = 0; R == 1 && line < at.low_bytes; line += 64)
            _mm_prefetch((const char *)group.low + PREFETCH_BYTES + line, _MM_HINT_T0);
        UNROLL
        for (uint32_t h = 0; h < quant_halves(type); h++) {
            __m256i dot[MOST_ROWS * VECTORS];
            dot_half(type, wide, R, t, &group, g, h, dot);
            add_half(type, R, t, &at, g, h, dot, acc);
        }
        if (quant_has_minimum(type))
            add_minima(type, R, t, &at, g, acc);
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
#define TILE_TYPES(X)                                                                                                  \
    ROW_COUNTS(X, Q8_0)                                                                                                \
    ROW_COUNTS(X, Q4_0)                                                                                                \
    ROW_COUNTS(X, Q4_1)                                                                                                \
    ROW_COUNTS(X, Q5_0)                                                                                                \
    ROW_COUNTS(X, Q5_1)                                                                                                \
    ROW_COUNTS(X, Q4_K)                                                                                                \
    ROW_COUNTS(X, Q5_K)                                                                                                \
    ROW_COUNTS(X, Q6_K)
TILE_TYPES(DEFINE_TILE)

typedef void (*tile_fn)(const struct tile *);

static tile_fn find_tile(enum dtype type, bool wide, uint32_t rows)
{
#define FIND_TILE(name, R)                                                                                             \
    if (type == DTYPE_##name && rows == (R))                                                                           \
        return wide ? wide_##name##_##R : tile_##name##_##R;
    TILE_TYPES(FIND_TILE)
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
    tile_fn fn = find_tile(m->type, wide, rows);
    for (uint32_t r = 0; r < tile_rows; r += rows) {
        struct tile t = {
            .panel = m->data.host + panel * m->panel_bytes,
            .groups = groups,
            .tile_rows = tile_rows,
            .q = a->q + (size_t)row * a->n_in + r * (size_t)4,
            .q_low = wide ? a->q_low + (size_t)row * a->n_in + r * (size_t)4 : NULL,
            .scale = a->scale + row * groups * 2 + r,
            .bias = a->bias + row * groups * ACT_BIASES + r,
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
