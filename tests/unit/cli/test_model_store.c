/* Models by name and by path. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/model_store.h"
#include "cli/state_dir.h"

static char top[] = "/tmp/baton-store-XXXXXX", out[512];
static struct error err;
static bool known;

static int make(void **state)
{
    (void)state;
    return mkdtemp(top) ? setenv("XDG_CACHE_HOME", top, 1) : -1;
}

static int sweep(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", top);
    return system(command);
}

static void paths_become_absolute(void **state)
{
    (void)state;
    assert_int_equal(
        model_store_resolve(BATON_SOURCE_DIR "/models/../models/baton-tiny/", out, sizeof out, &known, &err), ST_OK);
    assert_false(known);
    assert_null(strstr(out, ".."));
    assert_int_equal(out[0], '/');
    assert_int_equal(model_store_resolve(BATON_SOURCE_DIR, out, 3, &known, &err), ST_LIMIT);
}

static void a_model_that_was_not_fetched_says_how(void **state)
{
    (void)state;
    assert_false(known_model_is_present(known_model_find("smollm2")));
    assert_int_equal(model_store_resolve("smollm2", out, sizeof out, &known, &err), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "baton model fetch smollm2"));
}

static void a_file_of_another_size_does_not_count(void **state)
{
    (void)state;
    const struct known_model *model = known_model_find("smollm2");
    char folder[256];
    assert_int_equal(model_cache_folder(folder, sizeof folder, &err), ST_OK);
    assert_int_equal(make_folders(folder, 0755, &err), ST_OK);
    assert_int_equal(known_model_path(model, out, sizeof out, &err), ST_OK);
    int fd = open(out, O_RDWR | O_CREAT, 0600);
    assert_false(known_model_is_present(model));
    assert_int_equal(ftruncate(fd, (off_t)model->bytes), 0); /* sparse */
    close(fd);
    assert_true(known_model_is_present(model));
    assert_int_equal(model_store_resolve("smollm2", out, sizeof out, &known, &err), ST_OK);
    assert_true(known);
    unlink(out);
}

static void names_are_unique_and_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_known_models; i++) {
        const struct known_model *m = &known_models[i];
        assert_ptr_equal(known_model_find(m->name), m);
        assert_true(m->folder || (m->package && strstr(m->package, "==") && strlen(m->sha256) == 64 &&
                                  strlen(m->wheel_sha256) == 64 && m->bytes && m->file && m->member));
    }
    assert_null(known_model_find("no-such-model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_become_absolute),
        cmocka_unit_test(a_model_that_was_not_fetched_says_how),
        cmocka_unit_test(a_file_of_another_size_does_not_count),
        cmocka_unit_test(names_are_unique_and_complete),
    };
    return cmocka_run_group_tests(tests, make, sweep);
}
