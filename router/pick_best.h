/* pick_best.h - the pair of workers with the least predicted time. Pure. */
#ifndef BATON_ROUTER_PICK_BEST_H
#define BATON_ROUTER_PICK_BEST_H

#include "router/pick.h"

/* Of each side, so many of the best by time, by cached beginning and by load. */
#define PICK_BEST_BY_TIME 8u
#define PICK_BEST_BY_REST 4u
#define PICK_FINALISTS    (PICK_BEST_BY_TIME + 2 * PICK_BEST_BY_REST + 2) /* and who would compute the prompt itself */

/* Fills decode, prefills and route. Equal to a scan of all pairs where all workers of one format are on one host, or
 * measured the same within a host and between hosts; otherwise longer by at most that difference. */
void pick_best(const struct pick_input *in, struct pick_choice *out);

/* What decides among equals: the least work, then the next in turn. */
uint64_t pick_work(const struct pick_candidate *c);
uint32_t pick_turn(uint32_t place, uint32_t places, uint64_t turn);

#endif
