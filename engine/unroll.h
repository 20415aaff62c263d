/* unroll.h - register tiles are written as loops over constants, which must vanish.
 * With BATON_PLAIN_LOOPS they stay: the sanitizers' checks would multiply with every copy of a loop's body. */
#ifndef BATON_ENGINE_UNROLL_H
#define BATON_ENGINE_UNROLL_H

#if defined(BATON_PLAIN_LOOPS)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#endif
