#include "cli/progress.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"

void progress_step(struct progress *p, const char *step)
{
    if (p->began_us && !strncmp(p->step, step, sizeof p->step - 1))
        return;
    snprintf(p->step, sizeof p->step, "%.511s", step);
    if (!p->began_us)
        p->began_us = clock_now_us(); /* of all steps together: many short ones are a long wait too */
    p->said = false;
}

void progress_tick(struct progress *p)
{
    uint64_t now = clock_now_us(), last = p->said_us ? p->said_us : p->began_us;
    if (now - last < (p->said ? PROGRESS_EVERY_US : PROGRESS_AFTER_US))
        return;
    fprintf(stderr, "%s (%u s)\n", p->step, (unsigned)((now - p->began_us) / 1000000));
    p->said = true;
    p->said_us = now;
}
