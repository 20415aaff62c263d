#include "common/zero_memory.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

bool zero_memory(void *memory, size_t bytes)
{
    const uint8_t *p = memory;
    uint64_t word, any = 0;
    memset(memory, 0, bytes);
    /* Otherwise the compiler knows what it reads. */
    __asm__ volatile("" ::"r"(memory) : "memory");
    atomic_thread_fence(memory_order_seq_cst);
    for (; bytes >= sizeof word; bytes -= sizeof word, p += sizeof word) {
        memcpy(&word, p, sizeof word);
        any |= word;
    }
    for (; bytes; bytes--)
        any |= *p++;
    return any == 0;
}
