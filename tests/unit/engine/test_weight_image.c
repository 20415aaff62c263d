/* Images of packed weights: sealed, opened by others, and refused when anything is wrong with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/weight_image.h"

#define KEY           "0123456789abcdef-avx2-portable"
#define CONTENT_BYTES (((size_t)5 << 20) + 192) /* the last chunk is short */
#define SHAPE         77u

static struct team *team;
static struct error err;

static int start(void **state)
{
    (void)state;
    return team_create(2, NULL, &team, &err) == ST_OK ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    team_destroy(&team);
    return 0;
}

static struct weight_image sealed_image(void)
{
    struct weight_image image;
    assert_int_equal(weight_image_create(KEY, CONTENT_BYTES, &image, &err), ST_OK);
    assert_true((uintptr_t)image.content % 64 == 0);
    for (size_t i = 0; i < CONTENT_BYTES; i++)
        image.content[i] = (uint8_t)(i * 31 >> 3);
    assert_int_equal(weight_image_seal(&image, SHAPE, team, &err), ST_OK);
    return image;
}

static void opens_what_was_sealed(void **state)
{
    (void)state;
    struct weight_image image = sealed_image(), other;
    int fd = dup(image.fd);
    assert_int_equal(weight_image_sealed_bytes(fd), image.map_bytes);
    assert_int_equal(weight_image_open(fd, KEY, CONTENT_BYTES, &other, &err), ST_OK);
    assert_int_equal(other.shape, SHAPE);
    assert_int_equal(other.pages, image.pages);
    assert_ptr_not_equal(other.content, image.content);
    assert_memory_equal(other.content, image.content, CONTENT_BYTES);
    weight_image_close(&image);
    assert_int_equal(other.content[8], 8 * 31 >> 3); /* lives on its own */
    weight_image_close(&other);
    weight_image_close(&other);
}

static void nobody_can_write_or_cut(void **state)
{
    (void)state;
    struct weight_image image = sealed_image();
    assert_int_equal(write(image.fd, "x", 1), -1);
    assert_int_equal(ftruncate(image.fd, 4096), -1);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, image.fd, 0), MAP_FAILED);
    assert_int_equal(mprotect(image.map, 4096, PROT_READ | PROT_WRITE), -1);
    weight_image_close(&image);
}

/* A copy of n bytes with one of them changed; sealed as an image is, or not. */
static int spoilt_copy(const struct weight_image *image, size_t n, size_t at, int seals)
{
    int fd = memfd_create("spoilt", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint8_t *bytes = malloc(n);
    assert_non_null(bytes);
    memcpy(bytes, image->map, n);
    if (at < n)
        bytes[at] ^= 4;
    assert_int_equal(write(fd, bytes, n), n);
    free(bytes);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static void refuse(int fd, const char *key, size_t bytes, const char *why)
{
    struct weight_image other = { .fd = -1 };
    assert_int_equal(weight_image_open(fd, key, bytes, &other, &err), ST_CORRUPT);
    assert_non_null(strstr(err.text, why));
    assert_null(other.map);
    assert_int_equal(close(fd), 0); /* it stayed ours */
}

static void refuses_what_is_wrong(void **state)
{
    (void)state;
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    struct weight_image image = sealed_image();
    size_t n = image.map_bytes, content = (size_t)(image.content - image.map), nowhere = n;
    refuse(dup(image.fd), "0123456789abcdef-avx512-portable", CONTENT_BYTES, "another model");
    refuse(dup(image.fd), KEY, CONTENT_BYTES + 64, "too short");
    refuse(dup(image.fd), KEY, CONTENT_BYTES - 64, "another size");
    refuse(spoilt_copy(&image, n, nowhere, 0), KEY, CONTENT_BYTES, "not sealed");
    refuse(spoilt_copy(&image, n, nowhere, F_SEAL_SHRINK | F_SEAL_GROW), KEY, CONTENT_BYTES, "not sealed");
    refuse(spoilt_copy(&image, n / 2, nowhere, seals), KEY, CONTENT_BYTES, "too short");
    refuse(spoilt_copy(&image, 100, nowhere, seals), KEY, CONTENT_BYTES, "too short");
    refuse(spoilt_copy(&image, n, 0, seals), KEY, CONTENT_BYTES, "no header");
    refuse(spoilt_copy(&image, n, 12, seals), KEY, CONTENT_BYTES, "header is damaged");
    refuse(spoilt_copy(&image, n, 180, seals), KEY, CONTENT_BYTES, "header is damaged"); /* a chunk's checksum */
    refuse(spoilt_copy(&image, n, content, seals), KEY, CONTENT_BYTES, "checksum");
    refuse(spoilt_copy(&image, n, content + CONTENT_BYTES - 1, seals), KEY, CONTENT_BYTES, "checksum");
    refuse(open("/dev/null", O_RDONLY | O_CLOEXEC), KEY, CONTENT_BYTES, "not sealed");
    struct weight_image copy;
    assert_int_equal(weight_image_open(spoilt_copy(&image, n, nowhere, seals), KEY, CONTENT_BYTES, &copy, &err), ST_OK);
    weight_image_close(&copy);
    weight_image_close(&image);
}

/* A process that forbids itself huge pages gets none, and this one gets what it had. */
static void pages_are_told_apart(void **state)
{
    (void)state;
    const size_t bytes = (size_t)16 << 20;
    struct weight_image with, without;
    assert_int_equal(weight_image_create_private(bytes, &with, &err), ST_OK);
    memset(with.content, 1, bytes);
    if (page_kind_of(with.map) == PAGES_PLAIN) {
        weight_image_close(&with);
        skip(); /* this system has none to give */
    }
    assert_int_equal(page_kind_of(with.map + bytes / 2), PAGES_HUGE);
    assert_int_equal(weight_image_create_private(bytes, &without, &err), ST_OK);
    assert_int_equal(madvise(without.map, bytes, MADV_NOHUGEPAGE), 0);
    memset(without.content, 1, bytes);
    assert_int_equal(page_kind_of(without.map), PAGES_PLAIN);
    weight_image_close(&with);
    weight_image_close(&without);
}

static void private_memory_is_plain_memory(void **state)
{
    (void)state;
    struct weight_image image;
    assert_int_equal(weight_image_create_private(CONTENT_BYTES, &image, &err), ST_OK);
    assert_int_equal(image.fd, -1);
    memset(image.content, 1, CONTENT_BYTES);
    assert_true(page_kind_of(image.map) != PAGES_RESERVED);
    weight_image_close(&image);
    assert_int_equal(page_kind_of(NULL), PAGES_PLAIN); /* no mapping is there */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_what_was_sealed),          cmocka_unit_test(nobody_can_write_or_cut),
        cmocka_unit_test(refuses_what_is_wrong),          cmocka_unit_test(pages_are_told_apart),
        cmocka_unit_test(private_memory_is_plain_memory),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
