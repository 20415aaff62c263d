/* Attention of class amx. Tiles make scores as [position][query] and outputs as
 * [dimension][query], so a query is a lane in all that is done between the two, and
 * weights need no turning on their way from one to the other: neighbouring positions
 * become the pairs of a tile. Only V must be turned, once for all queries of an item.
 *
 * A split of 64 positions and 16 queries at head size 64 is 16 tile products, 270 cycles, 8 stores
 * of tiles, 140, and 64 exponentials of 16 lanes, about 500; at 128 it is 530, 210 and 500. Scores of the
 * next 16 queries are made between the exponentials of these, so that both are under way at
 * once. */
#include <math.h>
#include <string.h>

#include "engine/amx/kernels.h"
#include "engine/bf16_steps.h"

#define ITEM_QUERIES 256u /* enough to repay turning V */
#define SPLIT_TILES  (CONTRACT_SPLIT / AMX_ROWS)
#define SPLIT_STEPS  (CONTRACT_SPLIT / CONTRACT_STEP)
#define STEP_PAIRS   (CONTRACT_STEP / 2)

_Static_assert(LANES == AMX_ROWS && SPLIT_TILES == 4, "tiles 0 .. 3 hold the scores of a split");

/* Pairs of bfloat16 for one step of 16 columns: the second operand of a tile product. */
struct pairs {
    uint32_t of[STEP_PAIRS][LANES];
};

/* Softmax state of 16 queries. */
struct lane_state {
    float max[LANES], sum[LANES];
    int32_t from[LANES], end[LANES]; /* positions of the split that each query sees; both 0: none */
    bool sees_any, sees_all;         /* of the split: one of them something, each of them everything */
};

/* Everything one item works on. */
struct work {
    uint32_t dim, stepped, tiled; /* the head's dimension, and in whole steps and tiles */
    uint32_t group, n_queries;    /* flattened: row * group + head of the group */
    uint16_t *k;                  /* [position of the split][stepped] */
    uint16_t *values;             /* [position of the split][tiled] */
    uint16_t *v;                  /* [tiled][position of the split]: the same turned */
    struct pairs *q;              /* [vector][step of the dimension] */
    float *scores;                /* [2][position of the split][LANES]: of this vector and of the next */
    struct pairs *p;              /* [step of the split] */
    float *o;                     /* [vector][tiled][LANES] */
    struct lane_state *states;    /* [vector] */
};

uint32_t AMX(attend_rows)(uint32_t group)
{
    return group >= ITEM_QUERIES ? 1 : ITEM_QUERIES / group;
}

static uint32_t vectors_of(uint32_t n_queries)
{
    return (n_queries + LANES - 1) / LANES;
}

static struct work describe(uint32_t dim, uint32_t group)
{
    return (struct work){ .dim = dim,
                          .stepped = (dim + CONTRACT_STEP - 1) / CONTRACT_STEP * CONTRACT_STEP,
                          .tiled = (dim + AMX_ROWS - 1) / AMX_ROWS * AMX_ROWS,
                          .group = group };
}

static void *hand_out(uint8_t *base, size_t *used, size_t bytes)
{
    void *part = base == NULL ? NULL : base + *used;
    *used += (bytes + 63) / 64 * 64;
    return part;
}

/* Sizes when base is NULL; otherwise also hands the parts out. */
static size_t lay_out(struct work *w, uint32_t vectors, uint8_t *base)
{
    size_t used = 0;
    w->k = hand_out(base, &used, CONTRACT_SPLIT * w->stepped * sizeof *w->k);
    w->values = hand_out(base, &used, CONTRACT_SPLIT * w->tiled * sizeof *w->values);
    w->v = hand_out(base, &used, CONTRACT_SPLIT * w->tiled * sizeof *w->v);
    w->q = hand_out(base, &used, (size_t)vectors * (w->stepped / CONTRACT_STEP) * sizeof *w->q);
    w->scores = hand_out(base, &used, 2 * CONTRACT_SPLIT * LANES * sizeof *w->scores);
    w->p = hand_out(base, &used, SPLIT_STEPS * sizeof *w->p);
    w->o = hand_out(base, &used, (size_t)vectors * w->tiled * LANES * sizeof *w->o);
    w->states = hand_out(base, &used, vectors * sizeof *w->states);
    return used;
}

