#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/sequence.h"

#define VOCAB 100u
#define LONG  64u /* max_model_len */

static const struct sequence_ops no_ops = { NULL, NULL, NULL };

struct message {
    Baton__Sampling sampling;
    Baton__LogitBias bias;
    uint32_t tokens[LONG + 2], n_tokens;
    uint32_t bias_ids[SAMPLING_MAX_BIAS + 1], stop_ids[SAMPLING_MAX_STOP_IDS + 1];
    float bias_values[SAMPLING_MAX_BIAS + 1];
};

static void make(struct message *m, uint32_t n_tokens)
{
    memset(m, 0, sizeof *m);
    baton__sampling__init(&m->sampling);
    baton__logit_bias__init(&m->bias);
    for (uint32_t i = 0; i < n_tokens; i++)
        m->tokens[i] = i % VOCAB;
    m->n_tokens = n_tokens;
    m->sampling.prompt_len = n_tokens;
    m->sampling.max_tokens = 10;
    m->sampling.top_p = 1;
    m->sampling.repetition_penalty = 1;
    m->sampling.n_logprobs = -1;
    m->bias.ids = m->bias_ids;
    m->bias.biases = m->bias_values;
    m->sampling.stop_ids = m->stop_ids;
}

static status init(struct sequence *seq, const struct message *m)
{
    struct error err = { "" };
    status st = sequence_init(seq, &no_ops, m->tokens, m->n_tokens, &m->sampling, VOCAB, LONG, &err);
    if (st != ST_OK && st != ST_NO_MEMORY)
        assert_true(err.text[0] != '\0');
    return st;
}

static struct message m; /* too large for some stacks */

static void test_what_is_refused(void **state)
{
    (void)state;
    struct sequence seq;
    make(&m, 0);
    assert_int_equal(init(&seq, &m), ST_INVALID);
    make(&m, LONG + 1);
    assert_int_equal(init(&seq, &m), ST_LIMIT);
    make(&m, 5);
    m.tokens[4] = VOCAB;
    assert_int_equal(init(&seq, &m), ST_INVALID);
    make(&m, 5);
    m.sampling.prompt_len = 6;
    assert_int_equal(init(&seq, &m), ST_INVALID);
    make(&m, 5);
    m.sampling.bias = &m.bias;
    m.bias.n_ids = 2;
    m.bias.n_biases = 1;
    assert_int_equal(init(&seq, &m), ST_INVALID);
    m.bias.n_ids = m.bias.n_biases = SAMPLING_MAX_BIAS + 1;
    assert_int_equal(init(&seq, &m), ST_INVALID);
    make(&m, 5);
    m.sampling.n_stop_ids = SAMPLING_MAX_STOP_IDS + 1;
    assert_int_equal(init(&seq, &m), ST_INVALID);
    struct error err;
    assert_int_equal(sequence_init(&seq, &no_ops, m.tokens, 5, NULL, VOCAB, LONG, &err), ST_INVALID);
}

/* Room for what may come, and never for more than the model's length. */
static void test_capacity(void **state)
{
    (void)state;
    struct sequence seq;
    make(&m, LONG);
    m.sampling.max_tokens = UINT32_MAX;
    status st = init(&seq, &m);
    if (st == ST_OK) { /* where the sampling allows so many */
        assert_int_equal(seq.tokens_capacity, LONG + 1);
        sequence_free(&seq);
    }
    make(&m, LONG);
    assert_int_equal(init(&seq, &m), ST_OK);
    assert_int_equal(seq.tokens_capacity, LONG + 1);
    sequence_append(&seq, 7);
    assert_int_equal(seq.tokens[LONG], 7);
    assert_int_equal(sequence_generated(&seq), 1);
    sequence_free(&seq);
    make(&m, 3);
    m.sampling.prompt_len = 2; /* a replay: one token was generated elsewhere */
    assert_int_equal(init(&seq, &m), ST_OK);
    assert_int_equal(seq.tokens_capacity, 14);
    assert_int_equal(sequence_generated(&seq), 1);
    sequence_free(&seq);
}

