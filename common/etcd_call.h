/* etcd_call.h - one POST to etcd's gateway on libcurl's multi interface, and the client that
 * the calls share. Internal to the etcd client; loop thread only.
 * Nothing of ours runs inside libcurl's callbacks: they note what came, and it is delivered
 * after libcurl has returned, so a callback may start and cancel calls. */
#ifndef BATON_COMMON_ETCD_CALL_H
#define BATON_COMMON_ETCD_CALL_H

#include <curl/curl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "common/etcd.h"
#include "common/http_buffer.h"
#include "common/timers.h"

#define ETCD_MAX_URLS         16
#define ETCD_MAX_LINE_BYTES   (4u << 20)  /* of a watch */
#define ETCD_MAX_ANSWER_BYTES (16u << 20) /* of any other call */

struct etcd_call;
TAILQ_HEAD(etcd_calls, etcd_call);
struct etcd_socket;
LIST_HEAD(etcd_sockets, etcd_socket);
LIST_HEAD(etcd_registrations, etcd_registration);
LIST_HEAD(etcd_watches, etcd_watch);
struct etcd_operation;
LIST_HEAD(etcd_operations, etcd_operation);

struct etcd {
    struct etcd_options options;
    struct event_base *base;
    struct timers *timers;
    char *url_text;
    const char *urls[ETCD_MAX_URLS]; /* borrowed from url_text */
    uint32_t n_urls, url;            /* the one that is tried first */
    CURLM *multi;
    struct curl_slist *headers;
    struct timer timer; /* libcurl's */
    bool pumping, healthy;
    uint64_t random;
    struct etcd_stats stats;
    struct etcd_calls calls;
    struct etcd_sockets sockets;
    struct etcd_registrations registrations;
    struct etcd_watches watches;
    struct etcd_operations operations;
};

/* ST_OK; ST_NOT_FOUND (the lease is not known); ST_TIMEOUT, ST_IO, ST_CORRUPT, ST_LIMIT, ST_INVALID. */
struct etcd_answer {
    status st;
    const json_t *json; /* NULL unless ST_OK, and for calls with on_line; borrowed */
    const char *message;
};

struct etcd_call_options {
    const char *path; /* "/v3/kv/put" */
    json_t *body;     /* taken over */
    /* Given: the answer is endless, each line is delivered as it comes and there is no time limit. */
    void (*on_line)(void *arg, const json_t *line);
    void (*done)(void *arg, const struct etcd_answer *answer); /* once, unless cancelled */
    void *arg;
};

/* done is called later, never from inside. Running out of memory aborts. */
struct etcd_call *etcd_call_start(struct etcd *etcd, const struct etcd_call_options *options);
/* NULL-safe; no callback follows. */
void etcd_call_cancel(struct etcd_call **call);

MUST_CHECK status etcd_transport_open(struct etcd *etcd, struct error *err);
void etcd_transport_close(struct etcd *etcd);

/* When to try again after so many failures in a row: doubled each time, the upper half of it by chance. */
uint64_t etcd_retry_delay(struct etcd *etcd, uint32_t failures);

#endif
