#include "worker/weights_systemd.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"
#include "common/unix_socket.h"

#define FIRST_FD     3 /* SD_LISTEN_FDS_START */
#define MAX_FDS      64
#define PREFIX       "baton-weights-"
#define NOTICE_BYTES 256

static int notify_socket(void)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    size_t len = path ? strlen(path) : 0;
    if (len == 0 || len >= sizeof name.sun_path)
        return -1;
    memcpy(name.sun_path, path, len);
    if (name.sun_path[0] == '@')
        name.sun_path[0] = '\0'; /* an abstract name */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&name, bytes) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool notify(const char *verb, const char *key, int fd)
{
    char notice[NOTICE_BYTES];
    int socket = notify_socket();
    if (socket < 0)
        return false;
    int n = snprintf(notice, sizeof notice, "%s=1\nFDNAME=" PREFIX "%s", verb, key);
    status st = unix_socket_send(socket, notice, (size_t)n, fd);
    close(socket);
    return st == ST_OK;
}

/* Number of descriptors that were passed to this process. */
static int passed_fds(void)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!pid || !count || strtol(pid, NULL, 10) != getpid())
        return 0;
    long n = strtol(count, NULL, 10);
    return n > 0 && n <= MAX_FDS ? (int)n : 0;
}

static void forget(const char *key)
{
    if (!notify("FDSTOREREMOVE", key, -1))
        log_warn("unused weights stay in systemd's store", "key=%s", key);
}

/* The passed descriptor of this key, or -1. Other weights, which only an earlier build or another model can have
 * left, are closed and leave the store: a unit serves one model. */
static int claim_passed(const char *key)
{
    const char *names = getenv("LISTEN_FDNAMES");
    int found = -1;
    for (int i = 0, n = passed_fds(); names && i < n; i++) {
        char name[NOTICE_BYTES];
        size_t part = strcspn(names, ":");
        snprintf(name, sizeof name, "%.*s", (int)part, names);
        names = names[part] ? names + part + 1 : NULL;
        if (strncmp(name, PREFIX, strlen(PREFIX)))
            continue;
        if (!strcmp(name + strlen(PREFIX), key)) {
            found = FIRST_FD + i;
            continue;
        }
        close(FIRST_FD + i);
        forget(name + strlen(PREFIX));
    }
    return found;
}

static status take(void *ctx, const char *key, bool refused, int *fd)
{
    (void)ctx;
    if (refused)
        forget(key); /* and its descriptor was closed by the caller */
    int passed = refused ? -1 : claim_passed(key);
    if (passed < 0)
        return ST_NOT_FOUND;
    fcntl(passed, F_SETFD, FD_CLOEXEC);
    *fd = passed;
    return ST_OK;
}

static bool give(void *ctx, const char *key, const struct weight_image *image)
{
    (void)ctx;
    bool kept = notify("FDSTORE", key, image->fd);
    if (!kept)
        log_warn("packed weights are not kept", "holder=systemd key=%s", key);
    return kept;
}

const struct weights_store *weights_systemd_store(void)
{
    static const struct weights_store store = { NULL, take, give };
    const char *path = getenv("NOTIFY_SOCKET");
    return path && path[0] ? &store : NULL;
}
