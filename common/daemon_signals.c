#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/daemon_internal.h"

static volatile sig_atomic_t signals_seen;
static volatile sig_atomic_t signal_fd = -1;

/* Only async-signal-safe calls. The second signal does not depend on the loop, which may be stuck. */
static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    const uint64_t one = 1;
    if (++signals_seen > 1)
        _exit(1);
    if (write(signal_fd, &one, sizeof one) < 0) {
        /* The counter cannot be full at the first signal. */
    }
    errno = saved;
}

static void on_signal_event(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    uint64_t count;
    if (read(fd, &count, sizeof count) == (ssize_t)sizeof count)
        daemon_drain(arg);
}

bool daemon_signal_came(void)
{
    return signals_seen > 0;
}

status daemon_signals_start(struct daemon *d, struct error *err)
{
    struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_RESTART }, ignore = { .sa_handler = SIG_IGN };
    signal_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (signal_fd < 0)
        return error_set(err, ST_IO, "cannot make an eventfd for signals: %s", strerror(errno));
    d->signal_event = event_new(loop_base(d->loop), signal_fd, EV_READ | EV_PERSIST, on_signal_event, d);
    if (!d->signal_event || event_add(d->signal_event, NULL) < 0)
        return error_set(err, ST_NO_MEMORY, "no memory for the signal event");
    sigaction(SIGTERM, &act, NULL);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    return ST_OK;
}

void daemon_signals_stop(struct daemon *d)
{
    struct sigaction plain = { .sa_handler = SIG_DFL };
    sigaction(SIGTERM, &plain, NULL);
    sigaction(SIGINT, &plain, NULL);
    if (d->signal_event)
        event_free(d->signal_event);
    if (signal_fd >= 0)
        close(signal_fd);
    signal_fd = -1;
}
