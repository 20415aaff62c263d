/* frame.h - the fixed header in front of every control message.
 * Little-endian, FRAME_HEADER_BYTES long, followed by the protobuf payload.
 *   0  u32 magic "BTN1"     4  u8 version      5  u8 type        6  u16 flags
 *   8  u64 router          16  u64 seq        24  u32 attempt   28  u32 leg
 *  32  u64 sender's incarnation               40  u64 message id (0: not acknowledged)
 *  48  u64 deadline: microseconds left (UINT64_MAX: none)
 *  56  u8 trace_id[16]     72  u8 span_id[8]  80  u32 payload length  84 u32 reserved (0)
 *  88  u64 XXH3-64 of bytes 0..87 and the payload */
#ifndef BATON_PROTO_FRAME_H
#define BATON_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

#define FRAME_HEADER_BYTES 96
#define FRAME_MAX_PAYLOAD  (64u << 20)
#define FRAME_NO_DEADLINE  UINT64_MAX

/* Append only: the numbers are on the wire. EVENT is anything published; its topic says what. */
/* clang-format off */
#define FRAME_TYPES(X)                                                                                    \
    X(HELLO, 1) X(PING, 2) X(ACK, 3)                                                                      \
    X(GENERATE, 10) X(TOKENS, 11) X(TOKENS_ACK, 12) X(RESUME, 13) X(CANCEL, 14) X(STALE, 15)              \
    X(PREFILL, 20) X(GRANT_ASK, 21) X(GRANT, 22) X(LAYERS_READY, 24) X(CHUNK_DONE, 25) X(CHUNK_TAKEN, 26) \
    X(PREFILL_FAILED, 27)                                                                                 \
    X(FIND, 30) X(FOUND, 31) X(PULLED, 32) X(OFFER, 33) X(OFFER_TAKEN, 34)                                \
    X(LOAD, 40) X(EVENT, 41)
/* clang-format on */

enum frame_type {
#define X(name, value) FRAME_##name = value,
    FRAME_TYPES(X)
#undef X
};

const char *frame_type_name(unsigned type); /* "?" when unknown */

/* One try at one choice of one client request. router is the incarnation of the
 * router that owns it, seq its counter. Printed as "%llx.%llx". */
struct request_key {
    uint64_t router, seq;
};

struct trace_context {
    uint8_t trace_id[16];
    uint8_t span_id[8];
};

struct frame {
    enum frame_type type;
    struct request_key key;
    uint32_t attempt, leg;
    uint64_t incarnation;
    uint64_t message_id;
    uint64_t deadline_left_us; /* on the wire; FRAME_NO_DEADLINE */
    struct trace_context trace;
    const uint8_t *payload; /* borrowed */
    uint32_t payload_len;
};

/* Writes FRAME_HEADER_BYTES and the payload to buf, where the payload may lie already. */
void frame_write(const struct frame *frame, uint8_t *buf);
/* The frame in front of what may be several, one behind the other; used: its bytes. ST_CORRUPT with what was wrong; an
 * unknown type is valid here (the caller counts and drops it). */
MUST_CHECK status frame_read_first(const uint8_t *buf, size_t len, struct frame *out, size_t *used, struct error *err);
/* The same for one that has the bytes for itself. */
MUST_CHECK status frame_read(const uint8_t *buf, size_t len, struct frame *out, struct error *err);

#endif
