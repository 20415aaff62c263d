#include "transfer/wire.h"

#include <string.h>

/* Payload lengths a kind may have. */
static const struct {
    size_t least, most;
} bounds[] = {
    [WIRE_HELLO] = { sizeof(struct wire_hello) + 1, WIRE_HELLO_BYTES },
    [WIRE_CHALLENGE] = { sizeof(struct wire_challenge), sizeof(struct wire_challenge) },
    [WIRE_PROOF] = { WIRE_PROOF_BYTES, WIRE_PROOF_BYTES },
    [WIRE_WELCOME] = { WIRE_HEADER_PAGE, WIRE_HEADER_PAGE },
    [WIRE_REQUEST] = { 16 + WIRE_SPAN_BYTES, WIRE_REQUEST_BYTES },
    [WIRE_DATA] = { 1, WIRE_DATA_BYTES },
    [WIRE_END] = { 0, 0 },
    [WIRE_CANCEL] = { 0, 0 },
    [WIRE_BYE] = { 0, 0 },
    [WIRE_KEY_ASK] = { 0, 0 },
    [WIRE_KEY] = { sizeof(struct wire_key) + 2, WIRE_KEY_BYTES },
};

status wire_head_decode(const void *head, size_t head_len, size_t payload_len, struct wire_head *out)
{
    if (head_len != sizeof *out)
        return ST_CORRUPT;
    memcpy(out, head, sizeof *out);
    if (out->magic != WIRE_MAGIC || out->kind < WIRE_HELLO || out->kind > WIRE_KEY || out->zero || out->st >= ST_COUNT)
        return ST_CORRUPT;
    if (payload_len < bounds[out->kind].least || payload_len > bounds[out->kind].most)
        return ST_CORRUPT;
    return ST_OK;
}

size_t wire_hello_encode(const struct wire_hello *hello, const uint8_t *address, size_t address_len,
                         uint8_t out[WIRE_HELLO_BYTES])
{
    ASSERT(address_len && address_len <= WIRE_MAX_ADDRESS);
    memcpy(out, hello, sizeof *hello);
    memcpy(out + sizeof *hello, address, address_len);
    return sizeof *hello + address_len;
}

status wire_hello_decode(const uint8_t *payload, size_t len, struct wire_hello *out, const uint8_t **address,
                         size_t *address_len)
{
    if (len < bounds[WIRE_HELLO].least || len > bounds[WIRE_HELLO].most)
        return ST_CORRUPT;
    memcpy(out, payload, sizeof *out);
    *address = payload + sizeof *out;
    *address_len = len - sizeof *out;
    return ST_OK;
}

size_t wire_key_encode(uint64_t pool, const uint8_t *address, size_t address_len, const uint8_t *key, size_t key_len,
                       uint8_t out[WIRE_KEY_BYTES])
{
    ASSERT(address_len && address_len <= WIRE_MAX_ADDRESS && key_len && key_len <= WIRE_MAX_KEY);
    const struct wire_key head = { .pool = pool, .address_len = (uint16_t)address_len, .key_len = (uint16_t)key_len };
    memcpy(out, &head, sizeof head);
    memcpy(out + sizeof head, address, address_len);
    memcpy(out + sizeof head + address_len, key, key_len);
    return sizeof head + address_len + key_len;
}

status wire_key_decode(const uint8_t *payload, size_t len, struct wire_key *out)
{
    if (len < bounds[WIRE_KEY].least || len > bounds[WIRE_KEY].most)
        return ST_CORRUPT;
    memcpy(out, payload, sizeof *out);
    bool fits =
        out->address_len && out->address_len <= WIRE_MAX_ADDRESS && out->key_len && out->key_len <= WIRE_MAX_KEY;
    if (!fits || out->zero || len != sizeof *out + out->address_len + out->key_len)
        return ST_CORRUPT;
    return ST_OK;
}

struct wire_span {
    uint64_t generation;
    uint32_t block;
    uint16_t first, n;
};
_Static_assert(sizeof(struct wire_span) == WIRE_SPAN_BYTES, "wire_span is a wire format");

size_t wire_request_encode(uint32_t first_layer, uint32_t n_layers, const struct transfer_span *spans, uint32_t n_spans,
                           uint8_t out[WIRE_REQUEST_BYTES])
{
    ASSERT(n_spans <= WIRE_MAX_SPANS);
    const uint32_t head[4] = { first_layer, n_layers, n_spans, 0 };
    memcpy(out, head, sizeof head);
    uint8_t *p = out + sizeof head;
    for (uint32_t i = 0; i < n_spans; i++, p += WIRE_SPAN_BYTES) {
        const struct transfer_span *s = &spans[i];
        const struct wire_span w = { s->remote_generation, s->remote_block, s->first, s->n };
        memcpy(p, &w, sizeof w);
    }
    return (size_t)(p - out);
}

static bool inside(const struct wire_span *w, const struct transfer_geometry *g, uint32_t n_blocks)
{
    return w->block < n_blocks && w->n && (uint32_t)w->first + w->n <= g->block_tokens;
}

status wire_request_decode(const uint8_t *payload, size_t len, const struct transfer_geometry *geometry,
                           uint32_t n_blocks, struct wire_request *out)
{
    uint32_t head[4];
    if (len < sizeof head)
        return ST_CORRUPT;
    memcpy(head, payload, sizeof head);
    uint32_t first_layer = head[0], n_layers = head[1], n_spans = head[2];
    if (!n_layers || n_layers > geometry->n_layers || first_layer > geometry->n_layers - n_layers || head[3])
        return ST_CORRUPT;
    if (!n_spans || n_spans > WIRE_MAX_SPANS || len != sizeof head + (size_t)n_spans * WIRE_SPAN_BYTES)
        return ST_CORRUPT;
    for (uint32_t i = 0; i < n_spans; i++) {
        struct wire_span w;
        memcpy(&w, payload + sizeof head + (size_t)i * WIRE_SPAN_BYTES, sizeof w);
        if (!inside(&w, geometry, n_blocks))
            return ST_CORRUPT;
        out->spans[i] = (struct transfer_span){
            .local_block = w.block, .remote_generation = w.generation, .first = w.first, .n = w.n
        };
    }
    out->first_layer = first_layer;
    out->n_layers = n_layers;
    out->n_spans = n_spans;
    return ST_OK;
}
