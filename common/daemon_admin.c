/* Health, metrics and the other pages of the admin port. */
#include <string.h>

#include "common/daemon_internal.h"
#include "common/failpoint.h"
#include "common/log.h"

#define ADMIN_MAX_HEADER_BYTES ((size_t)16 << 10)
#define ADMIN_MAX_BODY_BYTES   ((size_t)1 << 20) /* a long prompt, as token ids */
#define FAILPOINTS_MAX_BYTES   4096u
#define ADMIN_MAX_CONNECTIONS  64u
#define ADMIN_MAX_PAGE_BYTES   ((size_t)16 << 20)
#define ADMIN_TIMEOUT_US       SECONDS(10)
#define ADMIN_IDLE_US          MINUTES(1)
#define PLAIN                  "text/plain; charset=utf-8"
#define N_HEALTH_PAGES         4

enum daemon_metric {
#define METRIC METRIC_ID
#include "common/daemon_metrics.def"
#undef METRIC
};

static const struct metric_row rows[] = {
#define METRIC METRIC_ROW
#include "common/daemon_metrics.def"
#undef METRIC
};

const struct metric_table daemon_metric_table = METRIC_TABLE(rows);

static bool is_ready(struct daemon *d, struct text_buffer *why)
{
    if (!d->started || d->draining) {
        text_buffer_add(why, d->draining ? "draining" : "starting");
        return false;
    }
    return !d->spec->ready || d->spec->ready(d, why);
}

static void collect(void *arg)
{
    struct daemon *d = arg;
    struct text_buffer why;
    text_buffer_init(&why, 4096);
    bool ready = is_ready(d, &why);
    text_buffer_free(&why);
    metric_set(metrics_series(d->metrics, &daemon_metric_table, DAEMON_READY, NULL), ready);
    metric_set(metrics_series(d->metrics, &daemon_metric_table, DAEMON_DRAINING, NULL), d->draining);
    metric_set(metrics_series(d->metrics, &daemon_metric_table, DAEMON_LOOP_TURNS, NULL), (double)loop_turns(d->loop));
}

/* Sends the page and frees it. */
static void answer(struct http_exchange *x, const char *type, struct text_buffer *page)
{
    static const char too_large[] = "the page does not fit\n";
    if (page->state == ST_OK)
        http_respond(x, 200, type, text_buffer_text(page), page->len);
    else
        http_respond(x, 500, PLAIN, too_large, sizeof too_large - 1);
    text_buffer_free(page);
}

static void answer_line(struct http_exchange *x, int code, const char *line)
{
    http_respond(x, code, PLAIN, line, strlen(line));
}

static void page_health(void *arg, struct http_exchange *x)
{
    (void)arg;
    answer_line(x, 200, "ok\n");
}

static void page_ready(void *arg, struct http_exchange *x)
{
    struct text_buffer why;
    text_buffer_init(&why, 4096);
    bool ready = is_ready(arg, &why);
    if (ready)
        text_buffer_clear(&why);
    text_buffer_add(&why, ready ? "ready\n" : "\n");
    http_respond(x, ready ? 200 : 503, PLAIN, text_buffer_text(&why), why.len);
    text_buffer_free(&why);
}

static void page_metrics(void *arg, struct http_exchange *x)
{
    struct daemon *d = arg;
    struct text_buffer page;
    text_buffer_init(&page, ADMIN_MAX_PAGE_BYTES);
    metrics_render(d->metrics, &page);
    answer(x, "text/plain; version=0.0.4; charset=utf-8", &page);
}

static void page_config(void *arg, struct http_exchange *x)
{
    struct daemon *d = arg;
    struct text_buffer page;
    text_buffer_init(&page, ADMIN_MAX_PAGE_BYTES);
    config_write(d->config, &page);
    answer(x, PLAIN, &page);
}

#ifdef BATON_FAILPOINTS
static void page_failpoints(void *arg, struct http_exchange *x)
{
    (void)arg;
    struct text_buffer page;
    text_buffer_init(&page, ADMIN_MAX_PAGE_BYTES);
    failpoint_write_json(&page);
    answer(x, "application/json", &page);
}

