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
#include <sys/stat.h>
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

/* The cache folder's file of a model holds just this. */
static void put(const struct known_model *model, const char *text)
{
    char folder[256];
    assert_int_equal(model_cache_folder(folder, sizeof folder, &err), ST_OK);
    assert_int_equal(make_folders(folder, 0755, &err), ST_OK);
    assert_int_equal(known_model_path(model, out, sizeof out, &err), ST_OK);
    FILE *file = fopen(out, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void a_damaged_file_does_not_count(void **state)
{
    (void)state;
    const struct known_model *model = known_model_find("smollm2");
    put(model, "too short");
    assert_true(known_model_is_present(model));
    assert_int_equal(known_model_condition(model), MODEL_DAMAGED);
    assert_int_equal(truncate(out, (off_t)model->bytes), 0); /* sparse */
    assert_int_equal(known_model_condition(model), MODEL_DAMAGED);
    assert_int_equal(model_store_resolve("smollm2", out, sizeof out, &known, &err), ST_NOT_FOUND);
    assert_non_null(strstr(err.text, "damaged"));
    assert_non_null(strstr(err.text, "baton model fetch smollm2"));
    unlink(out);
}

/* A model of three bytes. */
static const struct known_model abc = {
    .name = "abc",
    .file = "abc.gguf",
    .sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    .bytes = 3,
};

static void an_unchanged_file_is_read_once(void **state)
{
    (void)state;
    struct stat before;
    put(&abc, "abc");
    assert_int_equal(known_model_condition(&abc), MODEL_WHOLE);
    /* Another byte under the same time of change: only reading it again tells. */
    assert_int_equal(stat(out, &before), 0);
    put(&abc, "abd");
    assert_int_equal(utimensat(AT_FDCWD, out, (struct timespec[]){ before.st_atim, before.st_mtim }, 0), 0);
    assert_int_equal(known_model_condition(&abc), MODEL_WHOLE);
    assert_int_equal(known_model_check(&abc), MODEL_DAMAGED);
    assert_int_equal(known_model_condition(&abc), MODEL_DAMAGED); /* this is remembered too */
    put(&abc, "abc");
    before.st_mtim.tv_sec++;
    assert_int_equal(utimensat(AT_FDCWD, out, (struct timespec[]){ before.st_atim, before.st_mtim }, 0), 0);
    assert_int_equal(known_model_condition(&abc), MODEL_WHOLE);
    unlink(out);
    assert_int_equal(known_model_condition(&abc), MODEL_ABSENT);
}

static void what_is_remembered_must_be_whole(void **state)
{
    (void)state;
    char note[600];
    put(&abc, "abd");
    snprintf(note, sizeof note, "%s.checked", out);
    assert_int_equal(known_model_condition(&abc), MODEL_DAMAGED);
    struct stat info;
    assert_int_equal(stat(note, &info), 0);
    assert_int_equal(stat(out, &info), 0);
    /* The right sum for the right stamp, but the line is cut. */
    FILE *file = fopen(note, "w");
    assert_non_null(file);
    fprintf(file, "3 %lld.%09ld %s", (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec, abc.sha256);
    fclose(file);
    assert_int_equal(known_model_condition(&abc), MODEL_DAMAGED);
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
        cmocka_unit_test(a_damaged_file_does_not_count),
        cmocka_unit_test(an_unchanged_file_is_read_once),
        cmocka_unit_test(what_is_remembered_must_be_whole),
        cmocka_unit_test(names_are_unique_and_complete),
    };
    return cmocka_run_group_tests(tests, make, sweep);
}
