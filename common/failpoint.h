/* failpoint.h - named places where a test can make this process stumble.
 *   if (FAILPOINT("decode.copy.before_verify") == FAILPOINT_FLIP) ...
 * Armed by the variable BATON_FAILPOINTS="name=action;name=action", or by POST /failpoints with the same text as its
 * body; the page is there only where the variable is set (it may be empty), so that no daemon of an operator has it:
 *   pause(ms)  this thread stops until the time is over or the failpoint is set off
 *   sleep(ms)  this thread sleeps
 *   freeze     SIGSTOP to this process      kill  SIGKILL to this process
 *   drop, flip returned to the caller, who leaves out the message or spoils a bit
 *   observe    only counts                  off   disarms; the counts stay
 * An action may be followed by conditions: "name=drop,after=3,times=2" acts at hits 3 and 4.
 * Costs one relaxed load when nothing is armed; compiled only with BATON_FAILPOINTS. Any thread. */
#ifndef BATON_COMMON_FAILPOINT_H
#define BATON_COMMON_FAILPOINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "common/text_buffer.h"

enum failpoint_action { FAILPOINT_NONE, FAILPOINT_DROP, FAILPOINT_FLIP };

#define FAILPOINT(name) failpoint_check(name)

#ifdef BATON_FAILPOINTS

#define FAILPOINT_MAX        128 /* names that are known at one time; further ones are not counted */
#define FAILPOINT_NAME_BYTES 96  /* the NUL included */

extern atomic_bool failpoint_any;

/* Counts the hit and does what is armed; names are counted from the first arming on. */
enum failpoint_action failpoint_hit(const char *name);

static inline enum failpoint_action failpoint_check(const char *name)
{
    return atomic_load_explicit(&failpoint_any, memory_order_relaxed) ? failpoint_hit(name) : FAILPOINT_NONE;
}

/* "name=action;..."; all or nothing. */
MUST_CHECK status failpoint_arm(const char *text, struct error *err);
/* Whether the variable BATON_FAILPOINTS is set. */
bool failpoint_allowed(void);
/* What it says. */
MUST_CHECK status failpoint_arm_from_environment(struct error *err);
/* Disarms and forgets all; paused threads go on. */
void failpoint_reset(void);
/* [{"name":..., "hits":..., "acted":..., "armed":"pause(100)" or null}, ...] */
void failpoint_write_json(struct text_buffer *out);

#else

static inline enum failpoint_action failpoint_check(const char *name)
{
    (void)name;
    return FAILPOINT_NONE;
}

#endif

#endif
