/* A model that guesses: what it guesses is what it would say, whatever became of earlier guesses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/tokenizer.h"
#include "tests/unit/effort.h"
#include "worker/drafter.h"

#define MODEL        BATON_SOURCE_DIR "/models/baton-tiny"
#define BLOCK_TOKENS 8u
#define LONGEST      320u
#define SEQS         7u
#define AT_ONCE      3u

struct talk {
    uint32_t tokens[LONGEST + SPECULATION_MAX_DRAFTS];
    uint32_t n;
    struct sampling sampling;
};

struct world {
    struct model *model;
    struct drafter *drafter;
    struct engine *plain;
    uint8_t *pool;
    struct talk talks[SEQS];
    uint32_t made, missed;
};

static uint32_t draw(uint32_t below)
{
    return (uint32_t)random() % below;
}

static void open_world(struct world *w, uint32_t n_blocks)
{
    struct error err;
    struct kv_layout kv;
    memset(w, 0, sizeof *w);
    if (model_open(MODEL, MODEL_WEIGHTS, &w->model, &err) != ST_OK)
        fail_msg("%s", err.text);
    model_kv_layout(model_config(w->model), BLOCK_TOKENS, DTYPE_F32, &kv);
    struct drafter_options o = {
        .model = w->model, .n_threads = 1, .kv = kv, .n_blocks = n_blocks, .max_seqs = AT_ONCE, .max_len = LONGEST
    };
    if (drafter_create(&o, w->model, &w->drafter, &err) != ST_OK)
        fail_msg("%s", err.text);
    uint32_t blocks = LONGEST / BLOCK_TOKENS;
    w->pool = aligned_alloc(64, (blocks * kv_block_bytes(&kv) + 63) / 64 * 64);
    struct engine_options e = { .model = w->model,
                                .n_threads = 1,
                                .kv = kv,
                                .kv_pool.host = w->pool,
                                .kv_blocks = blocks,
                                .max_rows = LONGEST,
                                .max_seqs = 1 };
    assert_int_equal(engine_create(&e, &w->plain, &err), ST_OK);
    for (uint32_t i = 0; i < SEQS; i++) {
        struct talk *t = &w->talks[i];
        t->n = 1 + draw(i == 0 ? 2 * DRAFTER_CATCH_UP : 20); /* the first is behind for a while */
        t->sampling = (struct sampling){ .seed = i,
                                         .prompt_len = t->n,
                                         .max_tokens = LONGEST,
                                         .temperature = i % 2 ? 0.7f : 0,
                                         .top_p = 1,
                                         .repetition_penalty = i % 3 ? 1.0f : 1.2f,
                                         .n_logprobs = 2,
                                         .want_hash = true };
        for (uint32_t k = 0; k < t->n; k++)
            t->tokens[k] = draw(model_config(w->model)->n_vocab);
    }
}

static void close_world(struct world *w)
{
    drafter_destroy(&w->drafter);
    drafter_destroy(&w->drafter);
    engine_destroy(&w->plain);
    model_close(&w->model);
    free(w->pool);
}

/* What the model says after tokens [n]. */
static uint32_t say(struct world *w, const struct talk *t, uint32_t n)
{
    uint32_t blocks[LONGEST / BLOCK_TOKENS];
    for (uint32_t i = 0; i < LONGEST / BLOCK_TOKENS; i++)
        blocks[i] = i;
    struct step_seq seq = { .tokens = t->tokens,
                            .n_rows = n,
                            .blocks = blocks,
                            .logits = STEP_SAMPLE,
                            .sampling = &t->sampling,
                            .history = t->tokens,
                            .n_history = n };
    engine_run(w->plain, &(struct step){ .seqs = &seq, .n_seqs = 1 });
    return seq.sampled.id;
}

static void check_guesses(struct world *w, const struct talk *t, const struct draft_ask *ask,
                          const struct step_seq *seq)
{
    assert_int_equal(seq->n_rows, 1 + ask->made);
    assert_int_equal(seq->n_history, t->n + ask->made);
    assert_int_equal(seq->logits, ask->made ? STEP_SAMPLE_EACH : STEP_SAMPLE);
    for (uint32_t k = 0; k < ask->made; k++)
        assert_int_equal(t->tokens[t->n + k], say(w, t, t->n + k));
    w->made += ask->made;
    w->missed += ask->wanted - ask->made;
}

/* Some of the guesses were right, and tokens follow that may be anything: not every step has guesses. */
static void go_on(struct world *w, struct talk *t, uint32_t made)
{
    t->n += draw(made + 1);
    for (uint32_t more = 1 + draw(3); more > 0 && t->n + 1 < LONGEST; more--, t->n++)
        t->tokens[t->n] = draw(2) ? say(w, t, t->n) : draw(model_config(w->model)->n_vocab);
}

