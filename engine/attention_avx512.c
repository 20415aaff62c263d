#include "engine/attention_avx512.h"

#include <immintrin.h>
#include <string.h>

#include "engine/contract.h"
#include "engine/cpu_avx512_products.h"
#include "engine/math_avx512.h"

#define LANES      16u
#define ITEM_LANES 64u /* queries of an item: enough to repay widening K and V */
#define SCORE_STEP 8u  /* positions whose chains run side by side */

/* Softmax state of 16 queries. */
struct lane_state {
    float max[LANES], sum[LANES];
    int32_t seen[LANES]; /* positions of the current split that each query sees */
};

/* Everything one item works on; dim is padded to vectors. */
struct work {
    uint32_t dim, padded, group;
    uint32_t n_queries;        /* flattened: row * group + head of the group */
    float *k, *v;              /* [split][padded] */
    float *p;                  /* [split][LANES]: scores, then weights */
    float *split_o;            /* [LANES][padded] */
    float *q;                  /* [vector][dim][LANES] */
    float *o;                  /* [query][padded] */
    struct lane_state *states; /* [vector] */
};

static uint32_t padded_dim(uint32_t dim)
{
    return (dim + LANES - 1) / LANES * LANES;
}

uint32_t attention_avx512_rows(uint32_t group)
{
    return group >= ITEM_LANES ? 1 : ITEM_LANES / group;
}

static uint32_t most_vectors(uint32_t group)
{
    return (attention_avx512_rows(group) * group + LANES - 1) / LANES;
}

/* Sizes when base is NULL; otherwise also hands the parts out. */
static size_t lay_out(struct work *w, uint32_t vectors, uint8_t *base)
{
    size_t used = 0;
    const struct {
        float **part;
        size_t values;
    } parts[] = {
        { &w->k, CONTRACT_SPLIT * (size_t)w->padded },
        { &w->v, CONTRACT_SPLIT * (size_t)w->padded },
        { &w->p, CONTRACT_SPLIT * LANES },
        { &w->split_o, LANES * (size_t)w->padded },
        { &w->q, vectors * (size_t)w->dim * LANES },
        { &w->o, vectors * LANES * (size_t)w->padded },
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (base != NULL)
            *parts[i].part = (float *)(void *)(base + used);
        used += parts[i].values * sizeof(float);
    }
    if (base != NULL)
        w->states = (struct lane_state *)(void *)(base + used);
    return used + vectors * sizeof(struct lane_state);
}

size_t attention_avx512_scratch_bytes(uint32_t head_dim, uint32_t group)
{
    struct work w = { .dim = head_dim, .padded = padded_dim(head_dim) };
    return lay_out(&w, most_vectors(group), NULL);
}

static __m512 load_widened(enum dtype type, const uint8_t *src, uint32_t i, __mmask16 mask)
{
    if (type == DTYPE_F32)
        return _mm512_maskz_loadu_ps(mask, src + (size_t)i * 4);
    __m256i half = _mm256_maskz_loadu_epi16(mask, src + (size_t)i * 2);
    return type == DTYPE_F16 ? _mm512_cvtph_ps(half) : math_widen_bf16(half);
}

/* The slots of one head in a block are neighbours, blocks are anywhere: no
 * hardware prefetcher finds the next one. */
static void prefetch_run(const uint8_t *run, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)run + at, _MM_HINT_T0);
}

static float *widen_run(const uint8_t *slot, uint32_t n, enum dtype type, const struct work *w, float *dst)
{
    size_t slot_bytes = w->dim * (type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t));
    for (uint32_t i = 0; i < n; i++, slot += slot_bytes, dst += w->padded)
        for (uint32_t d = 0; d < w->dim; d += LANES) {
            __mmask16 mask = w->dim - d >= LANES ? (__mmask16)0xffff : math_tail_mask(w->dim);
            _mm512_storeu_ps(dst + d, load_widened(type, slot, d, mask));
        }
    return dst;
}

