/* A step's attention over a team gives the bits of its items done whole, however it is divided. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention_step.h"
#include "engine/philox.h"

#define MAX_ROWS     8u
#define MAX_SEQS     3u
#define MAX_POSITION 900u
#define BLOCK_TOKENS 16u
#define SEQ_BLOCKS   ((MAX_POSITION + BLOCK_TOKENS) / BLOCK_TOKENS)
#define HEADS        6u
#define KV_HEADS     3u
#define DIM          64u

static float random_f32(void)
{
    static uint32_t counter;
    uint32_t word[4] = { counter++, 0, 0, 0 };
    philox4x32(word, (uint32_t[]){ 5, 1 }, word);
    return (float)(int32_t)word[0] * 0x1p-31f;
}

/* The backend under test, counting. */
static struct backend counting;
static const struct backend *counted;
static atomic_uint wholes, parts;

static void count_whole(const struct attention *a, const struct attention_item *items, uint32_t n, void *scratch)
{
    atomic_fetch_add(&wholes, 1);
    counted->attend(a, items, n, scratch);
}

static void count_part(const struct attention *a, const struct attention_item *item, const struct attention_part *part,
                       void *scratch)
{
    atomic_fetch_add(&parts, 1);
    counted->attend_part(a, item, part, scratch);
}

static void count_calls_of(const struct backend *b)
{
    counted = b;
    counting = *b;
    counting.attend = count_whole;
    counting.attend_part = b->attend_part != NULL ? count_part : NULL;
}

struct scene {
    struct kv_layout kv;
    struct model_config config;
    struct device_memory pool;
    uint32_t blocks[MAX_SEQS][SEQ_BLOCKS];
    float *q, *out;
    struct step_seq seqs[MAX_SEQS];
    struct rows rows;
};

static void fill_pool(struct scene *s)
{
    const uint32_t n_blocks = MAX_SEQS * SEQ_BLOCKS;
    for (uint32_t i = 0; i < 2 * n_blocks * BLOCK_TOKENS; i++) {
        const struct kv_place place = { .block = i / 2 / BLOCK_TOKENS, .token = i / 2 % BLOCK_TOKENS };
        const struct kv_rows row = { .kv = &s->kv, .pool = s->pool, .n_rows = 1, .places = &place };
        float values[KV_HEADS * DIM];
        for (uint32_t d = 0; d < KV_HEADS * DIM; d++)
            values[d] = random_f32();
        backend_reference.kv_store(&row, i % 2 == 0 ? KV_K : KV_V, values);
    }
    for (uint32_t b = 0; b < n_blocks; b++)
        s->blocks[b % MAX_SEQS][b / MAX_SEQS] = b;
}

static void open_scene(struct scene *s, enum dtype type)
{
    *s = (struct scene){
        .kv = { .n_layers = 1, .n_kv_heads = KV_HEADS, .head_dim = DIM, .block_tokens = BLOCK_TOKENS, .type = type },
        .config = { .n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM, .max_positions = MAX_POSITION },
    };
    const size_t values = (size_t)MAX_ROWS * HEADS * DIM;
    s->pool.host = malloc(MAX_SEQS * SEQ_BLOCKS * kv_block_bytes(&s->kv));
    s->q = malloc(values * sizeof *s->q);
    s->out = malloc(values * sizeof *s->out);
    assert_true(s->pool.host != NULL && s->q != NULL && s->out != NULL);
    fill_pool(s);
    for (size_t i = 0; i < values; i++)
        s->q[i] = random_f32();
    assert_int_equal(rows_create(MAX_ROWS, MAX_SEQS, &s->rows), ST_OK);
}

static void close_scene(struct scene *s)
{
    free(s->pool.host);
    free(s->q);
    free(s->out);
    rows_release(&s->rows);
}

/* n sequences with so many rows after so many positions. */
static void set_rows(struct scene *s, uint32_t n, const uint32_t rows[], const uint32_t positions[])
{
    for (uint32_t i = 0; i < n; i++)
        s->seqs[i] = (struct step_seq){ .n_rows = rows[i], .first_pos = positions[i], .blocks = s->blocks[i] };
    rows_begin(&s->rows, &(struct step){ .seqs = s->seqs, .n_seqs = n });
}

static void attend_whole(const struct scene *s, const struct attention *a)
{
    void *scratch = malloc(backend_reference.attend_scratch_bytes(DIM, HEADS / KV_HEADS));
    assert_non_null(scratch);
    for (uint32_t i = 0; i < s->rows.n_spans; i++)
        for (uint32_t h = 0; h < KV_HEADS; h++) {
            const struct row_span *span = &s->rows.spans[i];
            const struct attention_item item = { .blocks = span->seq->blocks,
                                                 .first_row = span->first_row,
                                                 .n_rows = span->n_rows,
                                                 .first_pos = span->first_pos,
                                                 .kv_head = h };
            backend_reference.attend(a, &item, 1, scratch);
        }
    free(scratch);
}

static uint8_t *lend_scratch(struct attention_step *step, const struct team *team)
{
    const size_t bytes = (counting.attend_scratch_bytes(DIM, HEADS / KV_HEADS) + 63) / 64 * 64;
    uint8_t *scratch = aligned_alloc(64, team_threads(team) * bytes);
    assert_non_null(scratch);
    for (uint32_t t = 0; t < team_threads(team); t++)
        attention_step_lend(step, t, scratch + t * bytes);
    return scratch;
}

