#include <math.h>
#include <string.h>

#include "engine/contract.h"
#include "engine/lanes/kernels.h"

#define FEW_QUERIES    8u  /* of one row, which go faster with positions as lanes */
#define ITEM_LANES     64u /* queries of an item: enough to repay widening K and V */
#define SCORE_ROWS     66u /* positions of a split, rounded up to those that are scored together */
/* Scored together for two vectors of queries: as many chains as leave registers for what they multiply. */
#define PAIR_POSITIONS (LANES == 16 ? 8u : 6u)

/* Softmax state of one vector of queries. */
struct lane_state {
    float max[LANES], sum[LANES];
    float split_max[LANES], split_sum[LANES]; /* of the current split */
    int32_t from[LANES], end[LANES];          /* positions of it that each query sees; both 0: none */
    int32_t begun[LANES];                     /* 1: it saw some of an earlier split */
    uint32_t most;                            /* of end */
};

/* Everything one item works on; dim is padded to vectors. */
struct work {
    const struct attention *a;
    const struct attention_item *item;
    uint32_t first; /* position of the current split */
    uint32_t end;   /* of the positions that are gone through */
    uint32_t dim, padded, group;
    uint32_t n_queries;        /* flattened: row * group + head of the group */
    float *k, *v;              /* [position of the split][padded] */
    float *p;                  /* [vector][position of the split][LANES]: scores, then weights */
    float *split_o;            /* [LANES][padded] */
    float *q;                  /* [vector][dim][LANES] */
    float *o;                  /* [query][padded] */
    struct lane_state *states; /* [vector] */
};

static uint32_t padded_dim(uint32_t dim)
{
    return (dim + LANES - 1) / LANES * LANES;
}

uint32_t ISA(attend_rows)(uint32_t group)
{
    return group >= ITEM_LANES ? 1 : ITEM_LANES / group;
}

static uint32_t most_vectors(uint32_t group)
{
    return (ISA(attend_rows)(group) * group + LANES - 1) / LANES;
}

