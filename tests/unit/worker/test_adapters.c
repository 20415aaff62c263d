#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "common/log.h"
#include "tests/unit/engine/model_files.h"
#include "worker/adapters.h"

#define CONFIG  "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"

static const struct model_config shape = {
    .n_layers = 1, .n_embd = 2, .n_heads = 1, .n_kv_heads = 1, .head_dim = 2, .n_ffn = 2
};

static struct scratch scratch;

/* One pair of rank 1. */
static void write_adapter(void)
{
    static struct bytes b;
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"bias\":\"none\"}";
    static const char header[] =
        "{\"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],"
        "\"data_offsets\":[0,8]},\"base_model.model.model.layers.0.mlp.up_proj.lora_B.weight\":{\"dtype\":\"F32\","
        "\"shape\":[2,1],\"data_offsets\":[8,16]}}    ";
    const size_t len = (sizeof header - 1) / 8 * 8;
    const float values[4] = { 1, 2, 3, 4 };
    b.n = 0;
    put_u64(&b, len);
    put(&b, header, len);
    put(&b, values, sizeof values);
    scratch_write(&scratch, WEIGHTS, b.data, b.n);
    scratch_write(&scratch, CONFIG, config, sizeof config - 1);
}

static void test_names_and_places(void **state)
{
    (void)state;
    struct adapters a;
    struct error err = { "" };
    char list[400], text[200];
    uint32_t place = 9;
    snprintf(list, sizeof list, "red=%s,other:green=/nowhere,,m:blue=%s", scratch.dir, scratch.dir);
    if (adapters_open(list, "m", &shape, &a, &err) != ST_OK)
        fail_msg("%s", err.text);
    assert_int_equal(a.n, 2);
    assert_true(adapters_find(&a, "", &place));
    assert_int_equal(place, 0);
    assert_true(adapters_find(&a, a.ids[1], &place));
    assert_int_equal(place, 2);
    assert_false(adapters_find(&a, "red", &place));
    assert_false(adapters_find(&a, "red@0000000000000000", &place));
    adapters_describe(&a, text, sizeof text);
    snprintf(list, sizeof list, "%s,%s", a.ids[0], a.ids[1]);
    assert_string_equal(text, list);
    assert_memory_equal(a.ids[0], "red@", 4);
    assert_string_equal(strchr(a.ids[0], '@'), strchr(a.ids[1], '@')); /* of one content */
    adapters_close(&a);
    assert_int_equal(a.n, 0);
}

static void refused(const char *format, const char *words)
{
    struct adapters a;
    struct error err = { "" };
    char list[8000];
    snprintf(list, sizeof list, format, scratch.dir, scratch.dir);
    if (adapters_open(list, "m", &shape, &a, &err) == ST_OK || !strstr(err.text, words))
        fail_msg("%s gives %s", list, err.text);
    assert_int_equal(a.n, 0);
}

static void test_what_is_refused(void **state)
{
    (void)state;
    char many[2000] = "";
    refused("%s", "is not [MODEL:]NAME=PATH");
    refused("a=", "is not [MODEL:]NAME=PATH");
    refused("=%s", "a name has 1 to 40 letters");
    refused("a@b=%s", "a name has 1 to 40 letters");
    refused("01234567890123456789012345678901234567890=%s", "a name has 1 to 40 letters");
    refused("a=%s,a=%s", "names \"a\" twice");
    refused("a=/nowhere", "/nowhere/" CONFIG);
    for (uint32_t i = 0; i < INSTANCE_MAX_ADAPTERS + 1; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "n%u=%s,", i, scratch.dir);
    refused(many, "more than 32 adapters");
}

int main(void)
{
    log_init("test", LOG_OFF);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_places),
        cmocka_unit_test(test_what_is_refused),
    };
    scratch_make(&scratch);
    write_adapter();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    scratch_remove(&scratch, (const char *const[]){ CONFIG, WEIGHTS }, 2);
    return failed;
}