/* Positions first .. first + n - 1 of an item that reads up to end. */
static void widen_side(const struct attention *a, const struct attention_item *item, enum kv_side side, uint32_t first,
                       uint32_t n, uint32_t end, const struct work *w, float *dst)
{
    uint32_t block_tokens = a->kv->block_tokens;
    for (uint32_t pos = first; pos < first + n;) {
        uint32_t next = (pos / block_tokens + 1) * block_tokens;
        uint32_t run = next < first + n ? next - pos : first + n - pos;
        if (next < end)
            prefetch_run(attention_slot(a, item->blocks, side, item->kv_head, next), kv_head_bytes(a->kv));
        dst = widen_run(attention_slot(a, item->blocks, side, item->kv_head, pos), run, a->kv->type, w, dst);
        pos += run;
    }
}

/* Queries as lanes: q[vector][d][lane]. */
static void turn_queries(const struct attention *a, const struct attention_item *item, struct work *w)
{
    for (uint32_t i = 0; i < w->n_queries; i++) {
        size_t head = (size_t)(item->first_row + i / w->group) * a->n_heads + item->kv_head * w->group + i % w->group;
        const float *q = a->q + head * w->dim;
        float *dst = w->q + (size_t)(i / LANES) * w->dim * LANES + i % LANES;
        for (uint32_t d = 0; d < w->dim; d++)
            dst[d * LANES] = q[d];
    }
}

/* How many of the n positions from first on each query of the vector sees; returns the most. */
static uint32_t count_seen(const struct attention_item *item, const struct work *w, uint32_t vector, uint32_t first,
                           uint32_t n, struct lane_state *s)
{
    uint32_t most = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        uint32_t query = vector * LANES + l;
        uint32_t end = item->first_pos + query / w->group + 1;
        uint32_t seen = query >= w->n_queries || end <= first ? 0 : end - first < n ? end - first : n;
        s->seen[l] = (int32_t)seen;
        most = seen > most ? seen : most;
    }
    return most;
}

/* SCORE_STEP positions from pos on; what lies past the split's end is computed and never read. */
ALWAYS_INLINE void score_step(const float *q, const float *k, uint32_t dim, size_t stride, float *p)
{
    __m512 s[SCORE_STEP];
    UNROLL
    for (uint32_t i = 0; i < SCORE_STEP; i++)
        s[i] = _mm512_setzero_ps();
    for (uint32_t d = 0; d < dim; d++) {
        __m512 lanes = _mm512_loadu_ps(q + d * LANES);
        UNROLL
        for (uint32_t i = 0; i < SCORE_STEP; i++)
            s[i] = _mm512_fmadd_ps(lanes, _mm512_set1_ps(k[i * stride + d]), s[i]);
    }
    UNROLL
    for (uint32_t i = 0; i < SCORE_STEP; i++)
        _mm512_storeu_ps(p + i * LANES, s[i]);
}

static void score(const struct work *w, const float *q, uint32_t n)
{
    for (uint32_t pos = 0; pos < n; pos += SCORE_STEP) {
        const float *k = w->k + (size_t)pos * w->padded;
        float *p = w->p + pos * LANES;
        if (w->padded == 64)
            score_step(q, k, w->dim, 64, p);
        else if (w->padded == 128)
            score_step(q, k, w->dim, 128, p);
        else
            score_step(q, k, w->dim, w->padded, p);
    }
}

/* Scores to weights, with each query's maximum and sum over what it sees. */
static void weigh(const struct work *w, uint32_t n, const struct lane_state *s, __m512 *max, __m512 *sum)
{
    __m512i seen = _mm512_loadu_si512(s->seen);
    *max = _mm512_set1_ps(-INFINITY);
    for (uint32_t pos = 0; pos < n; pos++) {
        __mmask16 sees = _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32((int32_t)pos));
        __m512 score_lanes = _mm512_loadu_ps(w->p + pos * LANES);
        *max = _mm512_mask_max_ps(*max, sees, score_lanes, *max);
    }
    *sum = _mm512_setzero_ps();
    for (uint32_t pos = 0; pos < n; pos++) {
        __mmask16 sees = _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32((int32_t)pos));
        __m512 weight = math_exp_avx512(_mm512_sub_ps(_mm512_loadu_ps(w->p + pos * LANES), *max));
        _mm512_storeu_ps(w->p + pos * LANES, weight);
        *sum = _mm512_mask_add_ps(*sum, sees, *sum, weight);
    }
}

