#include "common/etcd_call.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

struct etcd_call {
    struct etcd *etcd;
    TAILQ_ENTRY(etcd_call) link;
    struct etcd_call_options options;
    CURL *easy;
    char *url, *body;
    uint32_t url_index;
    struct http_buffer in;
    bool fresh;      /* bytes came since the last delivery */
    bool overflow;   /* more than the bound */
    bool delivering; /* a callback of this call is running */
    bool cancelled;
    char message[CURL_ERROR_SIZE];
};

struct etcd_socket {
    struct etcd *etcd;
    LIST_ENTRY(etcd_socket) link;
    struct event *event;
    curl_socket_t fd;
};

static void pump(struct etcd *etcd);

/* libcurl on the loop */

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
    struct etcd *etcd = ((struct etcd_socket *)arg)->etcd;
    int flags = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0), running;
    curl_multi_socket_action(etcd->multi, fd, flags, &running);
    pump(etcd);
}

static void on_timer(void *arg)
{
    struct etcd *etcd = arg;
    int running;
    curl_multi_socket_action(etcd->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    pump(etcd);
}

static int set_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi;
    struct etcd *etcd = arg;
    if (ms < 0)
        timer_cancel(etcd->timers, &etcd->timer);
    else
        timer_set(etcd->timers, &etcd->timer, clock_now_us() + (uint64_t)ms * 1000, on_timer, etcd);
    return 0;
}

static void forget_socket(struct etcd_socket *s)
{
    LIST_REMOVE(s, link);
    event_free(s->event);
    free(s);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    (void)easy;
    struct etcd *etcd = arg;
    struct etcd_socket *s = socket_arg;
    if (what == CURL_POLL_REMOVE) {
        if (s)
            forget_socket(s);
        return 0;
    }
    if (!s) {
        s = calloc(1, sizeof *s);
        ASSERT(s != NULL);
        *s = (struct etcd_socket){ .etcd = etcd, .fd = fd };
        LIST_INSERT_HEAD(&etcd->sockets, s, link);
        curl_multi_assign(etcd->multi, fd, s);
    } else {
        event_free(s->event);
    }
    int flags = EV_PERSIST | (what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0);
    s->event = event_new(etcd->base, fd, (short)flags, on_socket, s);
    ASSERT(s->event && event_add(s->event, NULL) == 0);
    return 0;
}

static size_t take_bytes(char *data, size_t size, size_t n, void *arg)
{
    struct etcd_call *call = arg;
    size_t len = size * n;
    size_t most = call->options.on_line ? ETCD_MAX_LINE_BYTES + CURL_MAX_WRITE_SIZE : ETCD_MAX_ANSWER_BYTES;
    if (call->in.len + len > most || !http_buffer_append(&call->in, data, len)) {
        call->overflow = true;
        return 0;
    }
    call->fresh = true;
    return len;
}

/* Calls */

static void set_options(struct etcd_call *call)
{
    struct etcd *etcd = call->etcd;
    CURL *easy = call->easy;
    long timeout_ms = (long)(etcd->options.request_timeout_us / 1000);
    curl_easy_setopt(easy, CURLOPT_URL, call->url);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, etcd->headers);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, (void *)call);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, (void *)call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->message);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*"); /* the cluster's own store is never behind a proxy of the user */
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, timeout_ms);
    if (!call->options.on_line)
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout_ms);
}

struct etcd_call *etcd_call_start(struct etcd *etcd, const struct etcd_call_options *options)
{
    struct etcd_call *call = calloc(1, sizeof *call);
    ASSERT(call && options->body);
    call->etcd = etcd;
    call->options = *options;
    call->url_index = etcd->url;
    call->body = json_dumps(options->body, JSON_COMPACT);
    json_decref(options->body);
    call->easy = curl_easy_init();
    int n = asprintf(&call->url, "%s%s", etcd->urls[call->url_index], options->path);
    ASSERT(call->body && call->easy && n > 0);
    set_options(call);
    TAILQ_INSERT_TAIL(&etcd->calls, call, link);
    etcd->stats.requests++;
    ASSERT(curl_multi_add_handle(etcd->multi, call->easy) == CURLM_OK);
    return call;
}

static void detach(struct etcd_call *call)
{
    if (!call->easy)
        return;
    TAILQ_REMOVE(&call->etcd->calls, call, link);
    curl_multi_remove_handle(call->etcd->multi, call->easy);
    curl_easy_cleanup(call->easy);
    call->easy = NULL;
}

static void free_call(struct etcd_call *call)
{
    detach(call);
    http_buffer_free(&call->in);
    free(call->url);
    free(call->body);
    free(call);
}

void etcd_call_cancel(struct etcd_call **p)
{
    struct etcd_call *call = *p;
    if (!call)
        return;
    *p = NULL;
    if (call->delivering) {
        call->cancelled = true;
        return;
    }
    free_call(call);
}

/* Answers */

static status status_of(const struct etcd_call *call, CURLcode result, long code)
{
    if (call->overflow)
        return ST_LIMIT;
    if (result == CURLE_OPERATION_TIMEDOUT)
        return ST_TIMEOUT;
    if (result != CURLE_OK)
        return ST_IO;
    if (code == 200)
        return ST_OK;
    return code == 404 ? ST_NOT_FOUND : code >= 500 ? ST_IO : ST_INVALID;
}

