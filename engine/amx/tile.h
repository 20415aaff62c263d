/* tile.h - the tile registers of AMX, as small functions. gcc 12's own intrinsics
 * do not tell the compiler which memory they read and write.
 * A tile has up to 16 rows of up to 64 bytes; its number is a constant. A library that
 * defines BATON_SOFTWARE_TILES gets tiles in plain C with the same arithmetic: kernels
 * are tested with them where the processor has none. */
#ifndef BATON_ENGINE_AMX_TILE_H
#define BATON_ENGINE_AMX_TILE_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"
#include "engine/unroll.h"

#define AMX_TILES     8u
#define AMX_ROWS      16u
#define AMX_ROW_BYTES 64u

/* The operand of LDTILECFG, palette 1. */
struct amx_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct amx_shapes) == 64, "as the processor reads it");

static inline void amx_shape(struct amx_shapes *s, uint32_t tile, uint32_t rows, uint32_t row_bytes)
{
    s->palette = 1;
    s->rows[tile] = (uint8_t)rows;
    s->row_bytes[tile] = (uint16_t)row_bytes;
}

#ifdef BATON_SOFTWARE_TILES
#include "engine/amx/tile_software.h"
#else

/* All tiles are zero afterwards. */
static inline void amx_configure(const struct amx_shapes *s)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*s) : "memory");
}

/* The kernel need no longer save the tiles of this thread. */
static inline void amx_release(void)
{
    __asm__ volatile("tilerelease" : : : "memory");
}

ALWAYS_INLINE void amx_zero(const uint32_t tile)
{
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile));
}

/* Rows from base on, stride bytes apart. */
ALWAYS_INLINE void amx_load(const uint32_t tile, const void *base, size_t stride)
{
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(base), "r"(stride), "i"(tile) : "memory");
}

ALWAYS_INLINE void amx_store(const uint32_t tile, void *base, size_t stride)
{
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(base), "r"(stride), "i"(tile) : "memory");
}

/* c[i][j] += the int32 dot of row i of a and column j of b, both signed bytes; b holds
 * four values of each column side by side. */
ALWAYS_INLINE void amx_dot_int8(const uint32_t c, const uint32_t a, const uint32_t b)
{
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

/* c[i][j] += a step of bf16_steps.h; b holds pairs of each column side by side. */
ALWAYS_INLINE void amx_dot_bf16(const uint32_t c, const uint32_t a, const uint32_t b)
{
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

#endif
#endif
