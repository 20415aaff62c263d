/* wire.h - the active messages between a borrower and a lender.
 *
 *   borrower                              lender
 *   HELLO  (its worker address)     ->
 *                                   <-    CHALLENGE
 *   PROOF                           ->
 *                                   <-    WELCOME (the header page of the pool)
 *   KEY_ASK                         ->
 *                                   <-    KEY (address and key for gets)
 *   REQUEST (spans of some layers)  ->
 *                                   <-    DATA ... DATA, END
 *   CANCEL, BYE                     ->
 *
 * HELLO, CHALLENGE and PROOF are what proof.h says; before a PROOF that holds the lender answers nothing else.
 * Who takes by rdma asks for the key instead of sending requests.
 * Each is one wire_head and at most one eager fragment of payload. All fields
 * are little-endian. Decoders take outside bytes: they check every bound. */
#ifndef BATON_TRANSFER_WIRE_H
#define BATON_TRANSFER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transfer/transfer.h"

#define WIRE_MAGIC       0x32585442u /* "BTX2" */
#define WIRE_AM_ID       11
#define WIRE_DATA_BYTES  (128u << 10) /* payload of a DATA message at most */
#define WIRE_MAX_SPANS   512u         /* of a REQUEST */
#define WIRE_MAX_ADDRESS 2048u
#define WIRE_HEADER_PAGE 4096u
#define WIRE_NONCE_BYTES 32u
#define WIRE_PROOF_BYTES 32u
#define WIRE_MAX_KEY     1024u

enum wire_kind {
    WIRE_HELLO = 1,
    WIRE_CHALLENGE,
    WIRE_PROOF,
    WIRE_WELCOME,
    WIRE_REQUEST,
    WIRE_DATA,
    WIRE_END,
    WIRE_CANCEL,
    WIRE_BYE,
    WIRE_KEY_ASK,
    WIRE_KEY
};

struct wire_head {
    uint32_t magic;
    uint8_t kind;
    uint8_t st; /* END: a status */
    uint16_t zero;
    uint64_t session; /* drawn by the borrower; its low 16 bits are its own index */
    uint64_t request; /* HELLO: the nonce of the pool that is meant */
    uint64_t value;   /* REQUEST: microseconds left; DATA: offset of the bytes; END: bytes in all */
};
_Static_assert(sizeof(struct wire_head) == 32, "wire_head is a wire format");

/* CORRUPT when the head or the length of the payload is not what the kind allows. */
MUST_CHECK status wire_head_decode(const void *head, size_t head_len, size_t payload_len, struct wire_head *out);

/* Payload of HELLO; the address follows it. */
struct wire_hello {
    uint64_t incarnation; /* of the borrower */
    uint8_t nonce[WIRE_NONCE_BYTES];
    uint8_t proof[WIRE_PROOF_BYTES];
};
_Static_assert(sizeof(struct wire_hello) == 72, "wire_hello is a wire format");

struct wire_challenge {
    uint8_t nonce[WIRE_NONCE_BYTES];
    uint8_t proof[WIRE_PROOF_BYTES];
};
_Static_assert(sizeof(struct wire_challenge) == 64, "wire_challenge is a wire format");

#define WIRE_HELLO_BYTES (sizeof(struct wire_hello) + WIRE_MAX_ADDRESS)
/* Returns the length. */
size_t wire_hello_encode(const struct wire_hello *hello, const uint8_t *address, size_t address_len,
                         uint8_t out[WIRE_HELLO_BYTES]);
/* CORRUPT without an address, or with one that is too long; *address points into payload. */
MUST_CHECK status wire_hello_decode(const uint8_t *payload, size_t len, struct wire_hello *out, const uint8_t **address,
                                    size_t *address_len);

/* Payload of KEY; address of the lender's worker and packed key, as UCX made them, follow. What stands behind proof is
 * what it covers. */
struct wire_key {
    uint8_t proof[WIRE_PROOF_BYTES];
    uint64_t pool; /* where the header page is in the lender's address space */
    uint16_t address_len, key_len;
    uint32_t zero;
};
_Static_assert(sizeof(struct wire_key) == 48, "wire_key is a wire format");

#define WIRE_KEY_BYTES    (sizeof(struct wire_key) + WIRE_MAX_ADDRESS + WIRE_MAX_KEY)
#define WIRE_SIGNED_BYTES (WIRE_KEY_BYTES - WIRE_PROOF_BYTES) /* more than HELLO's address */
/* Returns the length; the proof is zeros. */
size_t wire_key_encode(uint64_t pool, const uint8_t *address, size_t address_len, const uint8_t *key, size_t key_len,
                       uint8_t out[WIRE_KEY_BYTES]);
/* CORRUPT when the lengths do not fit; the address is at payload + sizeof *out, the key behind it. */
MUST_CHECK status wire_key_decode(const uint8_t *payload, size_t len, struct wire_key *out);

struct wire_request {
    uint32_t first_layer, n_layers, n_spans;
    struct transfer_span spans[WIRE_MAX_SPANS]; /* local_block: the lender's; remote_block: 0 */
};

#define WIRE_SPAN_BYTES    16u
#define WIRE_REQUEST_BYTES (16u + WIRE_SPAN_BYTES * WIRE_MAX_SPANS)
/* Returns the length. The lender's block is remote_block of the borrower's span. */
size_t wire_request_encode(uint32_t first_layer, uint32_t n_layers, const struct transfer_span *spans, uint32_t n_spans,
                           uint8_t out[WIRE_REQUEST_BYTES]);
/* CORRUPT when anything lies outside the pool or a span is empty. out may be half written then. */
MUST_CHECK status wire_request_decode(const uint8_t *payload, size_t len, const struct transfer_geometry *geometry,
                                      uint32_t n_blocks, struct wire_request *out);

#endif