static void compare(const struct scene *s, struct team *team, const struct attention *a, const char *what)
{
    const size_t bytes = (size_t)s->rows.n_rows * HEADS * DIM * sizeof(float);
    float expected[MAX_ROWS * HEADS * DIM];
    struct attention shared = *a;
    struct attention_step *step;
    shared.out = expected;
    attend_whole(s, &shared);
    assert_int_equal(attention_step_create(&s->config, &counting, team, MAX_ROWS, MAX_SEQS, &step), ST_OK);
    uint8_t *scratch = lend_scratch(step, team);
    shared.out = s->out;
    for (int again = 0; again < 2; again++) {
        memset(s->out, 0xa5, bytes);
        attention_step_run(step, &shared, &s->rows);
        if (memcmp(expected, s->out, bytes) != 0)
            fail_msg("%s on %s, %u threads", what, counted->name, team_threads(team));
    }
    attention_step_destroy(&step);
    free(scratch);
}

/* Every edge of a split, a window or none, on one team. */
static void run_edges(struct team *team, enum dtype type)
{
    const uint32_t positions[] = { 0, 63, 64, 255, 256, 257, 511, 700 };
    const uint32_t windows[] = { 0, 65, 300 };
    struct scene s;
    open_scene(&s, type);
    for (size_t p = 0; p < sizeof positions / sizeof *positions; p++)
        for (size_t w = 0; w < sizeof windows / sizeof *windows; w++) {
            struct attention a = { .kv = &s.kv, .pool = s.pool, .n_heads = HEADS, .window = windows[w], .q = s.q };
            char what[96];
            a.soft_cap = p % 2 == 0 ? 0 : 2.0f;
            snprintf(what, sizeof what, "%s, position %u, window %u", dtype_name(type), positions[p], windows[w]);
            set_rows(&s, 1, (const uint32_t[]){ 1 }, (const uint32_t[]){ positions[p] });
            compare(&s, team, &a, what);
            set_rows(&s, 1, (const uint32_t[]){ 5 }, (const uint32_t[]){ positions[p] });
            compare(&s, team, &a, what);
            set_rows(&s, 3, (const uint32_t[]){ 1, 1, 2 }, (const uint32_t[]){ 5, 100, positions[p] });
            compare(&s, team, &a, what);
        }
    close_scene(&s);
}

struct variant {
    const struct backend *backend;
    const char *(*missing)(void);
};

static const char *nothing_missing(void)
{
    return NULL;
}

static const struct variant variants[] = {
    { &backend_reference, nothing_missing },
    { &backend_avx2, backend_avx2_missing },
    { &backend_avx512, backend_avx512_missing },
};

static bool can_run(const struct variant *v)
{
    if (v->missing() != NULL)
        print_message("skipped %s: no %s\n", v->backend->name, v->missing());
    return v->missing() == NULL;
}

static void test_same_bits(void **state)
{
    (void)state;
    const uint32_t threads[] = { 1, 2, 4 };
    const enum dtype types[] = { DTYPE_BF16, DTYPE_INT8, DTYPE_F32 };
    struct error err;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        if (!can_run(&variants[v]))
            continue;
        count_calls_of(variants[v].backend);
        for (size_t t = 0; t < 3; t++) {
            struct team *team;
            assert_int_equal(team_create(threads[t], NULL, &team, &err), ST_OK);
            parts = 0;
            for (size_t k = 0; k < 3; k++)
                run_edges(team, types[k]);
            assert_int_equal(parts > 0, threads[t] > 1);
            team_destroy(&team);
        }
    }
}

/* Three heads on two threads: 15 splits each in parts of two or three, or whole where a
 * backend has no parts, or all at once where it wants them so. */
static void test_division(void **state)
{
    (void)state;
    struct scene s;
    struct team *team;
    struct error err;
    open_scene(&s, DTYPE_BF16);
    assert_int_equal(team_create(2, NULL, &team, &err), ST_OK);
    struct attention a = { .kv = &s.kv, .pool = s.pool, .n_heads = HEADS, .q = s.q };
    set_rows(&s, 1, (const uint32_t[]){ 1 }, (const uint32_t[]){ MAX_POSITION - 1 });
    count_calls_of(&backend_reference);
    wholes = parts = 0;
    compare(&s, team, &a, "divided");
    assert_int_equal(wholes, 0);
    assert_int_equal(parts, 2 * 3 * 6);
    counting.attend_part = NULL;
    wholes = parts = 0;
    compare(&s, team, &a, "whole");
    assert_int_equal(wholes, 2 * 3);
    assert_int_equal(parts, 0);
    counting.whole = true;
    wholes = parts = 0;
    compare(&s, team, &a, "at once");
    assert_int_equal(wholes, 2);
    team_destroy(&team);
    close_scene(&s);
}

/* Room is for two of three heads: the third stays whole. */
static void test_full_memory(void **state)
{
    (void)state;
    struct scene s;
    struct team *team;
    struct error err;
    open_scene(&s, DTYPE_BF16);
    assert_int_equal(team_create(4, NULL, &team, &err), ST_OK);
    s.config.max_positions = 9 * CONTRACT_SPLIT;
    struct attention a = { .kv = &s.kv, .pool = s.pool, .n_heads = HEADS, .q = s.q };
    set_rows(&s, 1, (const uint32_t[]){ 1 }, (const uint32_t[]){ MAX_POSITION - 1 });
    count_calls_of(&backend_reference);
    wholes = parts = 0;
    compare(&s, team, &a, "little memory");
    assert_int_equal(wholes, 2 * 1);
    assert_int_equal(parts, 2 * 2 * 7);
    team_destroy(&team);
    close_scene(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_division),
        cmocka_unit_test(test_full_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