static void note_outcome(struct etcd_call *call, status st)
{
    struct etcd *etcd = call->etcd;
    etcd->healthy = st == ST_OK || st == ST_NOT_FOUND;
    if (etcd->healthy)
        return;
    etcd->stats.failures++;
    if (etcd->url == call->url_index)
        etcd->url = (etcd->url + 1) % etcd->n_urls;
}

static void finish(struct etcd_call *call, CURLcode result)
{
    long code = 0;
    json_error_t where;
    json_t *json = NULL;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &code);
    status st = status_of(call, result, code);
    if (st == ST_OK && !call->options.on_line) {
        json =
            json_loadb(call->in.len ? http_buffer_bytes(&call->in) : "", call->in.len, JSON_REJECT_DUPLICATES, &where);
        if (!json)
            st = ST_CORRUPT;
    }
    note_outcome(call, st);
    struct etcd_answer answer = { .st = st, .json = json, .message = status_text(st) };
    if (call->message[0])
        answer.message = call->message;
    detach(call);
    call->delivering = true;
    call->options.done(call->options.arg, &answer);
    json_decref(json);
    free_call(call);
}

/* false: cancelled, or the line cannot be read and the call has ended. */
static bool deliver_line(struct etcd_call *call, const char *line, size_t len)
{
    json_error_t where;
    json_t *json = json_loadb(line, len, JSON_REJECT_DUPLICATES, &where);
    if (json) {
        call->etcd->healthy = true;
        call->options.on_line(call->options.arg, json);
        json_decref(json);
        return !call->cancelled;
    }
    note_outcome(call, ST_CORRUPT);
    detach(call);
    call->options.done(call->options.arg, &(struct etcd_answer){ .st = ST_CORRUPT, .message = "a line is not JSON" });
    call->cancelled = true;
    return false;
}

static void deliver_lines(struct etcd_call *call)
{
    const char *end;
    call->fresh = false;
    call->delivering = true;
    while (call->in.len && (end = memchr(http_buffer_bytes(&call->in), '\n', call->in.len))) {
        size_t len = (size_t)(end - http_buffer_bytes(&call->in));
        if (len > 0 && !deliver_line(call, http_buffer_bytes(&call->in), len))
            break;
        http_buffer_consume(&call->in, len + 1);
    }
    call->delivering = false;
    if (call->cancelled)
        free_call(call);
}

static struct etcd_call *next_fresh(struct etcd *etcd)
{
    struct etcd_call *call;
    TAILQ_FOREACH(call, &etcd->calls, link)
    if (call->fresh && call->options.on_line)
        return call;
    return NULL;
}

static void pump(struct etcd *etcd)
{
    struct etcd_call *call;
    CURLMsg *msg;
    int left;
    etcd->pumping = true;
    while ((call = next_fresh(etcd)))
        deliver_lines(call);
    while ((msg = curl_multi_info_read(etcd->multi, &left)))
        if (msg->msg == CURLMSG_DONE) {
            CURLcode result = msg->data.result;
            char *arg = NULL;
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &arg);
            finish((struct etcd_call *)(void *)arg, result);
        }
    etcd->pumping = false;
}

/* The client's share */

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

status etcd_transport_open(struct etcd *etcd, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    TAILQ_INIT(&etcd->calls);
    LIST_INIT(&etcd->sockets);
    etcd->multi = curl_multi_init();
    etcd->headers = curl_slist_append(NULL, "Content-Type: application/json");
    struct curl_slist *more = etcd->headers ? curl_slist_append(etcd->headers, "Expect:") : NULL;
    if (!etcd->multi || !more)
        return error_set(err, ST_NO_MEMORY, "no memory for an etcd client");
    curl_multi_setopt(etcd->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(etcd->multi, CURLMOPT_SOCKETDATA, (void *)etcd);
    curl_multi_setopt(etcd->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(etcd->multi, CURLMOPT_TIMERDATA, (void *)etcd);
    return ST_OK;
}

void etcd_transport_close(struct etcd *etcd)
{
    struct etcd_call *call;
    struct etcd_socket *s;
    while ((call = TAILQ_FIRST(&etcd->calls)))
        free_call(call);
    if (etcd->multi)
        curl_multi_cleanup(etcd->multi);
    while ((s = LIST_FIRST(&etcd->sockets)))
        forget_socket(s);
    curl_slist_free_all(etcd->headers);
    timer_cancel(etcd->timers, &etcd->timer);
}

uint64_t etcd_retry_delay(struct etcd *etcd, uint32_t failures)
{
    uint64_t delay = etcd->options.retry_min_us;
    for (uint32_t i = 1; i < failures && delay < etcd->options.retry_max_us; i++)
        delay *= 2;
    if (delay > etcd->options.retry_max_us)
        delay = etcd->options.retry_max_us;
    etcd->random ^= etcd->random << 13; /* xorshift64 */
    etcd->random ^= etcd->random >> 7;
    etcd->random ^= etcd->random << 17;
    return delay / 2 + etcd->random % (delay / 2 + 1);
}
