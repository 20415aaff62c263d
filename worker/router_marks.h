/* router_marks.h - the last dispatch that was seen of each router, which Load tells
 * them: what a router dispatched up to its mark is in our figures already. */
#ifndef BATON_WORKER_ROUTER_MARKS_H
#define BATON_WORKER_ROUTER_MARKS_H

#include <stdint.h>

#include "proto/baton.pb-c.h"

/* Routers remembered. The one not heard of for longest makes room; it counts its own requests twice until its next. */
#define ROUTER_MARKS 64

struct router_marks {
    Baton__RouterMark marks[ROUTER_MARKS];
    uint64_t heard[ROUTER_MARKS]; /* as counted by turn */
    uint64_t turn;
    uint32_t n;
    Baton__RouterMark *pointers[ROUTER_MARKS]; /* of marks, for packing */
};

/* dispatch: of Generate; 0 says nothing. An older number than the last changes nothing. */
void router_marks_note(struct router_marks *marks, uint64_t router, uint64_t dispatch);
/* out borrows from marks. */
void router_marks_fill(struct router_marks *marks, Baton__Load *out);

#endif
