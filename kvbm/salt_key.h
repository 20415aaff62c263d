/* salt_key.h - the cluster's key: under it a request's "cache_salt" becomes the salt of its blocks (block_salt). All
 * routers of a cluster have the same, or they share no blocks of salted requests; workers and managers have it, too, or
 * a cache_salt that an operator names means other blocks to them. */
#ifndef BATON_KVBM_SALT_KEY_H
#define BATON_KVBM_SALT_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define SALT_KEY_MAX_BYTES 4096u

struct salt_key {
    size_t len; /* 0: no key */
    uint8_t bytes[SALT_KEY_MAX_BYTES];
};

/* The whole of a file, as it is; path "": no key. ST_INVALID when the file is empty, ST_LIMIT when it is longer than a
 * key may be, ST_IO. */
MUST_CHECK status salt_key_read(const char *path, struct salt_key *out, struct error *err);

#define SALT_KEY_FINGERPRINT_BYTES 17 /* with the NUL */

/* By which two processes see whether they have the same one, without telling it: 16 hex digits, or "none". Of no use as
 * a salt: it is no HMAC under the key. */
const char *salt_key_fingerprint(const struct salt_key *key, char buf[SALT_KEY_FINGERPRINT_BYTES]);

#endif
