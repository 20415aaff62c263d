/* stray_variable.h - variables of the environment that look like a misspelt option.
 * All daemons of a host may share an environment, so what another role knows is none; and neither is what resembles
 * no option: it may belong to anybody. */
#ifndef BATON_COMMON_STRAY_VARIABLE_H
#define BATON_COMMON_STRAY_VARIABLE_H

#include <stdbool.h>
#include <stddef.h>

/* "BATON_POLCY": true, and "BATON_POLICY" in nearest. */
bool stray_variable(const char *name, char *nearest, size_t size);
/* A warning for each one that is set. */
void stray_variables_warn(void);

#endif
