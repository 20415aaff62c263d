/* sha256.h - the SHA-256 of a file, in hexadecimal. */
#ifndef BATON_CLI_SHA256_H
#define BATON_CLI_SHA256_H

#include "common/status.h"

#define SHA256_HEX_BYTES 65 /* the NUL included */

MUST_CHECK status sha256_file(const char *path, char hex[SHA256_HEX_BYTES], struct error *err);

#endif
