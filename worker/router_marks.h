/* router_marks.h - what Load tells each router of its own requests: the last dispatch that was seen, as what a router
 * dispatched up to there is in our figures already, and how many of the tokens that wait are its own, as it may hear
 * of their end before the next Load. */
#ifndef BATON_WORKER_ROUTER_MARKS_H
#define BATON_WORKER_ROUTER_MARKS_H

#include <stdint.h>

#include "proto/baton.pb-c.h"

/* Routers remembered. The one not heard of for longest makes room; it counts its own requests twice until its next,
 * and takes its tokens for others'. */
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
/* Shares are counted anew for each Load: none has any, then one has so many more. */
void router_marks_clear_queued(struct router_marks *marks);
void router_marks_add_queued(struct router_marks *marks, uint64_t router, uint64_t tokens);
/* out borrows from marks. */
void router_marks_fill(struct router_marks *marks, Baton__Load *out);

#endif
