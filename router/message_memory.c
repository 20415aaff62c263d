#include "router/message_memory.h"

#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

static _Thread_local struct {
    alignas(max_align_t) uint8_t bytes[MESSAGE_MEMORY_BYTES];
    size_t used;
} block;

static void *take(void *data, size_t size)
{
    const size_t align = alignof(max_align_t);
    (void)data;
    if (size > MESSAGE_MEMORY_BYTES - block.used)
        return malloc(size);
    void *piece = block.bytes + block.used;
    block.used += (size + align - 1) / align * align;
    return piece;
}

static void give_back(void *data, void *piece)
{
    (void)data;
    uintptr_t at = (uintptr_t)piece, begin = (uintptr_t)block.bytes;
    if (at < begin || at >= begin + MESSAGE_MEMORY_BYTES)
        free(piece);
}

ProtobufCAllocator *message_memory_begin(void)
{
    static ProtobufCAllocator allocator = { take, give_back, NULL };
    block.used = 0;
    return &allocator;
}
