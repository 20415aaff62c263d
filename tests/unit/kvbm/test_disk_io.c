/* Asynchronous reads and writes of a real file, by io_uring and by threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvbm/disk_io.h"

#include <errno.h>

#define PAGE  4096u
#define DEPTH 4u
#define WAIT  20000u /* ms; what never comes fails the test */

struct place {
    char folder[64], path[96];
    struct disk_io *io;
    uint8_t *page;
};

static void place_open(struct place *p, bool no_uring, bool no_direct)
{
    struct error err;
    const struct disk_io_options o = { .path = p->path, .depth = DEPTH, .no_uring = no_uring, .no_direct = no_direct };
    status st = disk_io_open(&o, &p->io, &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
}

static void place_init(struct place *p, bool no_uring)
{
    void *page = NULL;
    strcpy(p->folder, "/tmp/baton-disk-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    (void)snprintf(p->path, sizeof p->path, "%s/file", p->folder);
    assert_int_equal(posix_memalign(&page, PAGE, 4 * PAGE), 0);
    p->page = page;
    place_open(p, no_uring, false);
}

static void place_free(struct place *p)
{
    assert_true(disk_io_close(&p->io, WAIT));
    (void)unlink(p->path);
    (void)rmdir(p->folder);
    free(p->page);
}

static int64_t run(struct place *p, enum disk_io_kind kind, uint64_t offset, uint64_t bytes)
{
    struct disk_io_op op = { .kind = kind, .offset = offset, .bytes = bytes, .data = p->page };
    return disk_io_run(p->io, &op, WAIT);
}

static bool no_uring(void **state)
{
    return *state != NULL;
}

static void what_is_written_is_read(void **state)
{
    struct place p;
    place_init(&p, no_uring(state));
    if (!no_uring(state) && strcmp(p.io->methods->name, "io_uring") != 0)
        print_message("skipped: io_uring is not permitted here\n");
    assert_int_equal(run(&p, DISK_IO_ALLOCATE, 0, 16 * PAGE), 0);
    memset(p.page, 7, 4 * PAGE);
    assert_int_equal(run(&p, DISK_IO_WRITE, 2 * PAGE, 4 * PAGE), 4 * PAGE);
    assert_int_equal(run(&p, DISK_IO_SYNC, 0, 0), 0);
    memset(p.page, 0, 4 * PAGE);
    assert_int_equal(run(&p, DISK_IO_READ, 3 * PAGE, PAGE), PAGE);
    assert_int_equal(p.page[0], 7);
    assert_int_equal(p.page[PAGE - 1], 7);
    assert_int_equal(run(&p, DISK_IO_PUNCH, 2 * PAGE, 2 * PAGE), 0);
    assert_int_equal(run(&p, DISK_IO_READ, 3 * PAGE, PAGE), PAGE);
    assert_int_equal(p.page[0], 0);
    assert_int_equal(run(&p, DISK_IO_READ, 4 * PAGE, PAGE), PAGE);
    assert_int_equal(p.page[0], 7);
    place_free(&p);
}

static void the_end_of_the_file_is_a_short_read(void **state)
{
    struct place p;
    place_init(&p, no_uring(state));
    memset(p.page, 9, PAGE);
    assert_int_equal(run(&p, DISK_IO_WRITE, 0, PAGE), PAGE);
    assert_int_equal(run(&p, DISK_IO_READ, 0, 4 * PAGE), PAGE);
    assert_int_equal(run(&p, DISK_IO_READ, 8 * PAGE, PAGE), 0);
    place_free(&p);
}

static void errors_come_as_numbers(void **state)
{
    struct place p;
    place_init(&p, no_uring(state));
    struct disk_io_op op = { .kind = DISK_IO_READ, .offset = 0, .bytes = PAGE, .data = NULL };
    assert_int_equal(run(&p, DISK_IO_WRITE, 0, PAGE), PAGE);
    assert_int_equal(disk_io_run(p.io, &op, WAIT), -EFAULT);
    place_free(&p);
}

static unsigned n_done;

static void on_done(struct disk_io_op *op, int64_t result)
{
    (void)op;
    assert_true(result == PAGE || result == -ECANCELED);
    n_done++;
}

static void as_many_as_the_depth_are_taken(void **state)
{
    struct place p;
    struct disk_io_op ops[DEPTH + 1];
    place_init(&p, no_uring(state));
    n_done = 0;
    for (unsigned i = 0; i <= DEPTH; i++) {
        ops[i] = (struct disk_io_op){
            .kind = DISK_IO_WRITE, .offset = i * PAGE, .bytes = PAGE, .data = p.page, .done = on_done
        };
        assert_int_equal(disk_io_submit(p.io, &ops[i]), i < DEPTH ? ST_OK : ST_AGAIN);
    }
    disk_io_cancel(p.io, &ops[DEPTH - 1]); /* in time or not, it is done once */
    for (unsigned i = 0; i < 100 && n_done < DEPTH; i++)
        (void)disk_io_wait(p.io, WAIT);
    assert_int_equal(n_done, DEPTH);
    assert_int_equal(p.io->in_flight, 0);
    assert_int_equal(disk_io_submit(p.io, &ops[0]), ST_OK);
    place_free(&p); /* waits for it */
    assert_int_equal(n_done, DEPTH + 1);
}

static void one_process_has_the_file(void **state)
{
    struct place p;
    struct disk_io *other;
    struct error err;
    place_init(&p, no_uring(state));
    const struct disk_io_options o = { .path = p.path, .depth = 1, .no_uring = no_uring(state) };
    assert_int_equal(disk_io_open(&o, &other, &err), ST_CLOSED);
    assert_non_null(strstr(err.text, "another process"));
    assert_true(disk_io_close(&p.io, WAIT));
    place_open(&p, no_uring(state), true); /* and it is free again */
    assert_false(p.io->direct);
    place_free(&p);
}

static void a_file_that_is_gone_is_noticed(void **state)
{
    struct place p;
    place_init(&p, no_uring(state));
    assert_int_equal(p.io->methods->probe(p.io), 0);
    assert_int_equal(unlink(p.path), 0);
    assert_int_equal(p.io->methods->probe(p.io), -ENOENT);
    FILE *f = fopen(p.path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(p.io->methods->probe(p.io), -ESTALE);
    place_free(&p);
}

static void a_folder_that_is_missing_is_named(void **state)
{
    struct disk_io *io;
    struct error err;
    const struct disk_io_options o = { .path = "/nowhere/at/all", .depth = 1, .no_uring = no_uring(state) };
    assert_int_equal(disk_io_open(&o, &io, &err), ST_IO);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

int main(void)
{
    static int threads = 1;
#define BOTH(test)                                                                                                     \
    cmocka_unit_test(test),                                                                                            \
    {                                                                                                                  \
#test " by threads", test, NULL, NULL, &threads                                                                \
    }
    const struct CMUnitTest tests[] = {
        BOTH(what_is_written_is_read),
        BOTH(the_end_of_the_file_is_a_short_read),
        BOTH(errors_come_as_numbers),
        BOTH(as_many_as_the_depth_are_taken),
        BOTH(one_process_has_the_file),
        BOTH(a_file_that_is_gone_is_noticed),
        BOTH(a_folder_that_is_missing_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
