/* The disk tier on real files: both ways to read and write, folders that are held or go away, and a full disk. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "disk_rig.h"

#define SEGMENT (256u << 10)
#define WAIT_US UINT64_C(20000000) /* what never comes fails the test */

struct place {
    char folder[64], path[96];
    struct disk_tier_options options;
    struct disk_tier *tier;
};

static void place_init(struct place *p, bool no_uring)
{
    strcpy(p->folder, "/tmp/baton-tier-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    (void)snprintf(p->path, sizeof p->path, "%s/%s", p->folder, DISK_TIER_FILE);
    disk_tier_defaults(&p->options);
    p->options.folder = p->folder;
    p->options.segment_bytes = SEGMENT;
    p->options.capacity_bytes = 8 * SEGMENT;
    p->options.max_payload_bytes = 8192;
    p->options.probe_us = 20000;
    p->options.no_uring = no_uring;
    p->tier = NULL;
}

static void place_open(struct place *p)
{
    struct error err;
    status st = disk_tier_create(&p->options, &p->tier, &err);
    if (st != ST_OK)
        fail_msg("%s", err.text);
}

static void place_free(struct place *p)
{
    disk_tier_destroy(&p->tier);
    (void)unlink(p->path);
    (void)rmdir(p->folder);
}

/* As a loop would: sleeps until the descriptor or the time says so. */
static void turn(struct disk_tier *tier)
{
    struct pollfd poll_fd = { .fd = disk_tier_event_fd(tier), .events = POLLIN };
    uint64_t now = clock_now_us(), next = disk_tier_next_us(tier);
    (void)poll(&poll_fd, 1, next > now ? (int)((next - now) / 1000 + 1) : 0);
    disk_tier_run(tier);
}

static status await(struct place *p, const struct rig_end *end)
{
    const uint64_t until = clock_now_us() + WAIT_US;
    while (!end->calls && clock_now_us() < until)
        turn(p->tier);
    assert_int_equal(end->calls, 1);
    return end->st;
}

static enum disk_refusal put_once(struct place *p, uint32_t number, uint64_t salt, status *st)
{
    struct rig_block b;
    struct rig_end end = { 0 };
    const struct disk_call call = { clock_now_us() + WAIT_US, rig_ended, &end };
    rig_block(&b, number, salt);
    enum disk_refusal refusal = disk_tier_put(p->tier, &b.block, b.payload, &call, NULL);
    if (refusal == DISK_TAKEN)
        *st = await(p, &end);
    return refusal;
}

static void store(struct place *p, uint32_t number, uint64_t salt)
{
    const uint64_t until = clock_now_us() + WAIT_US;
    enum disk_refusal refusal;
    status st = ST_IO;
    while ((refusal = put_once(p, number, salt, &st)) != DISK_TAKEN && clock_now_us() < until)
        turn(p->tier);
    assert_int_equal(refusal, DISK_TAKEN);
    assert_int_equal(st, ST_OK);
}

static status get(struct place *p, uint32_t number, uint64_t salt)
{
    struct rig_block b;
    struct rig_end end = { 0 };
    uint8_t got[RIG_PAYLOAD];
    const struct disk_call call = { clock_now_us() + WAIT_US, rig_ended, &end };
    rig_block(&b, number, salt);
    status st = disk_tier_get(p->tier, &b.block, got, &call, NULL);
    if (st != ST_OK)
        return st;
    st = await(p, &end);
    if (st == ST_OK)
        assert_memory_equal(got, b.payload, RIG_PAYLOAD);
    return st;
}

static bool file_holds(const struct place *p, uint64_t salt)
{
    const uint32_t mark = (uint32_t)salt * 0x01010101u;
    uint32_t piece[2];
    bool found = false;
    FILE *f = fopen(p->path, "rb");
    assert_non_null(f);
    while (!found && fread(piece, sizeof piece, 1, f) == 1)
        found = piece[0] == mark;
    fclose(f);
    return found;
}

static void blocks_live_on_a_real_disk(void **state)
{
    struct place p;
    struct rig_end end = { 0 };
    const uint64_t salt = 0x33;
    place_init(&p, *state != NULL);
    for (int life = 0; life < 2; life++) {
        place_open(&p);
        for (uint32_t i = 0; i < 60; i++) { /* three segments */
            if (life == 0)
                store(&p, i, i % 2 ? 0x33 : 0x44);
            assert_int_equal(get(&p, i, i % 2 ? 0x33 : 0x44), ST_OK);
        }
        if (life == 0)
            disk_tier_destroy(&p.tier);
    }
    assert_true(file_holds(&p, 0x33));
    const struct disk_wipe_call call = { &salt, clock_now_us() + WAIT_US, rig_wiped, &end };
    assert_int_equal(disk_tier_wipe(p.tier, &call), ST_OK);
    assert_int_equal(await(&p, &end), ST_OK);
    assert_int_equal(end.bytes, 30 * RIG_EXTENT);
    assert_false(file_holds(&p, 0x33));
    assert_true(file_holds(&p, 0x44));
    place_free(&p);
}

static void a_killed_process_loses_nothing_that_was_written(void **state)
{
    struct place p;
    int ready[2];
    char byte;
    place_init(&p, *state != NULL);
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        place_open(&p);
        for (uint32_t i = 0; i < 30; i++)
            store(&p, i, 5);
        (void)!write(ready[1], "x", 1);
        (void)pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    struct error err;
    assert_int_equal(disk_tier_create(&p.options, &p.tier, &err), ST_CLOSED); /* the child has the folder */
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ready[0]);
    close(ready[1]);
    place_open(&p);
    for (uint32_t i = 0; i < 30; i++)
        assert_int_equal(get(&p, i, 5), ST_OK);
    place_free(&p);
}

