/* msgpack_reader.h - reads MessagePack that a stranger wrote, in place.
 * Takes no memory and believes no count: a container's count only says how often the caller may ask for an item, and
 * each item is checked against the bytes that are left. The first fault is kept; after it every call fails. */
#ifndef BATON_PROTO_MSGPACK_READER_H
#define BATON_PROTO_MSGPACK_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED_MAX_DEPTH 24 /* of what msgpack_reader_skip walks over; msgpack-c has 32 in all */

struct msgpack_reader {
    const uint8_t *at, *end;
    bool failed;
};

enum packed_type {
    PACKED_NIL,
    PACKED_BOOL,
    PACKED_UINT, /* integers of zero and above, however they were written */
    PACKED_INT,  /* below zero */
    PACKED_REAL,
    PACKED_TEXT,
    PACKED_BYTES,
    PACKED_ARRAY,
    PACKED_MAP,
    PACKED_EXTENSION
};

struct packed_item {
    enum packed_type type;
    union {
        uint64_t uint; /* also BOOL */
        int64_t sint;
        double real;
    };
    const uint8_t *bytes; /* of TEXT, BYTES, EXTENSION: in the input */
    uint32_t count;       /* bytes; items of ARRAY; pairs of MAP */
};

void msgpack_reader_init(struct msgpack_reader *r, const uint8_t *data, size_t len);
/* The next item; of a container only its head, the content comes with the next calls. */
bool msgpack_reader_next(struct msgpack_reader *r, struct packed_item *out);
/* Passes over one whole item. */
bool msgpack_reader_skip(struct msgpack_reader *r);
/* True when all was read and nothing was wrong. */
bool msgpack_reader_at_end(const struct msgpack_reader *r);

#endif
