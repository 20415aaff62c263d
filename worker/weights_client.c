#include "worker/weights_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/unix_socket.h"
#include "proto/weights_message.h"
#include "worker/weights_systemd.h"

#define POLL_MS         100
#define GIVE_TIMEOUT_US 5000000u
#define FOLDER_BYTES    4096u

_Static_assert(WEIGHTS_KEY_BYTES == WEIGHT_IMAGE_KEY_BYTES, "one key");

struct weights_client {
    struct weights_client_options options;
    struct weights_store store;
    int socket; /* -1 until the holder is asked */
};

static void hang_up(struct weights_client *c)
{
    if (c->socket >= 0)
        close(c->socket);
    c->socket = -1;
}

static int connect_to_holder(const char *path)
{
    char folder[FOLDER_BYTES];
    const char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) >= sizeof folder) {
        errno = EINVAL;
        return -1;
    }
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    return unix_socket_connect(folder[0] ? folder : "/", slash + 1, SOCK_SEQPACKET | SOCK_NONBLOCK);
}

static status await_answer(const struct weights_client *c, uint64_t timeout_us, struct weights_message *out, int *fd)
{
    uint64_t end = clock_now_us() + timeout_us;
    struct pollfd poll_fd = { c->socket, POLLIN, 0 };
    for (;;) {
        status st = unix_socket_receive(c->socket, out, sizeof *out, fd);
        if (st != ST_AGAIN)
            return st;
        if (c->options.told_to_end && c->options.told_to_end())
            return ST_CANCELLED;
        if (clock_now_us() >= end)
            return ST_TIMEOUT;
        (void)poll(&poll_fd, 1, POLL_MS);
    }
}

static status say(const struct weights_client *c, enum weights_verb verb, const char *key,
                  const struct weight_image *image)
{
    struct weights_message message = { .verb = verb };
    snprintf(message.key, sizeof message.key, "%s", key);
    message.bytes = image ? image->map_bytes : 0;
    message.pages = image ? image->pages : 0;
    return unix_socket_send(c->socket, &message, sizeof message, image ? image->fd : -1);
}

/* ST_OK with a descriptor, ST_NOT_FOUND, or what take() may answer besides. */
static status understand(const struct weights_message *answer, int *fd)
{
    if (answer->verb == WEIGHTS_HELD && *fd >= 0)
        return ST_OK;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return answer->verb == WEIGHTS_PACK ? ST_NOT_FOUND : ST_LIMIT;
}

static status take(void *ctx, const char *key, bool refused, int *fd)
{
    struct weights_client *c = ctx;
    struct weights_message answer;
    if (c->socket < 0)
        c->socket = connect_to_holder(c->options.holder);
    status st = c->socket < 0 ? ST_CLOSED : say(c, refused ? WEIGHTS_REFUSE : WEIGHTS_ASK, key, NULL);
    if (st == ST_OK)
        st = await_answer(c, c->options.timeout_us, &answer, fd);
    if (st == ST_OK)
        st = understand(&answer, fd);
    if (st != ST_OK && st != ST_NOT_FOUND) {
        log_warn("packed weights are not shared", "holder=%s key=%s reason=\"%s\"", c->options.holder, key,
                 status_text(st));
        hang_up(c);
    }
    return st;
}

static bool give(void *ctx, const char *key, const struct weight_image *image)
{
    struct weights_client *c = ctx;
    struct weights_message answer = { .verb = WEIGHTS_NO };
    int fd = -1;
    status st = say(c, WEIGHTS_GIVE, key, image);
    if (st == ST_OK)
        st = await_answer(c, GIVE_TIMEOUT_US, &answer, &fd);
    if (fd >= 0)
        close(fd);
    if (st == ST_OK && answer.verb == WEIGHTS_KEPT)
        return true;
    log_warn("packed weights are not kept", "holder=%s key=%s reason=\"%s\"", c->options.holder, key, status_text(st));
    hang_up(c);
    return false;
}

status weights_client_create(const struct weights_client_options *options, struct weights_client **out)
{
    struct weights_client *c = calloc(1, sizeof *c);
    if (!c)
        return ST_NO_MEMORY;
    *c = (struct weights_client){ .options = *options, .socket = -1, .store = { c, take, give } };
    *out = c;
    return ST_OK;
}

void weights_client_destroy(struct weights_client **client)
{
    struct weights_client *c = *client;
    if (!c)
        return;
    hang_up(c);
    free(c);
    *client = NULL;
}

const struct weights_store *weights_client_store(const struct weights_client *client)
{
    return client->options.holder[0] ? &client->store : weights_systemd_store();
}