static void a_removed_folder_is_lost_and_comes_back_empty(void **state)
{
    struct place p;
    struct disk_metrics m = { 0 };
    place_init(&p, *state != NULL);
    place_open(&p);
    store(&p, 1, 5);
    assert_int_equal(unlink(p.path), 0);
    assert_int_equal(rmdir(p.folder), 0);
    uint64_t until = clock_now_us() + WAIT_US;
    for (; m.health != DISK_IS_LOST && clock_now_us() < until; disk_tier_metrics(p.tier, &m))
        turn(p.tier);
    assert_int_equal(m.health, DISK_IS_LOST);
    assert_int_equal(get(&p, 1, 5), ST_IO);
    assert_int_equal(mkdir(p.folder, 0700), 0);
    until = clock_now_us() + WAIT_US;
    for (; m.health != DISK_IS_HEALTHY && clock_now_us() < until; disk_tier_metrics(p.tier, &m))
        turn(p.tier);
    assert_int_equal(m.health, DISK_IS_HEALTHY);
    assert_int_equal(get(&p, 1, 5), ST_NOT_FOUND);
    store(&p, 2, 5);
    assert_int_equal(get(&p, 2, 5), ST_OK);
    place_free(&p);
}

/* A file system of two MiB, of which something else takes a part. */
static void a_full_file_system_degrades_it_until_there_is_room(void **state)
{
    struct place p;
    char other[96];
    place_init(&p, *state != NULL);
    if (mount("none", p.folder, "tmpfs", 0, "size=2m") != 0) {
        print_message("skipped: mounting a small file system needs root\n");
        place_free(&p);
        skip();
    }
    (void)snprintf(other, sizeof other, "%s/other", p.folder);
    int fd = open(other, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, 1100 << 10), 0);
    place_open(&p);
    struct disk_metrics m = { 0 };
    uint32_t taken = 0;
    uint64_t until = clock_now_us() + WAIT_US;
    for (; !m.errors[DISK_ERROR_NO_SPACE] && clock_now_us() < until; disk_tier_metrics(p.tier, &m)) {
        status st = ST_OK;
        taken += put_once(&p, taken, 5, &st) == DISK_TAKEN && st == ST_OK;
        turn(p.tier);
    }
    assert_in_range(m.errors[DISK_ERROR_NO_SPACE], 1, 1000);
    assert_in_range(taken, 1, 70);
    for (uint32_t i = 0; i < taken; i++)
        assert_int_equal(get(&p, i, 5), ST_OK);
    assert_int_equal(ftruncate(fd, 0), 0); /* room */
    for (uint32_t i = 1000; i < 1030; i++)
        store(&p, i, 5);
    assert_int_equal(get(&p, 1029, 5), ST_OK);
    close(fd);
    disk_tier_destroy(&p.tier);
    assert_int_equal(umount(p.folder), 0);
    place_free(&p);
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
        BOTH(blocks_live_on_a_real_disk),
        BOTH(a_killed_process_loses_nothing_that_was_written),
        BOTH(a_removed_folder_is_lost_and_comes_back_empty),
        BOTH(a_full_file_system_degrades_it_until_there_is_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
