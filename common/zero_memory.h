/* zero_memory.h - memory that is zeroed and read back. */
#ifndef BATON_COMMON_ZERO_MEMORY_H
#define BATON_COMMON_ZERO_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* False: some byte of it does not read as zero afterwards. */
bool zero_memory(void *memory, size_t bytes);

#endif
