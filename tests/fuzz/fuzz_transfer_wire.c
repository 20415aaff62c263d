/* Outside bytes of the KV transfer: heads and requests of active messages, and descriptions. */
#include <stdlib.h>
#include <string.h>

#include "transfer/description.h"
#include "transfer/runs.h"
#include "transfer/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct transfer_geometry geometry = {
    .n_layers = 6, .n_segments = 4, .block_tokens = 16, .slot_bytes = 8
};
#define BLOCKS 64u

static void walk(const struct wire_request *r)
{
    struct run_cursor c;
    struct run run;
    uint64_t bytes = 0;
    run_cursor_init(&c, &geometry, r->spans, r->n_spans, r->first_layer, r->n_layers);
    while (run_cursor_next(&c, 1000, &run)) {
        if (r->spans[run.span].local_block >= BLOCKS || run.offset + run.bytes > transfer_block_bytes(&geometry))
            abort();
        bytes += run.bytes;
    }
    if (bytes != runs_bytes(&geometry, r->spans, r->n_spans, r->n_layers))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct wire_request request;
    struct wire_head head;
    struct description description;
    struct wire_hello hello;
    const uint8_t *address;
    size_t address_len;
    struct wire_key key;
    size_t head_len = size < sizeof head ? size : sizeof head;
    if (wire_head_decode(data, head_len, size - head_len, &head) == ST_OK && head.kind == WIRE_REQUEST &&
        wire_request_decode(data + head_len, size - head_len, &geometry, BLOCKS, &request) == ST_OK)
        walk(&request);
    if (wire_request_decode(data, size, &geometry, BLOCKS, &request) == ST_OK)
        walk(&request);
    if (size > head_len &&
        wire_hello_decode(data + head_len, size - head_len, &hello, &address, &address_len) == ST_OK &&
        (!address_len || address_len > WIRE_MAX_ADDRESS || address + address_len != data + size))
        abort();
    if (size > head_len && wire_key_decode(data + head_len, size - head_len, &key) == ST_OK &&
        (!key.address_len || !key.key_len || sizeof key + key.address_len + key.key_len != size - head_len))
        abort();
    if (description_decode(data, size, &description, NULL) == ST_OK &&
        description.net_address.data + description.net_address.len > data + size)
        abort();
    return 0;
}