size_t AMX(attend_scratch_bytes)(uint32_t head_dim, uint32_t group)
{
    struct work w = describe(head_dim, group);
    return lay_out(&w, vectors_of(AMX(attend_rows)(group) * group), NULL);
}

/* Row i, lane j becomes row j, lane i. */
static inline void turn(__m512i x[LANES])
{
    __m512i y[LANES];
    UNROLL
    for (uint32_t i = 0; i < LANES; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    UNROLL
    for (uint32_t i = 0; i < LANES; i += 4) {
        UNROLL
        for (uint32_t j = 0; j < 2; j++) {
            x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + 2 + j]);
            x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + 2 + j]);
        }
    }
    /* x[4b + c] now holds lanes c, 4 + c, 8 + c and 12 + c of rows 4b .. 4b + 3. */
    UNROLL
    for (uint32_t c = 0; c < 4; c++) {
        __m512i low01 = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x44);
        __m512i high01 = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xee);
        __m512i low23 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x44);
        __m512i high23 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xee);
        y[c] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        y[4 + c] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
        y[8 + c] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        y[12 + c] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
    memcpy(x, y, sizeof y);
}

static size_t query_at(const struct attention *a, const struct attention_item *item, const struct work *w, uint32_t i)
{
    size_t head = (size_t)(item->first_row + i / w->group) * a->n_heads + item->kv_head * w->group + i % w->group;
    return head * w->dim;
}

/* 32 values, zeros behind the last of n, as 16 pairs. */
static inline __m512i round_step(const float *x, uint32_t n)
{
    __m512 low = vec_load_part(x, vec_part_at(0, n));
    __m512 high = vec_load_part(n > LANES ? x + LANES : x, vec_part_at(LANES, n));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* One vector of queries; lanes behind the last are zeros. */
static void pair_queries(const struct attention *a, const struct attention_item *item, const struct work *w,
                         uint32_t vector)
{
    const uint32_t steps = w->stepped / CONTRACT_STEP;
    for (uint32_t s = 0; s < steps; s++) {
        __m512i x[LANES];
        for (uint32_t l = 0; l < LANES; l++) {
            const uint32_t i = vector * LANES + l;
            const uint32_t d = s * CONTRACT_STEP;
            x[l] =
                i < w->n_queries ? round_step(a->q + query_at(a, item, w, i) + d, w->dim - d) : _mm512_setzero_si512();
        }
        turn(x);
        memcpy(w->q[(size_t)vector * steps + s].of, x, sizeof x);
    }
}

/* --- a split's K and V --- */

/* One slot as bfloat16, to the end of the last step or tile. */
static void round_slot(enum dtype type, const uint8_t *src, uint32_t dim, uint32_t padded, uint16_t *dst)
{
    if (type == DTYPE_BF16) {
        memcpy(dst, src, dim * sizeof *dst);
        memset(dst + dim, 0, (padded - dim) * sizeof *dst);
        return;
    }
    float scale = 1.0f;
    if (type == DTYPE_INT8)
        memcpy(&scale, src + dim, sizeof scale);
    for (uint32_t d = 0; d < padded; d += LANES) {
        const vec_part part = vec_part_at(d, dim);
        const size_t at = d < dim ? d : 0;
        vec x = type == DTYPE_F32    ? vec_load_part((const float *)(const void *)src + at, part)
                : type == DTYPE_INT8 ? vec_mul(vec_load_8_part((const int8_t *)src + at, part), vec_set1(scale))
                                     : vec_widen_f16(vec_load_16_part(src + at * sizeof(uint16_t), part));
        _mm256_storeu_si256((__m256i *)(void *)(dst + d), (__m256i)_mm512_cvtneps_pbh(x));
    }
}

/* The positions of a split that an item sees: [from, end) from first on. */
struct split {
    uint32_t first, from, end;
};

/* Zeros where the item sees nothing: there may be anything in the pool. */
static void take_side(const struct attention *a, const struct attention_item *item, enum kv_side side,
                      const struct split *split, uint32_t dim, uint32_t padded, uint16_t *dst)
{
    memset(dst, 0, (size_t)split->from * padded * sizeof *dst);
    for (uint32_t i = split->from; i < split->end; i++)
        round_slot(a->kv->type, attention_slot(a, item->blocks, side, item->kv_head, split->first + i), dim, padded,
                   dst + (size_t)i * padded);
    memset(dst + (size_t)split->end * padded, 0, (size_t)(CONTRACT_SPLIT - split->end) * padded * sizeof *dst);
}

/* Positions 2i and 2i + 1 of 16 values of the dimension, as pairs. */
static inline __m512i pair_rows(const uint16_t *even, const uint16_t *odd)
{
    __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)even));
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)odd);
    return pair_halves(_mm512_inserti64x4(low, high, 1));
}

