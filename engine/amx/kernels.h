/* kernels.h - what the sources that use AMX tiles give one another. They also use
 * AVX-512, and call its kernels (lanes/kernels.h) for what tiles do not help.
 * engine/CMakeLists.txt compiles this folder for the processor's tiles; tests/ compiles
 * it once more for software tiles: AMX(noun) is what it calls what others see of it. */
#ifndef BATON_ENGINE_AMX_KERNELS_H
#define BATON_ENGINE_AMX_KERNELS_H

#include "engine/amx/tile.h"
#include "engine/lanes/kernels.h"

#ifdef BATON_SOFTWARE_TILES
#define AMX(noun) amx_software_##noun
#else
#define AMX(noun) amx_##noun
#endif

/* Values i of the lower and of the upper half become pair i. */
static inline __m512i pair_halves(__m512i x)
{
    const __m512i turns = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(turns, x);
}

/* Rule INT8 and INT16, class portable. Tiles of 12 and 8 rows have their bytes as
 * [group][row][32]; smaller ones, and all scales and biases, are as AVX-512 has them. */
void AMX(prepare_int)(struct activations *a, bool wide, uint32_t row0, uint32_t n, const float *x);
void AMX(product_int)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                      uint32_t panel0, uint32_t panel1, float *out, size_t stride);

/* Rule BF16, class amx; weights as bf16_panels.h packs them, activations as [tile of 12 rows][step][row][32]. */
void AMX(prepare_bf16)(struct activations *a, uint32_t row0, uint32_t n, const float *x);
void AMX(product_bf16)(const struct matrix *m, const struct activations *a, uint32_t row0, uint32_t row1,
                       uint32_t panel0, uint32_t panel1, float *out, size_t stride);

/* Attention of class amx. */
size_t AMX(attend_scratch_bytes)(uint32_t head_dim, uint32_t group);
uint32_t AMX(attend_rows)(uint32_t group);
void AMX(attend)(const struct attention *a, const struct attention_item *item, void *scratch);

/* The backend's table for a class; software tiles have one, too. */
struct backend AMX(backend)(enum contract_class class);

#endif
