/* leftover.h - processes of a supervisor that was killed. */
#ifndef BATON_CLI_LEFTOVER_H
#define BATON_CLI_LEFTOVER_H

#include "cli/state_dir.h"

/* Waits for what state.json names (the kernel told it to end when its supervisor died), kills what does not end
 * within timeout_ms, and removes state.json. Returns how many were still alive. The caller holds the lock. */
unsigned leftovers_end(const struct state_dir *dir, unsigned timeout_ms);

#endif