/* From [position][tiled] to [tiled][position]. */
static void turn_values(const struct work *w)
{
    for (uint32_t s = 0; s < SPLIT_STEPS; s++)
        for (uint32_t d = 0; d < w->tiled; d += LANES) {
            __m512i x[LANES];
            const uint16_t *src = w->values + (size_t)s * CONTRACT_STEP * w->tiled + d;
            for (uint32_t i = 0; i < STEP_PAIRS; i++)
                x[i] = pair_rows(src + (size_t)2 * i * w->tiled, src + (size_t)(2 * i + 1) * w->tiled);
            turn(x);
            for (uint32_t l = 0; l < LANES; l++)
                _mm512_storeu_si512(w->v + (size_t)(d + l) * CONTRACT_SPLIT + (size_t)s * CONTRACT_STEP, x[l]);
        }
}

/* --- tiles --- */

static void configure(void)
{
    struct amx_shapes shapes = { 0 };
    for (uint32_t t = 0; t < AMX_TILES; t++)
        amx_shape(&shapes, t, AMX_ROWS, AMX_ROW_BYTES);
    amx_configure(&shapes);
}

/* Scores of the split's positions 16 t and on, in tile t. */
ALWAYS_INLINE void score_tile(const uint32_t t, const struct work *w, uint32_t vector, float *scores)
{
    const uint32_t steps = w->stepped / CONTRACT_STEP;
    const size_t stride = w->stepped * sizeof *w->k;
    const uint16_t *k = w->k + (size_t)t * AMX_ROWS * w->stepped;
    const struct pairs *q = w->q + (size_t)vector * steps;
    amx_zero(t);
    for (uint32_t s = 0; s < steps; s++) {
        amx_load(4, q[s].of, AMX_ROW_BYTES);
        amx_load(5, k + (size_t)s * CONTRACT_STEP, stride);
        amx_dot_bf16(t, 5, 4);
    }
    amx_store(t, scores + (size_t)t * AMX_ROWS * LANES, AMX_ROW_BYTES);
}

static void score(const struct work *w, uint32_t vector, float *scores)
{
    score_tile(0, w, vector, scores);
    score_tile(1, w, vector, scores);
    score_tile(2, w, vector, scores);
    score_tile(3, w, vector, scores);
}

/* --- scores to weights --- */

/* Which positions of the split each query of the vector sees. */
static void find_seen(const struct attention *a, const struct attention_item *item, const struct work *w,
                      uint32_t vector, const struct split *split)
{
    struct lane_state *s = &w->states[vector];
    s->sees_any = false;
    s->sees_all = true;
    for (uint32_t l = 0; l < LANES; l++) {
        uint32_t query = vector * LANES + l;
        struct attention_seen seen = { 0, 0 };
        if (query < w->n_queries)
            seen = attention_seen(a, item->first_pos + query / w->group, split->first, split->end);
        s->from[l] = (int32_t)seen.from;
        s->end[l] = (int32_t)seen.end;
        s->sees_any = s->sees_any || seen.end > 0;
        s->sees_all = s->sees_all && seen.from == 0 && seen.end == CONTRACT_SPLIT;
    }
}

