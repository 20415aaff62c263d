#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/link_pending.h"

#define REPEAT 250

static struct message_head head_of(uint64_t seq, uint32_t attempt, uint64_t deadline)
{
    return (
        struct message_head){ .type = FRAME_GENERATE, .key = { 7, seq }, .attempt = attempt, .deadline_us = deadline };
}

static struct pending_message *add(struct pending *p, uint64_t id, struct message_head head, uint64_t now)
{
    struct pending_message *m;
    assert_int_equal(pending_add(p, id, &head, NULL, now + REPEAT, &m), ST_OK);
    return m;
}

static void a_message_is_due_until_acknowledged(void **state)
{
    (void)state;
    struct pending p;
    pending_init(&p, 8);
    assert_true(pending_due(&p) == TIMERS_NEVER);
    struct pending_message *m = add(&p, 5, head_of(1, 0, FRAME_NO_DEADLINE), 1000);
    assert_null(pending_next(&p, 1249, REPEAT));
    for (uint64_t due = 1250; due < 3000; due += REPEAT) {
        assert_int_equal(pending_due(&p), due);
        assert_ptr_equal(pending_next(&p, due, REPEAT), m);
        assert_null(pending_next(&p, due, REPEAT));
    }
    pending_acknowledge(&p, 4);
    assert_int_equal(p.n, 1);
    pending_acknowledge(&p, 5);
    pending_acknowledge(&p, 5);
    assert_int_equal(p.n, 0);
    assert_null(pending_next(&p, 99999, REPEAT));
}

static void what_is_too_late_is_dropped(void **state)
{
    (void)state;
    struct pending p;
    pending_init(&p, 8);
    add(&p, 1, head_of(1, 0, 1300), 1000);
    add(&p, 2, head_of(2, 0, 5000), 1000);
    assert_int_equal(pending_next(&p, 1250, REPEAT)->id, 1);
    assert_int_equal(pending_next(&p, 1250, REPEAT)->id, 2);
    assert_int_equal(pending_next(&p, 1500, REPEAT)->id, 2);
    assert_int_equal(p.n, 1);
    assert_null(pending_next(&p, 6000, REPEAT));
    assert_int_equal(p.n, 0);
}

static void forget_takes_one_request_up_to_an_attempt(void **state)
{
    (void)state;
    struct pending p;
    pending_init(&p, 8);
    add(&p, 1, head_of(1, 1, FRAME_NO_DEADLINE), 0);
    add(&p, 2, head_of(1, 2, FRAME_NO_DEADLINE), 0);
    add(&p, 3, head_of(1, 3, FRAME_NO_DEADLINE), 0);
    add(&p, 4, head_of(2, 1, FRAME_NO_DEADLINE), 0);
    pending_forget(&p, (struct request_key){ 7, 1 }, 2);
    assert_int_equal(p.n, 2);
    assert_int_equal(pending_next(&p, 1000, REPEAT)->id, 3);
    assert_int_equal(pending_next(&p, 1000, REPEAT)->id, 4);
    pending_forget(&p, (struct request_key){ 8, 1 }, 9);
    assert_int_equal(p.n, 2);
    pending_clear(&p);
}

static void all_is_due_when_the_link_comes_up(void **state)
{
    (void)state;
    struct pending p;
    pending_init(&p, 8);
    for (uint64_t id = 1; id <= 3; id++)
        add(&p, id, head_of(id, 0, FRAME_NO_DEADLINE), 1000 + id);
    pending_hurry(&p, 1010);
    for (uint64_t id = 1; id <= 3; id++)
        assert_int_equal(pending_next(&p, 1010, REPEAT)->id, id);
    assert_int_equal(pending_due(&p), 1010 + REPEAT);
    pending_clear(&p);
}

static void both_bounds_hold(void **state)
{
    (void)state;
    struct pending p;
    struct message_head head = head_of(1, 0, FRAME_NO_DEADLINE);
    struct pending_message *m;
    pending_init(&p, 2);
    add(&p, 1, head, 0);
    add(&p, 2, head, 0);
    assert_int_equal(pending_add(&p, 3, &head, NULL, 0, &m), ST_LIMIT);
    pending_clear(&p);

    pending_init(&p, 100);
    Baton__Hello body = BATON__HELLO__INIT;
    body.transfer.len = 40u << 20;
    body.transfer.data = calloc(1, body.transfer.len);
    assert_int_equal(pending_add(&p, 1, &head, &body.base, 0, &m), ST_OK);
    assert_int_equal(pending_add(&p, 2, &head, &body.base, 0, &m), ST_LIMIT);
    pending_acknowledge(&p, 1);
    assert_int_equal(pending_add(&p, 3, &head, &body.base, 0, &m), ST_OK);
    free(body.transfer.data);
    pending_clear(&p);
    assert_int_equal(p.bytes, 0);
}

