#include "cli/control.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/unix_socket.h"

#define SOCKET_NAME "control.sock"

struct connection {
    TAILQ_ENTRY(connection) link;
    struct control_server *server;
    struct bufferevent *stream;
    bool answered;
};

struct control_server {
    struct evconnlistener *listener;
    control_fn fn;
    void *ctx;
    int dir_fd;
    unsigned n_connections;
    TAILQ_HEAD(, connection) connections;
};

static void connection_close(struct connection *c)
{
    TAILQ_REMOVE(&c->server->connections, c, link);
    c->server->n_connections--;
    bufferevent_free(c->stream);
    free(c);
}

static void answer(struct connection *c, const char *line)
{
    struct error err = { "" };
    struct text_buffer members, reply;
    struct json_writer w;
    json_error_t where;
    json_t *request = json_loads(line, 0, &where);
    text_buffer_init(&members, CONTROL_MAX_REPLY_BYTES);
    text_buffer_init(&reply, CONTROL_MAX_REPLY_BYTES + 16);
    json_writer_init(&w, &members);
    json_write_object(&w);
    json_field_bool(&w, "ok", true);
    status st = request ? c->server->fn(c->server->ctx, request, &w, &err)
                        : error_set(&err, ST_INVALID, "the request is no JSON: %.200s", where.text);
    if (st == ST_OK)
        json_write_end(&w);
    if (st != ST_OK || members.state != ST_OK) {
        text_buffer_clear(&members);
        json_writer_init(&w, &members);
        json_write_object(&w);
        json_field_bool(&w, "ok", false);
        json_field_string(&w, "error", st == ST_OK ? "the answer is too long" : err.text);
        json_write_end(&w);
    }
    text_buffer_append(&reply, text_buffer_text(&members), members.len);
    text_buffer_char(&reply, '\n');
    bufferevent_write(c->stream, text_buffer_text(&reply), reply.len);
    c->answered = true;
    text_buffer_free(&members);
    text_buffer_free(&reply);
    json_decref(request);
}

static void on_read(struct bufferevent *stream, void *arg)
{
    struct connection *c = arg;
    struct evbuffer *in = bufferevent_get_input(stream);
    char *line = c->answered ? NULL : evbuffer_readln(in, NULL, EVBUFFER_EOL_LF);
    if (line)
        answer(c, line);
    else if (c->answered || evbuffer_get_length(in) > CONTROL_MAX_REQUEST_BYTES)
        connection_close(c);
    free(line);
}

static void on_written(struct bufferevent *stream, void *arg)
{
    struct connection *c = arg;
    if (c->answered && evbuffer_get_length(bufferevent_get_output(stream)) == 0)
        connection_close(c);
}

static void on_event(struct bufferevent *stream, short what, void *arg)
{
    (void)stream;
    (void)what; /* end, error or timeout: all the same */
    connection_close(arg);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int len, void *arg)
{
    struct control_server *server = arg;
    const struct timeval patience = { CONTROL_TIMEOUT_S, 0 };
    (void)from;
    (void)len;
    struct connection *c = server->n_connections < CONTROL_MAX_CONNECTIONS ? calloc(1, sizeof *c) : NULL;
    struct bufferevent *stream =
        c ? bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE) : NULL;
    if (!stream) {
        free(c);
        close(fd);
        return;
    }
    *c = (struct connection){ .server = server, .stream = stream };
    TAILQ_INSERT_TAIL(&server->connections, c, link);
    server->n_connections++;
    bufferevent_setcb(stream, on_read, on_written, on_event, c);
    bufferevent_set_timeouts(stream, &patience, &patience);
    bufferevent_enable(stream, EV_READ | EV_WRITE);
}

status control_server_create(struct loop *loop, const struct state_dir *dir, control_fn fn, void *ctx,
                             struct control_server **out, struct error *err)
{
    struct control_server *server = calloc(1, sizeof *server);
    if (!server)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    *server = (struct control_server){ .fn = fn, .ctx = ctx };
    TAILQ_INIT(&server->connections);
    server->dir_fd = open(dir->path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    int fd = server->dir_fd < 0 ? -1 : unix_socket_bind(server->dir_fd, SOCKET_NAME, SOCK_STREAM | SOCK_NONBLOCK);
    if (fd >= 0)
        server->listener = evconnlistener_new(loop_base(loop), on_accept, server,
                                              LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 16, fd);
    if (!server->listener) {
        error_set(err, ST_IO, "cannot listen at %s/" SOCKET_NAME ": %s", dir->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        if (server->dir_fd >= 0)
            close(server->dir_fd);
        free(server);
        return ST_IO;
    }
    *out = server;
    return ST_OK;
}

void control_server_destroy(struct control_server **server)
{
    struct control_server *s = *server;
    if (!s)
        return;
    while (!TAILQ_EMPTY(&s->connections))
        connection_close(TAILQ_FIRST(&s->connections));
    evconnlistener_free(s->listener);
    unlinkat(s->dir_fd, SOCKET_NAME, 0);
    close(s->dir_fd);
    free(s);
    *server = NULL;
}

static status connect_to(const struct state_dir *dir, int *out, struct error *err)
{
    const struct timeval patience = { CONTROL_TIMEOUT_S, 0 };
    int fd = unix_socket_connect(dir->path, SOCKET_NAME, SOCK_STREAM);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ECONNREFUSED))
        return error_set(err, ST_NOT_FOUND, "no cluster runs in %s", dir->path);
    if (fd < 0)
        return error_set(err, ST_IO, "cannot reach the supervisor of %s: %s", dir->path, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    *out = fd;
    return ST_OK;
}

static bool send_line(int fd, const char *text)
{
    size_t len = strlen(text);
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, text + done, len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return send(fd, "\n", 1, MSG_NOSIGNAL) == 1;
}

static bool receive_line(int fd, struct text_buffer *line)
{
    char part[8192];
    while (line->len == 0 || line->data[line->len - 1] != '\n') {
        ssize_t n = recv(fd, part, sizeof part, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || line->state != ST_OK)
            return false;
        text_buffer_append(line, part, (size_t)n);
    }
    return line->state == ST_OK;
}

static status read_reply(const char *text, json_t **reply, struct error *err)
{
    json_t *root = json_loads(text, 0, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(err, ST_CORRUPT, "the supervisor's answer is no JSON object");
    }
    if (!json_is_true(json_object_get(root, "ok"))) {
        const char *why = json_string_value(json_object_get(root, "error"));
        error_set(err, ST_INVALID, "%s", why ? why : "the supervisor refused without a reason");
        json_decref(root);
        return ST_INVALID;
    }
    if (reply)
        *reply = root;
    else
        json_decref(root);
    return ST_OK;
}

status control_call(const struct state_dir *dir, const char *request, json_t **reply, struct error *err)
{
    int fd = -1;
    struct text_buffer line;
    status st = connect_to(dir, &fd, err);
    if (st != ST_OK)
        return st;
    text_buffer_init(&line, CONTROL_MAX_REPLY_BYTES + 4096);
    if (!send_line(fd, request) || !receive_line(fd, &line))
        st = error_set(err, ST_TIMEOUT, "the supervisor of %s does not answer", dir->path);
    else
        st = read_reply(text_buffer_text(&line), reply, err);
    close(fd);
    text_buffer_free(&line);
    return st;
}
