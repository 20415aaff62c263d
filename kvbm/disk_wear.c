#include "kvbm/disk_wear.h"

#define DAY_US UINT64_C(86400000000)

static void fill(struct disk_wear *wear, uint64_t us)
{
    double more = (double)wear->bytes_per_day * ((double)us / (double)DAY_US);
    double left = (double)wear->left + more;
    wear->left = left >= (double)wear->most ? (int64_t)wear->most : (int64_t)left;
}

void disk_wear_init(struct disk_wear *wear, uint64_t bytes_per_day, uint64_t least, int64_t left, uint64_t passed_s,
                    uint64_t now_us)
{
    uint64_t hour = bytes_per_day / 24;
    *wear = (struct disk_wear){
        .bytes_per_day = bytes_per_day, .most = hour > least ? hour : least, .left = left, .at_us = now_us
    };
    if (left > (int64_t)wear->most)
        wear->left = (int64_t)wear->most;
    fill(wear, passed_s > 86400 * UINT64_C(366) ? 366 * DAY_US : passed_s * 1000000);
}

bool disk_wear_allows(struct disk_wear *wear, uint64_t bytes, uint64_t keep, uint64_t now_us)
{
    if (!wear->bytes_per_day)
        return true;
    /* By the millisecond at least, so that rounding down costs nothing that counts. */
    if (now_us >= wear->at_us + 1000) {
        fill(wear, now_us - wear->at_us);
        wear->at_us = now_us;
    }
    return wear->left >= (int64_t)(bytes + keep);
}

void disk_wear_spend(struct disk_wear *wear, uint64_t bytes)
{
    if (wear->bytes_per_day)
        wear->left -= (int64_t)bytes;
}
