/* The object "baton" of an answer: what was not heard is null, never 0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "answer_sample.h"

#define STARTED 1000000u /* us */

static struct answer_sample sample;

static void open_with(const char *body)
{
    sample_open(&sample, REQUEST_CHAT, body);
}

static json_t *write(void)
{
    json_error_t err;
    answer_write_baton(&sample.choice, STARTED, &sample.out);
    json_t *json = json_loads(text_buffer_text(&sample.out), JSON_REJECT_DUPLICATES, &err);
    if (!json)
        fail_msg("%s in %s", err.text, text_buffer_text(&sample.out));
    return json;
}

static void check_number(const json_t *object, const char *key, double wanted)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value) || json_number_value(value) != wanted)
        fail_msg("%s is not %g", key, wanted);
}

static void check_text(const json_t *object, const char *key, const char *wanted)
{
    const json_t *value = json_object_get(object, key);
    assert_non_null(value);
    if (!wanted)
        assert_true(json_is_null(value));
    else
        assert_string_equal(json_string_value(value), wanted);
}

static void test_only_what_was_asked_for(void **state)
{
    (void)state;
    open_with(SAMPLE_CHAT(",\"baton\":{}"));
    strcpy(sample.choice.timing.route, "remote");
    strcpy(sample.choice.timing.class, "amx-bf16");
    json_t *json = write();
    check_text(json, "route", "remote");
    check_text(json, "class", "amx-bf16");
    assert_int_equal(json_object_size(json), 2);
    json_decref(json);
    sample_close(&sample);
}

static void test_nothing_heard(void **state)
{
    (void)state;
    open_with(SAMPLE_CHAT(",\"baton\":{\"timing\":true}"));
    json_t *json = write(), *value;
    const char *key;
    check_text(json, "route", NULL);
    assert_null(json_object_get(json, "logits_hash"));
    const json_t *timing = json_object_get(json, "timing");
    assert_true(json_object_size(timing) > 0);
    json_object_foreach((json_t *)(uintptr_t)timing, key, value) if (!json_is_null(value)) fail_msg("%s is known", key);
    json_decref(json);
    sample_close(&sample);
}

static void test_all_heard(void **state)
{
    (void)state;
    open_with(SAMPLE_CHAT(",\"baton\":{\"timing\":true}"));
    sample.choice.timing = (struct choice_timing){
        .from_worker = true,
        .submitted_us = STARTED + 100,
        .dispatched_us = STARTED + 1500,
        .first_token_us = STARTED + 20000,
        .ended_us = STARTED + 50000,
        .attempts = 2,
        .queue_us = 250,
        .prefill_us = 9000,
        .prefill_queue_us = 750,
        .handoff_us = 1250,
        .decode_us = 29000,
        .moved_bytes = 4096,
        .legs = 3,
        .computed_tokens = 17,
        .preempted = 1,
        .cached = { { 48, 0, 16, 8 } },
        .transport = "shm",
        .route = "remote",
        .prefill_worker = "p0",
        .decode_worker = "d0",
    };
    json_t *json = write();
    const json_t *t = json_object_get(json, "timing");
    check_number(t, "route_ms", 1.5);
    check_number(t, "queue_ms", 0.25);
    check_number(t, "prefill_queue_ms", 0.75);
    check_number(t, "prefill_ms", 9);
    check_number(t, "handoff_ms", 1.25);
    check_number(t, "first_token_ms", 20);
    check_number(t, "decode_ms", 29);
    check_number(t, "total_ms", 50);
    check_number(t, "moved_bytes", 4096);
    check_number(t, "attempts", 2);
    check_number(t, "legs", 3);
    check_number(t, "computed_tokens", 17);
    check_number(t, "preempted", 1);
    const json_t *cached = json_object_get(t, "cached_tokens");
    assert_int_equal(json_object_size(cached), 4);
    check_number(cached, "device", 48);
    check_number(cached, "host", 0);
    check_number(cached, "disk", 16);
    check_number(cached, "peer", 8);
    check_text(t, "transport", "shm");
    check_text(t, "prefill_worker", "p0");
    check_text(t, "decode_worker", "d0");
    check_text(json, "route", "remote");
    json_decref(json);
    sample_close(&sample);
}

/* After a stop string, from a worker that told nothing with its first token: the router's own times are known. */
static void test_ended_by_the_router(void **state)
{
    (void)state;
    open_with(SAMPLE_CHAT(",\"baton\":{\"timing\":true}"));
    sample.choice.timing.submitted_us = STARTED - 1; /* clocks were read in turn */
    choice_keep_timing(&sample.choice, &(struct flow_timing){ .first_token_us = 1001, .total_us = 4001, .attempts = 1 },
                       true);
    json_t *json = write();
    const json_t *t = json_object_get(json, "timing");
    check_number(t, "route_ms", 0);
    check_number(t, "first_token_ms", 1);
    check_number(t, "decode_ms", 3);
    check_number(t, "total_ms", 4);
    check_number(t, "attempts", 1);
    assert_true(json_is_null(json_object_get(t, "queue_ms")) && json_is_null(json_object_get(t, "legs")));
    json_decref(json);
    sample_close(&sample);
}

static void test_hashes(void **state)
{
    (void)state;
    open_with(SAMPLE_CHAT(",\"baton\":{\"logits_hash\":true}"));
    json_t *json = write();
    assert_int_equal(json_array_size(json_object_get(json, "logits_hash")), 0);
    json_decref(json);
    text_buffer_clear(&sample.out);
    struct token_view view = { .record = { .id = sample_id(&sample, "a"), .has_hash = true } };
    for (uint8_t i = 0; i < TOKEN_HASH_BYTES; i++)
        view.record.hash[i] = (uint8_t)(0xf0 + i);
    assert_int_equal(choice_take(&sample.choice, &view, &sample.choice.text), ST_OK);
    view.record.has_hash = false; /* a worker that sends none leaves its place empty */
    assert_int_equal(choice_take(&sample.choice, &view, &sample.choice.text), ST_OK);
    json = write();
    const json_t *hashes = json_object_get(json, "logits_hash");
    assert_int_equal(json_array_size(hashes), 2);
    assert_string_equal(json_string_value(json_array_get(hashes, 0)), "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    assert_string_equal(json_string_value(json_array_get(hashes, 1)), "");
    json_decref(json);
    sample_close(&sample);
}

/* Where it told, the time that it decoded is still the router's to say. */
static void test_cut_after_the_first_token(void **state)
{
    (void)state;
    open_with(SAMPLE_CHAT(",\"baton\":{\"timing\":true}"));
    Baton__Timing told = BATON__TIMING__INIT;
    told.queue_us = 250;
    told.route = "local";
    sample.choice.timing.submitted_us = STARTED;
    choice_keep_worker_timing(&sample.choice, &told);
    choice_keep_timing(&sample.choice, &(struct flow_timing){ .first_token_us = 1000, .total_us = 4000, .attempts = 1 },
                       true);
    json_t *json = write();
    const json_t *t = json_object_get(json, "timing");
    check_number(t, "queue_ms", 0.25);
    check_number(t, "decode_ms", 3);
    check_number(t, "total_ms", 4);
    check_text(json, "route", "local");
    json_decref(json);
    sample_close(&sample);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_what_was_asked_for),
        cmocka_unit_test(test_nothing_heard),
        cmocka_unit_test(test_all_heard),
        cmocka_unit_test(test_ended_by_the_router),
        cmocka_unit_test(test_cut_after_the_first_token),
        cmocka_unit_test(test_hashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
