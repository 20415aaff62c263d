/* effort.h - how much the tests do: everything only where it is asked for. */
#ifndef BATON_TESTS_EFFORT_H
#define BATON_TESTS_EFFORT_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SANITIZE_ADDRESS__ /* what is not vectorised is ten times slower there */
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* BATON_TEST_LONG=1 in the environment. */
static inline bool is_long(void)
{
    const char *set = getenv("BATON_TEST_LONG");
    return set != NULL && strcmp(set, "1") == 0;
}

#endif
