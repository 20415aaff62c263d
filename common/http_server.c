#include "common/http_server.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/http_connection.h"
#include "common/log.h"

#define LISTEN_BACKLOG   1024
#define KEEPALIVE_IDLE_S 30 /* a peer whose host has gone without a word */

/* "host:port" or "[host]:port" */
static status split_address(const char *text, char host[256], char port[8], struct error *err)
{
    const char *colon = strrchr(text, ':');
    size_t host_len = colon ? (size_t)(colon - text) : 0;
    if (host_len > 2 && text[0] == '[' && text[host_len - 1] == ']') {
        text++;
        host_len -= 2;
    } else if (memchr(text, ':', host_len)) {
        host_len = 0;
    }
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (host_len == 0 || host_len > 255 || digits == 0 || digits > 5 || colon[1 + digits] || atol(colon + 1) > 65535)
        return error_set(err, ST_INVALID, "'%s' is no address to listen on; write HOST:PORT or [HOST]:PORT", text);
    memcpy(host, text, host_len);
    host[host_len] = '\0';
    memcpy(port, colon + 1, digits + 1);
    return ST_OK;
}

/* Accepted sockets inherit what is set on the listening one. What has not been sent is better kept here, where the
 * backlog is bounded, than in a send buffer that grows to megabytes; what is under way may still grow as it must. */
static void set_socket_options(int fd, uint64_t write_timeout_us)
{
    const int one = 1, idle = KEEPALIVE_IDLE_S, unsent = HTTP_UNSENT_BYTES;
    unsigned timeout_ms = write_timeout_us < 3600000000u ? (unsigned)(write_timeout_us / 1000) : 3600000u;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

static int listen_on(const struct addrinfo *a, uint64_t write_timeout_us)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    set_socket_options(fd, write_timeout_us);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, LISTEN_BACKLOG) == 0)
        return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static status open_listener(struct http_server *server, struct error *err)
{
    char host[256], port[8];
    const char *text = server->options.listen;
    status st = split_address(text, host, port, err);
    if (st != ST_OK)
        return st;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *found;
    int failed = getaddrinfo(host, port, &hints, &found);
    if (failed)
        return error_set(err, ST_INVALID, "cannot resolve '%s': %s", host, gai_strerror(failed));
    for (const struct addrinfo *a = found; a && server->listen_fd < 0; a = a->ai_next)
        server->listen_fd = listen_on(a, server->options.write_timeout_us);
    int saved = errno;
    freeaddrinfo(found);
    if (server->listen_fd < 0)
        return error_set(err, ST_IO, "cannot listen on %s: %s", text, strerror(saved));
    struct sockaddr_in6 bound = { 0 };
    socklen_t len = sizeof bound;
    if (getsockname(server->listen_fd, (struct sockaddr *)&bound, &len) < 0)
        return error_set(err, ST_IO, "cannot read the port of %s: %s", text, strerror(errno));
    server->port = ntohs(bound.sin6_port); /* at the same place in sockaddr_in */
    return ST_OK;
}

static void accept_again(void *arg)
{
    struct http_server *server = arg;
    if (server->listener)
        event_add(server->listener, NULL);
}

/* Descriptors or memory have run out: trying on would spin, as the connection stays in the queue. */
static void pause_accepting(struct http_server *server)
{
    if (!server->accept_failed)
        log_warn("cannot accept connections", "port=%u error=\"%s\"", server->port, strerror(errno));
    server->accept_failed = true;
    event_del(server->listener);
    timer_set(server->timers, &server->accept_timer, clock_now_us() + HTTP_ACCEPT_PAUSE_US, accept_again, server);
}

static void admit_connection(struct http_server *server, int fd, const struct sockaddr *peer, socklen_t len)
{
    server->accept_failed = false;
    if (server->stats.open_connections < server->options.max_connections) {
        server->stats.connections++;
        http_connection_open(server, fd, peer, len, false);
        return;
    }
    server->stats.refused++;
    if (server->n_refused < HTTP_MAX_REFUSED)
        http_connection_open(server, fd, peer, len, true);
    else
        close(fd);
}

