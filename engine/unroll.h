/* unroll.h - register tiles are written as loops over constants, which must vanish. */
#ifndef BATON_ENGINE_UNROLL_H
#define BATON_ENGINE_UNROLL_H

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#endif
