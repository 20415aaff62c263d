#include "common/unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void unix_socket_name(int dir_fd, const char *file, struct sockaddr_un *name)
{
    *name = (struct sockaddr_un){ .sun_family = AF_UNIX };
    snprintf(name->sun_path, sizeof name->sun_path, "/proc/self/fd/%d/%.64s", dir_fd, file);
}

/* Closes fd and keeps errno. */
static int give_up(int fd)
{
    int reason = errno;
    if (fd >= 0)
        close(fd);
    errno = reason;
    return -1;
}

int unix_socket_connect(const char *folder, const char *file, int type)
{
    struct sockaddr_un name;
    int dir_fd = open(folder, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (dir_fd < 0)
        return -1;
    unix_socket_name(dir_fd, file, &name);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof name) != 0)
        fd = give_up(fd);
    (void)give_up(dir_fd);
    return fd;
}

int unix_socket_bind(int dir_fd, const char *file, int type)
{
    struct sockaddr_un name;
    unix_socket_name(dir_fd, file, &name);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    unlinkat(dir_fd, file, 0);
    return bind(fd, (struct sockaddr *)&name, sizeof name) == 0 ? fd : give_up(fd);
}

static status failure(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? ST_AGAIN : ST_CLOSED;
}

union control_room {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
};

status unix_socket_send(int socket, const void *record, size_t len, int fd)
{
    union control_room room = { { 0 } };
    struct iovec part = { (void *)(uintptr_t)record, len };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    if (fd >= 0) {
        message.msg_control = room.bytes;
        message.msg_controllen = sizeof room.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    ssize_t n = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (n < 0)
        return failure();
    return (size_t)n == len ? ST_OK : ST_CLOSED;
}

status unix_socket_receive(int socket, void *record, size_t len, int *fd)
{
    union control_room room;
    struct iovec part = { record, len };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = room.bytes, .msg_controllen = sizeof room.bytes
    };
    *fd = -1;
    /* What a sender adds beyond one descriptor does not fit, and the kernel closes it. */
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0)
        return failure();
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof *fd))
        memcpy(fd, CMSG_DATA(c), sizeof *fd);
    if (n > 0 && (size_t)n == len && !(message.msg_flags & MSG_TRUNC))
        return ST_OK;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return n == 0 ? ST_CLOSED : ST_CORRUPT;
}
