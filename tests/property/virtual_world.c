#include <stdlib.h>

#include "virtual_internal.h"

uint64_t vc_draw(struct vc *vc)
{
    return vc_mix(vc->random++);
}

bool vc_chance(struct vc *vc, double p)
{
    return (double)(vc_draw(vc) >> 11) / 9007199254740992.0 < p;
}

static bool event_before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void event_push(struct vc *vc, struct event e)
{
    if (vc->n_events == vc->capacity) {
        vc->capacity = vc->capacity ? 2 * vc->capacity : 1024;
        vc->events = realloc(vc->events, vc->capacity * sizeof *vc->events);
        ASSERT(vc->events);
    }
    e.order = vc->next_order++;
    size_t i = vc->n_events++;
    for (; i && event_before(&e, &vc->events[(i - 1) / 2]); i = (i - 1) / 2)
        vc->events[i] = vc->events[(i - 1) / 2];
    vc->events[i] = e;
}

struct event event_pop(struct vc *vc)
{
    struct event top = vc->events[0], last = vc->events[--vc->n_events];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < vc->n_events; i = child) {
        if (child + 1 < vc->n_events && event_before(&vc->events[child + 1], &vc->events[child]))
            child++;
        if (!event_before(&vc->events[child], &last))
            break;
        vc->events[i] = vc->events[child];
    }
    vc->events[i] = last;
    return top;
}
