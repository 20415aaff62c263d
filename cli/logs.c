/* baton logs - what the processes of a cluster wrote. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/log_file.h"
#include "cli/place.h"

#define MAX_FOLLOWED     256
#define POLL_MS          200
#define OUTPUT_MAX_BYTES (2 * LOG_TAIL_MAX_BYTES)

struct followed {
    char id[48];
    char path[STATE_PATH_MAX_BYTES];
    uint64_t offset;
};

struct follower {
    struct followed files[MAX_FOLLOWED];
    size_t n;
    const char *wanted;  /* borrowed; NULL: all */
    const char *last_id; /* whose line was printed last */
};

/* "decode" means decode-0, decode-1 ...; "decode-1" that one. */
static bool is_wanted(const char *id, const char *wanted)
{
    size_t len = wanted ? strlen(wanted) : 0;
    if (!wanted || !strcmp(id, wanted))
        return true;
    return !strncmp(id, wanted, len) && id[len] == '-' && id[len + 1] &&
           strspn(id + len + 1, "0123456789") == strlen(id + len + 1);
}

static bool is_known(const struct follower *f, const char *id)
{
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->files[i].id, id))
            return true;
    return false;
}

static int by_id(const void *a, const void *b)
{
    return strverscmp(((const struct followed *)a)->id, ((const struct followed *)b)->id);
}

/* Adds the wanted files that are not there yet; new ones are read from their start. */
static void find_files(struct follower *f, const struct state_dir *dir)
{
    char path[STATE_PATH_MAX_BYTES];
    struct dirent *entry;
    DIR *folder = opendir(state_dir_path(dir, "logs", path));
    while (folder && (entry = readdir(folder)) && f->n < MAX_FOLLOWED) {
        char id[48];
        size_t len = strlen(entry->d_name);
        if (len <= 4 || len - 4 >= sizeof id || strcmp(entry->d_name + len - 4, ".log") != 0)
            continue;
        snprintf(id, sizeof id, "%.*s", (int)(len - 4), entry->d_name);
        if (!is_wanted(id, f->wanted) || is_known(f, id))
            continue;
        struct followed *file = &f->files[f->n++];
        *file = (struct followed){ .offset = 0 };
        memcpy(file->id, id, strlen(id) + 1);
        char relative[64];
        snprintf(relative, sizeof relative, "logs/%s.log", id);
        state_dir_path(dir, relative, file->path);
    }
    if (folder)
        closedir(folder);
}

static void print_text(struct follower *f, const struct followed *file, const char *text, size_t len)
{
    if (len == 0)
        return;
    if (f->n > 1 && (!f->last_id || strcmp(f->last_id, file->id) != 0))
        printf("==> %s <==\n", file->id);
    f->last_id = file->id;
    fwrite(text, 1, len, stdout);
}

static void print_tails(struct follower *f, size_t n_lines)
{
    for (size_t i = 0; i < f->n; i++) {
        struct text_buffer text;
        text_buffer_init(&text, OUTPUT_MAX_BYTES + 2);
        if (log_file_tail(f->files[i].path, n_lines, &text, &f->files[i].offset) == ST_OK)
            print_text(f, &f->files[i], text_buffer_text(&text), text.len);
        text_buffer_free(&text);
    }
    fflush(stdout);
}

/* Whole lines that came since; a file that became shorter was cut and is read from its start. */
static void print_news(struct follower *f, struct followed *file)
{
    static char buf[65536];
    struct stat info;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (fstat(fd, &info) == 0 && (uint64_t)info.st_size < file->offset)
        file->offset = 0;
    for (;;) {
        ssize_t n = pread(fd, buf, sizeof buf, (off_t)file->offset);
        const char *last = n > 0 ? memrchr(buf, '\n', (size_t)n) : NULL;
        size_t len = last ? (size_t)(last - buf) + 1 : n == (ssize_t)sizeof buf ? sizeof buf : 0;
        if (len == 0)
            break;
        print_text(f, file, buf, len);
        file->offset += len;
    }
    close(fd);
}

static void follow(struct follower *f, const struct state_dir *dir)
{
    while (!ferror(stdout)) {
        sleep_ms(POLL_MS);
        find_files(f, dir);
        for (size_t i = 0; i < f->n; i++)
            print_news(f, &f->files[i]);
        fflush(stdout);
    }
}

static int run(const struct command *self, int argc, char **argv)
{
    static struct follower follower; /* large */
    struct place place = { NULL, NULL };
    struct state_dir dir;
    struct arguments arguments;
    struct error err;
    bool following = false;
    int64_t n_lines = 50;
    int code;
    const struct option_row rows[] = {
        { "follow", 'f', OPTION_FLAG, &following, "", "Go on with what comes, until Ctrl-C", 0, 0 },
        { "lines", 'n', OPTION_INT, &n_lines, "N", "Last lines of each process to begin with (50)", 0, 1000000 },
        PLACE_ROWS(&place),
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n > 1)
        return command_misuse(self, "it takes one role or one id");
    if (place_find(&place, &dir, &err) != ST_OK)
        return command_misuse(self, "%s", err.text);
    follower.wanted = arguments.n ? arguments.items[0] : NULL;
    find_files(&follower, &dir);
    if (follower.n == 0)
        return command_failed(self, "there is no log%s%s in %s/logs", follower.wanted ? " of " : "",
                              follower.wanted ? follower.wanted : "", dir.path);
    qsort(follower.files, follower.n, sizeof follower.files[0], by_id);
    print_tails(&follower, (size_t)n_lines);
    if (following)
        follow(&follower, &dir);
    return EXIT_DONE;
}

const struct command command_logs = { "logs", "[ROLE|ID]", "Print what processes of the cluster wrote", run };
