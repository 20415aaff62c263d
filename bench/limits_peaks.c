/* The innermost loops of limits.h, in assembly: compilers may neither drop nor
 * reorder them, and no build flag names the instruction sets. */
#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench/limits.h"

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_TILE_DATA  18

/* Twelve accumulators hide the latency of every multiply-add of today. */
#define TWELVE(op)  op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define FMA_YMM(i)  "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #i "\n\t"
#define INT8_YMM(i) "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n\tvpaddw %%ymm14, %%ymm" #i ", %%ymm" #i "\n\t"
#define FMA_ZMM(i)  "vfmadd231ps %%zmm12, %%zmm13, %%zmm" #i "\n\t"
#define VNNI_ZMM(i) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #i "\n\t"
#define BF16_ZMM(i) "vdpbf16ps %%zmm12, %%zmm13, %%zmm" #i "\n\t"

#define VECTORS_ZERO(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n\t"
#define VECTORS_CLOBBERED                                                                                              \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",         \
        "xmm13", "xmm14"

/* Zeros all vectors first: odd values would slow the arithmetic down. */
#define DEFINE_LOOP(name, op)                                                                                          \
    static void name(uint64_t blocks)                                                                                  \
    {                                                                                                                  \
        __asm__ volatile(TWELVE(VECTORS_ZERO) VECTORS_ZERO(12) VECTORS_ZERO(13)                                        \
                             VECTORS_ZERO(14) "1:\n\t" TWELVE(op) "dec %0\n\tjnz 1b\n\tvzeroupper"                     \
                         : "+r"(blocks)                                                                                \
                         :                                                                                             \
                         : VECTORS_CLOBBERED, "cc");                                                                   \
    }
DEFINE_LOOP(loop_fma_ymm, FMA_YMM)
DEFINE_LOOP(loop_int8_ymm, INT8_YMM)
DEFINE_LOOP(loop_fma_zmm, FMA_ZMM)
DEFINE_LOOP(loop_vnni_zmm, VNNI_ZMM)
DEFINE_LOOP(loop_bf16_zmm, BF16_ZMM)

/* Four tiles of sums, four of operands; each 16 rows of 64 bytes. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_a_row[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "as the processor reads it");

static void load_tiles(void)
{
    struct tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.bytes_a_row[i] = 64;
        config.rows[i] = 16;
    }
    __asm__ volatile("ldtilecfg %0\n\ttilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
                     "tilezero %%tmm4\n\ttilezero %%tmm5\n\ttilezero %%tmm6\n\ttilezero %%tmm7"
                     :
                     : "m"(config)
                     : "memory");
}

#define FOUR_TILES(op)                                                                                                 \
    op " %%tmm4, %%tmm6, %%tmm0\n\t" op " %%tmm5, %%tmm6, %%tmm1\n\t" op " %%tmm4, %%tmm7, %%tmm2\n\t" op              \
       " %%tmm5, %%tmm7, %%tmm3\n\t"

static void loop_tiles_int8(uint64_t blocks)
{
    load_tiles();
    __asm__ volatile("1:\n\t" FOUR_TILES("tdpbssd") "dec %0\n\tjnz 1b\n\ttilerelease" : "+r"(blocks) : : "cc");
}

static void loop_tiles_bf16(uint64_t blocks)
{
    load_tiles();
    __asm__ volatile("1:\n\t" FOUR_TILES("tdpbf16ps") "dec %0\n\tjnz 1b\n\ttilerelease" : "+r"(blocks) : : "cc");
}

/* Two operations a multiply-add. */
static const struct {
    void (*loop)(uint64_t blocks);
    double block_ops;
} peaks[] = {
    [LIMIT_FP32_AVX2] = { loop_fma_ymm, 12.0 * 8 * 2 },
    [LIMIT_INT8_AVX2] = { loop_int8_ymm, 12.0 * 32 * 2 },
    [LIMIT_FP32_AVX512] = { loop_fma_zmm, 12.0 * 16 * 2 },
    [LIMIT_INT8_VNNI] = { loop_vnni_zmm, 12.0 * 64 * 2 },
    [LIMIT_BF16_AVX512] = { loop_bf16_zmm, 12.0 * 32 * 2 },
    [LIMIT_INT8_AMX] = { loop_tiles_int8, 4.0 * 16 * 16 * 64 * 2 },
    [LIMIT_BF16_AMX] = { loop_tiles_bf16, 4.0 * 16 * 16 * 32 * 2 },
};
_Static_assert(sizeof peaks / sizeof peaks[0] == LIMIT_PEAK_COUNT, "a loop for each peak");

void limit_peak_run(enum limit_peak peak, uint64_t blocks)
{
    peaks[peak].loop(blocks);
}

double limit_peak_block_ops(enum limit_peak peak)
{
    return peaks[peak].block_ops;
}

/* Leaf 7; registers in the order a, b, c, d. */
static bool has_bit(unsigned subleaf, int reg, unsigned bit)
{
    unsigned r[4] = { 0 };
    return __get_cpuid_count(7, subleaf, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}

static const char *amx_missing(unsigned bit, const char *name)
{
    if (!has_bit(0, 3, 24) || !has_bit(0, 3, bit))
        return name;
    bool allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
    return allowed ? NULL : "the kernel's leave to use AMX tiles";
}

const char *limit_peak_missing(enum limit_peak peak)
{
    switch (peak) {
    case LIMIT_FP32_AVX2:
        return __builtin_cpu_supports("fma") ? NULL : "fma";
    case LIMIT_INT8_AVX2:
        return __builtin_cpu_supports("avx2") ? NULL : "avx2";
    case LIMIT_FP32_AVX512:
        return __builtin_cpu_supports("avx512f") ? NULL : "avx512f";
    case LIMIT_INT8_VNNI:
        return __builtin_cpu_supports("avx512vnni") ? NULL : "avx512_vnni";
    case LIMIT_BF16_AVX512:
        return __builtin_cpu_supports("avx512f") && has_bit(1, 0, 5) ? NULL : "avx512_bf16";
    case LIMIT_INT8_AMX:
        return amx_missing(25, "amx_int8");
    case LIMIT_BF16_AMX:
        return amx_missing(22, "amx_bf16");
    case LIMIT_PEAK_COUNT:
        break;
    }
    return "a name";
}
