#include "transfer/proof.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/random.h>

struct signed_part {
    uint64_t kind, pool, lender, borrower, session, mapped;
    uint8_t borrower_nonce[WIRE_NONCE_BYTES], lender_nonce[WIRE_NONCE_BYTES];
};
_Static_assert(sizeof(struct signed_part) == 112, "signed_part is a wire format");

status proof_make(const struct cluster_key *key, enum proof_kind kind, const struct proof_terms *terms,
                  const uint8_t *also, size_t len, uint8_t out[WIRE_PROOF_BYTES])
{
    uint8_t all[sizeof(struct signed_part) + WIRE_SIGNED_BYTES];
    unsigned digest_len;
    struct signed_part part = { (uint64_t)kind, terms->pool,   terms->lender, terms->borrower,
                                terms->session, terms->mapped, { 0 },         { 0 } };
    memcpy(part.borrower_nonce, terms->borrower_nonce, WIRE_NONCE_BYTES);
    memcpy(part.lender_nonce, terms->lender_nonce, WIRE_NONCE_BYTES);
    memcpy(all, &part, sizeof part);
    ASSERT(len <= WIRE_SIGNED_BYTES);
    if (len)
        memcpy(all + sizeof part, also, len);
    if (!HMAC(EVP_sha256(), key->bytes, sizeof key->bytes, all, sizeof part + len, out, &digest_len))
        return ST_NO_MEMORY;
    return ST_OK;
}

bool proof_holds(const struct cluster_key *key, enum proof_kind kind, const struct proof_terms *terms,
                 const uint8_t *also, size_t len, const uint8_t proof[WIRE_PROOF_BYTES])
{
    uint8_t expected[WIRE_PROOF_BYTES];
    return proof_make(key, kind, terms, also, len, expected) == ST_OK &&
           CRYPTO_memcmp(expected, proof, sizeof expected) == 0;
}

void proof_draw_nonce(uint8_t out[WIRE_NONCE_BYTES])
{
    ASSERT(getrandom(out, WIRE_NONCE_BYTES, 0) == WIRE_NONCE_BYTES);
}
