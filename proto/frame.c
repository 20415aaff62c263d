#include "proto/frame.h"

#include <endian.h>
#include <string.h>

#define XXH_INLINE_ALL /* the state lies on the stack */
#include <xxhash.h>

#define FRAME_MAGIC   0x314e5442u /* "BTN1", read as little-endian */
#define FRAME_VERSION 1

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_TYPE = 5,
    AT_FLAGS = 6,
    AT_ROUTER = 8,
    AT_SEQ = 16,
    AT_ATTEMPT = 24,
    AT_LEG = 28,
    AT_INCARNATION = 32,
    AT_MESSAGE = 40,
    AT_DEADLINE = 48,
    AT_TRACE = 56,
    AT_SPAN = 72,
    AT_LENGTH = 80,
    AT_RESERVED = 84,
    AT_CHECKSUM = 88
};

_Static_assert(AT_CHECKSUM + 8 == FRAME_HEADER_BYTES, "the checksum ends the header");
_Static_assert(AT_SPAN + sizeof((struct trace_context){ 0 }.span_id) == AT_LENGTH,
               "trace and span ids fill their place");

const char *frame_type_name(unsigned type)
{
    switch (type) {
#define X(name, value)                                                                                                 \
    case value:                                                                                                        \
        return #name;
        FRAME_TYPES(X)
#undef X
    default:
        return "?";
    }
}

static void put_u32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof v);
}

static void put_u64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof v);
}

static uint32_t get_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return le32toh(v);
}

static uint64_t get_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return le64toh(v);
}

static uint64_t checksum(const uint8_t *header, const uint8_t *payload, size_t len)
{
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, header, AT_CHECKSUM);
    if (len)
        XXH3_64bits_update(&state, payload, len);
    return XXH3_64bits_digest(&state);
}

void frame_write(const struct frame *frame, uint8_t *buf)
{
    ASSERT(frame->payload_len <= FRAME_MAX_PAYLOAD);
    put_u32(buf + AT_MAGIC, FRAME_MAGIC);
    buf[AT_VERSION] = FRAME_VERSION;
    buf[AT_TYPE] = (uint8_t)frame->type;
    buf[AT_FLAGS] = buf[AT_FLAGS + 1] = 0;
    put_u64(buf + AT_ROUTER, frame->key.router);
    put_u64(buf + AT_SEQ, frame->key.seq);
    put_u32(buf + AT_ATTEMPT, frame->attempt);
    put_u32(buf + AT_LEG, frame->leg);
    put_u64(buf + AT_INCARNATION, frame->incarnation);
    put_u64(buf + AT_MESSAGE, frame->message_id);
    put_u64(buf + AT_DEADLINE, frame->deadline_left_us);
    memcpy(buf + AT_TRACE, frame->trace.trace_id, sizeof frame->trace.trace_id);
    memcpy(buf + AT_SPAN, frame->trace.span_id, sizeof frame->trace.span_id);
    put_u32(buf + AT_LENGTH, frame->payload_len);
    put_u32(buf + AT_RESERVED, 0);
    uint8_t *payload = buf + FRAME_HEADER_BYTES;
    if (frame->payload_len && frame->payload != payload)
        memcpy(payload, frame->payload, frame->payload_len);
    put_u64(buf + AT_CHECKSUM, checksum(buf, payload, frame->payload_len));
}

static status check(const uint8_t *buf, size_t len, size_t *used, struct error *err)
{
    if (len < FRAME_HEADER_BYTES)
        return error_set(err, ST_CORRUPT, "frame of %zu bytes is shorter than its header", len);
    if (get_u32(buf + AT_MAGIC) != FRAME_MAGIC)
        return error_set(err, ST_CORRUPT, "frame magic is %08x", get_u32(buf + AT_MAGIC));
    if (buf[AT_VERSION] != FRAME_VERSION)
        return error_set(err, ST_CORRUPT, "frame version is %u, not %u", buf[AT_VERSION], FRAME_VERSION);
    size_t payload_len = get_u32(buf + AT_LENGTH);
    if (payload_len > FRAME_MAX_PAYLOAD || payload_len > len - FRAME_HEADER_BYTES)
        return error_set(err, ST_CORRUPT, "frame says %zu payload bytes and has %zu", payload_len,
                         len - FRAME_HEADER_BYTES);
    if (get_u32(buf + AT_RESERVED))
        return error_set(err, ST_CORRUPT, "reserved bytes of the frame are not zero");
    if (get_u64(buf + AT_CHECKSUM) != checksum(buf, buf + FRAME_HEADER_BYTES, payload_len))
        return error_set(err, ST_CORRUPT, "frame checksum is wrong (type %s, %zu payload bytes)",
                         frame_type_name(buf[AT_TYPE]), payload_len);
    *used = FRAME_HEADER_BYTES + payload_len;
    return ST_OK;
}

status frame_read_first(const uint8_t *buf, size_t len, struct frame *out, size_t *used, struct error *err)
{
    status st = check(buf, len, used, err);
    if (st != ST_OK)
        return st;
    out->type = (enum frame_type)buf[AT_TYPE];
    out->key.router = get_u64(buf + AT_ROUTER);
    out->key.seq = get_u64(buf + AT_SEQ);
    out->attempt = get_u32(buf + AT_ATTEMPT);
    out->leg = get_u32(buf + AT_LEG);
    out->incarnation = get_u64(buf + AT_INCARNATION);
    out->message_id = get_u64(buf + AT_MESSAGE);
    out->deadline_left_us = get_u64(buf + AT_DEADLINE);
    memcpy(out->trace.trace_id, buf + AT_TRACE, sizeof out->trace.trace_id);
    memcpy(out->trace.span_id, buf + AT_SPAN, sizeof out->trace.span_id);
    out->payload_len = get_u32(buf + AT_LENGTH);
    out->payload = buf + FRAME_HEADER_BYTES;
    return ST_OK;
}

status frame_read(const uint8_t *buf, size_t len, struct frame *out, struct error *err)
{
    size_t used = 0;
    status st = frame_read_first(buf, len, out, &used, err);
    return st != ST_OK || used == len
               ? st
               : error_set(err, ST_CORRUPT, "frame of %zu bytes has %zu more behind it", used, len - used);
}
