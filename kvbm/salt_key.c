#include "kvbm/salt_key.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

static status read_bytes(FILE *file, const char *path, struct salt_key *out, struct error *err)
{
    uint8_t more;
    size_t n = fread(out->bytes, 1, sizeof out->bytes, file), rest = fread(&more, 1, 1, file);
    if (ferror(file))
        return error_set(err, ST_IO, "%s: it cannot be read", path);
    if (rest > 0)
        return error_set(err, ST_LIMIT, "%s: a key has at most %u bytes", path, SALT_KEY_MAX_BYTES);
    if (n == 0)
        return error_set(err, ST_INVALID, "%s: it is empty; a key has 1 to %u bytes", path, SALT_KEY_MAX_BYTES);
    out->len = n;
    return ST_OK;
}

status salt_key_read(const char *path, struct salt_key *out, struct error *err)
{
    struct salt_key key = { .len = 0 };
    status st = ST_OK;
    if (path[0]) {
        FILE *file = fopen(path, "rb");
        if (!file)
            return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
        st = read_bytes(file, path, &key, err);
        (void)fclose(file);
    }
    if (st == ST_OK)
        *out = key;
    return st;
}

const char *salt_key_fingerprint(const struct salt_key *key, char buf[SALT_KEY_FINGERPRINT_BYTES])
{
    static const char purpose[] = "baton salt key fingerprint 1";
    uint8_t input[sizeof purpose + SALT_KEY_MAX_BYTES], digest[SHA256_DIGEST_LENGTH];
    snprintf(buf, SALT_KEY_FINGERPRINT_BYTES, "none");
    if (!key->len)
        return buf;
    memcpy(input, purpose, sizeof purpose);
    memcpy(input + sizeof purpose, key->bytes, key->len);
    (void)SHA256(input, sizeof purpose + key->len, digest);
    OPENSSL_cleanse(input, sizeof input);
    for (unsigned i = 0; i < (SALT_KEY_FINGERPRINT_BYTES - 1) / 2; i++)
        snprintf(buf + (size_t)2 * i, 3, "%02x", digest[i]);
    return buf;
}
