/* effort.h - how much the tests do: everything only where it is asked for. */
#ifndef BATON_TESTS_EFFORT_H
#define BATON_TESTS_EFFORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

/* What a property test draws from: BATON_TEST_SEED, or 1, or where much is done another one each time. It is printed,
 * so that what failed can be done again. */
static inline uint64_t test_seed(void)
{
    const char *set = getenv("BATON_TEST_SEED");
    const uint64_t seed = set ? strtoull(set, NULL, 0) : is_long() ? (uint64_t)time(NULL) : 1;
    printf("BATON_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

#endif
