#include "cli/state_dir.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LONGEST_FILE 256 /* bytes of a name inside the folder */

_Static_assert(STATE_PATH_MAX_BYTES >= STATE_DIR_MAX_BYTES + LONGEST_FILE, "a path inside fits");

status make_folders(const char *path, unsigned mode, struct error *err)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len >= sizeof part)
        return error_set(err, ST_LIMIT, "%.80s...: the path is too long", path);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i])
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, mode) != 0 && errno != EEXIST)
            return error_set(err, ST_IO, "cannot create the folder %s: %s", part, strerror(errno));
    }
    return ST_OK;
}

static bool is_plain_name(const char *name)
{
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return false;
    return name[0] && name[0] != '.';
}

static int write_default(const char *name, char *out, size_t size)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && state[0] == '/')
        return snprintf(out, size, "%s/baton/%s", state, name);
    return snprintf(out, size, "%s/.local/state/baton/%s", home && home[0] ? home : "/tmp", name);
}

static int write_absolute(const char *dir, char *out, size_t size)
{
    char here[PATH_MAX];
    if (dir[0] == '/')
        return snprintf(out, size, "%s", dir);
    return snprintf(out, size, "%s/%s", getcwd(here, sizeof here) ? here : "", dir);
}

static void name_cluster(struct state_dir *dir)
{
    const char *last = strrchr(dir->path, '/');
    size_t n = 0;
    for (const char *p = last ? last + 1 : dir->path; *p && n < sizeof dir->cluster - 1; p++)
        dir->cluster[n++] = isalnum((unsigned char)*p) || strchr("._-", *p) ? *p : '_';
    dir->cluster[n] = '\0';
    if (n == 0)
        snprintf(dir->cluster, sizeof dir->cluster, "default");
}

status state_dir_resolve(const char *dir, const char *name, struct state_dir *out, struct error *err)
{
    if (name && strlen(name) >= sizeof out->cluster)
        return error_set(err, ST_INVALID, "--name is longer than %zu letters", sizeof out->cluster - 1);
    if (name && !is_plain_name(name))
        return error_set(err, ST_INVALID, "--name: \"%.60s\" is not allowed; it takes letters, digits and . _ -", name);
    if (dir && !dir[0])
        return error_set(err, ST_INVALID, "--state-dir is empty");
    int n = dir ? write_absolute(dir, out->path, sizeof out->path)
                : write_default(name ? name : "default", out->path, sizeof out->path);
    if (n < 0 || (size_t)n >= sizeof out->path)
        return error_set(err, ST_LIMIT, "the state folder's path is longer than %zu bytes", sizeof out->path - 1);
    while (n > 1 && out->path[n - 1] == '/')
        out->path[--n] = '\0';
    if (name)
        snprintf(out->cluster, sizeof out->cluster, "%s", name);
    else
        name_cluster(out);
    return ST_OK;
}

const char *state_dir_path(const struct state_dir *dir, const char *file, char buf[STATE_PATH_MAX_BYTES])
{
    ASSERT(strlen(file) < LONGEST_FILE);
    snprintf(buf, STATE_PATH_MAX_BYTES, "%s/%s", dir->path, file);
    return buf;
}

status state_dir_create(const struct state_dir *dir, struct error *err)
{
    char path[STATE_PATH_MAX_BYTES];
    return make_folders(state_dir_path(dir, "logs", path), 0700, err);
}

status state_dir_lock(const struct state_dir *dir, int *fd, struct error *err)
{
    char path[STATE_PATH_MAX_BYTES];
    int lock = open(state_dir_path(dir, "lock", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0)
        return error_set(err, errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s: %s", path, strerror(errno));
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
        status st = errno == EWOULDBLOCK ? ST_AGAIN : ST_IO;
        error_set(err, st, "%s: %s", path, strerror(errno));
        close(lock);
        return st;
    }
    *fd = lock;
    return ST_OK;
}

static bool write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        text += n;
        len -= (size_t)n;
    }
    return true;
}

status state_dir_write(const struct state_dir *dir, const char *file, const void *text, size_t len, struct error *err)
{
    char path[STATE_PATH_MAX_BYTES], fresh[STATE_PATH_MAX_BYTES + 8];
    snprintf(fresh, sizeof fresh, "%s.new", state_dir_path(dir, file, path));
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(err, ST_IO, "%s: %s", fresh, strerror(errno));
    bool written = write_all(fd, text, len);
    if (close(fd) != 0 || !written || rename(fresh, path) != 0) {
        error_set(err, ST_IO, "cannot write %s: %s", path, strerror(errno));
        unlink(fresh);
        return ST_IO;
    }
    return ST_OK;
}
