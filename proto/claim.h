/* claim.h - whether a name in etcd that another process holds may be taken over.
 * A successor must get its predecessor's name although the lease of that one still runs, and nobody may take the name
 * of one who lives. Where both can see one another's processes, the process itself tells; elsewhere only the lease
 * does, which a dead holder cannot renew. */
#ifndef BATON_PROTO_CLAIM_H
#define BATON_PROTO_CLAIM_H

#include <stddef.h>
#include <stdint.h>

#include "common/process.h"

#define CLAIM_PATIENCE_US 2000000u /* a process that was just killed takes a moment to be gone */

struct claim {
    uint64_t holder;   /* hash of the record that was last judged; 0: none was */
    uint64_t since_us; /* when that holder was first met */
};

enum claim_answer {
    CLAIM_TAKE,   /* the holder has ended */
    CLAIM_WAIT,   /* it may have: ask again */
    CLAIM_REFUSE, /* it lives */
};

/* record is the holder's, life that of its process, lease_us how long a registration outlives its process. */
enum claim_answer claim_judge(struct claim *claim, const char *record, size_t len, enum process_life life,
                              uint64_t now_us, uint64_t lease_us);

#endif
