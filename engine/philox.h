/* philox.h - the counter generator Philox4x32-10 (Salmon et al., SC'11). */
#ifndef BATON_ENGINE_PHILOX_H
#define BATON_ENGINE_PHILOX_H

#include <stdint.h>

/* out may be counter. */
void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
