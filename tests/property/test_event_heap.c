/* The heap of events against a plain array that is searched: the same order, whatever is set, moved and cleared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/draws.h"
#include "sim/event_heap.h"

#define SOURCES 37u
#define ROUNDS  20000u

struct plain {
    uint64_t at[SOURCES], order[SOURCES], orders;
};

static uint32_t earliest(const struct plain *p)
{
    uint32_t best = SOURCES;
    for (uint32_t i = 0; i < SOURCES; i++)
        if (p->at[i] != EVENT_NEVER &&
            (best == SOURCES || p->at[i] < p->at[best] || (p->at[i] == p->at[best] && p->order[i] < p->order[best])))
            best = i;
    return best;
}

static void take_one(struct event_heap *heap, struct plain *p)
{
    uint32_t source = 0, wanted = earliest(p);
    uint64_t at = 0;
    assert_int_equal(event_heap_next(heap, &source, &at), wanted < SOURCES);
    if (wanted == SOURCES)
        return;
    assert_int_equal(source, wanted);
    assert_int_equal(at, p->at[wanted]);
    p->at[wanted] = EVENT_NEVER;
}

static void one_round(struct event_heap *heap, struct plain *p, struct draws *d)
{
    uint32_t source = (uint32_t)(draws_next(d) % SOURCES), what = (uint32_t)(draws_next(d) % 8);
    uint64_t at = draws_next(d) % 50; /* often equal */
    if (what < 4) {
        event_heap_set(heap, source, at);
        p->at[source] = at;
        p->order[source] = p->orders++;
    } else if (what < 5) {
        event_heap_clear(heap, source);
        p->at[source] = EVENT_NEVER;
    } else {
        take_one(heap, p);
    }
    for (uint32_t i = 0; i < SOURCES; i++)
        assert_int_equal(event_heap_at(heap, i), p->at[i]);
}

static void same_order_as_a_search(void **state)
{
    struct event_heap *heap;
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct plain p = { .orders = 0 };
        struct draws d = draws_begin(seed, 0);
        for (uint32_t i = 0; i < SOURCES; i++)
            p.at[i] = EVENT_NEVER;
        assert_int_equal(event_heap_create(SOURCES, &heap), ST_OK);
        for (uint32_t i = 0; i < ROUNDS / 5; i++)
            one_round(heap, &p, &d);
        for (uint32_t i = 0; i <= SOURCES; i++)
            take_one(heap, &p);
        event_heap_destroy(&heap);
        assert_null(heap);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(same_order_as_a_search) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