/* Sizes when base is NULL; otherwise also hands the parts out. */
static size_t lay_out(struct work *w, uint32_t vectors, uint8_t *base)
{
    size_t used = 0;
    const struct {
        float **part;
        size_t values;
    } parts[] = {
        { &w->k, SCORE_ROWS * (size_t)w->padded },   { &w->v, CONTRACT_SPLIT * (size_t)w->padded },
        { &w->p, vectors * SCORE_ROWS * LANES },     { &w->split_o, LANES * (size_t)w->padded },
        { &w->q, vectors * (size_t)w->dim * LANES }, { &w->o, vectors * LANES * (size_t)w->padded },
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

size_t ISA(attend_scratch_bytes)(uint32_t head_dim, uint32_t group)
{
    struct work w = { .dim = head_dim, .padded = padded_dim(head_dim) };
    return lay_out(&w, most_vectors(group), NULL);
}

static void prefetch_run(const uint8_t *run, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        _mm_prefetch((const char *)run + at, _MM_HINT_T1); /* the first cache is full of the current split */
}

/* K and V of n positions of the next split. The slots of one head in a block are neighbours, blocks are anywhere: no
 * hardware prefetcher finds the next one. They are asked for bit by bit between the scores, as only so many lines can
 * be on their way at once. */
static void prefetch_next(const struct work *w, uint32_t pos, uint32_t n)
{
    const struct attention_item *item = w->item;
    const uint32_t block_tokens = w->a->kv->block_tokens;
    const size_t slot = kv_slot_bytes(w->a->kv);
    pos += w->first + CONTRACT_SPLIT;
    for (uint32_t run; n > 0 && pos < w->end; pos += run, n -= run) {
        run = block_tokens - pos % block_tokens < n ? block_tokens - pos % block_tokens : n;
        prefetch_run(attention_slot(w->a, item->blocks, KV_K, item->kv_head, pos), run * slot);
        prefetch_run(attention_slot(w->a, item->blocks, KV_V, item->kv_head, pos), run * slot);
    }
}

ALWAYS_INLINE vec load_widened(const enum dtype type, const uint8_t *src, vec_part part)
{
    if (type == DTYPE_F32)
        return vec_load_part((const float *)(const void *)src, part);
    vec_16 half = vec_load_16_part(src, part);
    return type == DTYPE_F16 ? vec_widen_f16(half) : vec_widen_bf16(half);
}

/* n slots of dim values each; those of whole vectors are one long row. */
ALWAYS_INLINE void widen_slots(const enum dtype type, const uint8_t *src, uint32_t n, uint32_t dim, float *dst)
{
    const size_t bytes = type == DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    const vec_part all = vec_part_at(0, LANES);
    if (dim % LANES == 0) {
        for (uint32_t i = 0; i < n * dim; i += LANES)
            vec_store(dst + i, load_widened(type, src + i * bytes, all));
        return;
    }
    for (; n > 0; n--, src += dim * bytes)
        for (uint32_t d = 0; d < dim; d += LANES, dst += LANES)
            vec_store(dst, load_widened(type, src + d * bytes, vec_part_at(d, dim)));
}

/* The same for slots that end with their scale. */
static void widen_int8(const int8_t *src, uint32_t n, uint32_t dim, float *dst)
{
    for (; n > 0; n--, src += dim + sizeof(float)) {
        float scale;
        memcpy(&scale, src + dim, sizeof scale);
        for (uint32_t d = 0; d + LANES <= dim; d += LANES, dst += LANES)
            vec_store(dst, vec_mul(vec_load_8_part(src + d, vec_part_at(0, LANES)), vec_set1(scale)));
        if (dim % LANES != 0) {
            vec_part part = vec_part_at(dim / LANES * LANES, dim);
            vec_store(dst, vec_mul(vec_load_8_part(src + dim / LANES * LANES, part), vec_set1(scale)));
            dst += LANES;
        }
    }
}

static float *widen_run(enum dtype type, const uint8_t *src, uint32_t n, const struct work *w, float *dst)
{
    if (type == DTYPE_BF16)
        widen_slots(DTYPE_BF16, src, n, w->dim, dst);
    else if (type == DTYPE_INT8)
        widen_int8((const int8_t *)src, n, w->dim, dst);
    else if (type == DTYPE_F16)
        widen_slots(DTYPE_F16, src, n, w->dim, dst);
    else
        widen_slots(DTYPE_F32, src, n, w->dim, dst);
    return dst + (size_t)n * w->padded;
}

/* n positions of the current split. */
static void widen_side(enum kv_side side, uint32_t n, const struct work *w, float *dst)
{
    const struct attention *a = w->a;
    uint32_t block_tokens = a->kv->block_tokens;
    for (uint32_t pos = w->first; pos < w->first + n;) {
        uint32_t next = (pos / block_tokens + 1) * block_tokens;
        uint32_t run = next < w->first + n ? next - pos : w->first + n - pos;
        const uint8_t *slots = attention_slot(a, w->item->blocks, side, w->item->kv_head, pos);
        dst = widen_run(a->kv->type, slots, run, w, dst);
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

/* Which of the n positions from first on each query of the vector sees. */
static void find_seen(const struct attention *a, const struct attention_item *item, const struct work *w,
                      uint32_t vector, uint32_t first, uint32_t n)
{
    struct lane_state *s = &w->states[vector];
    s->most = 0;
    for (uint32_t l = 0; l < LANES; l++) {
        uint32_t query = vector * LANES + l;
        struct attention_seen seen = { 0, 0 };
        if (query < w->n_queries)
            seen = attention_seen(a, item->first_pos + query / w->group, first, n);
        s->from[l] = (int32_t)seen.from;
        s->end[l] = (int32_t)seen.end;
        s->most = seen.end > s->most ? seen.end : s->most;
    }
}

/* S positions from k on for V vectors; what lies past the split's end is computed and never read. */
ALWAYS_INLINE void score_step(const uint32_t V, const uint32_t S, const float *q, const float *k, uint32_t dim,
                              size_t stride, float *p)
{
    vec s[16];
    UNROLL
    for (uint32_t i = 0; i < V * S; i++)
        s[i] = vec_zero();
    for (uint32_t d = 0; d < dim; d++) {
        vec lanes[2];
        UNROLL
        for (uint32_t v = 0; v < V; v++)
            lanes[v] = vec_load(q + (v * dim + d) * LANES);
        UNROLL
        for (uint32_t i = 0; i < S; i++) {
            vec key = vec_set1(k[i * stride + d]);
            UNROLL
            for (uint32_t v = 0; v < V; v++)
                s[i * V + v] = vec_fma(lanes[v], key, s[i * V + v]);
        }
    }
    UNROLL
    for (uint32_t i = 0; i < V * S; i++)
        vec_store(p + (i % V * SCORE_ROWS + i / V) * LANES, s[i]);
}

ALWAYS_INLINE void score_vectors(const uint32_t V, const uint32_t S, const struct work *w, uint32_t vector, uint32_t n)
{
    const float *q = w->q + (size_t)vector * w->dim * LANES;
    for (uint32_t pos = 0; pos < n; pos += S) {
        const float *k = w->k + (size_t)pos * w->padded;
        float *p = w->p + (vector * SCORE_ROWS + pos) * LANES;
        if (vector == 0)
            prefetch_next(w, pos, S);
        if (w->padded == 64)
            score_step(V, S, q, k, w->dim, 64, p);
        else if (w->padded == 128)
            score_step(V, S, q, k, w->dim, 128, p);
        else
            score_step(V, S, q, k, w->dim, w->padded, p);
    }
}

/* No inlining: both would fight for registers. */
static __attribute__((noinline)) void score_one(const struct work *w, uint32_t vector, uint32_t n)
{
    score_vectors(1, 8, w, vector, n);
}

static __attribute__((noinline)) void score_two(const struct work *w, uint32_t vector, uint32_t n)
{
    score_vectors(2, PAIR_POSITIONS, w, vector, n);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* What a multiply-add takes is hidden by 8 chains at least; two vectors need fewer loads for each of them. */
static void score(const struct work *w, uint32_t vectors)
{
    uint32_t vector = 0;
    for (; vector + 2 <= vectors; vector += 2)
        score_two(w, vector, larger(w->states[vector].most, w->states[vector + 1].most));
    for (; vector < vectors; vector++)
        score_one(w, vector, w->states[vector].most);
}

/* Of each lane; in any order, as only the sign of a zero depends on it, which exp does not see. */
ALWAYS_INLINE vec largest(const float *p, uint32_t n)
{
    vec max[4];
    UNROLL
    for (uint32_t i = 0; i < 4; i++)
        max[i] = vec_set1(-INFINITY);
    uint32_t pos = 0;
    for (; pos + 4 <= n; pos += 4) {
        UNROLL
        for (uint32_t i = 0; i < 4; i++)
            max[i] = vec_max(vec_load(p + (pos + i) * LANES), max[i]);
    }
    for (; pos < n; pos++)
        max[0] = vec_max(vec_load(p + pos * LANES), max[0]);
    return vec_max(vec_max(max[0], max[1]), vec_max(max[2], max[3]));
}

/* Scores to weights, with each query's maximum and sum over what it sees; all: every query sees all n. */
ALWAYS_INLINE void weigh_seen(const bool all, float *p, uint32_t n, struct lane_state *s)
{
    vec_i32 from = vec_load_i32(s->from);
    vec_i32 end = vec_load_i32(s->end);
    vec max = all ? largest(p, n) : vec_set1(-INFINITY);
    for (uint32_t pos = 0; !all && pos < n; pos++)
        max = vec_max_where(vec_between_i32(from, end, (int32_t)pos), vec_load(p + pos * LANES), max);
    vec sum = vec_zero();
    for (uint32_t pos = 0; pos < n; pos++) {
        vec weights = vec_exp(vec_sub(vec_load(p + pos * LANES), max));
        vec_store(p + pos * LANES, weights);
        sum = all ? vec_add(sum, weights) : vec_add_where(vec_between_i32(from, end, (int32_t)pos), sum, weights);
    }
    vec_store(s->split_max, max);
    vec_store(s->split_sum, sum);
}

static void cap_scores(float *p, uint32_t n, float cap)
{
    for (uint32_t pos = 0; pos < n; pos++)
        vec_store(p + pos * LANES, vec_soft_cap(vec_load(p + pos * LANES), vec_set1(cap)));
}

static void weigh(const struct work *w, uint32_t vector, float soft_cap)
{
    struct lane_state *s = &w->states[vector];
    float *p = w->p + vector * SCORE_ROWS * LANES;
    if (soft_cap > 0)
        cap_scores(p, s->most, soft_cap);
    bool all = true;
    for (uint32_t l = 0; l < LANES; l++)
        all = all && s->from[l] == 0 && (uint32_t)s->end[l] == s->most;
    if (all)
        weigh_seen(true, p, s->most, s);
    else
        weigh_seen(false, p, s->most, s);
}

/* What is mixed at once: positions [from, to), by chains that begin there or go on. */
struct range {
    uint32_t from, to;
    bool begins;
};

/* o[query][V vectors] = chains over the range for Q neighbouring queries. */
ALWAYS_INLINE void mix(const uint32_t Q, const uint32_t V, const float *p, const float *v, size_t stride,
                       const struct range range, float *o)
{
    vec acc[16];
    UNROLL
    for (uint32_t i = 0; i < Q; i++) {
        UNROLL
        for (uint32_t j = 0; j < V; j++)
            acc[i * V + j] = range.begins ? vec_zero() : vec_load(o + i * stride + j * LANES);
    }
    for (uint32_t pos = range.from; pos < range.to; pos++) {
        vec values[8];
        UNROLL
        for (uint32_t j = 0; j < V; j++)
            values[j] = vec_load(v + pos * stride + j * LANES);
        UNROLL
        for (uint32_t i = 0; i < Q; i++) {
            vec weight = vec_set1(p[pos * LANES + i]);
            UNROLL
            for (uint32_t j = 0; j < V; j++)
                acc[i * V + j] = vec_fma(weight, values[j], acc[i * V + j]);
        }
    }
    UNROLL
    for (uint32_t i = 0; i < Q; i++) {
        UNROLL
        for (uint32_t j = 0; j < V; j++)
            vec_store(o + i * stride + j * LANES, acc[i * V + j]);
    }
}

/* At most so many vectors of the dimension at a time as leave registers for V. */
ALWAYS_INLINE void mix_vectors(const uint32_t Q, const uint32_t most, const struct work *w, const float *p,
                               const struct range range, float *o)
{
    uint32_t d = 0;
    if (most >= 8)
        for (; d + 8 * LANES <= w->padded; d += 8 * LANES)
            mix(Q, 8, p, w->v + d, w->padded, range, o + d);
    if (most >= 4)
        for (; d + 4 * LANES <= w->padded; d += 4 * LANES)
            mix(Q, 4, p, w->v + d, w->padded, range, o + d);
    for (; d + 2 * LANES <= w->padded; d += 2 * LANES)
        mix(Q, 2, p, w->v + d, w->padded, range, o + d);
    if (d < w->padded)
        mix(Q, 1, p, w->v + d, w->padded, range, o + d);
}

static void mix_four(const struct work *w, const float *p, const struct range range, float *o)
{
    mix_vectors(4, LANES == 16 ? 4 : 2, w, p, range, o);
}

static void mix_three(const struct work *w, const float *p, const struct range range, float *o)
{
    mix_vectors(3, LANES == 16 ? 4 : 2, w, p, range, o);
}

static void mix_two(const struct work *w, const float *p, const struct range range, float *o)
{
    mix_vectors(2, LANES == 16 ? 4 : 2, w, p, range, o);
}

static void mix_one(const struct work *w, const float *p, const struct range range, float *o)
{
    mix_vectors(1, LANES == 16 ? 4 : 8, w, p, range, o);
}

static void mix_some(const struct work *w, uint32_t n, const float *p, const struct range range, float *o)
{
    if (n == 4)
        mix_four(w, p, range, o);
    else if (n == 3)
        mix_three(w, p, range, o);
    else if (n == 2)
        mix_two(w, p, range, o);
    else
        mix_one(w, p, range, o);
}

/* What the n queries from lane on all see. */
static struct range common_range(const struct lane_state *s, uint32_t lane, uint32_t n)
{
    struct range common = { (uint32_t)s->from[lane], (uint32_t)s->end[lane], true };
    for (uint32_t l = lane + 1; l < lane + n; l++) {
        common.begins = common.begins && (uint32_t)s->from[l] == common.from;
        common.from = (uint32_t)s->from[l] > common.from ? (uint32_t)s->from[l] : common.from;
        common.to = (uint32_t)s->end[l] < common.to ? (uint32_t)s->end[l] : common.to;
    }
    return common;
}

/* Of the first n_lanes, four queries go together as far as all of them see; before and behind it each goes alone. */
static void mix_lanes(const struct work *w, const struct lane_state *s, uint32_t n_lanes, const float *p, float *o)
{
    for (uint32_t lane = 0; lane < n_lanes; lane += 4) {
        const uint32_t n = n_lanes - lane < 4 ? n_lanes - lane : 4;
        const struct range common = common_range(s, lane, n);
        const bool together = common.from < common.to;
        for (uint32_t l = lane; together && !common.begins && l < lane + n; l++)
            mix_one(w, p + l, (struct range){ (uint32_t)s->from[l], common.from, true }, o + l * w->padded);
        if (together)
            mix_some(w, n, p + lane, common, o + lane * w->padded);
        for (uint32_t l = lane; l < lane + n; l++) {
            const uint32_t from = together ? common.to : (uint32_t)s->from[l];
            if ((uint32_t)s->end[l] > from)
                mix_one(w, p + l, (struct range){ from, (uint32_t)s->end[l], !together }, o + l * w->padded);
        }
    }
}

static void merge_lane(const struct work *w, const float *split_o, float split_factor, float factor, float *o)
{
    vec b = vec_set1(split_factor);
    vec a = vec_set1(factor);
    for (uint32_t d = 0; d < w->padded; d += LANES) {
        vec old = vec_mul(vec_load(o + d), a);
        vec_store(o + d, vec_fma(vec_load(split_o + d), b, old));
    }
}

/* For queries that have begun and see something of this split. */
static void merge(const struct work *w, struct lane_state *s, float *o)
{
    int32_t merged[LANES];
    for (uint32_t l = 0; l < LANES; l++)
        merged[l] = s->begun[l] && s->end[l] > 0;
    vec max = vec_load(s->split_max);
    vec_mask sees = vec_above_i32(vec_load_i32(merged), 0);
    vec old_max = vec_load(s->max);
    vec new_max = vec_max(old_max, max);
    vec a = vec_exp(vec_sub(old_max, new_max));
    vec b = vec_exp(vec_sub(max, new_max));
    vec old_sum = vec_load(s->sum);
    vec_store_where(s->max, new_max, sees);
    vec_store_where(s->sum, vec_fma(vec_load(s->split_sum), b, vec_mul(old_sum, a)), sees);
    float factors[2][LANES];
    vec_store(factors[0], a);
    vec_store(factors[1], b);
    for (uint32_t l = 0; l < LANES; l++)
        if (merged[l])
            merge_lane(w, w->split_o + l * w->padded, factors[1][l], factors[0][l], o + l * w->padded);
}

/* A query's first split is taken as it is. */
static void begin_lane(const struct work *w, struct lane_state *s, uint32_t lane, float *o)
{
    memcpy(o + lane * w->padded, w->split_o + lane * w->padded, w->padded * sizeof *o);
    s->max[lane] = s->split_max[lane];
    s->sum[lane] = s->split_sum[lane];
    s->begun[lane] = 1;
}

static bool none_begun(const struct lane_state *s)
{
    int32_t begun = 0;
    for (uint32_t l = 0; l < LANES; l++)
        begun |= s->begun[l];
    return begun == 0;
}

static void mix_split(const struct work *w, uint32_t vector)
{
    struct lane_state *s = &w->states[vector];
    const float *p = w->p + vector * SCORE_ROWS * LANES;
    float *o = w->o + (size_t)vector * LANES * w->padded;
    const uint32_t left = w->n_queries - vector * LANES;
    const uint32_t n_lanes = left < LANES ? left : LANES;
    if (!none_begun(s)) {
        mix_lanes(w, s, n_lanes, p, w->split_o);
        merge(w, s, o);
        for (uint32_t l = 0; l < LANES; l++)
            if (s->end[l] > 0 && !s->begun[l])
                begin_lane(w, s, l, o);
        return;
    }
    mix_lanes(w, s, n_lanes, p, o);
    memcpy(s->max, s->split_max, sizeof s->max);
    memcpy(s->sum, s->split_sum, sizeof s->sum);
    for (uint32_t l = 0; l < LANES; l++)
        s->begun[l] = s->end[l] > 0;
}

static void write_out(const struct attention *a, const struct attention_item *item, const struct work *w)
{
    for (uint32_t i = 0; i < w->n_queries; i++) {
        size_t head = (size_t)(item->first_row + i / w->group) * a->n_heads + item->kv_head * w->group + i % w->group;
        float *out = a->out + head * w->dim;
        vec inv = vec_set1(1.0f / w->states[i / LANES].sum[i % LANES]);
        for (uint32_t d = 0; d < w->dim; d += LANES) {
            vec_part part = vec_part_at(d, w->dim);
            vec o = vec_load(w->o + (size_t)i * w->padded + d);
            vec_store_part(out + d, vec_mul(o, inv), part);
        }
    }
}

/* ---- few queries: lanes are positions until the weights are made ---- */

/* One row with few heads in a cache of bfloat16, whose pairs are turned. */
static bool has_few_queries(const struct attention *a, const struct attention_item *item, const struct work *w)
{
    return item->n_rows == 1 && w->n_queries <= FEW_QUERIES && a->kv->type == DTYPE_BF16 && w->dim % (2 * LANES) == 0;
}

/* Where K of the n positions lies; what is behind them repeats the last, and is never read. */
static void find_slots(const struct work *w, uint32_t n, const uint8_t *slots[CONTRACT_SPLIT])
{
    const uint32_t block_tokens = w->a->kv->block_tokens;
    const size_t slot_bytes = kv_slot_bytes(w->a->kv);
    for (uint32_t i = 0; i < n;) {
        uint32_t run = block_tokens - (w->first + i) % block_tokens;
        const uint8_t *slot = attention_slot(w->a, w->item->blocks, KV_K, w->item->kv_head, w->first + i);
        for (; run > 0 && i < n; run--, slot += slot_bytes)
            slots[i++] = slot;
    }
    for (uint32_t i = n; i < CONTRACT_SPLIT; i++)
        slots[i] = slots[n - 1];
}

/* k[d][position of the split]. */
static void turn_keys(const struct work *w, uint32_t n)
{
    const uint8_t *slots[CONTRACT_SPLIT];
    find_slots(w, n, slots);
    for (uint32_t pos = 0; pos < n; pos += LANES) {
        prefetch_next(w, pos, LANES);
        for (uint32_t d = 0; d < w->dim; d += 2 * LANES) {
            vec_i32 pairs[LANES];
            UNROLL
            for (uint32_t i = 0; i < LANES; i++)
                pairs[i] = vec_load_i32((const int32_t *)(const void *)(slots[pos + i] + d * sizeof(uint16_t)));
            vec_turn_i32(pairs);
            float *k = w->k + (size_t)d * CONTRACT_SPLIT + pos;
            UNROLL
            for (uint32_t i = 0; i < LANES; i++, k += (size_t)2 * CONTRACT_SPLIT) {
                vec_store(k, vec_widen_low_bf16(pairs[i]));
                vec_store(k + CONTRACT_SPLIT, vec_widen_high_bf16(pairs[i]));
            }
        }
    }
}

/* Scores of Q neighbouring queries with all positions of a split. */
ALWAYS_INLINE void score_queries(const uint32_t Q, const struct work *w, const float *q,
                                 float (*scores)[CONTRACT_SPLIT])
{
    const uint32_t V = CONTRACT_SPLIT / LANES;
    vec s[12];
    UNROLL
    for (uint32_t i = 0; i < Q * V; i++)
        s[i] = vec_zero();
    for (uint32_t d = 0; d < w->dim; d++) {
        vec keys[8];
        UNROLL
        for (uint32_t v = 0; v < V; v++)
            keys[v] = vec_load(w->k + (size_t)d * CONTRACT_SPLIT + v * LANES);
        UNROLL
        for (uint32_t v = 0; Q > 1 && v < V; v++)
            keys[v] = vec_in_register(keys[v]);
        UNROLL
        for (uint32_t i = 0; i < Q; i++) {
            vec query = vec_set1(q[d * LANES + i]);
            UNROLL
            for (uint32_t v = 0; v < V; v++)
                s[i * V + v] = vec_fma(query, keys[v], s[i * V + v]);
        }
    }
    UNROLL
    for (uint32_t i = 0; i < Q * V; i++)
        vec_store(scores[i / V] + i % V * LANES, s[i]);
}

/* Two at once are enough chains, three hide a single one; AVX2 has registers for one. */
static void score_few(const struct work *w, float (*scores)[CONTRACT_SPLIT])
{
    const uint32_t two = LANES == 16 ? 2 : 1, three = LANES == 16 ? 3 : 1;
    uint32_t query = 0;
    if (w->n_queries % two != 0 && w->n_queries >= three) {
        score_queries(three, w, w->q, scores);
        query = three;
    }
    for (; query + two <= w->n_queries; query += two)
        score_queries(two, w, w->q + query, &scores[query]);
    for (; query < w->n_queries; query++)
        score_queries(1, w, w->q + query, &scores[query]);
}

/* In any order: see largest(). */
static float largest_score(const float *scores, uint32_t from, uint32_t end)
{
    float lanes[LANES];
    vec most = vec_set1(-INFINITY);
    for (; from + LANES <= end; from += LANES)
        most = vec_max(vec_load(scores + from), most);
    vec_store(lanes, most);
    for (uint32_t w = LANES / 2; w > 0; w /= 2)
        for (uint32_t l = 0; l < w; l++)
            lanes[l] = lanes[l] > lanes[l + w] ? lanes[l] : lanes[l + w];
    for (; from < end; from++)
        lanes[0] = scores[from] > lanes[0] ? scores[from] : lanes[0];
    return lanes[0];
}

/* Scores to weights, which then stand as all others do, too. */
static void weigh_query(const struct work *w, uint32_t query, float *scores)
{
    struct lane_state *s = &w->states[0];
    const uint32_t from = (uint32_t)s->from[query], end = (uint32_t)s->end[query];
    const float max = largest_score(scores, from, end);
    for (uint32_t pos = from / LANES * LANES; pos < end; pos += LANES)
        vec_store(scores + pos, vec_exp(vec_sub(vec_load(scores + pos), vec_set1(max))));
    for (uint32_t pos = from; pos < end; pos++)
        w->p[pos * LANES + query] = scores[pos];
    s->split_max[query] = max;
}

/* Q sums of weights side by side, as each waits for its last addition; from and end are those of every query. */
ALWAYS_INLINE void sum_weights(const uint32_t Q, struct lane_state *s, uint32_t n_queries,
                               float (*weights)[CONTRACT_SPLIT])
{
    float sum[FEW_QUERIES] = { 0 };
    const float *of[FEW_QUERIES];
    UNROLL
    for (uint32_t i = 0; i < Q; i++)
        of[i] = weights[i < n_queries ? i : 0]; /* some twice rather than what nobody wrote */
    for (int32_t pos = s->from[0]; pos < s->end[0]; pos++) {
        UNROLL
        for (uint32_t i = 0; i < Q; i++)
            sum[i] += of[i][pos];
    }
    for (uint32_t i = 0; i < n_queries; i++)
        s->split_sum[i] = sum[i];
}

/* What score() and weigh() do for many. */
static void weigh_few(const struct work *w, uint32_t n, float soft_cap)
{
    float scores[FEW_QUERIES][CONTRACT_SPLIT];
    turn_keys(w, n);
    score_few(w, scores);
    for (uint32_t query = 0; query < w->n_queries; query++) {
        for (uint32_t pos = 0; soft_cap > 0 && pos < n; pos += LANES)
            vec_store(scores[query] + pos, vec_soft_cap(vec_load(scores[query] + pos), vec_set1(soft_cap)));
        weigh_query(w, query, scores[query]);
    }
    if (w->n_queries <= FEW_QUERIES / 2)
        sum_weights(FEW_QUERIES / 2, &w->states[0], w->n_queries, scores);
    else
        sum_weights(FEW_QUERIES, &w->states[0], w->n_queries, scores);
}

/* n positions from w->first on. All vectors are done with K before V is widened: the first cache holds one of them. */
static void run_split(const struct attention *a, const struct attention_item *item, struct work *w, uint32_t n)
{
    uint32_t vectors = (w->n_queries + LANES - 1) / LANES;
    for (uint32_t vector = 0; vector < vectors; vector++)
        find_seen(a, item, w, vector, w->first, n);
    if (has_few_queries(a, item, w)) {
        weigh_few(w, n, a->soft_cap);
    } else {
        widen_side(KV_K, n, w, w->k);
        score(w, vectors);
        for (uint32_t vector = 0; vector < vectors; vector++)
            if (w->states[vector].most > 0)
                weigh(w, vector, a->soft_cap);
    }
    widen_side(KV_V, n, w, w->v);
    for (uint32_t vector = 0; vector < vectors; vector++)
        if (w->states[vector].most > 0)
            mix_split(w, vector);
}

static struct work begin_work(const struct attention *a, const struct attention_item *item, void *scratch)
{
    struct work w = { .a = a,
                      .item = item,
                      .dim = a->kv->head_dim,
                      .padded = padded_dim(a->kv->head_dim),
                      .group = a->n_heads / a->kv->n_kv_heads };
    w.n_queries = item->n_rows * w.group;
    lay_out(&w, most_vectors(w.group), scratch);
    turn_queries(a, item, &w);
    return w;
}

static void forget(const struct work *w)
{
    for (uint32_t vector = 0; vector < most_vectors(w->group); vector++)
        memset(w->states[vector].begun, 0, sizeof w->states[vector].begun);
}

/* The split at w->first, as far as it is gone through. */
static void run_next(const struct attention *a, const struct attention_item *item, struct work *w)
{
    run_split(a, item, w, w->end - w->first < CONTRACT_SPLIT ? w->end - w->first : CONTRACT_SPLIT);
}

void ISA(attend)(const struct attention *a, const struct attention_item *item, void *scratch)
{
    struct work w = begin_work(a, item, scratch);
    forget(&w);
    w.end = item->first_pos + item->n_rows;
    for (w.first = attention_first_split(a, item); w.first < w.end; w.first += CONTRACT_SPLIT)
        run_next(a, item, &w);
    write_out(a, item, &w);
}

/* Returns what is behind them. */
static float *leave_partials(const struct work *w, float *to)
{
    for (uint32_t i = 0; i < w->n_queries; i++, to += attention_partial_values(w->dim)) {
        const struct lane_state *s = &w->states[i / LANES];
        to[0] = s->begun[i % LANES] ? s->sum[i % LANES] : 0.0f;
        if (!s->begun[i % LANES])
            continue;
        to[1] = s->max[i % LANES];
        memcpy(to + ATTENTION_PARTIAL_O, w->o + (size_t)i * w->padded, w->dim * sizeof *to);
    }
    return to;
}

void ISA(attend_part)(const struct attention *a, const struct attention_item *item, const struct attention_part *part,
                      void *scratch)
{
    struct work w = begin_work(a, item, scratch);
    float *to = part->partials;
    forget(&w);
    w.end = part->end;
    for (w.first = part->begin; w.first < w.end; w.first += CONTRACT_SPLIT) {
        run_next(a, item, &w);
        if (part->merges)
            continue;
        to = leave_partials(&w, to);
        forget(&w);
    }
    if (part->merges)
        (void)leave_partials(&w, to);
}