static void on_accept(evutil_socket_t listener, short what, void *arg)
{
    (void)what;
    struct http_server *server = arg;
    for (int i = 0; i < HTTP_ACCEPTS_PER_TURN; i++) {
        struct sockaddr_in6 peer = { 0 };
        socklen_t len = sizeof peer;
        int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            admit_connection(server, fd, (struct sockaddr *)&peer, len);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            return pause_accepting(server);
        /* Anything else is about that one connection, which is gone from the queue. */
    }
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_server *server = arg;
    struct http_connection *c;
    for (uint32_t n = server->n_waiting; n > 0 && (c = TAILQ_FIRST(&server->waiting)); n--)
        http_connection_run(c);
    if (server->n_waiting)
        event_add(server->resume, &(struct timeval){ 0, 0 });
}

static status add_events(struct http_server *server, struct error *err)
{
    int needed = EV_FEATURE_ET | EV_FEATURE_EARLY_CLOSE;
    if ((event_base_get_features(server->base) & needed) != needed)
        return error_set(err, ST_UNSUPPORTED, "the HTTP server needs epoll, the loop runs on %s",
                         event_base_get_method(server->base));
    server->listener = event_new(server->base, server->listen_fd, EV_READ | EV_PERSIST, on_accept, server);
    server->resume = event_new(server->base, -1, 0, on_resume, server);
    if (!server->listener || !server->resume || event_add(server->listener, NULL) < 0)
        return error_set(err, ST_NO_MEMORY, "no memory for the HTTP server's events");
    return ST_OK;
}

status http_server_create(const struct http_server_options *options, struct http_server **out, struct error *err)
{
    ASSERT(options->handle && options->max_header_bytes > 0 && options->max_connections > 0);
    struct http_server *server = calloc(1, sizeof *server);
    if (!server)
        return error_set(err, ST_NO_MEMORY, "no memory for an HTTP server");
    server->options = *options;
    server->limits = (struct http_limits){ options->max_header_bytes, options->max_body_bytes };
    server->base = loop_base(options->loop);
    server->timers = loop_timers(options->loop);
    server->listen_fd = -1;
    TAILQ_INIT(&server->connections);
    TAILQ_INIT(&server->waiting);
    TAILQ_INIT(&server->doubted);
    status st = open_listener(server, err);
    if (st == ST_OK)
        st = add_events(server, err);
    server->options.listen = NULL;
    if (st != ST_OK)
        http_server_destroy(&server);
    else
        *out = server;
    return st;
}

static void stop_listening(struct http_server *server)
{
    timer_cancel(server->timers, &server->accept_timer);
    if (server->listener)
        event_free(server->listener);
    server->listener = NULL;
    if (server->listen_fd >= 0)
        close(server->listen_fd);
    server->listen_fd = -1;
}

void http_server_destroy(struct http_server **p)
{
    struct http_server *server = *p;
    if (!server)
        return;
    *p = NULL;
    struct http_connection *c;
    stop_listening(server);
    while ((c = TAILQ_FIRST(&server->connections))) {
        ASSERT(!c->running); /* not from inside a callback of the server */
        http_connection_drop(c);
    }
    timer_cancel(server->timers, &server->doubt_timer);
    if (server->resume)
        event_free(server->resume);
    free(server);
}

uint16_t http_server_port(const struct http_server *server)
{
    return server->port;
}

void http_server_stats(const struct http_server *server, struct http_server_stats *out)
{
    *out = server->stats;
}

void http_server_drain(struct http_server *server)
{
    server->draining = true;
    stop_listening(server);
    struct http_connection *c, *next;
    for (c = TAILQ_FIRST(&server->connections); c; c = next) {
        next = TAILQ_NEXT(c, all);
        if (!c->running && c->state == CONNECTION_IDLE && !c->in.len && !c->out.len)
            http_connection_drop(c);
    }
}
