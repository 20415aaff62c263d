#include "worker/router_marks.h"

/* That of this router, or one to be its. */
static uint32_t place_of(const struct router_marks *marks, uint64_t router)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < marks->n; i++) {
        if (marks->marks[i].router == router)
            return i;
        if (marks->heard[i] < marks->heard[oldest])
            oldest = i;
    }
    return marks->n < ROUTER_MARKS ? marks->n : oldest;
}

/* Made when there is none. */
static Baton__RouterMark *mark_of(struct router_marks *marks, uint64_t router)
{
    uint32_t i = place_of(marks, router);
    Baton__RouterMark *mark = &marks->marks[i];
    if (i == marks->n || mark->router != router) {
        baton__router_mark__init(mark);
        mark->router = router;
        marks->pointers[i] = mark;
        marks->n += i == marks->n;
    }
    marks->heard[i] = ++marks->turn;
    return mark;
}

void router_marks_note(struct router_marks *marks, uint64_t router, uint64_t dispatch)
{
    if (dispatch == 0)
        return;
    Baton__RouterMark *mark = mark_of(marks, router);
    if (dispatch > mark->dispatch)
        mark->dispatch = dispatch;
}

void router_marks_clear_queued(struct router_marks *marks)
{
    for (uint32_t i = 0; i < marks->n; i++)
        marks->marks[i].queued_tokens = 0;
}

void router_marks_add_queued(struct router_marks *marks, uint64_t router, uint64_t tokens)
{
    if (tokens)
        mark_of(marks, router)->queued_tokens += tokens;
}

void router_marks_fill(struct router_marks *marks, Baton__Load *out)
{
    out->marks = marks->pointers;
    out->n_marks = marks->n;
}