/* o[query][16 * V] = chains over positions [from, to) for Q neighbouring queries; from 0 they begin at zero. */
ALWAYS_INLINE void mix(const uint32_t Q, const uint32_t V, const float *p, const float *v, size_t stride, uint32_t from,
                       uint32_t to, float *o)
{
    __m512 acc[16];
    UNROLL
    for (uint32_t i = 0; i < Q * V; i++)
        acc[i] = from == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(o + i / V * stride + i % V * LANES);
    for (uint32_t pos = from; pos < to; pos++) {
        __m512 values[4];
        UNROLL
        for (uint32_t j = 0; j < V; j++)
            values[j] = _mm512_loadu_ps(v + pos * stride + j * LANES);
        UNROLL
        for (uint32_t i = 0; i < Q; i++) {
            __m512 weight = _mm512_set1_ps(p[pos * LANES + i]);
            UNROLL
            for (uint32_t j = 0; j < V; j++)
                acc[i * V + j] = _mm512_fmadd_ps(weight, values[j], acc[i * V + j]);
        }
    }
    UNROLL
    for (uint32_t i = 0; i < Q * V; i++)
        _mm512_storeu_ps(o + i / V * stride + i % V * LANES, acc[i]);
}

ALWAYS_INLINE void mix_vectors(const uint32_t Q, const struct work *w, const float *p, uint32_t from, uint32_t to,
                               float *o)
{
    uint32_t d = 0;
    for (; d + 4 * LANES <= w->padded; d += 4 * LANES)
        mix(Q, 4, p, w->v + d, w->padded, from, to, o + d);
    for (; d + 2 * LANES <= w->padded; d += 2 * LANES)
        mix(Q, 2, p, w->v + d, w->padded, from, to, o + d);
    if (d < w->padded)
        mix(Q, 1, p, w->v + d, w->padded, from, to, o + d);
}

static void mix_four(const struct work *w, const float *p, uint32_t from, uint32_t to, float *o)
{
    mix_vectors(4, w, p, from, to, o);
}

static void mix_one(const struct work *w, const float *p, uint32_t from, uint32_t to, float *o)
{
    mix_vectors(1, w, p, from, to, o);
}

static uint32_t least_seen(const struct lane_state *s, uint32_t lane)
{
    int32_t least = s->seen[lane];
    for (uint32_t i = 1; i < 4; i++)
        least = s->seen[lane + i] < least ? s->seen[lane + i] : least;
    return (uint32_t)least;
}

/* Four queries go together as far as all of them see, then each goes on alone. */
static void mix_lanes(const struct work *w, const struct lane_state *s, float *o)
{
    for (uint32_t lane = 0; lane < LANES; lane += 4) {
        uint32_t common = least_seen(s, lane);
        if (common > 0)
            mix_four(w, w->p + lane, 0, common, o + lane * w->padded);
        for (uint32_t l = lane; l < lane + 4; l++)
            if ((uint32_t)s->seen[l] > common)
                mix_one(w, w->p + l, common, (uint32_t)s->seen[l], o + l * w->padded);
    }
}

static void merge_lane(const struct work *w, const float *split_o, float split_factor, float factor, float *o)
{
    __m512 b = _mm512_set1_ps(split_factor);
    __m512 a = _mm512_set1_ps(factor);
    for (uint32_t d = 0; d < w->padded; d += LANES) {
        __m512 old = _mm512_mul_ps(_mm512_loadu_ps(o + d), a);
        _mm512_storeu_ps(o + d, _mm512_fmadd_ps(_mm512_loadu_ps(split_o + d), b, old));
    }
}

