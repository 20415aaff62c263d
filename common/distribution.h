/* distribution.h - how long prompts, answers, conversations and pauses are. Pure. */
#ifndef BATON_COMMON_DISTRIBUTION_H
#define BATON_COMMON_DISTRIBUTION_H

#include <stdint.h>

#include "common/status.h"

#define DISTRIBUTION_FORMS "N, uniform:LOW,HIGH, normal:MEAN,DEVIATION, lognormal:MEDIAN,SIGMA or exponential:MEAN"

enum distribution_kind { DIST_FIXED, DIST_UNIFORM, DIST_NORMAL, DIST_LOGNORMAL, DIST_EXPONENTIAL };

struct distribution {
    enum distribution_kind kind;
    double a, b; /* the numbers of DISTRIBUTION_FORMS, in their order; both 0 at least */
};

/* One of DISTRIBUTION_FORMS; ST_INVALID says so. */
MUST_CHECK status distribution_parse(const char *text, struct distribution *out, struct error *err);
/* A whole number from least to most; what is drawn outside becomes the nearest of them. */
uint64_t distribution_draw(const struct distribution *d, uint64_t seed, uint64_t stream, uint64_t index, uint64_t least,
                           uint64_t most);

#endif
