/* Whatever arrives on a control socket: the header, then the message that its type names. */
#include <stdlib.h>
#include <string.h>

#include "proto/baton.pb-c.h"
#include "proto/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *descriptor_of(enum frame_type type)
{
    switch (type) {
    case FRAME_HELLO:
        return &baton__hello__descriptor;
    case FRAME_PING:
        return &baton__ping__descriptor;
    case FRAME_ACK:
        return &baton__ack__descriptor;
    case FRAME_GENERATE:
        return &baton__generate__descriptor;
    case FRAME_TOKENS:
        return &baton__tokens__descriptor;
    case FRAME_TOKENS_ACK:
        return &baton__tokens_ack__descriptor;
    case FRAME_RESUME:
        return &baton__resume__descriptor;
    case FRAME_CANCEL:
        return &baton__cancel__descriptor;
    case FRAME_STALE:
        return &baton__stale__descriptor;
    case FRAME_PREFILL:
        return &baton__prefill__descriptor;
    case FRAME_GRANT:
        return &baton__grant__descriptor;
    case FRAME_CHUNK_DONE:
        return &baton__chunk_done__descriptor;
    default:
        return &baton__load__descriptor;
    }
}

static void unpack(enum frame_type type, const uint8_t *payload, size_t len)
{
    ProtobufCMessage *message = protobuf_c_message_unpack(descriptor_of(type), NULL, len, payload);
    if (!message)
        return;
    uint8_t *again = malloc(protobuf_c_message_get_packed_size(message) + 1);
    if (again)
        protobuf_c_message_pack(message, again);
    free(again);
    protobuf_c_message_free_unpacked(message, NULL);
}

/* What is read and written again is the same, but for flags, which are kept for later versions. */
static void write_again(const struct frame *frame, const uint8_t *data, size_t size)
{
    uint8_t *again = malloc(size);
    if (!again)
        return;
    frame_write(frame, again);
    int same = data[6] || data[7] || !memcmp(again, data, size);
    free(again);
    if (!same)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame frame;
    struct error err;
    if (frame_read(data, size, &frame, &err) == ST_OK) {
        write_again(&frame, data, size);
        unpack(frame.type, frame.payload, frame.payload_len);
    }
    /* Few mutations find the checksum, so the payload is also tried behind a good header. */
    if (size < 1 || size > 4096)
        return 0;
    uint8_t buf[FRAME_HEADER_BYTES + 4096];
    frame = (struct frame){ .type = (enum frame_type)data[0], .payload = data + 1, .payload_len = (uint32_t)size - 1 };
    frame_write(&frame, buf);
    if (frame_read(buf, FRAME_HEADER_BYTES + size - 1, &frame, &err) != ST_OK)
        abort();
    unpack(frame.type, frame.payload, frame.payload_len);
    return 0;
}
