#include "cli/weights_holder.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/unix_socket.h"
#include "engine/weight_image.h"
#include "proto/weights_message.h"

#define ASK_TIMEOUT_S 5 /* for a connection's first message */
#define BACKLOG       128

struct held {
    TAILQ_ENTRY(held) link;
    char key[WEIGHTS_KEY_BYTES];
    int fd; /* -1 while it is packed */
    uint64_t bytes;
    enum page_kind pages;
};

enum lease_state { LEASE_NEW, LEASE_WAITING, LEASE_PACKING, LEASE_USING };

struct lease {
    TAILQ_ENTRY(lease) link;
    struct weights_holder *holder;
    int socket;
    struct event *event;
    pid_t pid;
    enum lease_state state;
    struct held *held; /* NULL when NEW, and when what it uses is no longer held */
};

struct weights_holder {
    struct event_base *base;
    struct evconnlistener *listener;
    int dir_fd;
    weights_user_fn user;
    void *ctx;
    unsigned n_held, n_leases;
    TAILQ_HEAD(, held) held;
    TAILQ_HEAD(, lease) leases; /* who waits longer stands before */
};

static struct held *find(struct weights_holder *holder, const char *key)
{
    struct held *h;
    TAILQ_FOREACH(h, &holder->held, link)
    if (!strcmp(h->key, key))
        return h;
    return NULL;
}

static struct lease *lease_of(const struct weights_holder *holder, const struct held *held, enum lease_state state)
{
    struct lease *l;
    TAILQ_FOREACH(l, &holder->leases, link)
    if (l->held == held && l->state == state)
        return l;
    return NULL;
}

static void held_forget(struct weights_holder *holder, struct held *h)
{
    struct lease *l;
    TAILQ_FOREACH(l, &holder->leases, link)
    if (l->held == h)
        l->held = NULL;
    if (h->fd >= 0)
        close(h->fd);
    TAILQ_REMOVE(&holder->held, h, link);
    holder->n_held--;
    free(h);
}

static struct held *held_add(struct weights_holder *holder, const char *key)
{
    struct held *h = holder->n_held < WEIGHTS_MAX_HELD ? calloc(1, sizeof *h) : NULL;
    if (!h)
        return NULL;
    h->fd = -1;
    snprintf(h->key, sizeof h->key, "%s", key);
    TAILQ_INSERT_TAIL(&holder->held, h, link);
    holder->n_held++;
    return h;
}

/* ---- conversation --------------------------------------------------------------------- */

static void pack_by_next(struct weights_holder *holder, struct held *held);

static void lease_close(struct lease *l)
{
    struct weights_holder *holder = l->holder;
    struct held *held = l->state == LEASE_PACKING ? l->held : NULL;
    TAILQ_REMOVE(&holder->leases, l, link);
    holder->n_leases--;
    event_free(l->event);
    close(l->socket);
    free(l);
    if (held)
        pack_by_next(holder, held);
}

/* False: the lease is closed, as its end does not read. */
static bool answer(struct lease *l, enum weights_verb verb)
{
    bool with_fd = verb == WEIGHTS_HELD;
    struct weights_message message = { .verb = verb };
    ASSERT(l->held || !with_fd);
    if (l->held)
        snprintf(message.key, sizeof message.key, "%s", l->held->key);
    if (with_fd) {
        message.bytes = l->held->bytes;
        message.pages = l->held->pages;
    }
    if (unix_socket_send(l->socket, &message, sizeof message, with_fd ? l->held->fd : -1) == ST_OK)
        return true;
    lease_close(l);
    return false;
}

/* The packer is lost, or what it gave is of no use. Who waits longest packs instead. */
static void pack_by_next(struct weights_holder *holder, struct held *held)
{
    struct lease *next = lease_of(holder, held, LEASE_WAITING);
    if (!next) {
        held_forget(holder, held);
        return;
    }
    next->state = LEASE_PACKING;
    log_info("weights are to be packed by another", "key=%s pid=%d", held->key, (int)next->pid);
    (void)answer(next, WEIGHTS_PACK); /* its end leads here again */
}

static bool hand_out(struct lease *l)
{
    l->state = LEASE_USING;
    return answer(l, WEIGHTS_HELD);
}

