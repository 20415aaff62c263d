#include "engine/backend.h"

#include <cpuid.h>

/* clang 14 does not know "f16c"; that the kernel keeps its registers is what "avx2" looks at. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

const char *backend_avx2_missing(void)
{
    if (!__builtin_cpu_supports("avx2"))
        return "avx2";
    if (!__builtin_cpu_supports("fma"))
        return "fma";
    return has_f16c() ? NULL : "f16c";
}

const char *backend_avx512_missing(void)
{
    if (!__builtin_cpu_supports("avx512f"))
        return "avx512f";
    if (!__builtin_cpu_supports("avx512bw"))
        return "avx512bw";
    if (!__builtin_cpu_supports("avx512vl"))
        return "avx512vl";
    if (!__builtin_cpu_supports("avx512dq"))
        return "avx512dq";
    return __builtin_cpu_supports("avx512vnni") ? NULL : "avx512_vnni";
}
