/* quantity.h - byte sizes and durations as people write them, and back.
 * Pure functions; any thread. */
#ifndef BATON_COMMON_QUANTITY_H
#define BATON_COMMON_QUANTITY_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* Microseconds and bytes for the limits in .def tables. */
#define MS(n)      ((uint64_t)(n)*1000u)
#define SECONDS(n) ((uint64_t)(n)*1000000u)
#define MINUTES(n) ((uint64_t)(n)*60000000u)
#define HOURS(n)   ((uint64_t)(n)*3600000000u)
#define KIB(n)     ((uint64_t)(n) << 10)
#define MIB(n)     ((uint64_t)(n) << 20)
#define GIB(n)     ((uint64_t)(n) << 30)
#define TIB(n)     ((uint64_t)(n) << 40)

/* "512", "512M", "4GiB", "1.5g": powers of 1024 with or without "i" and "B"; a plain number is bytes. */
MUST_CHECK status quantity_parse_size(const char *text, uint64_t *bytes);
/* "250ms", "3s", "1.5m", "2h", "80us", "0". Any other number without a unit is ST_INVALID. */
MUST_CHECK status quantity_parse_time(const char *text, uint64_t *us);

/* The shortest exact form, which the parsers read back; written into buf, or a constant. */
const char *quantity_format_size(char *buf, size_t size, uint64_t bytes);
const char *quantity_format_time(char *buf, size_t size, uint64_t us);

#endif
