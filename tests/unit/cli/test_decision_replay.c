/* A decision log is decided again, and compared with another policy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "cli/decision_replay.h"
#include "tests/unit/router/pick_scene.h"

#define REQUESTS 40

static FILE *file;
static unsigned told;
static char last_told[4096];

static const char *id_of(const void *ctx, bool decode, uint32_t index)
{
    static const char *const ids[2][4] = { { "p0", "p1", "p2", "p3" }, { "d0", "d1", "d2", "d3" } };
    (void)ctx;
    return ids[decode][index];
}

static void add_decision(const struct pick_input *in, const struct pick_choice *choice, uint64_t seq)
{
    struct text_buffer text;
    const struct decision d = { .key = { 1, seq }, .attempt = 1, .input = in, .choice = choice, .id = id_of };
    text_buffer_init(&text, DECISION_LINE_BYTES);
    decision_write(&d, &text);
    fprintf(file, "%s\n", text_buffer_text(&text));
    text_buffer_free(&text);
}

static void add_outcome(double error, uint64_t seq)
{
    struct text_buffer text;
    const struct decision_outcome o = { .key = { 1, seq },
                                        .route = "remote",
                                        .prefill_worker = "p0",
                                        .decode_worker = "d0",
                                        .has = { true, true, false, false },
                                        .error = { error, 2 * error, 0, 0 } };
    text_buffer_init(&text, DECISION_LINE_BYTES);
    decision_write_outcome(&o, &text);
    fprintf(file, "%s\n", text_buffer_text(&text));
    text_buffer_free(&text);
}

/* One worker holds the prompt, so that policies differ. */
static void make_scene(struct pick_scene *s)
{
    scene_init(s, PICK_CACHE_AWARE, 4, 4);
    s->in.request.asked = PICK_ROUTE_REMOTE;
    scene_holds(&s->prefills[2], KV_TIER_DEVICE, 900);
    for (int i = 0; i < 4; i++)
        s->prefills[i].rates.pull[KV_TIER_REMOTE].byte = 10;
}

static int open_file(void **state)
{
    struct pick_scene s;
    (void)state;
    file = tmpfile();
    told = 0;
    make_scene(&s);
    for (s.in.request.turn = 0; s.in.request.turn < REQUESTS; s.in.request.turn++) {
        struct pick_choice choice = scene_pick(&s);
        add_decision(&s.in, &choice, s.in.request.turn);
        add_outcome(0.01 * (double)s.in.request.turn, s.in.request.turn);
    }
    return file ? 0 : -1;
}

static int close_file(void **state)
{
    (void)state;
    return fclose(file);
}

static void on_difference(void *ctx, const char *text)
{
    (void)ctx;
    told++;
    snprintf(last_told, sizeof last_told, "%s", text);
}

static struct replay *run_replay(const struct replay_options *options)
{
    struct replay *r = NULL;
    struct error err;
    struct replay_options with = *options;
    with.differs = on_difference;
    rewind(file);
    if (replay_run(file, &with, &r, &err) != ST_OK)
        fail_msg("%s", err.text);
    return r;
}

static uint64_t logged_at(const struct replay_side *side, const char *id, bool by_policy)
{
    for (uint32_t i = 0; i < side->n; i++)
        if (!strcmp(side->at[i].id, id))
            return by_policy ? side->at[i].policy : side->at[i].logged;
    return 0;
}

static void test_the_same_again(void **state)
{
    (void)state;
    struct replay *r = run_replay(&(struct replay_options){ .by_policy = false });
    assert_int_equal(r->decisions, REQUESTS);
    assert_int_equal(r->outcomes, REQUESTS);
    assert_int_equal(r->compared, REQUESTS);
    assert_int_equal(r->same, REQUESTS);
    assert_int_equal(told, 0);
    assert_int_equal(logged_at(&r->prefills, "p2", false), REQUESTS);
    assert_int_equal(logged_at(&r->decodes, "d1", false), REQUESTS / 4);
    assert_true(r->logged_us == r->policy_us && r->logged_us > 0);
    assert_float_equal(replay_error_at(r, DECISION_QUEUE, 0.5), 0.2, 1e-6);
    assert_float_equal(replay_error_at(r, DECISION_PREFILL, 0.9), 0.7, 0.011);
    assert_int_equal(r->errors[DECISION_PULL].n, 0);
    replay_free(&r);
    assert_null(r);
}

static void test_another_choice_is_told(void **state)
{
    (void)state;
    struct pick_scene s;
    make_scene(&s);
    struct pick_choice choice = scene_pick(&s);
    choice.prefills[0] = 1;
    choice.prefills[1] = 2;
    add_decision(&s.in, &choice, 99);
    struct replay *r = run_replay(&(struct replay_options){ .by_policy = false });
    assert_int_equal(r->compared - r->same, 1);
    assert_int_equal(told, 1);
    assert_non_null(strstr(last_told, "line 81, request 1.63: logged decode=d0 route=remote prefills=p1,p2"));
    assert_non_null(strstr(last_told, "now decode=d0 route=remote prefills=p2,"));
    replay_free(&r);
}

static void test_by_another_policy(void **state)
{
    (void)state;
    struct replay *r = run_replay(&(struct replay_options){ .by_policy = true, .policy = PICK_ROUND_ROBIN });
    assert_int_equal(r->compared, REQUESTS);
    assert_int_equal(r->same, REQUESTS / 4); /* where its turn is at who has the prompt */
    assert_int_equal(logged_at(&r->prefills, "p2", true), REQUESTS / 4);
    assert_int_equal(logged_at(&r->prefills, "p0", true), REQUESTS / 4);
    assert_true(r->policy_us > r->logged_us);
    assert_int_equal(told, 0);
    replay_free(&r);
}

static void test_what_is_no_log(void **state)
{
    (void)state;
    struct replay *r = NULL;
    struct error err;
    fprintf(file, "{\"decision\":1"); /* the router was killed here */
    r = run_replay(&(struct replay_options){ .by_policy = false });
    assert_int_equal(r->decisions, REQUESTS);
    replay_free(&r);
    fseek(file, 0, SEEK_END);
    fprintf(file, "\n");
    rewind(file);
    assert_int_equal(replay_run(file, &(struct replay_options){ .by_policy = false }, &r, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "line 81: "));
    assert_null(r);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_file, close_file)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_same_again),
        TEST(test_another_choice_is_told),
        TEST(test_by_another_policy),
        TEST(test_what_is_no_log),
    };
    return cmocka_run_group_tests_name("decision_replay", tests, NULL, NULL);
}