static void on_ask(struct lease *l, const char *key, bool refused)
{
    struct held *held = find(l->holder, key);
    if (refused && held && held->fd >= 0 && held == l->held) {
        log_warn("held weights are damaged and forgotten", "key=%s pid=%d", key, (int)l->pid);
        held_forget(l->holder, held);
        held = NULL;
    }
    event_remove_timer(l->event);
    l->held = held ? held : held_add(l->holder, key);
    l->state = LEASE_NEW;
    if (!l->held) {
        (void)answer(l, WEIGHTS_NO);
    } else if (!held) {
        l->state = LEASE_PACKING;
        (void)answer(l, WEIGHTS_PACK);
    } else if (held->fd >= 0) {
        (void)hand_out(l);
    } else {
        l->state = LEASE_WAITING;
    }
}

/* Takes fd over. */
static void on_give(struct lease *l, const struct weights_message *message, int fd)
{
    struct weights_holder *holder = l->holder;
    struct held *held = l->held;
    if (fd < 0 || message->pages >= PAGE_KIND_COUNT || weight_image_sealed_bytes(fd) != message->bytes) {
        log_warn("packed weights are not taken", "key=%s pid=%d", held->key, (int)l->pid);
        if (fd >= 0)
            close(fd);
        l->state = LEASE_NEW;
        l->held = NULL;
        if (answer(l, WEIGHTS_NO))
            lease_close(l);
        pack_by_next(holder, held);
        return;
    }
    held->fd = fd;
    held->bytes = message->bytes;
    held->pages = (enum page_kind)message->pages;
    log_info("weights are held", "key=%s bytes=%llu pages=%s packed_by=%d", held->key, (unsigned long long)held->bytes,
             page_kind_name(held->pages), (int)l->pid);
    l->state = LEASE_USING;
    (void)answer(l, WEIGHTS_KEPT);
    for (struct lease *w; (w = lease_of(holder, held, LEASE_WAITING)) != NULL;)
        (void)hand_out(w);
}

static void on_message(evutil_socket_t socket, short what, void *arg)
{
    struct lease *l = arg;
    struct weights_message message;
    int fd = -1;
    if (what & EV_TIMEOUT) {
        lease_close(l);
        return;
    }
    status st = unix_socket_receive(socket, &message, sizeof message, &fd);
    if (st == ST_AGAIN)
        return;
    bool asks = st == ST_OK && (message.verb == WEIGHTS_ASK || message.verb == WEIGHTS_REFUSE) &&
                (l->state == LEASE_NEW || l->state == LEASE_USING);
    bool gives = st == ST_OK && message.verb == WEIGHTS_GIVE && l->state == LEASE_PACKING;
    message.key[st == ST_OK ? sizeof message.key - 1 : 0] = '\0';
    if (gives) {
        on_give(l, &message, fd);
        return;
    }
    if (fd >= 0)
        close(fd);
    if (asks)
        on_ask(l, message.key, message.verb == WEIGHTS_REFUSE);
    else
        lease_close(l);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *from, int len, void *arg)
{
    struct weights_holder *holder = arg;
    const struct timeval patience = { ASK_TIMEOUT_S, 0 };
    struct ucred peer = { 0, 0, 0 };
    socklen_t peer_len = sizeof peer;
    (void)listener;
    (void)from;
    (void)len;
    struct lease *l = holder->n_leases < WEIGHTS_MAX_LEASES ? calloc(1, sizeof *l) : NULL;
    struct event *event = l ? event_new(holder->base, fd, EV_READ | EV_PERSIST, on_message, l) : NULL;
    if (!event || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_len) != 0 || event_add(event, &patience) != 0) {
        if (event)
            event_free(event);
        free(l);
        close(fd);
        return;
    }
    *l = (struct lease){ .holder = holder, .socket = fd, .event = event, .pid = peer.pid };
    TAILQ_INSERT_TAIL(&holder->leases, l, link);
    holder->n_leases++;
}

/* ---- life -------------------------------------------------------------------------------- */