/* The same for all vectors; far behind the rows' positions there is nothing to look at. */
static void find_all_seen(const struct attention *a, const struct attention_item *item, const struct work *w,
                          const struct split *split)
{
    const uint32_t last_pos = item->first_pos + item->n_rows - 1;
    const bool behind =
        split->first + CONTRACT_SPLIT <= item->first_pos + 1 && attention_first_seen(a, last_pos) <= split->first;
    for (uint32_t vector = 0; vector < vectors_of(w->n_queries); vector++) {
        if (behind && (vector + 1) * LANES <= w->n_queries)
            w->states[vector].sees_any = w->states[vector].sees_all = true;
        else
            find_seen(a, item, w, vector, split);
    }
}

static inline vec exp_bf16(vec x)
{
    const vec magic = vec_set1(MATH_ROUND_MAGIC);
    vec y = vec_max(vec_set1(BF16_EXP_MIN), vec_mul(x, vec_set1(MATH_LOG2E)));
    vec z = vec_add(y, magic);
    vec r = vec_sub(y, vec_sub(z, magic));
    vec p = vec_fma(vec_fma(vec_fma(vec_set1(BF16_EXP_C3), r, vec_set1(BF16_EXP_C2)), r, vec_set1(BF16_EXP_C1)), r,
                    vec_set1(1.0f));
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(z), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
}

/* Several maxima side by side, as one after the other would wait for one another. */
ALWAYS_INLINE vec largest_score(const bool all, const float *scores, vec_i32 from, vec_i32 end)
{
    vec max[4];
    UNROLL
    for (uint32_t i = 0; i < 4; i++)
        max[i] = vec_set1(-INFINITY);
    for (uint32_t pos = 0; pos < CONTRACT_SPLIT; pos += 4) {
        UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            vec s = vec_load(scores + (pos + i) * LANES);
            max[i] =
                all ? vec_max(s, max[i]) : vec_max_where(vec_between_i32(from, end, (int32_t)(pos + i)), s, max[i]);
        }
    }
    return vec_max(vec_max(max[0], max[1]), vec_max(max[2], max[3]));
}

/* The vector whose scores are made while those of another become weights; at or behind the last one: none. */
struct following {
    uint32_t vector, n_vectors;
    float *scores;
};

/* Its sums of outputs come from the second cache. */
static inline void call_sums(const struct work *w, uint32_t vector, uint32_t t)
{
    const float *o = w->o + ((size_t)vector * w->tiled + (size_t)t * w->tiled / SPLIT_TILES) * LANES;
    for (uint32_t d = 0; d < w->tiled / SPLIT_TILES; d++)
        __builtin_prefetch(o + (size_t)d * LANES, 1);
}

/* Weights of the split's positions 16 t and on; the sums go on from sum. */
ALWAYS_INLINE vec weigh_tile(const bool all, const uint32_t t, const float *scores, vec max, vec sum, vec_i32 from,
                             vec_i32 end, struct pairs *p)
{
    for (uint32_t pos = t * AMX_ROWS; pos < (t + 1) * AMX_ROWS; pos += 2) {
        vec weights[2];
        UNROLL
        for (uint32_t i = 0; i < 2; i++) {
            weights[i] = exp_bf16(vec_sub(vec_load(scores + (pos + i) * LANES), max));
            if (!all)
                weights[i] = _mm512_maskz_mov_ps(vec_between_i32(from, end, (int32_t)(pos + i)), weights[i]);
            sum = vec_add(sum, weights[i]);
        }
        const uint32_t pair = pos / 2;
        _mm512_storeu_si512(p[pair / STEP_PAIRS].of[pair % STEP_PAIRS],
                            pair_halves((__m512i)_mm512_cvtne2ps_pbh(weights[1], weights[0])));
    }
    return sum;
}

