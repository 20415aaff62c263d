#include "transfer/connections.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* 0: not a socket of TCP. */
static uint16_t local_port(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = { .any = { .sa_family = AF_UNSPEC } };
    int type = 0;
    socklen_t len = sizeof address, type_len = sizeof type;
    if (getsockname(fd, &address.any, &len) || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) ||
        type != SOCK_STREAM)
        return 0;
    if (address.any.sa_family == AF_INET)
        return ntohs(address.v4.sin_port);
    return address.any.sa_family == AF_INET6 ? ntohs(address.v6.sin6_port) : 0;
}

static bool listens(int fd)
{
    int yes = 0;
    socklen_t len = sizeof yes;
    return !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) && yes;
}

static bool has_port(const struct ports *ports, uint16_t port)
{
    for (uint32_t i = 0; i < ports->n; i++)
        if (ports->of[i] == port)
            return true;
    return false;
}

static void each_descriptor(void (*look)(void *arg, int fd), void *arg)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.')
            look(arg, atoi(entry->d_name));
    (void)closedir(dir);
}

static void note_port(void *arg, int fd)
{
    struct ports *ports = arg;
    uint16_t port = local_port(fd);
    if (port && ports->n < CONNECTIONS_MAX_PORTS && listens(fd) && !has_port(ports, port))
        ports->of[ports->n++] = port;
}

void ports_listening(struct ports *out)
{
    out->n = 0;
    each_descriptor(note_port, out);
}

void ports_subtract(struct ports *all, const struct ports *known)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < all->n; i++)
        if (!has_port(known, all->of[i]))
            all->of[n++] = all->of[i];
    all->n = n;
}

struct look {
    const struct ports *ports;
    size_t result_bytes;
    uint32_t without, cut;
    uint32_t allowed; /* of those without a result; counting them: all */
    bool cutting;
};

static void look_at(void *arg, int fd)
{
    struct look *look = arg;
    uint16_t port = local_port(fd);
    struct tcp_info info;
    socklen_t len = sizeof info;
    memset(&info, 0, sizeof info);
    if (!port || !has_port(look->ports, port) || listens(fd) || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) ||
        info.tcpi_bytes_acked >= look->result_bytes)
        return;
    look->without++;
    if (!look->cutting || (info.tcpi_last_data_recv < CONNECTIONS_QUIET_US / 1000 && look->without <= CONNECTIONS_MOST))
        return;
    /* The others are young; of the silent ones as many may stay as are allowed. */
    if (look->without > look->allowed && !shutdown(fd, SHUT_RDWR))
        look->cut++;
}

uint32_t connections_bound(const struct ports *ports, size_t result_bytes)
{
    struct look look = { .ports = ports, .result_bytes = result_bytes };
    if (ports->n)
        each_descriptor(look_at, &look);
    if (look.without <= CONNECTIONS_IDLE)
        return 0;
    look = (struct look){ .ports = ports, .result_bytes = result_bytes, .allowed = CONNECTIONS_IDLE, .cutting = true };
    each_descriptor(look_at, &look);
    return look.cut;
}