static void test_blocks(void **state)
{
    (void)state;
    struct sequence seq, other;
    struct block_pool *pool;
    struct block_pool_options options = { .n_blocks = 5, .block_tokens = 4 };
    assert_int_equal(block_pool_create(&options, &pool), ST_OK);
    make(&m, 13);
    assert_int_equal(init(&seq, &m), ST_OK);
    assert_int_equal(init(&other, &m), ST_OK);
    assert_int_equal(sequence_reserve(&seq, pool, 4, 0, BLOCK_FILLING), ST_OK);
    assert_int_equal(seq.n_blocks, 0);
    assert_int_equal(sequence_reserve(&seq, pool, 4, 12, BLOCK_FILLING), ST_OK);
    assert_int_equal(seq.n_blocks, 3);
    assert_int_equal(sequence_reserve(&seq, pool, 4, 13, BLOCK_FILLING), ST_OK);
    assert_int_equal(seq.n_blocks, 4);
    assert_int_equal(sequence_reserve(&seq, pool, 4, 5, BLOCK_FILLING), ST_OK);
    assert_int_equal(seq.n_blocks, 4);
    /* All or none. */
    assert_int_equal(sequence_reserve(&other, pool, 4, 8, BLOCK_RESERVED), ST_AGAIN);
    assert_int_equal(other.n_blocks, 0);
    assert_int_equal(block_pool_free(pool), 1);
    /* Rows that begin and end inside blocks. */
    sequence_filled(&seq, pool, 4, 0, 3);
    assert_int_equal(block_pool_valid(pool, seq.blocks[0]), 3);
    sequence_filled(&seq, pool, 4, 3, 7);
    assert_int_equal(block_pool_state(pool, seq.blocks[0]), BLOCK_COMPLETE);
    assert_int_equal(block_pool_state(pool, seq.blocks[1]), BLOCK_COMPLETE);
    assert_int_equal(block_pool_valid(pool, seq.blocks[2]), 2);
    sequence_filled(&seq, pool, 4, 4, 2); /* what was there already shrinks nothing */
    assert_int_equal(block_pool_valid(pool, seq.blocks[1]), 4);
    sequence_release_blocks(&seq, pool);
    assert_int_equal(block_pool_free(pool), 5);
    assert_int_equal(seq.computed, 0);
    sequence_free(&seq);
    sequence_free(&other);
    block_pool_destroy(&pool);
}

/* What came over the wire goes on over the wire, bit by bit. */
static void test_sampling_travels_on(void **state)
{
    (void)state;
    static struct wire_sampling wire;
    struct sequence seq;
    make(&m, 6);
    m.sampling.seed = 0x1234567890abcdef;
    m.sampling.choice = 3;
    m.sampling.prompt_len = 4;
    m.sampling.min_tokens = 2;
    m.sampling.temperature = 0.7f;
    m.sampling.top_p = 0.9f;
    m.sampling.min_p = 0.05f;
    m.sampling.top_k = 40;
    m.sampling.repetition_penalty = 1.1f;
    m.sampling.presence_penalty = 0.3f;
    m.sampling.frequency_penalty = -0.4f;
    m.sampling.ignore_eos = true;
    m.sampling.n_logprobs = 5;
    m.sampling.want_hash = true;
    m.sampling.n_stop_ids = 2;
    m.stop_ids[1] = 9;
    m.sampling.bias = &m.bias;
    m.bias.n_ids = m.bias.n_biases = 2;
    m.bias_ids[0] = 11;
    m.bias_values[0] = -3.5f;
    assert_int_equal(init(&seq, &m), ST_OK);
    sequence_pack_sampling(&seq, &wire);
    size_t n = baton__sampling__get_packed_size(&m.sampling);
    assert_int_equal(baton__sampling__get_packed_size(&wire.msg), n);
    uint8_t *a = malloc(n), *b = malloc(n);
    baton__sampling__pack(&m.sampling, a);
    baton__sampling__pack(&wire.msg, b);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    sequence_free(&seq);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_capacity),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_sampling_travels_on),
    };
    return cmocka_run_group_tests_name("sequence", tests, NULL, NULL);
}
