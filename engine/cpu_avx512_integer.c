/* Integer products with VNNI: quantised weights as unsigned bytes in registers,
 * activation bytes broadcast. 16-bit activations are two bytes: the high ones are
 * multiplied first and the sum shifted. */
#include <immintrin.h>
#include <string.h>

#include "engine/lanes/kernels.h"
#include "engine/pack.h"

#define SLICES         8u    /* of 4 values in a group                                         */
#define PREFETCH_BYTES 2048u /* how far ahead few rows read                                    */
#define PANELS_AT_ONCE 4u    /* stay in the second-level cache while all rows of a call meet them */

/* One tile of activations against P neighbouring panels. */
struct tile {
    const uint8_t *panels;
    size_t panel_bytes, groups;
    const int8_t *q, *q_low;
    const float *scale;
    const int32_t *bias;
    float *out;
    size_t stride;
    uint16_t last_mask;   /* outputs of the last panel */
    bool cold;            /* nobody has called these panels into a cache */
    const uint8_t *ahead; /* wanted by later tiles: so many lines of it are called for each group */
    size_t ahead_lines;
};

static __m512i quantise_half(__m512 x, float most, __m512 inv)
{
    __m512 v = _mm512_min_ps(_mm512_mul_ps(x, inv), _mm512_set1_ps(most));
    v = _mm512_max_ps(v, _mm512_set1_ps(-most));
    return _mm512_cvtps_epi32(v);
}

/* 32 values as bytes, the low eight bits of each. */
static __m256i narrow_bytes(__m512i lo, __m512i hi)
{
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(hi), _mm512_cvtepi32_epi8(lo));
}

static __m512i high_bytes(__m512i q)
{
    return _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
}

static void store_slices(__m256i bytes, uint32_t tile_rows, int32_t *q)
{
    int32_t slices[SLICES];
    _mm256_storeu_si256((__m256i *)slices, bytes);
    for (uint32_t j = 0; j < SLICES; j++)
        q[j * tile_rows] = slices[j];
}

/* Where a group of one row goes, in its tile. */
struct group_place {
    int32_t *q, *q_low; /* q_low NULL: 8 bits */
    float *scale;
    int32_t *bias;
};

static void quantise_group(const float *x, uint32_t tile_rows, const struct group_place *to)
{
    float most = to->q_low != NULL ? CONTRACT_INT16_MAX : CONTRACT_INT8_MAX;
    __m512 lo = _mm512_loadu_ps(x);
    __m512 hi = _mm512_loadu_ps(x + 16);
    __m512 max = _mm512_max_ps(_mm512_abs_ps(lo), _mm512_setzero_ps());
    max = _mm512_max_ps(_mm512_abs_ps(hi), max);
    float amax = _mm512_reduce_max_ps(max);
    __m512i q_lo = _mm512_setzero_si512();
    __m512i q_hi = _mm512_setzero_si512();
    float dx = 0.0f;
    if (!(amax < CONTRACT_TINY)) {
        __m512 inv = _mm512_set1_ps(most / amax);
        q_lo = quantise_half(lo, most, inv);
        q_hi = quantise_half(hi, most, inv);
        dx = amax / most;
    }
    int32_t first = _mm512_reduce_add_epi32(q_lo);
    int32_t sum = first + _mm512_reduce_add_epi32(q_hi);
    to->scale[0] = dx;
    to->scale[tile_rows] = dx * (float)sum;
    to->bias[0] = -8 * sum;
    to->bias[tile_rows] = -128 * sum;
    to->bias[2 * (size_t)tile_rows] = -8 * first;
    if (to->q_low != NULL) {
        store_slices(narrow_bytes(q_lo, q_hi), tile_rows, to->q_low);
        q_lo = high_bytes(q_lo);
        q_hi = high_bytes(q_hi);
    }
    store_slices(narrow_bytes(q_lo, q_hi), tile_rows, to->q);
}

void avx512_prepare_int(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x)
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

/* The address itself, of which the compiler knows nothing: gcc 12 would keep a counter on the stack for every offset
 * from it that the loop around uses. */
