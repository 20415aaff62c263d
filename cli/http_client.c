#include "cli/http_client.h"

#include <curl/curl.h>

#define CONNECT_TIMEOUT_MS 3000L

static size_t append(char *data, size_t size, size_t n, void *arg)
{
    struct text_buffer *out = arg;
    text_buffer_append(out, data, size * n);
    return out->state == ST_OK ? size * n : 0;
}

static CURL *prepare(const char *url, const char *body, struct curl_slist **headers)
{
    CURL *curl = curl_easy_init();
    if (!curl)
        return NULL;
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* a cluster on this host is not behind the proxy of the environment */
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    if (body) {
        *headers = curl_slist_append(NULL, "Content-Type: application/json");
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    return curl;
}

static status finish(CURL *curl, CURLcode result, const char *url, long *code, struct error *err)
{
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, code);
    if (result == CURLE_OK)
        return ST_OK;
    if (result == CURLE_WRITE_ERROR)
        return error_set(err, ST_LIMIT, "%s: the answer is too long", url);
    return error_set(err, result == CURLE_OPERATION_TIMEDOUT ? ST_TIMEOUT : ST_IO, "%s: %s", url,
                     curl_easy_strerror(result));
}

status http_fetch(const char *url, const char *body, uint64_t timeout_ms, long *code, struct text_buffer *out,
                  struct error *err)
{
    struct curl_slist *headers = NULL;
    CURL *curl = prepare(url, body, &headers);
    if (!curl)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, out);
    status st = finish(curl, curl_easy_perform(curl), url, code, err);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    return st;
}

struct receiver {
    void (*on_data)(void *arg, const char *data, size_t len);
    void *arg;
    const volatile sig_atomic_t *stop;
};

static size_t receive(char *data, size_t size, size_t n, void *arg)
{
    struct receiver *r = arg;
    if (*r->stop)
        return 0;
    r->on_data(r->arg, data, size * n);
    return size * n;
}

/* Called at least once a second, and after every signal. */
static int is_stopped(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return *((struct receiver *)arg)->stop != 0;
}

status http_stream(const char *url, const char *body, void (*on_data)(void *arg, const char *data, size_t len),
                   void *arg, const volatile sig_atomic_t *stop, long *code, struct error *err)
{
    struct receiver receiver = { on_data, arg, stop };
    struct curl_slist *headers = NULL;
    CURL *curl = prepare(url, body, &headers);
    if (!curl)
        return error_set(err, ST_NO_MEMORY, "out of memory");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &receiver);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, is_stopped);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &receiver);
    CURLcode result = curl_easy_perform(curl);
    status st = *stop ? error_set(err, ST_CANCELLED, "stopped") : finish(curl, result, url, code, err);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    return st;
}
