#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/backend.h"
#include "engine/engine_memory.h"
#include "engine/forward.h"

#define BUILTIN BATON_SOURCE_DIR "/models/baton-tiny"
#define PANEL   16u /* outputs that stand together, the last ones filled up */

static struct model *open_builtin(void)
{
    struct model *m = NULL;
    struct error err = { "" };
    if (model_open(BUILTIN, MODEL_WEIGHTS, &m, &err) != ST_OK)
        fail_msg("%s", err.text);
    return m;
}

static struct engine_memory measure(const struct model *m, enum engine_isa isa, uint32_t threads, uint32_t rows)
{
    const struct engine_options o = { .isa = isa, .n_threads = threads, .max_rows = rows, .max_seqs = 4 };
    struct engine_memory memory;
    engine_memory(m, &o, &memory);
    return memory;
}

/* The built-in model is BF16, which stays so, and its embeddings are tied. */
static void test_weights_are_panels_and_vectors(void **state)
{
    (void)state;
    struct model *m = open_builtin();
    const struct model_config *c = model_config(m);
    const uint64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const uint64_t attention = (2 * q + 2 * kv) * c->n_embd, ffn = 3ull * c->n_ffn * c->n_embd;
    const uint64_t head = (uint64_t)(c->n_vocab + PANEL - 1) / PANEL * PANEL * c->n_embd;
    const uint64_t vectors = c->n_layers * (2ull * c->n_embd + 2ull * c->head_dim) + c->n_embd;
    const uint64_t wanted = (c->n_layers * (attention + ffn) + head) * sizeof(uint16_t) + vectors * sizeof(float);
    struct engine_memory memory = measure(m, ENGINE_AVX2, 2, 64);
    assert_string_equal(memory.isa, "avx2");
    assert_int_equal(memory.weight_bytes, wanted);
    assert_int_equal(memory.read_bytes, wanted + c->n_embd * sizeof(uint16_t));
    model_close(&m);
}

/* The reference kernels read matrices where they lie. */
static void test_what_is_not_packed_is_read_too(void **state)
{
    (void)state;
    struct model *m = open_builtin();
    struct engine_memory memory = measure(m, ENGINE_REFERENCE, 2, 64);
    uint64_t matrices = 0;
    for (uint64_t i = 0; i < model_tensor_count(m); i++)
        matrices += model_tensor_at(m, i)->n_dims == 2 ? model_tensor_at(m, i)->bytes : 0;
    assert_true(memory.read_bytes >= matrices);
    assert_true(memory.read_bytes <= matrices + memory.weight_bytes + 4096);
    model_close(&m);
}

static void test_scratch_grows_with_rows_and_threads(void **state)
{
    (void)state;
    struct model *m = open_builtin();
    const uint64_t least = measure(m, ENGINE_AVX2, 1, 64).scratch_bytes;
    const uint64_t residual = 2ull * model_config(m)->n_embd * sizeof(float);
    assert_true(measure(m, ENGINE_AVX2, 1, 128).scratch_bytes >= least + 64 * residual);
    assert_true(measure(m, ENGINE_AVX2, 2, 64).scratch_bytes >= least + 2ull * model_config(m)->n_vocab * 4);
    model_close(&m);
}

static size_t scratch_with(uint32_t n_experts, uint32_t threads, uint32_t rows)
{
    struct model *m = open_builtin();
    struct model_config c = *model_config(m);
    struct backend made;
    const struct backend *backend = engine_backend(ENGINE_AVX2, CLASS_PORTABLE, &made);
    c.n_experts = n_experts;
    c.n_experts_used = n_experts / 2;
    c.n_expert_ffn = c.n_ffn;
    const size_t bytes = forward_scratch_bytes(&c, backend, threads, rows, 4);
    model_close(&m);
    return bytes;
}

/* What each (row, expert) pair has: gate, up, result, and its input as float32. */
static void test_scratch_has_that_of_experts(void **state)
{
    (void)state;
    struct model *m = open_builtin();
    const struct model_config *c = model_config(m);
    const size_t pair = (3ull * c->n_ffn + c->n_embd) * sizeof(float), tile = (size_t)ACT_TILE * c->n_embd * 4;
    const size_t without = scratch_with(0, 2, 64), with = scratch_with(8, 2, 64);
    assert_true(with >= without + 64ull * 4 * pair + 2 * tile);
    assert_true(with <= without + 2 * (64ull * 4 * pair + 2 * tile));
    assert_true(scratch_with(8, 2, 128) - with >= scratch_with(0, 2, 128) - without + 64ull * 4 * pair);
    assert_true(scratch_with(8, 3, 64) - with >= scratch_with(0, 3, 64) - without + tile);
    model_close(&m);
}

int main(void)
{
    struct error err;
    if (engine_isa_check(ENGINE_AVX2, CLASS_PORTABLE, &err) != ST_OK) {
        print_message("SKIP: %s\n", err.text);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_are_panels_and_vectors),
        cmocka_unit_test(test_what_is_not_packed_is_read_too),
        cmocka_unit_test(test_scratch_grows_with_rows_and_threads),
        cmocka_unit_test(test_scratch_has_that_of_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