ALWAYS_INLINE const void *one_address(const void *p)
{
    __asm__("" : "+r"(p));
    return p;
}

/* The byte operand of slice j: dword r of a row of the tile. */
ALWAYS_INLINE __m512i broadcast_bytes(const int8_t *q)
{
    int32_t word;
    memcpy(&word, q, sizeof word);
    return _mm512_set1_epi32(word);
}

/* dot[r * P + p] += slice j of the weights times that of the activations. */
ALWAYS_INLINE void multiply_slice(const uint32_t R, const uint32_t P, const int8_t *q, uint32_t j, const __m512i *w,
                                  __m512i *dot)
{
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        __m512i x = broadcast_bytes(q + (j * R + r) * 4);
        UNROLL
        for (uint32_t p = 0; p < P; p++)
            dot[r * P + p] = _mm512_dpbusd_epi32(dot[r * P + p], w[p], x);
    }
}

/* Slice s of a group as unsigned bytes: u of quantised.h. low and high are the group's in the panel. */
ALWAYS_INLINE __m512i load_slice(const enum dtype type, const uint8_t *low, const uint8_t *high, const uint32_t s)
{
    const uint32_t bits = quant_bits(type);
    if (bits == 8)
        return _mm512_loadu_si512(low + (size_t)s * 64);
    __m512i w = _mm512_loadu_si512(low + (size_t)s % 4 * 64);
    w = _mm512_and_si512(s < 4 ? w : _mm512_srli_epi16(w, 4), _mm512_set1_epi8(15));
    if (bits == 4)
        return w;
    /* Its upper bits move to bit 4 from where they stand. */
    const uint32_t from = s * (bits - 4) % 8;
    __m512i upper = _mm512_loadu_si512(high + (size_t)(s * (bits - 4) / 8) * 64);
    upper = from < 4 ? _mm512_sllv_epi16(upper, _mm512_set1_epi16((short)(4 - from)))
                     : _mm512_srlv_epi16(upper, _mm512_set1_epi16((short)(from - 4)));
    upper = _mm512_and_si512(upper, _mm512_set1_epi8(bits == 5 ? 0x10 : 0x30));
    return _mm512_or_si512(w, upper);
}

/* A slice's share of what later tiles want: all at once would take the places of what this tile loads, as only so many
 * lines can be on their way to a core. */
ALWAYS_INLINE void prefetch_ahead(const struct tile *t, size_t g, const uint32_t slice)
{
    for (size_t i = slice; i < t->ahead_lines; i += SLICES)
        _mm_prefetch((const char *)t->ahead + (g * t->ahead_lines + i) * 64, _MM_HINT_T1);
}

/* dot += half h of group g (all of it where the format has one half) times the bytes q. */
ALWAYS_INLINE void multiply_half(const enum dtype type, const uint32_t R, const uint32_t P, const struct tile *t,
                                 const struct pack_places *at, size_t g, const uint32_t h, const int8_t *q,
                                 __m512i *dot)
{
    const uint32_t n = quant_halves(type) == 2 ? SLICES / 2 : SLICES;
    UNROLL
    for (uint32_t i = 0; i < n; i++) {
        /* Both nibbles of a byte one after the other. */
        const uint32_t s = quant_halves(type) == 2 ? h * 4 + i : quant_bits(type) == 8 ? i : i / 2 + i % 2 * 4;
        __m512i w[4];
        UNROLL
        for (uint32_t p = 0; p < P; p++) {
            const uint8_t *panel = t->panels + p * t->panel_bytes;
            w[p] = load_slice(type, panel + g * at->low_bytes, panel + at->high + g * at->high_bytes, s);
        }
        prefetch_ahead(t, g, h * n + i);
        multiply_slice(R, P, q, s, w, dot);
    }
}

