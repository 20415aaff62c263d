#include "transfer/mover.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"

/* Commands: of each job a late cancel, the next take and its cancel; of each peer connect and disconnect; stop.
 * Events: of each job done; of each peer ready, lost and gone. */
#define COMMAND_RING 16384u
#define EVENT_RING   8192u
_Static_assert(COMMAND_RING > 3 * TRANSFER_MAX_TAKES + 2 * TRANSFER_MAX_PEERS + 1, "commands never fill their ring");
_Static_assert(EVENT_RING > TRANSFER_MAX_TAKES + 3 * TRANSFER_MAX_PEERS, "events never fill their ring");

#define CLOSE_WAIT_US 1000000u
#define N_LINKS       6

static struct ucx_link *link_at(struct mover *m, int i)
{
    struct ucx_link *const links[N_LINKS] = { &m->same_host,  &m->network, &m->to_same_host,
                                              &m->to_network, &m->rdma,    &m->to_rdma };
    return links[i];
}

static bool watch(struct mover *m, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data = { .fd = fd } };
    return fd < 0 || !epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static status open_all(struct mover *m)
{
    status st = mover_open(m, &m->start_error);
    if (st)
        return st;
    m->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool watched = m->epoll_fd >= 0 && watch(m, m->commands.fd);
    for (int i = 0; i < N_LINKS; i++)
        watched = watched && (!link_at(m, i)->context || watch(m, link_at(m, i)->fd));
    if (watched)
        return ST_OK;
    st = error_set(&m->start_error, ST_IO, "cannot wait for UCX: %s", strerror(errno));
    mover_close(m);
    return st;
}

static void obey(struct mover *m, const struct handoff_item *item)
{
    switch ((enum mover_command)item->kind) {
    case COMMAND_TAKE:
        takes_begin(m, item->what);
        break;
    case COMMAND_CANCEL:
        takes_cancel(m, item->what);
        break;
    case COMMAND_CONNECT:
        borrower_connect(m, item->what);
        break;
    case COMMAND_DISCONNECT:
        borrower_disconnect(m, item->what);
        break;
    case COMMAND_STOP:
        m->stopping = true;
        break;
    }
}

static bool progress(struct mover *m)
{
    bool any = false;
    for (int i = 0; i < N_LINKS; i++)
        if (link_at(m, i)->context)
            any |= ucx_link_progress(link_at(m, i));
    return any;
}

/* True when something was done, so that more may have come of it. */
static bool turn(struct mover *m)
{
    struct handoff_item item;
    bool any = false;
    while (!m->stopping && handoff_pop(&m->commands, &item)) {
        obey(m, &item);
        any = true;
    }
    any |= progress(m);
    any |= lender_work(m);
    any |= borrower_work(m);
    uint64_t now = clock_now_us();
    if (timers_next(&m->timers) <= now) {
        timers_run(&m->timers, now);
        any = true;
    }
    handoff_wake(&m->events);
    return any;
}

static bool links_are_idle(struct mover *m)
{
    for (int i = 0; i < N_LINKS; i++)
        if (link_at(m, i)->context && !ucx_link_arm(link_at(m, i)))
            return false;
    return true;
}

static int milliseconds_to(uint64_t due_us)
{
    if (due_us == TIMERS_NEVER)
        return -1;
    uint64_t now = clock_now_us();
    uint64_t ms = due_us > now ? (due_us - now + 999) / 1000 : 0;
    return ms < 1000 ? (int)ms : 1000;
}

static void sleep_until_something(struct mover *m)
{
    struct epoll_event events[4];
    if (!links_are_idle(m) || !handoff_may_sleep(&m->commands))
        return;
    int n = epoll_wait(m->epoll_fd, events, 4, milliseconds_to(timers_next(&m->timers)));
    ASSERT(n >= 0 || errno == EINTR);
    handoff_woken(&m->commands);
}

static void wait_for(sem_t *sem)
{
    while (sem_wait(sem)) {
    }
}

/* Endpoints whose close is under way. */
static uint32_t closing(struct mover *m)
{
    uint32_t n = 0;
    for (int i = 0; i < N_LINKS; i++)
        n += link_at(m, i)->closing;
    return n;
}

static void shut(struct mover *m)
{
    for (uint32_t i = 0; i < TRANSFER_MAX_PEERS; i++)
        if (m->peers[i])
            borrower_disconnect(m, m->peers[i]);
    takes_end_all(m, &m->own_jobs, ST_CLOSED);
    lender_close_all(m);
    uint64_t until = clock_now_us() + CLOSE_WAIT_US;
    while (closing(m) && clock_now_us() < until)
        (void)progress(m);
    sem_post(&m->ended);
    wait_for(&m->may_close);
    mover_close(m);
    close(m->epoll_fd);
    timers_free(&m->timers);
}

static void *run(void *arg)
{
    struct mover *m = arg;
    timers_init(&m->timers);
    TAILQ_INIT(&m->own_jobs);
    LIST_INIT(&m->left_readers);
    m->start_st = open_all(m);
    bool opened = m->start_st == ST_OK;
    sem_post(&m->started);
    if (!opened)
        return NULL;
    lender_bound_connections(m);
    while (!m->stopping)
        if (!turn(m) && !m->busy_poll)
            sleep_until_something(m);
    shut(m);
    return NULL;
}

static void free_rings(struct mover *m)
{
    handoff_free(&m->commands);
    handoff_free(&m->events);
    sem_destroy(&m->started);
    sem_destroy(&m->ended);
    sem_destroy(&m->may_close);
}

status mover_start(struct mover *m, struct error *err)
{
    sem_init(&m->started, 0, 0);
    sem_init(&m->ended, 0, 0);
    sem_init(&m->may_close, 0, 0);
    if (handoff_init(&m->commands, COMMAND_RING) || handoff_init(&m->events, EVENT_RING)) {
        free_rings(m);
        return error_set(err, ST_NO_MEMORY, "no memory for the transfer thread");
    }
    int rc = pthread_create(&m->thread, NULL, run, m);
    if (rc) {
        free_rings(m);
        return error_set(err, ST_IO, "cannot start the transfer thread: %s", strerror(rc));
    }
    wait_for(&m->started);
    if (m->start_st == ST_OK)
        return ST_OK;
    pthread_join(m->thread, NULL);
    free_rings(m);
    return error_set(err, m->start_st, "%s", m->start_error.text);
}

void mover_stop(struct mover *m)
{
    handoff_push(&m->commands, COMMAND_STOP, NULL);
    wait_for(&m->ended);
}

void mover_end(struct mover *m)
{
    sem_post(&m->may_close);
    pthread_join(m->thread, NULL);
    free_rings(m);
}
