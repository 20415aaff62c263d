#include "transfer/pool.h"

#include <errno.h>
#include <immintrin.h>
#include <string.h>
#include <sys/mman.h>

#define POOL_MAGIC 0x314c4f4f504e5442ull /* "BTNPOOL1" */

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define POOL_THREAD_SANITIZER
#endif
#elif defined(__SANITIZE_THREAD__)
#define POOL_THREAD_SANITIZER
#endif

struct pool_header {
    uint64_t magic;
    uint64_t incarnation, nonce, n_blocks;
    struct transfer_geometry geometry;
    uint64_t pattern[(POOL_PAGE - 48) / 8];
};
_Static_assert(sizeof(struct pool_header) == POOL_PAGE, "the header fills one page");

static size_t whole_pages(size_t bytes)
{
    return (bytes + POOL_PAGE - 1) / POOL_PAGE * POOL_PAGE;
}

status pool_check_geometry(const struct transfer_geometry *g, uint64_t n_blocks, struct error *err)
{
    if (!g->n_layers || !g->n_segments || !g->block_tokens || !g->slot_bytes || !n_blocks)
        return error_set(err, ST_INVALID, "a KV pool needs layers, segments, tokens, slot bytes and blocks");
    if (g->n_layers > 4096 || g->n_segments > 8192 || g->block_tokens > 4096 || g->slot_bytes > 65536 ||
        n_blocks > POOL_MAX_BLOCKS)
        return error_set(err, ST_INVALID,
                         "KV pool of %u layers, %u segments, %u tokens, %u bytes, %llu blocks is too big", g->n_layers,
                         g->n_segments, g->block_tokens, g->slot_bytes, (unsigned long long)n_blocks);
    if (transfer_block_bytes(g) > (1ull << 46) / n_blocks)
        return error_set(err, ST_INVALID, "a KV pool of %llu blocks of %zu bytes fits no address space",
                         (unsigned long long)n_blocks, transfer_block_bytes(g));
    return ST_OK;
}

bool pool_geometry_equal(const struct transfer_geometry *a, const struct transfer_geometry *b)
{
    return a->n_layers == b->n_layers && a->n_segments == b->n_segments && a->block_tokens == b->block_tokens &&
           a->slot_bytes == b->slot_bytes;
}

size_t pool_generations_offset(void)
{
    return POOL_PAGE;
}

size_t pool_blocks_offset(const struct pool_identity *identity)
{
    return POOL_PAGE + whole_pages(identity->n_blocks * sizeof(uint64_t));
}

size_t pool_bytes(const struct pool_identity *identity)
{
    return pool_blocks_offset(identity) + whole_pages(identity->n_blocks * transfer_block_bytes(&identity->geometry));
}

static uint64_t pattern_at(uint64_t nonce, uint64_t i)
{
    uint64_t x = nonce + (i + 1) * 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static void fill_header(struct pool_header *header, const struct pool_identity *identity)
{
    *header = (struct pool_header){ .magic = POOL_MAGIC,
                                    .incarnation = identity->incarnation,
                                    .nonce = identity->nonce,
                                    .n_blocks = identity->n_blocks,
                                    .geometry = identity->geometry };
    for (size_t i = 0; i < sizeof header->pattern / sizeof header->pattern[0]; i++)
        header->pattern[i] = pattern_at(identity->nonce, i);
}

/* Through the kernel where it knows how, which answers where a touch would raise SIGBUS. */
static status fault_in(uint8_t *memory, size_t bytes, struct error *err)
{
#ifdef MADV_POPULATE_WRITE
    if (!madvise(memory, bytes, MADV_POPULATE_WRITE))
        return ST_OK;
    if (errno != EINVAL)
        return error_set(err, ST_NO_MEMORY, "no memory for a KV pool of %zu MiB: %s", bytes >> 20, strerror(errno));
#endif
    for (size_t i = 0; i < bytes; i += POOL_PAGE)
        ((volatile uint8_t *)memory)[i] = 0;
    return ST_OK;
}

status pool_init(struct pool *pool, const struct pool_identity *identity, uint8_t *memory, struct error *err)
{
    ASSERT((uintptr_t)memory % POOL_PAGE == 0);
    size_t bytes = pool_bytes(identity);
    status st = fault_in(memory, bytes, err);
    if (st)
        return st;
    fill_header((struct pool_header *)(void *)memory, identity);
    *pool = (struct pool){ .identity = *identity, .base = memory, .bytes = bytes };
    return ST_OK;
}

_Atomic uint64_t *pool_generations(const struct pool *pool)
{
    return (_Atomic uint64_t *)(void *)(pool->base + pool_generations_offset());
}

uint8_t *pool_block(const struct pool *pool, uint32_t block)
{
    return pool->base + pool_blocks_offset(&pool->identity) + block * transfer_block_bytes(&pool->identity.geometry);
}

bool pool_header_matches(const uint8_t *page, const struct pool_identity *identity)
{
    struct pool_header expected;
    fill_header(&expected, identity);
    return !memcmp(page, &expected, sizeof expected);
}

#ifdef POOL_THREAD_SANITIZER
/* Such a read is a race by design; the sanitizer looks into memcpy, but not in here. */
__attribute__((no_sanitize("thread"))) void pool_read(void *to, const uint8_t *from, size_t bytes)
{
    volatile uint8_t *out = to;
    for (size_t i = 0; i < bytes; i++)
        out[i] = ((const volatile uint8_t *)from)[i];
}

void pool_read_streaming(void *to, const uint8_t *from, size_t bytes)
{
    pool_read(to, from, bytes);
}
#else
void pool_read(void *to, const uint8_t *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

#define STREAM_BYTES    64u
#define STREAM_PREFETCH 1024u

void pool_read_streaming(void *to, const uint8_t *from, size_t bytes)
{
    if (((uintptr_t)to | bytes) % STREAM_BYTES) {
        memcpy(to, from, bytes);
        return;
    }
    for (size_t i = 0; i < bytes; i += STREAM_BYTES) {
        const __m256i *source = (const void *)(from + i);
        __m256i *line = (void *)((uint8_t *)to + i);
        _mm_prefetch((const char *)from + i + STREAM_PREFETCH, _MM_HINT_T0);
        _mm256_stream_si256(line, _mm256_loadu_si256(source));
        _mm256_stream_si256(line + 1, _mm256_loadu_si256(source + 1));
    }
    _mm_sfence(); /* whoever is told of the copy sees it */
}
#endif

uint64_t pool_generation_after(const _Atomic uint64_t *generation)
{
    /* An acquire load alone would let the reads before it sink below it. */
#ifdef POOL_THREAD_SANITIZER
    __asm__ volatile("" ::: "memory");
#else
    atomic_thread_fence(memory_order_acquire);
#endif
    return atomic_load_explicit(generation, memory_order_acquire);
}
