/* The disk tier's index against a naive one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kvbm/disk_index.h"

#define RECORDS  40u
#define SALTS    3u
#define KEYS     60u
#define SEGMENTS 4u

static uint64_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

static struct disk_record record_of(uint32_t key)
{
    /* Keys share their low halves, and their formats, in turns. */
    return (struct disk_record){ .hash = { key % 7, key },
                                 .format = key % 3,
                                 .salt = 100 + key % 4,
                                 .extent_bytes = 4096 * (1 + key % 5),
                                 .state = key % 2 ? DISK_RECORD_PENDING : DISK_RECORD_LIVE };
}

struct naive {
    bool found[KEYS];
    uint32_t segment[KEYS], n_dead[SEGMENTS];
    int live; /* as told */
};

static uint32_t naive_records(const struct naive *n)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        sum += n->found[i];
    for (uint32_t i = 0; i < SEGMENTS; i++)
        sum += n->n_dead[i];
    return sum;
}

static uint64_t naive_salt(const struct naive *n, uint64_t salt)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        if (n->found[i] && record_of(i).salt == salt)
            bytes += record_of(i).extent_bytes;
    return bytes;
}

static bool salt_has_place(const struct naive *n, uint64_t salt)
{
    uint32_t used = 0;
    for (uint64_t s = 100; s < 104; s++)
        used += naive_salt(n, s) > 0;
    return naive_salt(n, salt) > 0 || used < SALTS;
}

static bool is_dead(const struct disk_record *r, const void *arg)
{
    (void)arg;
    return r->state == DISK_RECORD_DEAD;
}

static void step(struct disk_index *index, struct disk_record_list *lists, struct naive *n)
{
    uint32_t key = draw(KEYS), segment = draw(SEGMENTS), what = draw(20);
    struct disk_record r = record_of(key);
    disk_record_id id = disk_index_find(index, r.hash, r.format);
    assert_int_equal(id != DISK_NO_RECORD, n->found[key]);
    if (what == 0) {
        disk_index_forget(index, &lists[segment], NULL, NULL);
        for (uint32_t i = 0; i < KEYS; i++)
            n->found[i] = n->found[i] && n->segment[i] != segment;
        n->n_dead[segment] = 0;
    } else if (what == 1) {
        disk_index_forget(index, &lists[segment], is_dead, NULL);
        n->n_dead[segment] = 0;
    } else if (n->found[key] && what < 10) {
        disk_index_kill(index, id);
        n->found[key] = false;
        n->n_dead[n->segment[key]]++;
    } else if (!n->found[key]) {
        bool room = naive_records(n) < RECORDS && salt_has_place(n, r.salt);
        assert_int_equal(disk_index_add(index, &lists[segment], &r, &id), room ? ST_OK : ST_LIMIT);
        n->found[key] = room;
        n->segment[key] = segment;
    }
}

static void check(struct disk_index *index, const struct disk_record_list *lists, const struct naive *n)
{
    uint64_t bytes = 0;
    uint32_t blocks = 0, records = 0;
    for (uint64_t salt = 100; salt < 104; salt++) {
        assert_true(disk_index_salt_bytes(index, salt) == naive_salt(n, salt));
        bytes += naive_salt(n, salt);
    }
    for (uint32_t i = 0; i < KEYS; i++)
        blocks += n->found[i];
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        uint32_t length = 0;
        for (disk_record_id id = lists[i].first; id != DISK_NO_RECORD; id = disk_index_at(index, id)->next)
            length++;
        assert_int_equal(length, lists[i].n);
        records += length;
    }
    assert_int_equal(records, naive_records(n));
    assert_true(disk_index_bytes(index) == bytes);
    assert_int_equal(disk_index_blocks(index), blocks);
}

/* Who watches knows how many are LIVE. */
static void on_changed(void *ctx, const struct disk_record *record, bool live)
{
    struct naive *n = ctx;
    assert_int_equal(record->state, live ? DISK_RECORD_LIVE : DISK_RECORD_DEAD);
    n->live += live ? 1 : -1;
}

static int naive_live(const struct naive *n)
{
    int sum = 0;
    for (uint32_t i = 0; i < KEYS; i++)
        sum += n->found[i] && record_of(i).state == DISK_RECORD_LIVE;
    return sum;
}

static void it_is_what_a_naive_one_is(void **state)
{
    (void)state;
    struct disk_index *index;
    struct disk_record_list lists[SEGMENTS];
    struct naive n = { 0 };
    assert_int_equal(disk_index_create(RECORDS, SALTS, &index), ST_OK);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        disk_record_list_init(&lists[i]);
    disk_index_watch(index, on_changed, &n);
    for (int i = 0; i < 20000; i++) {
        step(index, lists, &n);
        check(index, lists, &n);
        assert_int_equal(n.live, naive_live(&n));
    }
    disk_index_destroy(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(it_is_what_a_naive_one_is) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
