/* kv_memory.h - how much memory a worker takes for KV blocks when nobody says. Pure. */
#ifndef BATON_WORKER_KV_MEMORY_H
#define BATON_WORKER_KV_MEMORY_H

#include <stdint.h>

#define KV_MEMORY_ALL_PART  4u  /* all workers of a machine together take one part in so many */
#define KV_MEMORY_ONE_PART  16u /* one worker takes no more than this */
#define KV_MEMORY_SEQUENCES 16u /* nor than so many of the longest sequence need */

/* All in bytes, but for the number of workers that share the machine. */
uint64_t kv_memory_default(uint64_t machine, uint64_t n_workers, uint64_t longest_sequence);

#endif
