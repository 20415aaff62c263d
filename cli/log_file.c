#include "cli/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool copy_rest(int from, int to)
{
    char buf[65536];
    for (;;) {
        ssize_t n = read(from, buf, sizeof buf);
        if (n <= 0)
            return n == 0;
        for (ssize_t done = 0; done < n;) {
            ssize_t written = write(to, buf + done, (size_t)(n - done));
            if (written < 0)
                return false;
            done += written;
        }
    }
}

static bool rotate(int fd, const char *path)
{
    char old[PATH_MAX], fresh[PATH_MAX];
    if (snprintf(old, sizeof old, "%s.1", path) >= (int)sizeof old ||
        snprintf(fresh, sizeof fresh, "%s.2", path) >= (int)sizeof fresh)
        return false;
    int to = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        return false;
    /* A full disk must not stop the cut. The second copy takes what came during the first. */
    bool copied = copy_rest(fd, to);
    copied = copied && copy_rest(fd, to);
    bool cut = ftruncate(fd, 0) == 0;
    close(to);
    if (!copied || rename(fresh, old) != 0)
        unlink(fresh);
    return cut;
}

bool log_file_bound(const char *path, uint64_t max_bytes)
{
    struct stat info;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool rotated = fstat(fd, &info) == 0 && (uint64_t)info.st_size > max_bytes && rotate(fd, path);
    close(fd);
    return rotated;
}

/* The last bytes of a file that came since it ended there, at most as many as fit. */
static status read_end(const char *path, uint64_t since, struct text_buffer *out, uint64_t *end)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ST_NOT_FOUND : ST_IO;
    if (fstat(fd, &info) != 0) {
        close(fd);
        return ST_IO;
    }
    uint64_t len = (uint64_t)info.st_size >= since ? (uint64_t)info.st_size - since : (uint64_t)info.st_size;
    size_t want = len < LOG_TAIL_MAX_BYTES ? (size_t)len : LOG_TAIL_MAX_BYTES;
    char *room = text_buffer_reserve(out, want);
    ssize_t n = room ? pread(fd, room, want, info.st_size - (off_t)want) : -1;
    close(fd);
    if (n < 0)
        return ST_IO;
    text_buffer_advance(out, (size_t)n);
    *end = (uint64_t)info.st_size;
    return ST_OK;
}

static const char *start_of_tail(const char *text, size_t len, size_t n_lines)
{
    const char *p = text + len;
    if (n_lines == 0)
        return p;
    if (p > text && p[-1] == '\n')
        p--;
    for (; p > text; p--)
        if (p[-1] == '\n' && --n_lines == 0)
            break;
    return p;
}

static void append_tail(struct text_buffer *from, size_t n_lines, struct text_buffer *out)
{
    const char *text = text_buffer_text(from);
    const char *p = start_of_tail(text, from->len, n_lines);
    text_buffer_append(out, p, from->len - (size_t)(p - text));
    if (from->len > 0 && n_lines > 0 && text[from->len - 1] != '\n')
        text_buffer_char(out, '\n');
}

status log_file_tail(const char *path, size_t n_lines, struct text_buffer *out, uint64_t *offset)
{
    char old[PATH_MAX];
    uint64_t end = 0, ignored;
    struct text_buffer both;
    text_buffer_init(&both, 2 * LOG_TAIL_MAX_BYTES + 1);
    if (snprintf(old, sizeof old, "%s.1", path) < (int)sizeof old && read_end(old, 0, &both, &ignored) != ST_OK)
        text_buffer_clear(&both);
    status st = read_end(path, 0, &both, &end);
    if (st == ST_OK)
        append_tail(&both, n_lines, out);
    if (st == ST_OK && offset)
        *offset = end;
    text_buffer_free(&both);
    return st;
}

uint64_t log_file_end(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

status log_file_tail_since(const char *path, uint64_t since, size_t n_lines, struct text_buffer *out)
{
    uint64_t end;
    struct text_buffer text;
    text_buffer_init(&text, LOG_TAIL_MAX_BYTES + 1);
    status st = read_end(path, since, &text, &end);
    if (st == ST_OK)
        append_tail(&text, n_lines, out);
    text_buffer_free(&text);
    return st;
}