/* The same, and before them as many scores of the following vector. */
ALWAYS_INLINE vec weigh_and_score(const bool all, const uint32_t t, const struct work *w, const float *scores, vec max,
                                  vec sum, const struct lane_state *s, const struct following *next)
{
    if (next->vector < next->n_vectors) {
        score_tile(t, w, next->vector, next->scores);
        call_sums(w, next->vector, t);
    }
    return weigh_tile(all, t, scores, max, sum, vec_load_i32(s->from), vec_load_i32(s->end), w->p);
}

/* The split's weights; the sums go on from sum. */
ALWAYS_INLINE vec weigh_seen(const bool all, const struct work *w, const float *scores, vec max, vec sum,
                             const struct lane_state *s, const struct following *next)
{
    sum = weigh_and_score(all, 0, w, scores, max, sum, s, next);
    sum = weigh_and_score(all, 1, w, scores, max, sum, s, next);
    sum = weigh_and_score(all, 2, w, scores, max, sum, s, next);
    return weigh_and_score(all, 3, w, scores, max, sum, s, next);
}

static void rescale(const struct work *w, uint32_t vector, vec factor)
{
    float *o = w->o + (size_t)vector * w->tiled * LANES;
    for (uint32_t d = 0; d < w->dim; d++)
        vec_store(o + d * LANES, vec_mul(vec_load(o + d * LANES), factor));
}

static void cap_scores(float *scores, float cap)
{
    for (uint32_t pos = 0; pos < CONTRACT_SPLIT; pos++)
        vec_store(scores + pos * LANES, vec_soft_cap(vec_load(scores + pos * LANES), vec_set1(cap)));
}

static void weigh(const struct work *w, uint32_t vector, float *scores, float soft_cap, const struct following *next)
{
    struct lane_state *s = &w->states[vector];
    if (soft_cap > 0)
        cap_scores(scores, soft_cap);
    const vec_i32 from = vec_load_i32(s->from);
    const vec_i32 end = vec_load_i32(s->end);
    const vec old = vec_load(s->max);
    const vec max =
        vec_max(old, s->sees_all ? largest_score(true, scores, from, end) : largest_score(false, scores, from, end));
    const vec_mask grown = _mm512_cmp_ps_mask(max, old, _CMP_GT_OQ);
    const vec factor = _mm512_mask_mov_ps(vec_set1(1.0f), grown, exp_bf16(vec_sub(old, max)));
    vec sum = vec_mul(vec_load(s->sum), factor);
    sum =
        s->sees_all ? weigh_seen(true, w, scores, max, sum, s, next) : weigh_seen(false, w, scores, max, sum, s, next);
    vec_store(s->max, max);
    vec_store(s->sum, sum);
    if (grown != 0)
        rescale(w, vector, factor);
}

/* Two tiles of the dimension, or one, with all weights of the split. */
ALWAYS_INLINE void mix_tiles(const uint32_t D, float *o, const uint16_t *v)
{
    const size_t stride = CONTRACT_SPLIT * sizeof *v;
    const size_t tile_values = (size_t)AMX_ROWS * CONTRACT_SPLIT;
    amx_load(0, o, AMX_ROW_BYTES);
    if (D == 2)
        amx_load(1, o + (size_t)AMX_ROWS * LANES, AMX_ROW_BYTES);
    amx_load(2, v, stride);
    amx_dot_bf16(0, 2, 6);
    if (D == 2) {
        amx_load(3, v + tile_values, stride);
        amx_dot_bf16(1, 3, 6);
    }
    amx_load(4, v + CONTRACT_STEP, stride);
    amx_dot_bf16(0, 4, 7);
    if (D == 2) {
        amx_load(5, v + tile_values + CONTRACT_STEP, stride);
        amx_dot_bf16(1, 5, 7);
    }
    amx_store(0, o, AMX_ROW_BYTES);
    if (D == 2)
        amx_store(1, o + (size_t)AMX_ROWS * LANES, AMX_ROW_BYTES);
}

