/* progress.h - a line on standard error, now and then, for steps that take long together. */
#ifndef BATON_CLI_PROGRESS_H
#define BATON_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#define PROGRESS_AFTER_US 2000000u /* silent before, and between two lines */
#define PROGRESS_EVERY_US 5000000u /* between two lines about the same step */

struct progress {
    char step[512];
    uint64_t began_us, said_us;
    bool said;
};

/* Another step; the same text again changes nothing. */
void progress_step(struct progress *p, const char *step);
/* To be called now and then, more often than once a second. */
void progress_tick(struct progress *p);

#endif
