#include "proto/claim.h"

#include <xxhash.h>

enum claim_answer claim_judge(struct claim *claim, const char *record, size_t len, enum process_life life,
                              uint64_t now_us, uint64_t lease_us)
{
    uint64_t holder = XXH3_64bits(record, len);
    if (holder != claim->holder)
        *claim = (struct claim){ holder, now_us };
    if (life == PROCESS_ENDED)
        return CLAIM_TAKE;
    uint64_t patience = CLAIM_PATIENCE_US + (life == PROCESS_ELSEWHERE ? lease_us : 0);
    return now_us - claim->since_us < patience ? CLAIM_WAIT : CLAIM_REFUSE;
}
