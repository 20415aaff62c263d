/* Writing: arrays, with the fields in vLLM's order up to lora_name; its readers take what is left out as none. */
#include <msgpack/pack.h>
#include <string.h>

#include "proto/kv_events.h"

const char *kv_tier_medium(enum kv_tier tier)
{
    switch (tier) {
#define X(name, medium)                                                                                                \
    case KV_TIER_##name:                                                                                               \
        return medium;
        KV_TIERS(X)
#undef X
    default:
        return "?";
    }
}

void kv_sequence_write(uint64_t sequence, uint8_t out[KV_SEQUENCE_BYTES])
{
    for (size_t i = 0; i < KV_SEQUENCE_BYTES; i++)
        out[i] = (uint8_t)(sequence >> (8 * (KV_SEQUENCE_BYTES - 1 - i)));
}

void kv_batch_writer_init(struct kv_batch_writer *w, enum kv_hash_form form, size_t max_bytes)
{
    *w = (struct kv_batch_writer){ .form = form };
    text_buffer_init(&w->events, max_bytes);
    text_buffer_init(&w->batch, max_bytes + 64); /* what stands around the events */
}

void kv_batch_writer_free(struct kv_batch_writer *w)
{
    text_buffer_free(&w->events);
    text_buffer_free(&w->batch);
}

static int append(void *buffer, const char *data, size_t len)
{
    text_buffer_append(buffer, data, len);
    return 0;
}

static void pack_text(msgpack_packer *p, const char *text, size_t len)
{
    msgpack_pack_str(p, len);
    msgpack_pack_str_body(p, text, len);
}

static void pack_hash(msgpack_packer *p, enum kv_hash_form form, const struct kv_event_hash *hash)
{
    if (form == KV_HASH_AS_INTEGER) {
        msgpack_pack_uint64(p, hash->low);
        return;
    }
    uint8_t bytes[KV_HASH_BYTES];
    kv_sequence_write(hash->high, bytes);
    kv_sequence_write(hash->low, bytes + 8);
    msgpack_pack_bin(p, sizeof bytes);
    msgpack_pack_bin_body(p, bytes, sizeof bytes);
}

static void pack_hashes(msgpack_packer *p, enum kv_hash_form form, const struct kv_event *event)
{
    msgpack_pack_array(p, event->n_hashes);
    for (uint32_t i = 0; i < event->n_hashes; i++)
        pack_hash(p, form, &event->hashes[i]);
}

static void pack_medium(msgpack_packer *p, const struct kv_event *event)
{
    const char *medium = kv_tier_medium(event->tier);
    pack_text(p, medium, strlen(medium));
}

static void pack_stored(msgpack_packer *p, enum kv_hash_form form, const struct kv_event *event)
{
    msgpack_pack_array(p, 8);
    pack_text(p, "BlockStored", 11);
    pack_hashes(p, form, event);
    if (event->has_parent)
        pack_hash(p, form, &event->parent);
    else
        msgpack_pack_nil(p);
    msgpack_pack_array(p, event->n_tokens);
    for (uint32_t i = 0; i < event->n_tokens; i++)
        msgpack_pack_uint32(p, event->tokens[i]);
    msgpack_pack_uint32(p, event->block_size);
    msgpack_pack_nil(p); /* lora_id: names are enough */
    pack_medium(p, event);
    if (event->adapter)
        pack_text(p, event->adapter, event->adapter_len);
    else
        msgpack_pack_nil(p);
}

static void pack_event(msgpack_packer *p, enum kv_hash_form form, const struct kv_event *event)
{
    switch (event->kind) {
    case KV_BLOCK_STORED:
        pack_stored(p, form, event);
        break;
    case KV_BLOCK_REMOVED:
        msgpack_pack_array(p, 3);
        pack_text(p, "BlockRemoved", 12);
        pack_hashes(p, form, event);
        pack_medium(p, event);
        break;
    case KV_ALL_CLEARED:
        msgpack_pack_array(p, 1);
        pack_text(p, "AllBlocksCleared", 16);
        break;
    }
}

status kv_batch_add(struct kv_batch_writer *w, const struct kv_event *event)
{
    ASSERT(event->n_hashes <= KV_EVENT_MAX_HASHES && event->n_tokens <= KV_EVENT_MAX_TOKENS);
    msgpack_packer p;
    size_t before = w->events.len;
    msgpack_packer_init(&p, &w->events, append);
    pack_event(&p, w->form, event);
    status st = w->events.state;
    if (st != ST_OK) {
        w->events.len = before;
        w->events.state = ST_OK;
        return st;
    }
    w->n_events++;
    return ST_OK;
}

status kv_batch_finish(struct kv_batch_writer *w, double ts, int64_t rank, const uint8_t **data, size_t *len)
{
    msgpack_packer p;
    text_buffer_clear(&w->batch);
    msgpack_packer_init(&p, &w->batch, append);
    msgpack_pack_array(&p, 3);
    msgpack_pack_double(&p, ts);
    msgpack_pack_array(&p, w->n_events);
    if (w->events.len)
        text_buffer_append(&w->batch, w->events.data, w->events.len);
    if (rank < 0)
        msgpack_pack_nil(&p);
    else
        msgpack_pack_int64(&p, rank);
    text_buffer_clear(&w->events);
    w->n_events = 0;
    if (w->batch.state != ST_OK)
        return w->batch.state;
    *data = (const uint8_t *)w->batch.data;
    *len = w->batch.len;
    return ST_OK;
}
