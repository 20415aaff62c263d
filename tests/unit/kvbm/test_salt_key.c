/* The cluster's key from a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvbm/salt_key.h"

static char path[] = "/tmp/baton-salt-key-XXXXXX";
static struct salt_key key;

static status read_file_of(size_t len, struct error *err)
{
    static uint8_t bytes[SALT_KEY_MAX_BYTES + 1];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i + 10); /* newlines and NULs, too */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
    status st = salt_key_read(path, &key, err);
    if (st == ST_OK)
        assert_memory_equal(key.bytes, bytes, len);
    return st;
}

static void test_bytes_as_they_are(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(read_file_of(1, &err), ST_OK);
    assert_int_equal(key.len, 1);
    assert_int_equal(read_file_of(SALT_KEY_MAX_BYTES, &err), ST_OK);
    assert_int_equal(key.len, SALT_KEY_MAX_BYTES);
}

static void test_no_key(void **state)
{
    (void)state;
    struct error err;
    key.len = 5;
    assert_int_equal(salt_key_read("", &key, &err), ST_OK);
    assert_int_equal(key.len, 0);
}

/* A router that cannot have the key it was told of must not share under another. */
static void test_no_good_file(void **state)
{
    (void)state;
    struct error err;
    key.len = 5;
    assert_int_equal(read_file_of(0, &err), ST_INVALID);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(read_file_of(SALT_KEY_MAX_BYTES + 1, &err), ST_LIMIT);
    assert_non_null(strstr(err.text, "4096"));
    assert_int_equal(salt_key_read("/nowhere/key", &key, &err), ST_IO);
    assert_int_equal(salt_key_read("/", &key, &err), ST_IO);
    assert_int_equal(key.len, 5); /* outputs are written on success only */
}

static void test_fingerprints(void **state)
{
    (void)state;
    static const struct salt_key none = { .len = 0 }, a = { 3, "abc" }, same = { 3, "abcd" }, longer = { 4, "abc" },
                                 other = { 3, "abd" };
    char x[SALT_KEY_FINGERPRINT_BYTES], y[SALT_KEY_FINGERPRINT_BYTES];
    assert_string_equal(salt_key_fingerprint(&none, x), "none");
    assert_int_equal(strspn(salt_key_fingerprint(&a, x), "0123456789abcdef"), 16);
    assert_int_equal(strlen(x), 16);
    assert_string_equal(x, salt_key_fingerprint(&same, y)); /* of what counts only */
    assert_string_not_equal(x, salt_key_fingerprint(&longer, y));
    assert_string_not_equal(x, salt_key_fingerprint(&other, y));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_as_they_are),
        cmocka_unit_test(test_no_key),
        cmocka_unit_test(test_no_good_file),
        cmocka_unit_test(test_fingerprints),
    };
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