status weights_holder_create(struct loop *loop, const struct state_dir *dir, weights_user_fn user, void *ctx,
                             struct weights_holder **out, struct error *err)
{
    struct weights_holder *holder = calloc(1, sizeof *holder);
    if (!holder)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    *holder = (struct weights_holder){ .base = loop_base(loop), .user = user, .ctx = ctx };
    TAILQ_INIT(&holder->held);
    TAILQ_INIT(&holder->leases);
    holder->dir_fd = open(dir->path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    int fd = holder->dir_fd < 0 ? -1 : unix_socket_bind(holder->dir_fd, WEIGHTS_SOCKET, SOCK_SEQPACKET | SOCK_NONBLOCK);
    if (fd >= 0)
        holder->listener = evconnlistener_new(holder->base, on_accept, holder,
                                              LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, BACKLOG, fd);
    if (!holder->listener) {
        error_set(err, ST_IO, "cannot listen at %s/" WEIGHTS_SOCKET ": %s", dir->path, strerror(errno));
        if (fd >= 0)
            close(fd);
        if (holder->dir_fd >= 0)
            close(holder->dir_fd);
        free(holder);
        return ST_IO;
    }
    *out = holder;
    return ST_OK;
}

void weights_holder_destroy(struct weights_holder **holder)
{
    struct weights_holder *h = *holder;
    if (!h)
        return;
    for (struct lease *l; (l = TAILQ_FIRST(&h->leases)) != NULL;) {
        l->state = LEASE_NEW; /* nobody packs instead */
        lease_close(l);
    }
    for (struct held *held; (held = TAILQ_FIRST(&h->held)) != NULL;)
        held_forget(h, held);
    evconnlistener_free(h->listener);
    unlinkat(h->dir_fd, WEIGHTS_SOCKET, 0);
    close(h->dir_fd);
    free(h);
    *holder = NULL;
}

/* ---- for people ------------------------------------------------------------------------------ */

static void write_user(const struct weights_holder *holder, pid_t pid, struct json_writer *w)
{
    char number[32];
    const char *name = holder->user ? holder->user(holder->ctx, pid) : NULL;
    snprintf(number, sizeof number, "pid %d", (int)pid);
    json_write_string(w, name ? name : number);
}

static void write_users(const struct weights_holder *holder, const struct held *held, struct json_writer *w)
{
    struct lease *l = lease_of(holder, held, LEASE_PACKING);
    if (l) {
        json_write_key(w, "packer");
        write_user(holder, l->pid, w);
    }
    json_write_key(w, "users");
    json_write_array(w);
    TAILQ_FOREACH(l, &holder->leases, link)
    {
        if (l->held == held)
            write_user(holder, l->pid, w);
    }
    json_write_end(w);
}

void weights_holder_write(const struct weights_holder *holder, struct json_writer *w)
{
    struct held *h;
    json_write_array(w);
    for (h = holder ? TAILQ_FIRST(&holder->held) : NULL; h; h = TAILQ_NEXT(h, link)) {
        json_write_object(w);
        json_field_string(w, "key", h->key);
        json_field_string(w, "state", h->fd >= 0 ? "held" : "packing");
        json_field_uint(w, "bytes", h->bytes);
        json_field_string(w, "pages", page_kind_name(h->pages));
        write_users(holder, h, w);
        json_write_end(w);
    }
    json_write_end(w);
}

static bool is_used(const struct weights_holder *holder, const struct held *held)
{
    struct lease *l;
    TAILQ_FOREACH(l, &holder->leases, link)
    if (l->held == held)
        return true;
    return false;
}

void weights_holder_gc(struct weights_holder *holder, struct json_writer *w)
{
    json_write_key(w, "freed");
    json_write_array(w);
    for (struct held *h = TAILQ_FIRST(&holder->held), *next; h; h = next) {
        next = TAILQ_NEXT(h, link);
        if (is_used(holder, h))
            continue;
        log_info("unused weights are freed", "key=%s bytes=%llu", h->key, (unsigned long long)h->bytes);
        json_write_object(w);
        json_field_string(w, "key", h->key);
        json_field_uint(w, "bytes", h->bytes);
        json_write_end(w);
        held_forget(holder, h);
    }
    json_write_end(w);
}