/* What the offset of the format takes off the dot of half h for row r. */
ALWAYS_INLINE __m512i offset_dot(const enum dtype type, const uint32_t R, const int32_t *bias, const uint32_t h,
                                 const uint32_t r)
{
    switch (quant_offset(type)) {
    case 8:
        return _mm512_set1_epi32(bias[r]);
    case 16:
        return _mm512_slli_epi32(_mm512_set1_epi32(bias[r]), 1);
    case 32: /* a half of its own */
        return _mm512_slli_epi32(_mm512_set1_epi32(h == 0 ? bias[2 * R + r] : bias[r] - bias[2 * R + r]), 2);
    case 128:
        return _mm512_set1_epi32(bias[R + r]);
    default:
        return _mm512_setzero_si512();
    }
}

/* dot[r * P + p]: the exact dots of half h of group g. */
ALWAYS_INLINE void dot_half(const enum dtype type, const bool wide, const uint32_t R, const uint32_t P,
                            const struct tile *t, const struct pack_places *at, size_t g, const uint32_t h,
                            __m512i *dot)
{
    const int32_t *bias = one_address(t->bias + g * ACT_BIASES * R);
    UNROLL
    for (uint32_t i = 0; i < R * P; i++)
        dot[i] = wide ? _mm512_setzero_si512() : offset_dot(type, R, bias, h, i / P);
    multiply_half(type, R, P, t, at, g, h, one_address(t->q + g * CONTRACT_GROUP * R), dot);
    if (!wide)
        return;
    UNROLL
    for (uint32_t i = 0; i < R * P; i++)
        dot[i] = _mm512_add_epi32(_mm512_slli_epi32(dot[i], 8), offset_dot(type, R, bias, h, i / P));
    multiply_half(type, R, P, t, at, g, h, one_address(t->q_low + g * CONTRACT_GROUP * R), dot);
}

ALWAYS_INLINE __m512 load_halves(const uint8_t *src)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)src));
}

ALWAYS_INLINE __m512 load_factors(const uint8_t *src, const bool is_signed)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)src);
    return _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
}

ALWAYS_INLINE __m512 load_scales(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g,
                                 const uint32_t h)
{
    if (!quant_is_super(type))
        return load_halves(panel + at->d + g * PANEL * sizeof(uint16_t));
    return _mm512_mul_ps(load_halves(panel + at->d + g / QUANT_SUPER_GROUPS * PANEL * sizeof(uint16_t)),
                         load_factors(panel + at->d_factors + (g * quant_halves(type) + h) * PANEL, true));
}

ALWAYS_INLINE __m512 load_minima(const enum dtype type, const uint8_t *panel, const struct pack_places *at, size_t g)
{
    if (!quant_is_super(type))
        return load_halves(panel + at->m + g * PANEL * sizeof(uint16_t));
    __m512 m = _mm512_mul_ps(load_halves(panel + at->m + g / QUANT_SUPER_GROUPS * PANEL * sizeof(uint16_t)),
                             load_factors(panel + at->m_factors + g * PANEL, false));
    return _mm512_xor_ps(m, _mm512_set1_ps(-0.0f));
}

/* What is wanted some groups later, in this panel or at the beginning of the one P further: few rows read faster than
 * a hardware prefetcher looks ahead. */
ALWAYS_INLINE void prefetch_panel(const enum dtype type, const uint32_t P, const struct tile *t, const uint8_t *panel,
                                  const struct pack_places *at, size_t g)
{
    const size_t groups_ahead = PREFETCH_BYTES / at->low_bytes;
    size_t later = g + groups_ahead;
    if (later >= t->groups) {
        later -= t->groups;
        panel += P * t->panel_bytes;
    }
    const uint32_t lines = quant_bits(type) == 8 ? 8 : 4;
    UNROLL
    for (uint32_t i = 0; i < lines; i++)
        _mm_prefetch((const char *)panel + later * at->low_bytes + (size_t)i * 64, _MM_HINT_T0);
    const uint32_t high_lines = quant_bits(type) == 8 ? 0 : quant_bits(type) - 4;
    UNROLL
    for (uint32_t i = 0; i < high_lines; i++)
        _mm_prefetch((const char *)panel + at->high + later * at->high_bytes + (size_t)i * 64, _MM_HINT_T0);
    if (!quant_is_super(type) && g % 2 == 0)
        _mm_prefetch((const char *)panel + at->d + later * PANEL * sizeof(uint16_t), _MM_HINT_T0);
}

