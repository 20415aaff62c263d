/* cluster_key.h - the secret by which processes of one cluster know each other: who has not proved it (proof.h) is lent
 * nothing. */
#ifndef BATON_TRANSFER_CLUSTER_KEY_H
#define BATON_TRANSFER_CLUSTER_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define CLUSTER_KEY_MIN_BYTES 16u /* of the file */
#define CLUSTER_KEY_MAX_BYTES 4096u

struct cluster_key {
    bool given;        /* false: the key of those who have none, which is no secret */
    uint8_t bytes[32]; /* made of the file's */
};

/* From the whole of a file, as it is. path NULL or "": none is given. INVALID when the file has too few or too many
 * bytes, or when users beyond its owner and group may read or write it; IO. */
MUST_CHECK status cluster_key_read(const char *path, struct cluster_key *out, struct error *err);

#endif
