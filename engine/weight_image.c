#include "engine/weight_image.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/clock.h"

#define IMAGE_MAGIC     "BATONWT"
#define IMAGE_VERSION   1u
#define CHUNK_BYTES     ((size_t)1 << 20)
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define CONTENT_ALIGN   4096u
#define SAMPLED_CHUNKS  8u /* besides the first and the last */
#define SEALS           (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

struct image_header {
    char magic[8];
    uint32_t version;
    uint32_t pages; /* enum page_kind when it was packed */
    uint64_t content_at, content_bytes, n_chunks, shape;
    char key[WEIGHT_IMAGE_KEY_BYTES];
    char build[24];    /* layouts may differ from one to the next */
    uint64_t checksum; /* of all before, and of the table behind it */
    uint64_t sums[];   /* [n_chunks] */
};
_Static_assert(sizeof(struct image_header) == 176, "what other processes read");

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static struct image_header header_of(const char *key, size_t content_bytes)
{
    struct image_header h = { .magic = IMAGE_MAGIC, .version = IMAGE_VERSION, .content_bytes = content_bytes };
    h.n_chunks = (content_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    h.content_at = round_up(sizeof h + h.n_chunks * sizeof h.sums[0], CONTENT_ALIGN);
    snprintf(h.key, sizeof h.key, "%s", key);
    snprintf(h.build, sizeof h.build, "%s", BATON_VERSION);
    return h;
}

static uint64_t header_checksum(const struct image_header *h)
{
    uint64_t first = XXH3_64bits(h, offsetof(struct image_header, checksum));
    return XXH3_64bits_withSeed(h->sums, h->n_chunks * sizeof h->sums[0], first);
}

/* ---- memory ---------------------------------------------------------------------- */

/* A descriptor and a writable mapping, or nothing. */
static bool map_new(struct weight_image *image, unsigned flags, size_t bytes)
{
    int fd = memfd_create("baton-weights", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (fd < 0)
        return false;
    void *map =
        ftruncate(fd, (off_t)bytes) == 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (map == MAP_FAILED) {
        close(fd);
        return false;
    }
    image->fd = fd;
    image->map = map;
    image->map_bytes = bytes;
    return true;
}

status weight_image_create(const char *key, size_t content_bytes, struct weight_image *out, struct error *err)
{
    const struct image_header h = header_of(key, content_bytes);
    struct weight_image image = { .fd = -1, .content_bytes = content_bytes };
    size_t bytes = h.content_at + content_bytes;
    if (!map_new(&image, MFD_HUGETLB | MFD_HUGE_2MB, round_up(bytes, HUGE_PAGE_BYTES)) && !map_new(&image, 0, bytes))
        return error_set(err, ST_NO_MEMORY, "no memory for %zu bytes of packed weights: %s", bytes, strerror(errno));
    (void)madvise(image.map, image.map_bytes, MADV_HUGEPAGE); /* only a wish: plain pages are slower, not wrong */
    memcpy(image.map, &h, sizeof h);
    image.content = image.map + h.content_at;
    *out = image;
    return ST_OK;
}

status weight_image_create_private(size_t content_bytes, struct weight_image *out, struct error *err)
{
    void *map = mmap(NULL, content_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return error_set(err, ST_NO_MEMORY, "no memory for %zu bytes of packed weights", content_bytes);
    (void)madvise(map, content_bytes, MADV_HUGEPAGE);
    *out = (struct weight_image){
        .fd = -1, .map = map, .map_bytes = content_bytes, .content = map, .content_bytes = content_bytes
    };
    return ST_OK;
}

void weight_image_close_fd(struct weight_image *image)
{
    if (image->fd >= 0)
        close(image->fd);
    image->fd = -1;
}

void weight_image_close(struct weight_image *image)
{
    if (image->map != NULL) {
        weight_image_close_fd(image);
        munmap(image->map, image->map_bytes);
    }
    *image = (struct weight_image){ .fd = -1 };
}

/* ---- checksums --------------------------------------------------------------------- */

struct summing {
    const struct weight_image *image;
    uint64_t *sums;        /* written, when not NULL */
    const uint64_t *check; /* compared otherwise */
    _Atomic uint64_t wrong;
};

static uint64_t chunk_sum(const struct weight_image *image, uint64_t chunk)
{
    size_t at = chunk * CHUNK_BYTES, left = image->content_bytes - at;
    return XXH3_64bits(image->content + at, left < CHUNK_BYTES ? left : CHUNK_BYTES);
}

static void sum_item(void *ctx, uint32_t item, uint32_t thread)
{
    struct summing *s = ctx;
    (void)thread;
    uint64_t sum = chunk_sum(s->image, item);
    if (s->sums != NULL)
        s->sums[item] = sum;
    else
        s->wrong += sum != s->check[item];
}

static void for_all_chunks(struct summing *s, uint64_t n_chunks, struct team *team)
{
    ASSERT(n_chunks <= TEAM_MAX_ITEMS);
    team_run(team, sum_item, s, (uint32_t)n_chunks);
}

/* ---- sealing ------------------------------------------------------------------------- */

/* A file that may be written through some mapping cannot be sealed, so this one's goes before; its place is kept. */
static bool map_sealed(struct weight_image *image)
{
    void *map = mmap(image->map, image->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (map == MAP_FAILED || fcntl(image->fd, F_ADD_SEALS, SEALS) != 0)
        return false;
    if (mmap(image->map, image->map_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, image->fd, 0) == MAP_FAILED)
        return false;
    (void)madvise(image->map, image->map_bytes, MADV_HUGEPAGE);
    return true;
}

status weight_image_seal(struct weight_image *image, uint64_t shape, struct team *team, struct error *err)
{
    struct image_header *h = (struct image_header *)(void *)image->map;
    struct summing s = { .image = image, .sums = h->sums };
    ASSERT(image->fd >= 0);
    for_all_chunks(&s, h->n_chunks, team);
    image->shape = h->shape = shape;
    image->pages = page_kind_of(image->map);
    h->pages = image->pages;
    h->checksum = header_checksum(h);
    if (!map_sealed(image)) {
        int reason = errno;
        weight_image_close(image);
        return error_set(err, ST_IO, "packed weights cannot be sealed: %s", strerror(reason));
    }
    s.sums = NULL;
    s.check = ((const struct image_header *)(const void *)image->map)->sums;
    for_all_chunks(&s, header_of("", image->content_bytes).n_chunks, team);
    if (s.wrong == 0)
        return ST_OK;
    weight_image_close(image);
    return error_set(err, ST_CORRUPT, "%llu MiB of packed weights changed while they were sealed: is the memory sound?",
                     (unsigned long long)s.wrong);
}

/* ---- opening --------------------------------------------------------------------------- */

size_t weight_image_sealed_bytes(int fd)
{
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &info) != 0 || info.st_size <= 0)
        return 0;
    return (size_t)info.st_size;
}

/* What is wrong with the header of a mapping, NULL when it is sound. */
static const char *header_fault(const struct weight_image *image, const char *key)
{
    const struct image_header *h = (const struct image_header *)(const void *)image->map;
    const struct image_header want = header_of(key, image->content_bytes);
    if (image->map_bytes < want.content_at + want.content_bytes)
        return "they are too short";
    if (memcmp(h->magic, want.magic, sizeof h->magic) || h->version != want.version)
        return "they have no header of this version";
    if (memcmp(h->key, want.key, sizeof h->key) || memcmp(h->build, want.build, sizeof h->build))
        return "they are of another model, layout or build";
    if (h->content_at != want.content_at || h->content_bytes != want.content_bytes || h->n_chunks != want.n_chunks)
        return "they have another size";
    if (h->pages >= PAGE_KIND_COUNT || h->checksum != header_checksum(h))
        return "the header is damaged";
    return NULL;
}

/* A chunk of each stretch of the content, another one each time. */
static bool sample_is_sound(const struct weight_image *image)
{
    const struct image_header *h = (const struct image_header *)(const void *)image->map;
    uint64_t n = h->n_chunks, stretch = n / SAMPLED_CHUNKS + 1, turn = clock_now_ns() / 1000 % stretch;
    if (n == 0)
        return true;
    bool sound = chunk_sum(image, 0) == h->sums[0] && chunk_sum(image, n - 1) == h->sums[n - 1];
    for (uint64_t chunk = turn; sound && chunk < n; chunk += stretch)
        sound = chunk_sum(image, chunk) == h->sums[chunk];
    return sound;
}

status weight_image_open(int fd, const char *key, size_t content_bytes, struct weight_image *out, struct error *err)
{
    struct weight_image image = { .fd = fd, .content_bytes = content_bytes };
    image.map_bytes = weight_image_sealed_bytes(fd);
    if (image.map_bytes == 0)
        return error_set(err, ST_CORRUPT, "packed weights are refused: they are not sealed");
    void *map = mmap(NULL, image.map_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return error_set(err, ST_NO_MEMORY, "packed weights cannot be mapped: %s", strerror(errno));
    (void)madvise(map, image.map_bytes, MADV_HUGEPAGE);
    image.map = map;
    const char *fault = header_fault(&image, key);
    if (fault == NULL) {
        const struct image_header *h = map;
        image.content = image.map + h->content_at;
        image.shape = h->shape;
        image.pages = (enum page_kind)h->pages;
        fault = sample_is_sound(&image) ? NULL : "their checksum is wrong";
    }
    if (fault != NULL) {
        munmap(map, image.map_bytes);
        return error_set(err, ST_CORRUPT, "packed weights are refused: %s", fault);
    }
    *out = image;
    return ST_OK;
}