ALWAYS_INLINE void prefetch_own(const enum dtype type, const uint32_t P, const struct tile *t,
                                const struct pack_places *at, size_t g)
{
    if (!t->cold)
        return;
    UNROLL
    for (uint32_t p = 0; p < P; p++)
        prefetch_panel(type, P, t, t->panels + p * t->panel_bytes, at, g);
}

ALWAYS_INLINE void run_tile(const enum dtype type, const bool wide, const uint32_t R, const uint32_t P,
                            const struct tile *t)
{
    const struct pack_places at = pack_places(type, t->groups);
    __m512 acc[24]; /* of 24 some wait in the first-level cache until a group's dots are made */
    UNROLL
    for (uint32_t i = 0; i < R * P; i++)
        acc[i] = _mm512_setzero_ps();
    for (size_t g = 0; g < t->groups; g++) {
        const float *scale = one_address(t->scale + g * 2 * R);
        prefetch_own(type, P, t, &at, g);
        UNROLL
        for (uint32_t h = 0; h < quant_halves(type); h++) {
            __m512i dot[24];
            dot_half(type, wide, R, P, t, &at, g, h, dot);
            UNROLL
            for (uint32_t p = 0; p < P; p++) {
                __m512 d = load_scales(type, t->panels + p * t->panel_bytes, &at, g, h);
                UNROLL
                for (uint32_t r = 0; r < R; r++)
                    acc[r * P + p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r * P + p]),
                                                     _mm512_mul_ps(d, _mm512_set1_ps(scale[r])), acc[r * P + p]);
            }
        }
        if (!quant_has_minimum(type))
            continue;
        UNROLL
        for (uint32_t p = 0; p < P; p++) {
            __m512 m = load_minima(type, t->panels + p * t->panel_bytes, &at, g);
            UNROLL
            for (uint32_t r = 0; r < R; r++)
                acc[r * P + p] = _mm512_fmadd_ps(m, _mm512_set1_ps(scale[R + r]), acc[r * P + p]);
        }
    }
    UNROLL
    for (uint32_t r = 0; r < R; r++) {
        UNROLL
        for (uint32_t p = 0; p < P; p++)
            _mm512_mask_storeu_ps(t->out + r * t->stride + p * PANEL, p + 1 == P ? t->last_mask : (__mmask16)0xffff,
                                  acc[r * P + p]);
    }
}

/* One function for each type, width of activations and shape of tile. */
#define TILE_SHAPES(X, type)                                                                                           \
    X(type, 12, 2)                                                                                                     \
    X(type, 12, 1)                                                                                                     \
    X(type, 8, 2) X(type, 8, 1) X(type, 4, 4) X(type, 4, 1) X(type, 2, 4) X(type, 2, 1) X(type, 1, 4) X(type, 1, 1)
