#include "engine/backend.h"

#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_TILE_DATA  18

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

/* Bits of leaf 7's edx, and of its second part's eax. */
#define BIT_AMX_BF16    22
#define BIT_AMX_TILE    24
#define BIT_AMX_INT8    25
#define BIT_AVX512_BF16 5

static pthread_once_t tiles_asked = PTHREAD_ONCE_INIT;
static bool tiles_allowed;

static void ask_for_tiles(void)
{
    tiles_allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
}

const char *backend_avx512_bf16_missing(void)
{
    unsigned a, b, c, d;
    if (backend_avx512_missing() != NULL)
        return backend_avx512_missing();
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> BIT_AVX512_BF16 & 1) ? NULL : "avx512_bf16";
}

const char *backend_amx_missing(enum contract_class class)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> BIT_AMX_TILE & 1))
        return "amx_tile";
    if (!(d >> BIT_AMX_INT8 & 1))
        return "amx_int8";
    if (class == CLASS_AMX && !(d >> BIT_AMX_BF16 & 1))
        return "amx_bf16";
    if (backend_avx512_bf16_missing() != NULL)
        return backend_avx512_bf16_missing();
    pthread_once(&tiles_asked, ask_for_tiles);
    return tiles_allowed ? NULL : "the kernel's leave to use AMX tiles";
}
