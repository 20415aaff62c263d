#include "bench/http_call.h"

#include <curl/curl.h>
#include <stdlib.h>

#define CONNECT_TIMEOUT_MS 3000L

struct http_caller {
    CURL *curl;
    struct curl_slist *headers;
};

static size_t receive(char *data, size_t size, size_t n, void *arg)
{
    const struct http_call *call = arg;
    if (call->on_data)
        call->on_data(call->ctx, data, size * n);
    return size * n;
}

status http_caller_create(struct http_caller **out)
{
    struct http_caller *caller = calloc(1, sizeof *caller);
    if (!caller)
        return ST_NO_MEMORY;
    caller->curl = curl_easy_init();
    caller->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (!caller->curl || !caller->headers) {
        http_caller_destroy(&caller);
        return ST_NO_MEMORY;
    }
    *out = caller;
    return ST_OK;
}

void http_caller_destroy(struct http_caller **caller)
{
    struct http_caller *c = *caller;
    if (!c)
        return;
    *caller = NULL;
    curl_easy_cleanup(c->curl);
    curl_slist_free_all(c->headers);
    free(c);
}

status http_call(struct http_caller *caller, const struct http_call *call, long *code, struct error *err)
{
    CURL *curl = caller->curl;
    curl_easy_reset(curl); /* options, not connections */
    curl_easy_setopt(curl, CURLOPT_URL, call->url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* a cluster is not behind the proxy of the environment */
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)(call->timeout_us / 1000));
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, call);
    if (call->body) {
        curl_easy_setopt(curl, CURLOPT_HTTPHEADER, caller->headers);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, call->body);
    }
    CURLcode result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, code);
    if (result == CURLE_OK)
        return ST_OK;
    return error_set(err, result == CURLE_OPERATION_TIMEDOUT ? ST_TIMEOUT : ST_IO, "%s: %s", call->url,
                     curl_easy_strerror(result));
}