/* What the peer would wait for in vain has room where what can go elsewhere is refused. */
static void answers_have_room_of_their_own(void **state)
{
    (void)state;
    struct pending p;
    struct message_head head = head_of(1, 0, FRAME_NO_DEADLINE);
    struct pending_message *m;
    pending_init(&p, 2);
    add(&p, 1, head, 0);
    add(&p, 2, head, 0);
    head.type = FRAME_GRANT;
    for (uint64_t id = 3; id <= 2 * PENDING_SPARE; id++)
        add(&p, id, head, 0);
    assert_int_equal(pending_add(&p, 99, &head, NULL, 0, &m), ST_LIMIT);
    pending_acknowledge(&p, 1);
    head.type = FRAME_PREFILL;
    assert_int_equal(pending_add(&p, 99, &head, NULL, 0, &m), ST_LIMIT);
    head.type = FRAME_GRANT;
    add(&p, 99, head, 0);
    pending_clear(&p);
}

static void body_and_trace_are_kept(void **state)
{
    (void)state;
    struct pending p;
    pending_init(&p, 2);
    struct trace_context trace = { { 1, 2 }, { 3 } };
    struct message_head head = head_of(1, 4, FRAME_NO_DEADLINE);
    head.trace = &trace;
    Baton__GrantAsk ask = BATON__GRANT_ASK__INIT;
    ask.tokens = 321;
    struct pending_message *m;
    assert_int_equal(pending_add(&p, 1, &head, &ask.base, 0, &m), ST_OK);
    memset(&trace, 9, sizeof trace);
    assert_int_equal(m->head.trace->trace_id[1], 2);
    Baton__GrantAsk *got = baton__grant_ask__unpack(NULL, m->payload_len, m->payload);
    assert_non_null(got);
    assert_int_equal(got->tokens, 321);
    baton__grant_ask__free_unpacked(got, NULL);
    pending_clear(&p);
}

/* Random operations against an array that is searched from end to end. */
#define MODEL 64
struct model {
    uint64_t id, due, deadline;
    bool used;
};

static struct model *model_find(struct model *model, uint64_t id)
{
    for (int i = 0; i < MODEL; i++)
        if (model[i].used && model[i].id == id)
            return &model[i];
    return NULL;
}

static void model_add(struct model *model, struct pending *p, uint64_t id, uint64_t now, uint64_t deadline)
{
    struct message_head head = head_of(id, 0, deadline);
    struct pending_message *m;
    if (pending_add(p, id, &head, NULL, now + REPEAT, &m) != ST_OK) {
        assert_int_equal(p->n, MODEL);
        return;
    }
    for (int i = 0; i < MODEL; i++)
        if (!model[i].used) {
            model[i] = (struct model){ id, now + REPEAT, deadline, true };
            return;
        }
    fail();
}

static void model_repeat(struct model *model, struct pending *p, uint64_t now)
{
    struct pending_message *m;
    while ((m = pending_next(p, now, REPEAT))) {
        struct model *one = model_find(model, m->id);
        assert_non_null(one);
        assert_true(one->due <= now && one->deadline > now);
        one->due = now + REPEAT;
    }
    for (int i = 0; i < MODEL; i++) {
        if (model[i].used && model[i].due <= now) {
            assert_true(model[i].deadline <= now);
            model[i].used = false;
        }
    }
}

static void random_operations(void **state)
{
    (void)state;
    unsigned seed = 7;
    struct model model[MODEL] = { 0 };
    struct pending p;
    pending_init(&p, MODEL);
    uint64_t next = 1, now = 0;
    for (int i = 0; i < 200000; i++) {
        now += (uint64_t)(rand_r(&seed) % 20);
        uint64_t id = next > 80 ? next - (uint64_t)(rand_r(&seed) % 80) : 1;
        if (rand_r(&seed) % 3 == 0) {
            model_add(model, &p, next++, now, rand_r(&seed) % 2 ? now + 900 : FRAME_NO_DEADLINE);
        } else if (rand_r(&seed) % 2) {
            struct model *one = model_find(model, id);
            if (one)
                one->used = false;
            pending_acknowledge(&p, id);
        } else {
            model_repeat(model, &p, now);
        }
        uint32_t n = 0;
        for (int j = 0; j < MODEL; j++)
            n += model[j].used;
        assert_int_equal(n, p.n);
    }
    pending_clear(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_due_until_acknowledged),
        cmocka_unit_test(what_is_too_late_is_dropped),
        cmocka_unit_test(forget_takes_one_request_up_to_an_attempt),
        cmocka_unit_test(all_is_due_when_the_link_comes_up),
        cmocka_unit_test(both_bounds_hold),
        cmocka_unit_test(answers_have_room_of_their_own),
        cmocka_unit_test(body_and_trace_are_kept),
        cmocka_unit_test(random_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
