#include "worker/kv_memory.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t kv_memory_default(uint64_t machine, uint64_t n_workers, uint64_t longest_sequence)
{
    uint64_t share = least(machine / KV_MEMORY_ONE_PART, machine / KV_MEMORY_ALL_PART / n_workers);
    return least(share, KV_MEMORY_SEQUENCES * longest_sequence);
}
