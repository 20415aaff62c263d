/* loop_poll.h - whether a loop looks for events without sleeping. Pure: the caller says what time it is.
 * To wake a thread that sleeps on an idle processor costs tens of microseconds in a virtual machine, of which most are
 * the sender's. So a loop may poll for a while for what usually follows soon. It does so only while that pays, and for
 * at most one part in LOOP_POLL_SHARE of the time. */
#ifndef BATON_COMMON_LOOP_POLL_H
#define BATON_COMMON_LOOP_POLL_H

#include <stdbool.h>
#include <stdint.h>

#define LOOP_POLL_SHARE   3u  /* of the time, at most one part in so many */
#define LOOP_POLL_SAVED   16u /* windows of that which can be saved up */
#define LOOP_POLL_SURE    16u /* score of polls that all found something; one that finds nothing costs */
#define LOOP_POLL_MISS    2u
#define LOOP_POLL_REST_US 1000000u /* without polls when another process had the processor */
#define LOOP_POLL_PROBED  32u      /* at score 0 one occasion in so many is polled after, to see whether it pays now */

struct loop_poll {
    uint64_t window_us; /* longest poll; 0: never */
    uint64_t since_us;  /* when the poll that goes on began */
    bool polling;
    uint32_t score;       /* LOOP_POLL_SURE at most */
    uint32_t passed_over; /* occasions at score 0 */
    uint64_t saved_us;    /* time that may be polled, times LOOP_POLL_SHARE; up to turned_us */
    uint64_t turned_us;
    uint64_t rests_until_us;
    uint64_t polled_us; /* all in all, for who wants to know */
};

void loop_poll_init(struct loop_poll *p, uint64_t window_us, uint64_t now);
/* After each turn of the loop: true if it should look again at once instead of sleeping. came_us: when the turn got
 * what more will follow of; 0: it got nothing of that kind. Neither time goes back. */
bool loop_poll_turn(struct loop_poll *p, uint64_t came_us, uint64_t now);
/* While it polls, the loop has yielded the processor for so long; false: somebody else needs it, and the poll is over.
 */
bool loop_poll_yielded(struct loop_poll *p, uint64_t for_us, uint64_t now);

#endif
