/* Operations on a few threads, where io_uring is not permitted. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "kvbm/disk_io_file.h"

#define DISK_IO_THREADS 4

struct op_list {
    struct disk_io_op *head, **tail;
};

struct disk_io_threads {
    struct disk_io_file file;
    pthread_t threads[DISK_IO_THREADS];
    unsigned n_threads;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;
    struct op_list waiting, ended;
    unsigned running;
    bool stopping;
};

static void list_init(struct op_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void list_put(struct op_list *list, struct disk_io_op *op)
{
    op->next = NULL;
    *list->tail = op;
    list->tail = &op->next;
}

static struct disk_io_op *list_get(struct op_list *list)
{
    struct disk_io_op *op = list->head;
    list->head = op->next;
    if (!list->head)
        list->tail = &list->head;
    return op;
}

static bool list_remove(struct op_list *list, struct disk_io_op *op)
{
    for (struct disk_io_op **at = &list->head; *at; at = &(*at)->next) {
        if (*at != op)
            continue;
        *at = op->next;
        if (!op->next)
            list->tail = at;
        return true;
    }
    return false;
}

static void tell(struct disk_io_threads *t)
{
    const uint64_t one = 1;
    while (write(t->file.base.event_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
}

static void *thread_main(void *arg)
{
    struct disk_io_threads *t = arg;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (!t->waiting.head && !t->stopping)
            pthread_cond_wait(&t->work, &t->lock);
        if (t->stopping)
            break;
        struct disk_io_op *op = list_get(&t->waiting);
        t->running++;
        pthread_mutex_unlock(&t->lock);
        int64_t result = disk_io_file_work(t->file.fd, op);
        pthread_mutex_lock(&t->lock);
        t->running--;
        op->result = result;
        list_put(&t->ended, op);
        tell(t);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static status threads_submit(struct disk_io *io, struct disk_io_op *op)
{
    struct disk_io_threads *t = (struct disk_io_threads *)io;
    if (io->in_flight >= t->file.depth)
        return ST_AGAIN;
    pthread_mutex_lock(&t->lock);
    list_put(&t->waiting, op);
    pthread_cond_signal(&t->work);
    pthread_mutex_unlock(&t->lock);
    return ST_OK;
}

static void threads_cancel(struct disk_io *io, struct disk_io_op *op)
{
    struct disk_io_threads *t = (struct disk_io_threads *)io;
    pthread_mutex_lock(&t->lock);
    if (list_remove(&t->waiting, op)) {
        op->result = -ECANCELED;
        list_put(&t->ended, op);
        tell(t);
    }
    pthread_mutex_unlock(&t->lock);
}

static unsigned threads_reap(struct disk_io *io)
{
    struct disk_io_threads *t = (struct disk_io_threads *)io;
    pthread_mutex_lock(&t->lock);
    struct disk_io_op *op = t->ended.head;
    list_init(&t->ended);
    pthread_mutex_unlock(&t->lock);
    unsigned n = 0;
    for (struct disk_io_op *next; op; op = next, n++) {
        next = op->next;
        disk_io_finish(io, op, op->result);
    }
    return n;
}

/* True: every thread has ended. A thread in a call that does not return cannot be waited for. */
static bool stop_threads(struct disk_io_threads *t)
{
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    bool stuck = t->running > 0;
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
    for (unsigned i = 0; i < t->n_threads; i++) {
        if (stuck)
            pthread_detach(t->threads[i]);
        else
            pthread_join(t->threads[i], NULL);
    }
    return !stuck;
}

static void threads_destroy(struct disk_io *io)
{
    struct disk_io_threads *t = (struct disk_io_threads *)io;
    if (!stop_threads(t))
        return;
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    disk_io_file_close(&t->file);
    free(t);
}

static const struct disk_io_methods methods = {
    .name = "threads",
    .submit = threads_submit,
    .cancel = threads_cancel,
    .reap = threads_reap,
    .probe = disk_io_file_probe,
    .destroy = threads_destroy,
};

status disk_io_threads_create(const struct disk_io_file *file, struct disk_io **out, struct error *err)
{
    struct disk_io_threads *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, ST_NO_MEMORY, "%s: out of memory", file->path);
    t->file = *file;
    t->file.base.methods = &methods;
    list_init(&t->waiting);
    list_init(&t->ended);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    for (; t->n_threads < DISK_IO_THREADS; t->n_threads++) {
        if (pthread_create(&t->threads[t->n_threads], NULL, thread_main, t) == 0)
            continue;
        (void)stop_threads(t);
        pthread_cond_destroy(&t->work);
        pthread_mutex_destroy(&t->lock);
        free(t);
        return error_set(err, ST_NO_MEMORY, "%s: no thread for the disk", file->path);
    }
    *out = &t->file.base;
    return ST_OK;
}
