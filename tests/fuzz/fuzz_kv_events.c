/* A batch of KV events from the network. msgpack-c, which trusts counts but is right on what it takes, must take
 * whatever our reader took; and what was read comes out the same when it is written and read again. */
#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

#include "proto/kv_events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok)
        abort();
}

static void same(const struct kv_event *a, const struct kv_event *b)
{
    check(a->kind == b->kind && a->n_hashes == b->n_hashes && a->n_tokens == b->n_tokens);
    check(!a->n_hashes || !memcmp(a->hashes, b->hashes, a->n_hashes * sizeof *a->hashes));
    check(!a->n_tokens || !memcmp(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens));
    if (a->kind == KV_BLOCK_STORED)
        check(a->block_size == b->block_size && a->has_parent == b->has_parent && a->adapter_len == b->adapter_len);
}

static void write_again(const struct kv_event *event)
{
    struct kv_batch_writer w;
    struct kv_batch_reader r;
    struct kv_event again;
    const uint8_t *data = NULL;
    size_t len = 0;
    kv_batch_writer_init(&w, KV_HASH_AS_BYTES, KV_EVENTS_MAX_BATCH);
    kv_batch_reader_init(&r);
    check(kv_batch_add(&w, event) == ST_OK && kv_batch_finish(&w, 1, 0, &data, &len) == ST_OK);
    check(kv_batch_open(&r, data, len, NULL) == ST_OK && kv_batch_next(&r, &again, NULL) == ST_OK);
    same(event, &again);
    kv_batch_reader_free(&r);
    kv_batch_writer_free(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_batch_reader r;
    struct kv_event event;
    struct error err;
    kv_batch_reader_init(&r);
    status st = kv_batch_open(&r, data, size, &err);
    if (st == ST_OK) {
        msgpack_unpacked result;
        msgpack_unpacked_init(&result);
        check(msgpack_unpack_next(&result, (const char *)data, size, NULL) == MSGPACK_UNPACK_SUCCESS);
        msgpack_unpacked_destroy(&result);
    }
    while (st == ST_OK && (st = kv_batch_next(&r, &event, &err)) == ST_OK)
        write_again(&event);
    kv_batch_reader_free(&r);
    return 0;
}