#define DEFINE_TILE(type, R, P)                                                                                        \
    static __attribute__((noinline)) void tile_##type##_##R##_##P(const struct tile *t)                                \
    {                                                                                                                  \
        run_tile(DTYPE_##type, false, R, P, t);                                                                        \
    }                                                                                                                  \
    static __attribute__((noinline)) void wide_##type##_##R##_##P(const struct tile *t)                                \
    {                                                                                                                  \
        run_tile(DTYPE_##type, true, R, P, t);                                                                         \
    }
#define TILE_TYPES(X)                                                                                                  \
    TILE_SHAPES(X, Q8_0)                                                                                               \
    TILE_SHAPES(X, Q4_0)                                                                                               \
    TILE_SHAPES(X, Q4_1)                                                                                               \
    TILE_SHAPES(X, Q5_0)                                                                                               \
    TILE_SHAPES(X, Q5_1)                                                                                               \
    TILE_SHAPES(X, Q4_K)                                                                                               \
    TILE_SHAPES(X, Q5_K)                                                                                               \
    TILE_SHAPES(X, Q6_K)
TILE_TYPES(DEFINE_TILE)

typedef void (*tile_fn)(const struct tile *);

static tile_fn find_tile(enum dtype type, bool wide, uint32_t rows, uint32_t panels)
{
#define FIND_TILE(name, R, P)                                                                                          \
    if (type == DTYPE_##name && rows == (R) && panels == (P))                                                          \
        return wide ? wide_##name##_##R##_##P : tile_##name##_##R##_##P;
    TILE_TYPES(FIND_TILE)
#undef FIND_TILE
    assert_failed("a tile shape without a function", __FILE__, __LINE__);
}

/* Outputs of the panel that exist. */
static uint16_t panel_mask(const struct matrix *m, uint32_t panel)
{
    uint32_t left = m->n_out - panel * PANEL;
    return (uint16_t)(left >= PANEL ? 0xffff : (1u << left) - 1);
}

/* A broadcast of activations serves all panels of a tile; more accumulators than these cost more than that saves. */
static uint32_t panels_at_once(enum dtype type, uint32_t rows)
{
    return rows <= 4 ? 4 : rows < ACT_TILE || !quant_has_minimum(type) ? 2 : 1;
}

/* A call of several tiles takes PANELS_AT_ONCE panels through all of them, which meanwhile call the next ones into the
 * second-level cache, each in proportion to its work. */
struct ahead {
    const uint8_t *at;
    size_t row_bytes; /* for each row that meets a panel; 0: the only tile of its call calls what it reads itself */
};

/* Panels [panel0, panel1) against the tile of activations at row. */
static void run_row_tile(const struct matrix *m, const struct activations *a, uint32_t row, bool cold, uint32_t panel0,
                         uint32_t panel1, float *out, size_t stride, struct ahead *ahead)
{
    const size_t groups = m->n_in / CONTRACT_GROUP;
    const uint32_t rows = act_tile_rows(a->n_rows - row);
    const uint32_t step = panels_at_once(m->type, rows);
    for (uint32_t panel = panel0; panel < panel1;) {
        uint32_t n_panels = panel1 - panel >= step ? step : 1;
        struct tile t = {
            .panels = m->data.host + panel * m->panel_bytes,
            .panel_bytes = m->panel_bytes,
            .groups = groups,
            .q = a->q + (size_t)row * a->n_in,
            .q_low = m->rule == RULE_INT16 ? a->q_low + (size_t)row * a->n_in : NULL,
            .scale = a->scale + row * groups * 2,
            .bias = a->bias + row * groups * ACT_BIASES,
            .out = out + row * stride + panel * PANEL,
            .stride = stride,
            .last_mask = panel_mask(m, panel + n_panels - 1),
            .cold = cold,
            .ahead = ahead->at,
            .ahead_lines = (ahead->row_bytes * rows * n_panels / groups + 63) / 64,
        };
        find_tile(m->type, m->rule == RULE_INT16, rows, n_panels)(&t);
        ahead->at += t.ahead_lines * groups * 64;
        panel += n_panels;
    }
}

void avx512_product_int(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                        uint32_t panel0, uint32_t panel1, float *out, size_t stride)
{
    const bool one_tile = row0 + act_tile_rows(a->n_rows - row0) == row1;
    for (uint32_t panel = panel0; panel < panel1; panel += PANELS_AT_ONCE) {
        uint32_t end = panel1 - panel > PANELS_AT_ONCE ? panel + PANELS_AT_ONCE : panel1;
        struct ahead ahead = { m->data.host + end * m->panel_bytes, one_tile ? 0 : m->panel_bytes / (row1 - row0) };
        for (uint32_t row = row0; row < row1; row += act_tile_rows(a->n_rows - row)) {
            bool cold = one_tile || (panel == panel0 && row == row0);
            run_row_tile(m, a, row, cold, panel, end, out, stride, &ahead);
        }
    }
}