static void mix(const struct work *w, uint32_t vector)
{
    float *o = w->o + (size_t)vector * w->tiled * LANES;
    amx_load(6, w->p[0].of, AMX_ROW_BYTES);
    amx_load(7, w->p[1].of, AMX_ROW_BYTES);
    uint32_t d = 0;
    for (; d + 2 * AMX_ROWS <= w->tiled; d += 2 * AMX_ROWS)
        mix_tiles(2, o + (size_t)d * LANES, w->v + (size_t)d * CONTRACT_SPLIT);
    if (d < w->tiled)
        mix_tiles(1, o + (size_t)d * LANES, w->v + (size_t)d * CONTRACT_SPLIT);
}

/* --- items --- */

/* The first vector from the given one on that sees something of the split. */
static uint32_t next_seeing(const struct work *w, uint32_t vector)
{
    const uint32_t vectors = vectors_of(w->n_queries);
    while (vector < vectors && !w->states[vector].sees_any)
        vector++;
    return vector;
}

static void run_split(const struct attention *a, const struct attention_item *item, const struct work *w,
                      const struct split *split)
{
    const uint32_t vectors = vectors_of(w->n_queries);
    find_all_seen(a, item, w, split);
    take_side(a, item, KV_K, split, w->dim, w->stepped, w->k);
    take_side(a, item, KV_V, split, w->dim, w->tiled, w->values);
    turn_values(w);
    float *scores = w->scores;
    struct following next = { .n_vectors = vectors, .scores = w->scores + (size_t)CONTRACT_SPLIT * LANES };
    uint32_t vector = next_seeing(w, 0);
    if (vector < vectors)
        score(w, vector, scores);
    while (vector < vectors) {
        next.vector = next_seeing(w, vector + 1);
        weigh(w, vector, scores, a->soft_cap, &next);
        mix(w, vector);
        float *done = scores;
        scores = next.scores;
        next.scores = done;
        vector = next.vector;
    }
}

static void write_out(const struct attention *a, const struct attention_item *item, const struct work *w)
{
    for (uint32_t vector = 0; vector < vectors_of(w->n_queries); vector++) {
        const vec inv = vec_div(vec_set1(1.0f), vec_load(w->states[vector].sum));
        const float *o = w->o + (size_t)vector * w->tiled * LANES;
        for (uint32_t d = 0; d < w->dim; d += LANES) {
            __m512i x[LANES];
            for (uint32_t i = 0; i < LANES; i++) {
                vec sum = vec_add(vec_load(o + (size_t)(d + i) * LANES), vec_zero());
                x[i] = _mm512_castps_si512(vec_mul(sum, inv));
            }
            turn(x);
            for (uint32_t l = 0; l < LANES && vector * LANES + l < w->n_queries; l++)
                vec_store_part(a->out + query_at(a, item, w, vector * LANES + l) + d, _mm512_castsi512_ps(x[l]),
                               vec_part_at(d, w->dim));
        }
    }
}

void AMX(attend)(const struct attention *a, const struct attention_item *item, void *scratch)
{
    ASSERT(scratch != NULL);
    struct work w = describe(a->kv->head_dim, a->n_heads / a->kv->n_kv_heads);
    w.n_queries = item->n_rows * w.group;
    const uint32_t vectors = vectors_of(w.n_queries);
    lay_out(&w, vectors, scratch);
    for (uint32_t vector = 0; vector < vectors; vector++) {
        pair_queries(a, item, &w, vector);
        vec_store(w.states[vector].max, vec_set1(-INFINITY));
        vec_store(w.states[vector].sum, vec_zero());
    }
    memset(w.o, 0, (size_t)vectors * w.tiled * LANES * sizeof *w.o);
    configure();
    const uint32_t end = item->first_pos + item->n_rows;
    const uint32_t begin = attention_first_seen(a, item->first_pos);
    for (uint32_t first = begin / CONTRACT_SPLIT * CONTRACT_SPLIT; first < end; first += CONTRACT_SPLIT) {
        struct split split = { .first = first,
                               .from = begin > first ? begin - first : 0,
                               .end = end - first < CONTRACT_SPLIT ? end - first : CONTRACT_SPLIT };
        run_split(a, item, &w, &split);
    }
    amx_release();
    write_out(a, item, &w);
}