static void run_once(struct world *w, const uint32_t *which, uint32_t n)
{
    struct step_seq seqs[AT_ONCE] = { { 0 } };
    struct draft_ask asks[AT_ONCE];
    for (uint32_t i = 0; i < n; i++) {
        struct talk *t = &w->talks[which[i]];
        seqs[n - 1 - i] = (struct step_seq){ .sampling = &t->sampling };
        asks[i] = (struct draft_ask){
            .id = which[i] + 1, .seq = n - 1 - i, .tokens = t->tokens, .n_tokens = t->n, .wanted = 1 + draw(5)
        };
    }
    drafter_run(w->drafter, &(struct step){ .seqs = seqs, .n_seqs = n }, &(struct drafts){ .asks = asks, .n = n });
    for (uint32_t i = 0; i < n; i++) {
        check_guesses(w, &w->talks[which[i]], &asks[i], &seqs[n - 1 - i]);
        go_on(w, &w->talks[which[i]], asks[i].made);
    }
}

/* What is slowed down is looked at for memory: two thirds of the rounds take every branch, too. */
static void run_rounds(struct world *w, uint32_t rounds, uint32_t of)
{
    if (SANITIZED && !is_long())
        rounds = rounds * 2 / 3;
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t which[AT_ONCE];
        uint32_t n = 1 + draw(AT_ONCE);
        uint32_t first = draw(of);
        for (uint32_t i = 0; i < n; i++)
            which[i] = (first + i) % of;
        run_once(w, which, n);
    }
}

static void test_guesses_are_the_models_own(void **state)
{
    (void)state;
    struct world w;
    open_world(&w, AT_ONCE * LONGEST / BLOCK_TOKENS);
    run_rounds(&w, 40, AT_ONCE);
    assert_true(w.made > 4 * w.missed);
    close_world(&w);
}

/* More sequences than it keeps, and less room than they need. */
static void test_drops_what_it_has_no_room_for(void **state)
{
    (void)state;
    struct world w;
    open_world(&w, 14);
    run_rounds(&w, 60, SEQS);
    assert_true(w.made > 0 && w.missed > 0);
    close_world(&w);
}

/* A piece at a time, and then it begins anew. */
static void test_what_it_keeps_is_erased(void **state)
{
    (void)state;
    struct world w;
    uint32_t pieces = 1;
    open_world(&w, 3 * LONGEST / BLOCK_TOKENS);
    assert_int_equal(drafter_erase(w.drafter, 0), ST_OK);
    run_rounds(&w, 20, AT_ONCE);
    while (drafter_erase(w.drafter, 0) != ST_OK)
        pieces++;
    assert_in_range(pieces, AT_ONCE + 1, 3 * LONGEST / BLOCK_TOKENS);
    assert_int_equal(drafter_erase(w.drafter, 0), ST_OK);
    run_rounds(&w, 20, AT_ONCE);
    assert_int_equal(drafter_erase(w.drafter, SIZE_MAX / 2), ST_OK);
    close_world(&w);
}

static void test_cancelled(void **state)
{
    (void)state;
    struct world w;
    atomic_bool cancelled = true;
    open_world(&w, 40);
    struct step_seq seq = { .sampling = &w.talks[1].sampling, .cancelled = &cancelled };
    struct draft_ask ask = { .id = 1, .tokens = w.talks[1].tokens, .n_tokens = w.talks[1].n, .wanted = 3 };
    drafter_run(w.drafter, &(struct step){ .seqs = &seq, .n_seqs = 1 }, &(struct drafts){ .asks = &ask, .n = 1 });
    assert_int_equal(ask.made, 0);
    assert_int_equal(seq.n_rows, 1);
    close_world(&w);
}

/* baton-tiny, one of whose special tokens is spelled differently. */
static void copy_renamed(const char *folder)
{
    char command[1024];
    snprintf(command, sizeof command,
             "cp " MODEL "/*.json " MODEL "/model.safetensors %s && sed -i 's/im_start/in_start/' %s/tokenizer.json",
             folder, folder);
    assert_int_equal(system(command), 0);
}

static void test_other_vocabulary(void **state)
{
    (void)state;
    struct error err;
    struct model *tiny;
    struct model *other;
    struct drafter *drafter = NULL;
    char folder[] = "/tmp/baton-drafter-XXXXXX";
    char remove[64];
    assert_non_null(mkdtemp(folder));
    copy_renamed(folder);
    assert_int_equal(model_open(MODEL, MODEL_WEIGHTS, &tiny, &err), ST_OK);
    if (model_open(folder, MODEL_WEIGHTS, &other, &err) != ST_OK)
        fail_msg("%s", err.text);
    struct drafter_options o = { .model = other, .n_threads = 1, .n_blocks = 4, .max_seqs = 1, .max_len = 9 };
    model_kv_layout(model_config(other), BLOCK_TOKENS, DTYPE_F32, &o.kv);
    assert_int_equal(drafter_create(&o, tiny, &drafter, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "vocabulary"));
    assert_null(drafter);
    model_close(&other);
    model_close(&tiny);
    snprintf(remove, sizeof remove, "rm -r %s", folder);
    assert_int_equal(system(remove), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guesses_are_the_models_own), cmocka_unit_test(test_drops_what_it_has_no_room_for),
        cmocka_unit_test(test_what_it_keeps_is_erased),    cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_other_vocabulary),
    };
    return cmocka_run_group_tests_name("drafter", tests, NULL, NULL);
}