static void merge(const struct work *w, struct lane_state *s, __m512 max, __m512 sum, float *o)
{
    __mmask16 sees = _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(s->seen), _mm512_setzero_si512());
    __m512 old_max = _mm512_loadu_ps(s->max);
    __m512 new_max = _mm512_max_ps(old_max, max);
    __m512 a = math_exp_avx512(_mm512_sub_ps(old_max, new_max));
    __m512 b = math_exp_avx512(_mm512_sub_ps(max, new_max));
    __m512 old_sum = _mm512_loadu_ps(s->sum);
    _mm512_mask_storeu_ps(s->max, sees, new_max);
    _mm512_mask_storeu_ps(s->sum, sees, _mm512_fmadd_ps(sum, b, _mm512_mul_ps(old_sum, a)));
    float factors[2][LANES];
    _mm512_storeu_ps(factors[0], a);
    _mm512_storeu_ps(factors[1], b);
    for (uint32_t l = 0; l < LANES; l++)
        if (s->seen[l] > 0)
            merge_lane(w, w->split_o + l * w->padded, factors[1][l], factors[0][l], o + l * w->padded);
}

static void run_split(const struct attention_item *item, struct work *w, uint32_t vector, uint32_t first, uint32_t n)
{
    struct lane_state *s = &w->states[vector];
    float *o = w->o + (size_t)vector * LANES * w->padded;
    uint32_t most = count_seen(item, w, vector, first, n, s);
    if (most == 0)
        return;
    __m512 max;
    __m512 sum;
    score(w, w->q + (size_t)vector * w->dim * LANES, most);
    weigh(w, most, s, &max, &sum);
    if (first > 0) {
        mix_lanes(w, s, w->split_o);
        merge(w, s, max, sum, o);
        return;
    }
    mix_lanes(w, s, o);
    _mm512_storeu_ps(s->max, max);
    _mm512_storeu_ps(s->sum, sum);
}

static void write_out(const struct attention *a, const struct attention_item *item, const struct work *w)
{
    for (uint32_t i = 0; i < w->n_queries; i++) {
        size_t head = (size_t)(item->first_row + i / w->group) * a->n_heads + item->kv_head * w->group + i % w->group;
        float *out = a->out + head * w->dim;
        __m512 inv = _mm512_set1_ps(1.0f / w->states[i / LANES].sum[i % LANES]);
        for (uint32_t d = 0; d < w->dim; d += LANES) {
            __mmask16 mask = w->dim - d >= LANES ? (__mmask16)0xffff : math_tail_mask(w->dim);
            __m512 o = _mm512_loadu_ps(w->o + (size_t)i * w->padded + d);
            _mm512_mask_storeu_ps(out + d, mask, _mm512_mul_ps(o, inv));
        }
    }
}

void attention_avx512(const struct attention *a, const struct attention_item *item, void *scratch)
{
    struct work w = { .dim = a->kv->head_dim,
                      .padded = padded_dim(a->kv->head_dim),
                      .group = a->n_heads / a->kv->n_kv_heads };
    w.n_queries = item->n_rows * w.group;
    lay_out(&w, most_vectors(w.group), scratch);
    turn_queries(a, item, &w);
    uint32_t end = item->first_pos + item->n_rows;
    uint32_t vectors = (w.n_queries + LANES - 1) / LANES;
    for (uint32_t first = 0; first < end; first += CONTRACT_SPLIT) {
        uint32_t n = end - first < CONTRACT_SPLIT ? end - first : CONTRACT_SPLIT;
        widen_side(a, item, KV_K, first, n, end, &w, w.k);
        widen_side(a, item, KV_V, first, n, end, &w, w.v);
        for (uint32_t vector = 0; vector < vectors; vector++)
            run_split(item, &w, vector, first, n);
    }
    write_out(a, item, &w);
}
