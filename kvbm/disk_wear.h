/* disk_wear.h - the wear budget: a token bucket in bytes, filled by the day.
 * Pure: the caller says what time it is. It holds at most an hour's worth (and never less than `least`), so that a
 * burst is possible and a long rest is not hoarded. What is written against its advice makes it negative. */
#ifndef BATON_KVBM_DISK_WEAR_H
#define BATON_KVBM_DISK_WEAR_H

#include <stdbool.h>
#include <stdint.h>

struct disk_wear {
    uint64_t bytes_per_day; /* 0: no limit */
    uint64_t most;
    int64_t left;
    uint64_t at_us;
};

/* left: what an earlier life had, passed_s ago; INT64_MAX: full. */
void disk_wear_init(struct disk_wear *wear, uint64_t bytes_per_day, uint64_t least, int64_t left, uint64_t passed_s,
                    uint64_t now_us);
/* Whether so many bytes may be written now; keep: leave so many for more urgent writes. */
bool disk_wear_allows(struct disk_wear *wear, uint64_t bytes, uint64_t keep, uint64_t now_us);
void disk_wear_spend(struct disk_wear *wear, uint64_t bytes);

#endif
