/* The key's file, and what a proof is bound to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "transfer/proof.h"

static status read_file(const char *bytes, size_t len, mode_t mode, struct cluster_key *out, struct error *err)
{
    char path[] = "/tmp/baton-test-key-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    assert_int_equal(fchmod(fd, mode), 0);
    assert_int_equal(close(fd), 0);
    status st = cluster_key_read(path, out, err);
    assert_int_equal(unlink(path), 0);
    return st;
}

static void test_key_files(void **state)
{
    (void)state;
    static char bytes[CLUSTER_KEY_MAX_BYTES + 1];
    struct cluster_key a, b;
    struct error err;
    assert_int_equal(read_file(bytes, CLUSTER_KEY_MIN_BYTES, 0600, &a, &err), ST_OK);
    assert_true(a.given);
    assert_int_equal(read_file(bytes, CLUSTER_KEY_MAX_BYTES, 0640, &b, &err), ST_OK);
    assert_memory_not_equal(a.bytes, b.bytes, sizeof a.bytes);
    bytes[15] = 1;
    assert_int_equal(read_file(bytes, CLUSTER_KEY_MIN_BYTES, 0600, &b, &err), ST_OK);
    assert_memory_not_equal(a.bytes, b.bytes, sizeof a.bytes);
    b = a;
    assert_int_equal(read_file(bytes, CLUSTER_KEY_MIN_BYTES - 1, 0600, &b, &err), ST_INVALID);
    assert_int_equal(read_file(bytes, CLUSTER_KEY_MAX_BYTES + 1, 0600, &b, &err), ST_INVALID);
    assert_int_equal(read_file(bytes, 0, 0600, &b, &err), ST_INVALID);
    assert_int_equal(read_file(bytes, 32, 0644, &b, &err), ST_INVALID);
    assert_non_null(strstr(err.text, "644"));
    assert_int_equal(read_file(bytes, 32, 0602, &b, &err), ST_INVALID);
    assert_int_equal(cluster_key_read("/nowhere/key", &b, &err), ST_IO);
    assert_memory_equal(&a, &b, sizeof a); /* written on success only */
    assert_int_equal(cluster_key_read("", &b, &err), ST_OK);
    assert_false(b.given);
    assert_int_equal(cluster_key_read(NULL, &b, &err), ST_OK);
}

/* Every bit of the terms, the kind, the key and the address counts. */
static void test_a_proof_is_of_all_its_terms(void **state)
{
    (void)state;
    struct cluster_key key = { .given = true, .bytes = { 1 } }, other = { .given = true, .bytes = { 2 } };
    struct proof_terms terms = { 1, 2, 3, 4, 1, { 5 }, { 6 } };
    uint8_t proof[WIRE_PROOF_BYTES], address[3] = { 1, 2, 3 };
    assert_int_equal(proof_make(&key, PROOF_HELLO, &terms, address, 3, proof), ST_OK);
    assert_true(proof_holds(&key, PROOF_HELLO, &terms, address, 3, proof));
    assert_false(proof_holds(&other, PROOF_HELLO, &terms, address, 3, proof));
    assert_false(proof_holds(&key, PROOF_LENDER, &terms, address, 3, proof));
    assert_false(proof_holds(&key, PROOF_BORROWER, &terms, address, 3, proof));
    assert_false(proof_holds(&key, PROOF_HELLO, &terms, address, 2, proof));
    address[2] = 4;
    assert_false(proof_holds(&key, PROOF_HELLO, &terms, address, 3, proof));
    address[2] = 3;
    for (size_t i = 0; i < sizeof terms * 8; i++) {
        struct proof_terms changed = terms;
        ((uint8_t *)&changed)[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_false(proof_holds(&key, PROOF_HELLO, &changed, address, 3, proof));
    }
    for (size_t i = 0; i < sizeof proof * 8; i++) {
        proof[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_false(proof_holds(&key, PROOF_HELLO, &terms, address, 3, proof));
        proof[i / 8] ^= (uint8_t)(1 << i % 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_files),
        cmocka_unit_test(test_a_proof_is_of_all_its_terms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
