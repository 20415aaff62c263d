/* recent_times.h - how long something took of late, and by how many bytes. What is said of it is off least in the
 * middle of all: one time that was many times too long, as happens where threads wait for a processor, does not move
 * it. Pure: the caller measures. Microseconds. */
#ifndef BATON_ROUTER_RECENT_TIMES_H
#define BATON_ROUTER_RECENT_TIMES_H

#include <stdbool.h>
#include <stdint.h>

#include "router/pick.h"

#define RECENT_TIMES 32u
#define RECENT_WAITS 15u

struct recent_times { /* zeroed: nothing is known */
    struct {
        float bytes, us;
    } at[RECENT_TIMES]; /* the oldest makes room */
    uint32_t n, next;
    bool has_line;
    struct pick_line line; /* through them; kept, as it is read more often than it changes */
};

void recent_times_add(struct recent_times *times, uint64_t bytes, uint64_t us);
/* The line whose distances are least in sum, each as a share of what was measured, or of a millisecond where that is
 * more; neither term is below 0. False: too few were measured, or too much alike. */
bool recent_times_line(const struct recent_times *times, struct pick_line *out);
/* Median of measured over what the line says. False: nothing was measured. */
bool recent_times_against(const struct recent_times *times, const struct pick_line *line, double *out);

struct recent_waits { /* zeroed: nothing is known */
    float at[RECENT_WAITS];
    uint32_t n, next;
    float median; /* 0: nothing is known */
};

void recent_waits_add(struct recent_waits *waits, uint64_t us);

#endif
