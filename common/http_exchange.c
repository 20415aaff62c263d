#include "common/http_exchange.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct http_exchange *http_exchange_create(struct http_connection *c, struct http_request *request)
{
    struct http_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->connection = c;
    x->request = request;
    return x;
}

void http_exchange_free(struct http_exchange *x)
{
    http_request_destroy(&x->request);
    free(x->fields);
    free(x);
}

void http_exchange_abandon(struct http_exchange *x)
{
    if (x->answer != HTTP_ANSWERED && x->on_gone)
        x->on_gone(x->gone_arg);
    http_exchange_free(x);
}

void http_exchange_drained(struct http_exchange *x)
{
    if (!x->wants_writable || x->connection->out.len > x->connection->server->options.max_backlog_bytes / 2)
        return;
    x->wants_writable = false;
    if (x->on_writable)
        x->on_writable(x->writable_arg);
}

/* The request */

const char *http_method(const struct http_exchange *x)
{
    return x->request->method;
}

const char *http_path(const struct http_exchange *x)
{
    return x->request->target.path;
}

const char *http_query(const struct http_exchange *x)
{
    return x->request->target.query;
}

const char *http_header(const struct http_exchange *x, const char *name)
{
    return http_request_field(x->request, name);
}

uint64_t http_content_length(const struct http_exchange *x)
{
    return x->request->content_length;
}

const char *http_body(const struct http_exchange *x, size_t *len)
{
    if (len)
        *len = x->request->body_len;
    return x->request->body ? x->request->body : "";
}

const char *http_peer(const struct http_exchange *x)
{
    const struct http_connection *c = x->connection;
    struct http_exchange *cache = (struct http_exchange *)(uintptr_t)x; /* the text is made when first asked for */
    char host[INET6_ADDRSTRLEN] = "?";
    if (cache->peer[0])
        return cache->peer;
    if (c->peer.any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &c->peer.v6.sin6_addr, host, sizeof host);
        snprintf(cache->peer, sizeof cache->peer, "[%s]:%u", host, ntohs(c->peer.v6.sin6_port));
    } else {
        inet_ntop(AF_INET, &c->peer.v4.sin_addr, host, sizeof host);
        snprintf(cache->peer, sizeof cache->peer, "%s:%u", host, ntohs(c->peer.v4.sin_port));
    }
    return cache->peer;
}

void http_set_user(struct http_exchange *x, void *user)
{
    x->user = user;
}

void *http_user(const struct http_exchange *x)
{
    return x->user;
}

void http_on_gone(struct http_exchange *x, void (*fn)(void *arg), void *arg)
{
    x->on_gone = fn;
    x->gone_arg = arg;
}

void http_on_writable(struct http_exchange *x, void (*fn)(void *arg), void *arg)
{
    x->on_writable = fn;
    x->writable_arg = arg;
}
