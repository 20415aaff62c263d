#include "kvbm/exchange.h"

static uint64_t get_u64(const uint8_t *from)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--)
        value = value << 8 | from[i];
    return value;
}

static void put_u64(uint8_t *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

bool exchange_read_seed(const Baton__BlockSeed *msg, struct block_seed_parts *out)
{
    if (!msg || (msg->salt.len && msg->salt.len != BLOCK_HASH_BYTES))
        return false;
    *out = (struct block_seed_parts){ .weights = msg->weights, .tokenizer = msg->tokenizer, .adapter = msg->adapter };
    if (msg->salt.len)
        out->salt = (struct block_hash){ get_u64(msg->salt.data), get_u64(msg->salt.data + 8) };
    return true;
}

void exchange_write_seed(const struct block_seed_parts *parts, uint8_t salt[BLOCK_HASH_BYTES], Baton__BlockSeed *out)
{
    baton__block_seed__init(out);
    out->weights = parts->weights;
    out->tokenizer = parts->tokenizer;
    out->adapter = parts->adapter;
    put_u64(salt, parts->salt.low);
    put_u64(salt + 8, parts->salt.high);
    out->salt = (ProtobufCBinaryData){ BLOCK_HASH_BYTES, salt };
}

ProtobufCMessage *exchange_unpack(const ProtobufCMessageDescriptor *type, const struct frame *frame)
{
    return protobuf_c_message_unpack(type, NULL, frame->payload_len, frame->payload);
}
