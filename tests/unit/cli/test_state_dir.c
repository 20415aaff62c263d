/* The state folder: where it is, its lock, whole files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/state_dir.h"

static char top[] = "/tmp/baton-state-XXXXXX";
static struct error err;

static int make(void **state)
{
    (void)state;
    return mkdtemp(top) ? 0 : -1;
}

static int sweep(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", top);
    return system(command);
}

static void names_and_folders(void **state)
{
    (void)state;
    struct state_dir dir;
    setenv("XDG_STATE_HOME", "/state/home", 1);
    assert_int_equal(state_dir_resolve(NULL, NULL, &dir, &err), ST_OK);
    assert_string_equal(dir.path, "/state/home/baton/default");
    assert_string_equal(dir.cluster, "default");
    assert_int_equal(state_dir_resolve(NULL, "two", &dir, &err), ST_OK);
    assert_string_equal(dir.path, "/state/home/baton/two");
    unsetenv("XDG_STATE_HOME");
    setenv("HOME", "/h", 1);
    assert_int_equal(state_dir_resolve(NULL, NULL, &dir, &err), ST_OK);
    assert_string_equal(dir.path, "/h/.local/state/baton/default");
    assert_int_equal(state_dir_resolve("/a/b c/", NULL, &dir, &err), ST_OK);
    assert_string_equal(dir.path, "/a/b c");
    assert_string_equal(dir.cluster, "b_c");                                /* fit for an etcd key */
    assert_int_equal(state_dir_resolve("/a/b c/", "d", &dir, &err), ST_OK); /* one folder, another name */
    assert_string_equal(dir.path, "/a/b c");
    assert_string_equal(dir.cluster, "d");
    char longest[66] = "";
    memset(longest, 'n', 63);
    assert_int_equal(state_dir_resolve(NULL, longest, &dir, &err), ST_OK);
    assert_string_equal(dir.cluster, longest);
    longest[63] = 'n';
    assert_int_equal(state_dir_resolve(NULL, longest, &dir, &err), ST_INVALID);
    assert_int_equal(state_dir_resolve(NULL, "../etc", &dir, &err), ST_INVALID);
    assert_int_equal(state_dir_resolve(NULL, "..", &dir, &err), ST_INVALID);
    assert_int_equal(state_dir_resolve("", NULL, &dir, &err), ST_INVALID);
}

static void a_path_that_is_too_long_is_refused(void **state)
{
    (void)state;
    struct state_dir dir;
    static char longer[STATE_DIR_MAX_BYTES + 2];
    memset(longer, 'a', sizeof longer - 1);
    longer[0] = '/';
    assert_int_equal(state_dir_resolve(longer, NULL, &dir, &err), ST_LIMIT);
}

static void one_holder_at_a_time(void **state)
{
    (void)state;
    struct state_dir dir;
    char path[128];
    int first, second;
    snprintf(path, sizeof path, "%s/deep/er", top);
    assert_int_equal(state_dir_resolve(path, NULL, &dir, &err), ST_OK);
    assert_int_equal(state_dir_lock(&dir, &first, &err), ST_NOT_FOUND);
    assert_int_equal(state_dir_create(&dir, &err), ST_OK);
    struct stat info;
    assert_int_equal(stat(dir.path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_int_equal(state_dir_lock(&dir, &first, &err), ST_OK);
    assert_int_equal(state_dir_lock(&dir, &second, &err), ST_AGAIN);
    close(first);
    assert_int_equal(state_dir_lock(&dir, &second, &err), ST_OK);
    close(second);
}

static void files_are_replaced_whole(void **state)
{
    (void)state;
    struct state_dir dir;
    char path[STATE_PATH_MAX_BYTES], read_back[32] = "";
    assert_int_equal(state_dir_resolve(top, NULL, &dir, &err), ST_OK);
    assert_int_equal(state_dir_write(&dir, "state.json", "first, and long", 15, &err), ST_OK);
    int reader = open(state_dir_path(&dir, "state.json", path), O_RDONLY);
    assert_int_equal(state_dir_write(&dir, "state.json", "second", 6, &err), ST_OK);
    assert_int_equal(read(reader, read_back, sizeof read_back), 15); /* who has it open keeps the old text */
    close(reader);
    reader = open(path, O_RDONLY);
    memset(read_back, 0, sizeof read_back);
    assert_int_equal(read(reader, read_back, sizeof read_back), 6);
    assert_string_equal(read_back, "second");
    close(reader);
    snprintf(dir.path, sizeof dir.path, "%s/not/there", top);
    assert_int_equal(state_dir_write(&dir, "state.json", "x", 1, &err), ST_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_folders),
        cmocka_unit_test(a_path_that_is_too_long_is_refused),
        cmocka_unit_test(one_holder_at_a_time),
        cmocka_unit_test(files_are_replaced_whole),
    };
    return cmocka_run_group_tests(tests, make, sweep);
}
