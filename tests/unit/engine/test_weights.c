/* Weights that a store keeps: packed once, mapped by others with the same bits, packed anew when they are damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/engine.h"
#include "engine/weights.h"

#define MODEL        BATON_SOURCE_DIR "/models/baton-tiny"
#define BLOCK_TOKENS 16u
#define N_BLOCKS     4u
#define N_TOKENS     24u

/* One shelf: what was given last. */
struct shelf {
    char key[WEIGHT_IMAGE_KEY_BYTES];
    int fd;        /* -1: empty */
    status answer; /* of take, when empty */
    bool refuses;
    unsigned taken, given, refused;
};

static status take(void *ctx, const char *key, bool refused, int *fd)
{
    struct shelf *s = ctx;
    s->taken++;
    s->refused += refused;
    if (refused) {
        close(s->fd);
        s->fd = -1;
    }
    if (s->fd < 0)
        return s->answer;
    assert_string_equal(key, s->key);
    *fd = dup(s->fd);
    return ST_OK;
}

static bool give(void *ctx, const char *key, const struct weight_image *image)
{
    struct shelf *s = ctx;
    s->given++;
    if (s->refuses)
        return false;
    strcpy(s->key, key);
    s->fd = dup(image->fd);
    return true;
}

static void on_logits(void *ctx, uint32_t row, const float *logits, uint32_t n_vocab)
{
    uint64_t *hash = ctx;
    (void)row;
    *hash = XXH3_64bits_withSeed(logits, n_vocab * sizeof *logits, *hash);
}

static uint64_t hash_of(struct engine *engine)
{
    uint32_t tokens[N_TOKENS], blocks[N_BLOCKS] = { 0, 1, 2, 3 };
    uint64_t hash = 0;
    for (uint32_t i = 0; i < N_TOKENS; i++)
        tokens[i] = 3 + i * 5;
    struct step_seq seq = { .tokens = tokens,
                            .n_rows = N_TOKENS,
                            .blocks = blocks,
                            .logits = STEP_ALL_LOGITS,
                            .on_logits = on_logits,
                            .ctx = &hash };
    engine_run(engine, &(struct step){ .seqs = &seq, .n_seqs = 1 });
    return hash;
}

/* An engine over the shelf (NULL: none), and what it computes. */
static uint64_t run(struct shelf *shelf, enum engine_isa isa, struct engine_weights *out)
{
    struct error err = { "" };
    struct model *model = NULL;
    struct engine *engine = NULL;
    const struct weights_store store = { shelf, take, give };
    assert_int_equal(model_open(MODEL, MODEL_WEIGHTS, &model, &err), ST_OK);
    struct engine_options o = { .model = model,
                                .isa = isa,
                                .n_threads = 2,
                                .kv_blocks = N_BLOCKS,
                                .max_rows = N_TOKENS,
                                .max_seqs = 1,
                                .weights_store = shelf ? &store : NULL };
    model_kv_layout(model_config(model), BLOCK_TOKENS, DTYPE_BF16, &o.kv);
    o.kv_pool.host = aligned_alloc(64, N_BLOCKS * (kv_block_bytes(&o.kv) + 63) / 64 * 64);
    assert_non_null(o.kv_pool.host);
    if (engine_create(&o, &engine, &err) != ST_OK)
        fail_msg("%s", err.text);
    *out = engine_weights(engine);
    uint64_t hash = hash_of(engine);
    engine_destroy(&engine);
    model_close(&model);
    free(o.kv_pool.host);
    return hash;
}

static void packed_once_and_mapped(void **state)
{
    (void)state;
    struct engine_weights own, first, second;
    struct shelf shelf = { .fd = -1, .answer = ST_NOT_FOUND };
    uint64_t want = run(NULL, ENGINE_AVX2, &own);
    assert_true(own.packed_here && !own.shared && own.bytes > 0);
    assert_true(run(&shelf, ENGINE_AVX2, &first) == want);
    assert_true(first.packed_here && first.shared && first.bytes == own.bytes);
    assert_true(run(&shelf, ENGINE_AVX2, &second) == want);
    assert_true(!second.packed_here && second.shared && second.pages == first.pages);
    assert_int_equal(shelf.given, 1);
    close(shelf.fd);
}

/* Each instruction set has a key of its own; the reference packs nothing and asks nobody. */
static void keys_differ(void **state)
{
    (void)state;
    struct engine_weights w;
    struct shelf shelf = { .fd = -1, .answer = ST_NOT_FOUND, .refuses = true };
    (void)run(&shelf, ENGINE_REFERENCE, &w);
    assert_int_equal(shelf.taken, 0);
    assert_false(w.shared);
    (void)run(&shelf, ENGINE_AVX2, &w);
    assert_true(w.packed_here && !w.shared); /* nobody kept it */
    assert_int_equal(shelf.given, 1);
}

/* BF16 weights are packed otherwise for class amx. */
static void classes_have_keys_of_their_own(void **state)
{
    (void)state;
    struct error err = { "" };
    struct model *model = NULL;
    struct team *team = NULL;
    struct shelf shelves[2] = { { .fd = -1, .answer = ST_NOT_FOUND }, { .fd = -1, .answer = ST_NOT_FOUND } };
    assert_int_equal(model_open(MODEL, MODEL_WEIGHTS, &model, &err), ST_OK);
    assert_int_equal(team_create(1, NULL, &team, &err), ST_OK);
    for (uint32_t c = 0; c < 2; c++) {
        struct weights *weights = NULL;
        const struct weights_store store = { &shelves[c], take, give };
        const struct weights_options o = { .config = model_config(model),
                                           .source = model_weights(model),
                                           .model = model,
                                           .backend = &backend_avx2,
                                           .class = (enum contract_class)c,
                                           .team = team,
                                           .store = &store };
        assert_int_equal(weights_create(&o, &weights, &err), ST_OK);
        weights_destroy(&weights);
        assert_int_equal(shelves[c].given, 1);
        close(shelves[c].fd);
    }
    assert_string_not_equal(shelves[CLASS_PORTABLE].key, shelves[CLASS_AMX].key);
    team_destroy(&team);
    model_close(&model);
}

static void damaged_weights_are_packed_anew(void **state)
{
    (void)state;
    struct engine_weights w;
    struct shelf shelf = { .fd = -1, .answer = ST_NOT_FOUND };
    uint64_t want = run(&shelf, ENGINE_AVX2, &w);
    close(shelf.fd);
    shelf.fd = memfd_create("damaged", 0);
    assert_true(run(&shelf, ENGINE_AVX2, &w) == want);
    assert_int_equal(shelf.refused, 1);
    assert_int_equal(shelf.given, 2);
    assert_true(w.packed_here && w.shared);
    assert_true(run(&shelf, ENGINE_AVX2, &w) == want);
    assert_false(w.packed_here);
    close(shelf.fd);
}

static void without_a_store_each_packs_for_itself(void **state)
{
    (void)state;
    struct engine_weights w, own;
    struct shelf shelf = { .fd = -1, .answer = ST_TIMEOUT };
    assert_true(run(&shelf, ENGINE_AVX2, &w) == run(NULL, ENGINE_AVX2, &own));
    assert_true(w.packed_here && !w.shared);
    assert_int_equal(shelf.given, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_once_and_mapped),
        cmocka_unit_test(keys_differ),
        cmocka_unit_test(classes_have_keys_of_their_own),
        cmocka_unit_test(damaged_weights_are_packed_anew),
        cmocka_unit_test(without_a_store_each_packs_for_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
