/* Decisions as lines of JSON: what is written is read back, and decided again the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "pick_scene.h"
#include "router/decision.h"

static const char *id_of(const void *ctx, bool decode, uint32_t index)
{
    static char ids[2][5000][8];
    (void)ctx;
    snprintf(ids[decode][index], sizeof ids[decode][index], "%c%u", decode ? 'd' : 'p', index);
    return ids[decode][index];
}

static void write_line(const struct pick_input *in, struct text_buffer *out)
{
    struct pick_choice choice;
    pick(in, &choice);
    const struct decision d = {
        .time_us = 1700000000000000, .key = { 0xabc, 17 }, .attempt = 2, .input = in, .choice = &choice, .id = id_of
    };
    text_buffer_init(out, DECISION_LINE_BYTES);
    decision_write(&d, out);
    assert_int_equal(out->state, ST_OK);
    assert_null(strchr(text_buffer_text(out), '\n'));
}

static struct decision_line *read_line(const struct text_buffer *text)
{
    struct decision_line *line = NULL;
    struct error err;
    if (decision_read(text->data, text->len, &line, &err) != ST_OK)
        fail_msg("%s: %s", err.text, text->data);
    return line;
}

static struct pick_candidate odd_worker(uint32_t place)
{
    struct pick_candidate c = scene_worker(place);
    c.usable = place % 5 != 4;
    c.queued_tokens = 997u * place % 4000;
    c.later_tokens = 77u * place % 300;
    c.age_us = 1000u * place;
    c.remote_tokens = 100u * place % 900;
    c.fault_tokens = place == 1 ? 12 : 0;
    c.running_tokens = 31u * place;
    c.requests = place;
    c.running = place / 2;
    c.computes_all = place == 2;
    c.kv_free = 1000 - 77 * place % 1000;
    c.host = place % 3;
    c.token_bytes = 1234.5f;
    c.rates.prefill_token = 100.0f / 3.0f * (float)(1 + place % 4);
    c.rates.queue = 0.3f * (float)place;
    c.rates.prefill_pair = 0.001f / 7.0f;
    scene_holds(&c, (enum kv_tier)(place % KV_TIER_COUNT), 60 * place % 900);
    return c;
}

static void odd_scene(struct pick_scene *s, enum pick_policy policy)
{
    scene_init(s, policy, 7, 8);
    for (uint32_t i = 0; i < SCENE_MAX; i++)
        s->decodes[i] = s->prefills[i] = odd_worker(i);
    s->in.request.elsewhere = 880;
    s->in.request.itl_target_us = 20000;
}

static void check_again(const struct pick_input *in)
{
    struct text_buffer text;
    struct pick_choice first, again;
    pick(in, &first);
    write_line(in, &text);
    struct decision_line *line = read_line(&text);
    assert_false(line->is_outcome);
    assert_true(line->is_whole);
    assert_string_equal(line->request, "abc.11");
    assert_int_equal(line->attempt, 2);
    pick(&line->input, &again);
    assert_int_equal(again.decode, first.decode);
    assert_int_equal(again.decode, line->choice.decode);
    assert_int_equal(again.route, line->choice.route);
    assert_int_equal(again.n_prefills, line->choice.n_prefills);
    assert_memory_equal(again.prefills, line->choice.prefills, again.n_prefills * sizeof *again.prefills);
    assert_int_equal(again.predicted.prefill_us, line->choice.predicted.prefill_us);
    assert_int_equal(again.predicted.pressure_us, line->choice.predicted.pressure_us);
    decision_line_free(&line);
    text_buffer_free(&text);
}

static void test_read_back_and_decided_again(void **state)
{
    (void)state;
    struct pick_scene s;
    for (int policy = 0; policy < PICK_POLICY_COUNT; policy++) {
        odd_scene(&s, (enum pick_policy)policy);
        for (s.in.request.turn = 0; s.in.request.turn < 20; s.in.request.turn++) {
            s.in.request.asked = (enum pick_route)(s.in.request.turn % PICK_ROUTE_COUNT);
            s.in.request.n_tokens = 10 + 300 * (uint32_t)s.in.request.turn;
            check_again(&s.in);
        }
    }
}

static void test_nobody_was_there(void **state)
{
    (void)state;
    struct pick_scene s;
    scene_init(&s, PICK_CACHE_AWARE, 1, 0);
    s.decodes[0].usable = false;
    check_again(&s.in);
}

/* Of thousands only those are written that predicting picks among, and they give the same. */
static void test_long_lists_are_cut(void **state)
{
    (void)state;
    enum { MANY = 3000 };
    struct pick_candidate *decodes = calloc(MANY, sizeof *decodes), *prefills = calloc(MANY, sizeof *prefills);
    struct pick_choice whole, again;
    struct text_buffer text;
    struct pick_scene s;
    assert_true(decodes && prefills);
    scene_init(&s, PICK_CACHE_AWARE, 1, 1);
    for (uint32_t i = 0; i < MANY; i++)
        decodes[i] = prefills[i] = odd_worker(i);
    s.in.decodes = decodes;
    s.in.prefills = prefills;
    s.in.n_decodes = s.in.n_prefills = s.in.decode_places = s.in.prefill_places = MANY;
    s.in.request.elsewhere = 880;
    for (s.in.request.turn = 0; s.in.request.turn < 9000; s.in.request.turn += 1000) {
        s.in.request.asked = s.in.request.turn % 2000 ? PICK_ROUTE_REMOTE : PICK_ROUTE_AUTO;
        pick(&s.in, &whole);
        write_line(&s.in, &text);
        assert_true(text.len < 64 * 1024);
        struct decision_line *line = read_line(&text);
        assert_false(line->is_whole);
        pick(&line->input, &again);
        assert_string_equal(line->decode_ids[again.decode], id_of(NULL, true, whole.decode));
        assert_int_equal(again.decode, line->choice.decode);
        assert_int_equal(again.n_prefills, whole.n_prefills);
        for (uint32_t i = 0; i < again.n_prefills; i++)
            assert_int_equal(again.prefills[i], line->choice.prefills[i]);
        decision_line_free(&line);
        text_buffer_free(&text);
    }
    free(decodes);
    free(prefills);
}

