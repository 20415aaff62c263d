#include "proto/msgpack_reader.h"

#include <string.h>

void msgpack_reader_init(struct msgpack_reader *r, const uint8_t *data, size_t len)
{
    *r = (struct msgpack_reader){ .at = data, .end = data + len };
}

static bool fail(struct msgpack_reader *r)
{
    r->failed = true;
    return false;
}

/* Big-endian, of 1, 2, 4 or 8 bytes. */
static bool take_number(struct msgpack_reader *r, size_t width, uint64_t *out)
{
    if ((size_t)(r->end - r->at) < width)
        return fail(r);
    uint64_t v = 0;
    for (size_t i = 0; i < width; i++)
        v = v << 8 | r->at[i];
    r->at += width;
    *out = v;
    return true;
}

static bool take_bytes(struct msgpack_reader *r, enum packed_type type, uint64_t count, struct packed_item *out)
{
    if ((uint64_t)(r->end - r->at) < count)
        return fail(r);
    *out = (struct packed_item){ .type = type, .bytes = r->at, .count = (uint32_t)count };
    r->at += count;
    return true;
}

/* Each item takes a byte at least, so a count that the rest cannot hold is a lie. */
static bool take_head(struct msgpack_reader *r, enum packed_type type, uint64_t count, struct packed_item *out)
{
    if ((uint64_t)(r->end - r->at) < count * (type == PACKED_MAP ? 2 : 1))
        return fail(r);
    *out = (struct packed_item){ .type = type, .count = (uint32_t)count };
    return true;
}

static bool take_uint(struct msgpack_reader *r, size_t width, struct packed_item *out)
{
    *out = (struct packed_item){ .type = PACKED_UINT };
    return take_number(r, width, &out->uint);
}

static bool take_int(struct msgpack_reader *r, size_t width, struct packed_item *out)
{
    uint64_t v;
    if (!take_number(r, width, &v))
        return false;
    unsigned shift = 64 - 8 * (unsigned)width;
    int64_t sint = (int64_t)(v << shift) >> shift;
    *out = (struct packed_item){ .type = sint < 0 ? PACKED_INT : PACKED_UINT, .sint = sint };
    return true;
}

static bool take_real(struct msgpack_reader *r, size_t width, struct packed_item *out)
{
    uint64_t v;
    if (!take_number(r, width, &v))
        return false;
    *out = (struct packed_item){ .type = PACKED_REAL };
    if (width == 8) {
        memcpy(&out->real, &v, sizeof out->real);
        return true;
    }
    uint32_t narrow = (uint32_t)v;
    float real;
    memcpy(&real, &narrow, sizeof real);
    out->real = (double)real;
    return true;
}

static bool take_sized(struct msgpack_reader *r, enum packed_type type, size_t width, struct packed_item *out)
{
    uint64_t count;
    if (!take_number(r, width, &count))
        return false;
    if (type == PACKED_ARRAY || type == PACKED_MAP)
        return take_head(r, type, count, out);
    return take_bytes(r, type, count + (type == PACKED_EXTENSION), out); /* and the extension's own type */
}

/* What begins with 0xc0 and above and is no number that stands in its first byte. */
static bool take_marked(struct msgpack_reader *r, uint8_t mark, struct packed_item *out)
{
    switch (mark) {
    case 0xc0:
        *out = (struct packed_item){ .type = PACKED_NIL };
        return true;
    case 0xc2:
    case 0xc3:
        *out = (struct packed_item){ .type = PACKED_BOOL, .uint = mark & 1 };
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return take_sized(r, PACKED_BYTES, (size_t)1 << (mark - 0xc4), out);
    case 0xc7:
    case 0xc8:
    case 0xc9:
        return take_sized(r, PACKED_EXTENSION, (size_t)1 << (mark - 0xc7), out);
    case 0xca:
    case 0xcb:
        return take_real(r, mark == 0xca ? 4 : 8, out);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_uint(r, (size_t)1 << (mark - 0xcc), out);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_int(r, (size_t)1 << (mark - 0xd0), out);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return take_bytes(r, PACKED_EXTENSION, 1 + (1u << (mark - 0xd4)), out);
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_sized(r, PACKED_TEXT, (size_t)1 << (mark - 0xd9), out);
    case 0xdc:
    case 0xdd:
        return take_sized(r, PACKED_ARRAY, (size_t)2 << (mark - 0xdc), out);
    case 0xde:
    case 0xdf:
        return take_sized(r, PACKED_MAP, (size_t)2 << (mark - 0xde), out);
    default: /* 0xc1 means nothing */
        return fail(r);
    }
}

bool msgpack_reader_next(struct msgpack_reader *r, struct packed_item *out)
{
    if (r->failed || r->at == r->end)
        return fail(r);
    uint8_t mark = *r->at++;
    if (mark < 0x80) {
        *out = (struct packed_item){ .type = PACKED_UINT, .uint = mark };
        return true;
    }
    if (mark >= 0xe0) {
        *out = (struct packed_item){ .type = PACKED_INT, .sint = (int8_t)mark };
        return true;
    }
    if (mark < 0x90)
        return take_head(r, PACKED_MAP, mark & 0x0f, out);
    if (mark < 0xa0)
        return take_head(r, PACKED_ARRAY, mark & 0x0f, out);
    if (mark < 0xc0)
        return take_bytes(r, PACKED_TEXT, mark & 0x1f, out);
    return take_marked(r, mark, out);
}

bool msgpack_reader_skip(struct msgpack_reader *r)
{
    uint64_t left[PACKED_MAX_DEPTH]; /* items still to come, of each container that is open */
    size_t depth = 0;
    do {
        struct packed_item item;
        if (!msgpack_reader_next(r, &item))
            return false;
        if (depth)
            left[depth - 1]--;
        if ((item.type == PACKED_ARRAY || item.type == PACKED_MAP) && item.count) {
            if (depth == PACKED_MAX_DEPTH)
                return fail(r);
            left[depth++] = (uint64_t)item.count * (item.type == PACKED_MAP ? 2 : 1);
        }
        while (depth && !left[depth - 1])
            depth--;
    } while (depth);
    return true;
}

bool msgpack_reader_at_end(const struct msgpack_reader *r)
{
    return !r->failed && r->at == r->end;
}
