#include "cli/sha256.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool digest_stream(FILE *file, EVP_MD_CTX *context, unsigned char digest[EVP_MAX_MD_SIZE], unsigned *len)
{
    static unsigned char buf[1 << 16];
    size_t n;
    if (!context || !EVP_DigestInit_ex(context, EVP_sha256(), NULL))
        return false;
    while ((n = fread(buf, 1, sizeof buf, file)) > 0)
        if (!EVP_DigestUpdate(context, buf, n))
            return false;
    return !ferror(file) && EVP_DigestFinal_ex(context, digest, len);
}

status sha256_file(const char *path, char hex[SHA256_HEX_BYTES], struct error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return error_set(err, ST_IO, "%s: %s", path, strerror(errno));
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool ok = digest_stream(file, context, digest, &len);
    EVP_MD_CTX_free(context);
    fclose(file);
    if (!ok)
        return error_set(err, ST_IO, "%s: cannot be read", path);
    for (unsigned i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return ST_OK;
}
