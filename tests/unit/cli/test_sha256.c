/* SHA-256 of files, with the standard's examples. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <unistd.h>

#include "cli/sha256.h"

static void known_answers(void **state)
{
    (void)state;
    char path[] = "/tmp/baton-sha-XXXXXX", hex[SHA256_HEX_BYTES];
    struct error err;
    int fd = mkstemp(path);
    assert_int_equal(sha256_file(path, hex, &err), ST_OK);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_int_equal(write(fd, "abc", 3), 3);
    close(fd);
    assert_int_equal(sha256_file(path, hex, &err), ST_OK);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    unlink(path);
    assert_int_equal(sha256_file(path, hex, &err), ST_IO);
    assert_int_equal(sha256_file("/tmp", hex, &err), ST_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(known_answers) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