static void test_outcome(void **state)
{
    (void)state;
    const struct decision_outcome o = { .key = { 0xabc, 17 },
                                        .attempt = 1,
                                        .route = "remote",
                                        .prefill_worker = "p0",
                                        .decode_worker = "d0",
                                        .computed = 40,
                                        .cached = { 16, 0, 32, 0 },
                                        .has = { true, true, false, true },
                                        .predicted_us = { 0, 5000, 0, 100 },
                                        .us = { 50, 4000, 0, 2000 },
                                        .error = { decision_error(0, 50), decision_error(5000, 4000), 0,
                                                   decision_error(100, 2000) } };
    struct text_buffer text;
    text_buffer_init(&text, DECISION_LINE_BYTES);
    decision_write_outcome(&o, &text);
    struct decision_line *line = read_line(&text);
    assert_true(line->is_outcome);
    assert_string_equal(line->request, "abc.11");
    assert_true(line->has[DECISION_PREFILL] && !line->has[DECISION_PULL]);
    assert_float_equal(line->error[DECISION_QUEUE], 0.05, 1e-6); /* of 1 ms */
    assert_float_equal(line->error[DECISION_PREFILL], 0.25, 1e-6);
    assert_float_equal(line->error[DECISION_HANDOFF], 0.95, 1e-6);
    decision_line_free(&line);
    text_buffer_free(&text);
}

static void refused(const char *text, const char *part)
{
    struct decision_line *line = NULL;
    struct error err;
    assert_int_equal(decision_read(text, strlen(text), &line, &err), ST_INVALID);
    assert_null(line);
    if (!strstr(err.text, part))
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
}

/* A line with one spot replaced. */
static void refused_with(const struct text_buffer *line, const char *from, const char *to, const char *part)
{
    const char *at = strstr(line->data, from);
    char *text = malloc(line->len + strlen(to) + 1);
    assert_true(at && text);
    sprintf(text, "%.*s%s%s", (int)(at - line->data), line->data, to, at + strlen(from));
    refused(text, part);
    free(text);
}

static void test_refusals(void **state)
{
    (void)state;
    struct pick_scene s;
    struct text_buffer line;
    odd_scene(&s, PICK_CACHE_AWARE);
    s.in.request.asked = PICK_ROUTE_REMOTE;
    write_line(&s.in, &line);
    refused("", "no JSON");
    refused("[]", "no JSON object");
    refused("{}", "\"decision\"");
    refused("{\"decision\":2}", "version");
    refused("{\"outcome\":1,\"request\":\"a.1\",\"attempt\":1}", "\"parts\"");
    refused_with(&line, "\"cache-aware\"", "\"by-moon\"", "\"policy\"");
    refused_with(&line, "\"remote\"", "\"far\"", "\"asked\"");
    refused_with(&line, "\"n_tokens\":1000", "\"n_tokens\":-1", "\"n_tokens\"");
    refused_with(&line, "\"n_tokens\":1000", "\"n_tokens\":4294967296", "\"n_tokens\"");
    refused_with(&line, "\"decode\":\"", "\"decode\":\"x", "\"decode\"");
    refused_with(&line, "\"prefills\":[\"", "\"prefills\":[\"x", "\"prefills\"");
    refused_with(&line, "\"decode_places\":7", "\"decode_places\":3", "\"place\"");
    refused_with(&line, "\"step_us\":5000", "\"step_us\":-5000", "\"step_us\"");
    refused_with(&line, "\"usable\":true", "\"usable\":1", "\"usable\"");
    refused_with(&line, "\"cached\":[", "\"cached\":[1,", "\"cached\"");
    refused_with(&line, "\"pull_us\":[[", "\"pull_us\":[7,[", "\"pull_us\"");
    text_buffer_free(&line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_back_and_decided_again),
        cmocka_unit_test(test_nobody_was_there),
        cmocka_unit_test(test_long_lists_are_cut),
        cmocka_unit_test(test_outcome),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("decision", tests, NULL, NULL);
}
