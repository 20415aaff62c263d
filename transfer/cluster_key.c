#include "transfer/cluster_key.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Under a name of its own, so that a file that is also a salt key gives nothing away here. */
static const char purpose[] = "baton cluster key 1";

static status check_mode(FILE *file, const char *path, struct error *err)
{
    struct stat st;
    if (fstat(fileno(file), &st))
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    if (st.st_mode & (S_IROTH | S_IWOTH))
        return error_set(err, ST_INVALID, "%s: every user may read or write it (mode %03o); chmod 600 it", path,
                         (unsigned)st.st_mode & 0777);
    return ST_OK;
}

static status read_key(FILE *file, const char *path, struct cluster_key *out, struct error *err)
{
    uint8_t bytes[CLUSTER_KEY_MAX_BYTES + 1];
    unsigned len;
    size_t n = fread(bytes, 1, sizeof bytes, file);
    if (ferror(file))
        return error_set(err, ST_IO, "%s: it cannot be read", path);
    if (n < CLUSTER_KEY_MIN_BYTES || n > CLUSTER_KEY_MAX_BYTES)
        return error_set(err, ST_INVALID, "%s: a cluster key has %u to %u bytes, this file %s%zu", path,
                         CLUSTER_KEY_MIN_BYTES, CLUSTER_KEY_MAX_BYTES, n > CLUSTER_KEY_MAX_BYTES ? "at least " : "", n);
    bool made = HMAC(EVP_sha256(), bytes, (int)n, (const uint8_t *)purpose, sizeof purpose - 1, out->bytes, &len);
    OPENSSL_cleanse(bytes, sizeof bytes);
    out->given = true;
    return made ? ST_OK : error_set(err, ST_NO_MEMORY, "no memory for the cluster key");
}

status cluster_key_read(const char *path, struct cluster_key *out, struct error *err)
{
    struct cluster_key key = { .given = false };
    status st = ST_OK;
    if (path && path[0]) {
        FILE *file = fopen(path, "rbe");
        if (!file)
            return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
        st = check_mode(file, path, err);
        if (st == ST_OK)
            st = read_key(file, path, &key, err);
        (void)fclose(file);
    }
    if (st == ST_OK)
        *out = key;
    return st;
}
