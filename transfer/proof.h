/* proof.h - how the two ends of a connection show each other that they have the cluster's key. Pure.
 *
 *   HELLO      HMAC-SHA-256(key, hello,    terms, address)   before an address is believed
 *   CHALLENGE  HMAC-SHA-256(key, lender,   terms)            of a lender that saw the borrower's nonce
 *   PROOF      HMAC-SHA-256(key, borrower, terms)            of a borrower that saw the lender's
 *   KEY        HMAC-SHA-256(key, rdma,     terms, the rest)  before an address and a key are believed
 *
 * Each is of its own kind, and of both ends' incarnations, session and nonces: what was said once is of no use to
 * anybody else, nor later. */
#ifndef BATON_TRANSFER_PROOF_H
#define BATON_TRANSFER_PROOF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transfer/cluster_key.h"
#include "transfer/wire.h"

enum proof_kind { PROOF_HELLO = 1, PROOF_LENDER, PROOF_BORROWER, PROOF_RDMA };

struct proof_terms {
    uint64_t pool;             /* its nonce */
    uint64_t lender, borrower; /* incarnations */
    uint64_t session;
    uint64_t mapped; /* 1: of the same-host link */
    uint8_t borrower_nonce[WIRE_NONCE_BYTES];
    uint8_t lender_nonce[WIRE_NONCE_BYTES]; /* zeros in HELLO, which comes before it */
};

/* also: what HELLO and KEY bring, at most WIRE_SIGNED_BYTES; else NULL, 0. */
MUST_CHECK status proof_make(const struct cluster_key *key, enum proof_kind kind, const struct proof_terms *terms,
                             const uint8_t *also, size_t len, uint8_t out[WIRE_PROOF_BYTES]);
/* Takes the same time whatever differs. */
MUST_CHECK bool proof_holds(const struct cluster_key *key, enum proof_kind kind, const struct proof_terms *terms,
                            const uint8_t *also, size_t len, const uint8_t proof[WIRE_PROOF_BYTES]);

void proof_draw_nonce(uint8_t out[WIRE_NONCE_BYTES]);

#endif