static void page_arm_failpoints(void *arg, struct http_exchange *x)
{
    struct error err;
    char text[FAILPOINTS_MAX_BYTES];
    size_t len;
    const char *body = http_body(x, &len);
    if (len >= sizeof text) {
        answer_line(x, 413, "too long\n");
        return;
    }
    if (len)
        memcpy(text, body, len);
    text[len] = '\0';
    if (failpoint_arm(text, &err) != ST_OK) {
        answer_line(x, 400, err.text);
        return;
    }
    log_info("failpoints set", "by=%s", http_peer(x));
    page_failpoints(arg, x);
}
#endif

/* A page for GET answers HEAD too; the server leaves the body out. */
static bool takes_method(const struct daemon_page *page, const char *method)
{
    return !strcmp(page->method, method) || (!strcmp(page->method, "GET") && !strcmp(method, "HEAD"));
}

static bool answer_page(struct daemon *d, struct http_exchange *x, size_t n_pages)
{
    const struct daemon_page *other = NULL;
    for (size_t i = 0; i < n_pages; i++) {
        const struct daemon_page *page = &d->pages[i];
        if (strcmp(page->path, http_path(x)) != 0)
            continue;
        if (takes_method(page, http_method(x))) {
            page->fn(page->arg, x);
            return true;
        }
        other = page;
    }
    if (!other)
        return false;
    http_header_add(x, "Allow", other->method);
    answer_line(x, 405, "method not allowed\n");
    return true;
}

static void handle(void *ctx, struct http_exchange *x)
{
    struct daemon *d = ctx;
    if (!answer_page(d, x, d->n_pages))
        answer_line(x, 404, "no such page\n");
}

bool daemon_answer_health(struct daemon *d, struct http_exchange *x)
{
    return answer_page(d, x, N_HEALTH_PAGES);
}

void daemon_add_page(struct daemon *d, const char *method, const char *path,
                     void (*fn)(void *arg, struct http_exchange *x), void *arg)
{
    ASSERT(d->n_pages < DAEMON_MAX_PAGES);
    d->pages[d->n_pages++] = (struct daemon_page){ method, path, fn, arg };
}

static void add_pages(struct daemon *d)
{
    daemon_add_page(d, "GET", "/health", page_health, d); /* the first N_HEALTH_PAGES */
    daemon_add_page(d, "GET", "/healthz", page_health, d);
    daemon_add_page(d, "GET", "/readyz", page_ready, d);
    daemon_add_page(d, "GET", "/metrics", page_metrics, d);
    daemon_add_page(d, "GET", "/config", page_config, d);
#ifdef BATON_FAILPOINTS
    if (!failpoint_allowed())
        return;
    daemon_add_page(d, "GET", "/failpoints", page_failpoints, d);
    daemon_add_page(d, "POST", "/failpoints", page_arm_failpoints, d);
#endif
}

status daemon_admin_start(struct daemon *d, struct error *err)
{
    const struct http_server_options options = {
        .loop = d->loop,
        .listen = d->shared->admin_listen,
        .max_header_bytes = ADMIN_MAX_HEADER_BYTES,
        .max_body_bytes = ADMIN_MAX_BODY_BYTES,
        .max_connections = ADMIN_MAX_CONNECTIONS,
        .request_timeout_us = ADMIN_TIMEOUT_US,
        .idle_timeout_us = ADMIN_IDLE_US,
        .write_timeout_us = ADMIN_TIMEOUT_US,
        .max_backlog_bytes = ADMIN_MAX_PAGE_BYTES,
        .handle = handle,
        .ctx = d,
    };
    metrics_add_table(d->metrics, &daemon_metric_table);
    metrics_on_render(d->metrics, collect, d);
    add_pages(d);
    status st = http_server_create(&options, &d->admin, err);
    if (st == ST_OK)
        daemon_report_port(d, "admin", http_server_port(d->admin));
    return st;
}
