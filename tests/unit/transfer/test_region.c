/* A pool is mapped from another process, as long as that lives, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transfer/region.h"

#define BYTES (64u << 10)

/* A process with a region, which says where it is. */
static pid_t start_owner(struct region *region)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct error err;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (region_create(BYTES, region, &err) != ST_OK)
            _exit(1);
        memset(region->base, 0x5a, BYTES);
        if (write(ends[1], region, sizeof *region) != (ssize_t)sizeof *region)
            _exit(1);
        pause();
        _exit(0);
    }
    assert_int_equal(read(ends[0], region, sizeof *region), sizeof *region);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(region->pid, pid);
    return pid;
}

static void end(pid_t pid)
{
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void test_it_is_read_from_another_process(void **state)
{
    (void)state;
    struct region theirs;
    struct error err;
    const uint8_t *mapped = NULL;
    pid_t pid = start_owner(&theirs);
    assert_int_equal(region_map(theirs.pid, theirs.fd, BYTES, &mapped, &err), ST_OK);
    assert_int_equal(mapped[0], 0x5a);
    assert_int_equal(mapped[BYTES - 1], 0x5a);
    end(pid);
    assert_int_equal(mapped[BYTES - 1], 0x5a); /* who has it mapped keeps it */
    region_unmap(mapped, BYTES);
}

/* However often: this is where UCX walked through all addresses. */
static void test_the_owner_has_died(void **state)
{
    (void)state;
    struct region theirs;
    struct error err;
    const uint8_t *mapped = NULL;
    end(start_owner(&theirs));
    for (int i = 0; i < 100; i++)
        assert_int_equal(region_map(theirs.pid, theirs.fd, BYTES, &mapped, &err), ST_UNSUPPORTED);
    assert_null(mapped);
    assert_non_null(strstr(err.text, "/proc/"));
    region_unmap(NULL, BYTES);
}

/* Nothing that could be cut off behind our back, and nothing shorter than it should be. */
static void test_what_is_no_region_is_refused(void **state)
{
    (void)state;
    struct region ours;
    struct error err;
    const uint8_t *mapped = NULL;
    assert_int_equal(region_create(BYTES, &ours, &err), ST_OK);
    assert_int_equal(region_map(ours.pid, ours.fd, BYTES + 4096, &mapped, &err), ST_UNSUPPORTED);
    assert_int_equal(ftruncate((int)ours.fd, 4096), -1);
    int plain = memfd_create("plain", MFD_CLOEXEC);
    assert_int_equal(ftruncate(plain, BYTES), 0);
    assert_int_equal(region_map(ours.pid, (uint32_t)plain, BYTES, &mapped, &err), ST_UNSUPPORTED);
    close(plain);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(region_map(ours.pid, (uint32_t)null, 0, &mapped, &err), ST_UNSUPPORTED);
    close(null);
    assert_null(mapped);
    region_destroy(&ours);
    assert_null(ours.base);
    region_destroy(&ours);
}

static void test_memory_that_there_is_not(void **state)
{
    (void)state;
    struct region none = { .base = NULL };
    struct error err;
    assert_int_equal(region_create((size_t)1 << 60, &none, &err), ST_NO_MEMORY);
    assert_null(none.base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_is_read_from_another_process),
        cmocka_unit_test(test_the_owner_has_died),
        cmocka_unit_test(test_what_is_no_region_is_refused),
        cmocka_unit_test(test_memory_that_there_is_not),
    };
    return cmocka_run_group_tests_name("regions", tests, NULL, NULL);
}
