#include "router/decision_log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/text_buffer.h"

#define PATH_BYTES   1280u
#define CLOSE_WAIT_S 2

struct decision_log {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    /* under lock: */
    struct text_buffer waiting;
    struct decision_log_stats stats;
    bool stop;
    /* the thread's: */
    struct text_buffer writing;
    char path[PATH_BYTES];
    uint64_t max_bytes, file_bytes;
    int fd;
    bool failing;
};

/* ---- the thread's ---------------------------------------------------------------------- */

static uint64_t lines_of(const char *data, size_t len)
{
    uint64_t n = 0;
    for (size_t i = 0; i < len; i++)
        n += data[i] == '\n';
    return n;
}

static void say_failed(struct decision_log *log, const char *what, int error)
{
    if (!log->failing)
        log_warn("decisions are not logged", "file=%s %s=\"%s\"", log->path, what, strerror(error));
    log->failing = true;
}

static bool open_file(struct decision_log *log)
{
    struct stat st;
    log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log->fd < 0)
        return false;
    log->file_bytes = fstat(log->fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    return true;
}

static void turn_over(struct decision_log *log)
{
    char old[PATH_BYTES + 2];
    snprintf(old, sizeof old, "%s.1", log->path);
    close(log->fd);
    if (rename(log->path, old) < 0)
        say_failed(log, "rename", errno);
    if (!open_file(log))
        say_failed(log, "open", errno);
}

/* How much of it goes into this file: whole lines, at least one into an empty file. */
static size_t portion(const struct decision_log *log, const char *data, size_t len)
{
    uint64_t room = log->max_bytes > log->file_bytes ? log->max_bytes - log->file_bytes : 0;
    if (len <= room)
        return len;
    for (size_t n = (size_t)room; n > 0; n--)
        if (data[n - 1] == '\n')
            return n;
    const char *end = memchr(data, '\n', len);
    return log->file_bytes > 0 ? 0 : end ? (size_t)(end - data) + 1 : len;
}

/* Returns how much was written. */
static size_t write_some(struct decision_log *log, const char *data, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = write(log->fd, data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            say_failed(log, "write", errno);
            return done;
        }
        done += (size_t)n;
        log->file_bytes += (uint64_t)n;
    }
    log->failing = false;
    return done;
}

static void write_all(struct decision_log *log, struct decision_log_stats *out)
{
    const char *data = log->writing.data;
    size_t len = log->writing.len;
    while (len > 0 && (log->fd >= 0 || open_file(log))) {
        size_t n = portion(log, data, len);
        if (n == 0) {
            turn_over(log);
            continue;
        }
        size_t done = write_some(log, data, n);
        out->bytes += done;
        out->lines += lines_of(data, done);
        data += done;
        len -= done;
        if (done < n)
            break; /* the rest is lost: the disk may be full for hours */
    }
    out->dropped += lines_of(data, len);
}

static void *work(void *arg)
{
    struct decision_log *log = arg;
    pthread_mutex_lock(&log->lock);
    while (!log->stop || log->waiting.len > 0) {
        if (log->waiting.len == 0) {
            pthread_cond_wait(&log->work, &log->lock);
            continue;
        }
        struct text_buffer full = log->waiting;
        struct decision_log_stats more = { 0 };
        log->waiting = log->writing;
        log->writing = full;
        pthread_mutex_unlock(&log->lock);
        write_all(log, &more);
        text_buffer_clear(&log->writing);
        pthread_mutex_lock(&log->lock);
        log->stats.lines += more.lines;
        log->stats.bytes += more.bytes;
        log->stats.dropped += more.dropped;
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

/* ---- the loop's ----------------------------------------------------------------------------- */

static void free_log(struct decision_log *log)
{
    if (log->fd >= 0)
        close(log->fd);
    pthread_cond_destroy(&log->work);
    pthread_mutex_destroy(&log->lock);
    text_buffer_free(&log->waiting);
    text_buffer_free(&log->writing);
    free(log);
}

static bool name_file(struct decision_log *log, const char *path, const char *id)
{
    const char *mark = strstr(path, "{id}");
    int n = mark ? snprintf(log->path, sizeof log->path, "%.*s%s%s", (int)(mark - path), path, id, mark + 4)
                 : snprintf(log->path, sizeof log->path, "%s", path);
    return n > 0 && (size_t)n < sizeof log->path;
}

status decision_log_open(const char *path, const char *id, uint64_t max_bytes, struct decision_log **out,
                         struct error *err)
{
    struct decision_log *log = calloc(1, sizeof *log);
    if (!log)
        return error_set(err, ST_NO_MEMORY, "no memory");
    log->max_bytes = max_bytes;
    log->fd = -1;
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->work, NULL);
    text_buffer_init(&log->waiting, DECISION_LOG_WAITING);
    text_buffer_init(&log->writing, DECISION_LOG_WAITING);
    status st = ST_OK;
    if (!name_file(log, path, id))
        st = error_set(err, ST_INVALID, "the path of the decision log is longer than %u bytes", PATH_BYTES - 1);
    else if (!open_file(log))
        st = error_set(err, ST_INVALID, "the decision log %s cannot be opened: %s", log->path, strerror(errno));
    else if (pthread_create(&log->thread, NULL, work, log) != 0)
        st = error_set(err, ST_NO_MEMORY, "the thread that logs decisions could not be started");
    if (st == ST_OK)
        *out = log;
    else
        free_log(log);
    return st;
}

void decision_log_close(struct decision_log **handle)
{
    struct decision_log *log = *handle;
    struct timespec until;
    if (!log)
        return;
    *handle = NULL;
    pthread_mutex_lock(&log->lock);
    log->stop = true;
    pthread_cond_signal(&log->work);
    pthread_mutex_unlock(&log->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSE_WAIT_S;
    if (pthread_timedjoin_np(log->thread, NULL, &until) == 0)
        free_log(log);
    else
        pthread_detach(log->thread); /* stuck in the disk, with all that is its own */
}

bool decision_log_add(struct decision_log *log, const char *line, size_t len)
{
    pthread_mutex_lock(&log->lock);
    char *room = text_buffer_reserve(&log->waiting, len + 1);
    if (room) {
        memcpy(room, line, len);
        room[len] = '\n';
        text_buffer_advance(&log->waiting, len + 1);
        pthread_cond_signal(&log->work);
    } else {
        log->waiting.state = ST_OK; /* room comes again */
        log->stats.dropped++;
    }
    pthread_mutex_unlock(&log->lock);
    return room != NULL;
}

void decision_log_stats(struct decision_log *log, struct decision_log_stats *out)
{
    pthread_mutex_lock(&log->lock);
    *out = log->stats;
    pthread_mutex_unlock(&log->lock);
}
