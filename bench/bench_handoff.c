#include "bench/bench_handoff.h"

#include <curl/curl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/text_buffer.h"

#define REPEATS  7 /* after one to warm up */
#define PORT     18471
#define MAX_BODY (4u << 20)

/* Runs this program with other arguments; its words go to standard error. */
static int run_self(char *const argv[])
{
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(STDERR_FILENO, STDOUT_FILENO);
        (void)execv("/proc/self/exe", argv);
        _exit(127);
    }
    int how = 0;
    return pid > 0 && waitpid(pid, &how, 0) == pid && WIFEXITED(how) ? WEXITSTATUS(how) : 1;
}

static size_t collect(char *data, size_t size, size_t n, void *arg)
{
    text_buffer_append(arg, data, size * n);
    return size * n;
}

static status post(const char *body, json_t **out, struct error *err)
{
    struct text_buffer answer;
    char url[96];
    json_error_t why;
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    text_buffer_init(&answer, MAX_BODY);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/completions", PORT);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 300L);
    CURLcode code = curl_easy_perform(curl);
    *out = code == CURLE_OK ? json_loads(text_buffer_text(&answer), 0, &why) : NULL;
    status st = *out ? ST_OK
                     : error_set(err, ST_IO, "the cluster gave no answer: %s",
                                 code == CURLE_OK ? why.text : curl_easy_strerror(code));
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    text_buffer_free(&answer);
    return st;
}

/* A prompt of ids that no other run has asked. */
static void write_request(struct text_buffer *out, unsigned tokens, unsigned run)
{
    text_buffer_add(out, "{\"model\": \"bench\", \"max_tokens\": 1, \"temperature\": 0, \"baton\": {\"route\": "
                         "\"remote\", \"timing\": true, \"no_cache\": true}, \"prompt\": [");
    for (unsigned i = 0; i < tokens; i++)
        text_buffer_printf(out, "%s%u", i ? "," : "", 5 + (i * 7919 + run * 104729) % 900);
    text_buffer_add(out, "]}");
}

static status measure(unsigned tokens, unsigned run, double *prefill, double *handoff,
                      struct bench_handoff_result *result, struct error *err)
{
    struct text_buffer request;
    json_t *answer = NULL;
    text_buffer_init(&request, MAX_BODY);
    write_request(&request, tokens, run);
    status st = post(text_buffer_text(&request), &answer, err);
    text_buffer_free(&request);
    if (st != ST_OK)
        return st;
    const json_t *choice = json_array_get(json_object_get(answer, "choices"), 0);
    const json_t *timing = json_object_get(json_object_get(choice, "baton"), "timing");
    const char *transport = json_string_value(json_object_get(timing, "transport"));
    *prefill = json_number_value(json_object_get(timing, "prefill_ms"));
    *handoff = json_number_value(json_object_get(timing, "handoff_ms"));
    result->moved_mb = json_number_value(json_object_get(timing, "moved_bytes")) / 1e6;
    (void)snprintf(result->transport, sizeof result->transport, "%s", transport ? transport : "");
    if (!transport || *prefill <= 0)
        st = error_set(err, ST_IO, "a prompt was not computed remotely: %.200s",
                       json_string_value(json_object_get(json_object_get(answer, "error"), "message"))
                           ? json_string_value(json_object_get(json_object_get(answer, "error"), "message"))
                           : "no timing in the answer");
    json_decref(answer);
    return st;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, REPEATS, sizeof *values, by_value);
    return values[REPEATS / 2];
}

static status measure_all(unsigned tokens, struct bench_handoff_result *out, struct error *err)
{
    double prefill[REPEATS], handoff[REPEATS], exposed[REPEATS], ignored;
    status st = ST_AGAIN;
    /* Also warms up. A prompt stays on the decode worker until it has its way to the prefill worker. */
    for (int tries = 0; st != ST_OK && tries < 20; tries++)
        st = measure(tokens, 0, &ignored, &ignored, out, err);
    for (unsigned i = 0; st == ST_OK && i < REPEATS; i++) {
        st = measure(tokens, i + 1, &prefill[i], &handoff[i], out, err);
        exposed[i] = st == ST_OK ? handoff[i] / prefill[i] : 0;
    }
    if (st != ST_OK)
        return st;
    out->exposed_ratio = median(exposed);
    out->prefill_ms = median(prefill);
    out->handoff_ms = median(handoff);
    return ST_OK;
}

status bench_handoff(const char *model, const char *transfer, unsigned tokens, struct bench_handoff_result *out,
                     struct error *err)
{
    char dir[] = "/tmp/baton-bench-XXXXXX", named[PATH_MAX + 16], port[16];
    if (!mkdtemp(dir))
        return error_set(err, ST_IO, "no folder for the state of a cluster can be made in /tmp");
    (void)snprintf(named, sizeof named, "bench=%s", model);
    (void)snprintf(port, sizeof port, "%d", PORT);
    char *const up[] = { "baton",       "up",
                         "--model",     named,
                         "--prefill",   "1",
                         "--decode",    "1",
                         "--transfer",  (char *)transfer,
                         "--port",      port,
                         "--state-dir", dir,
                         "--set",       "prefill.threads=1",
                         "--set",       "decode.threads=1",
                         NULL };
    char *const down[] = { "baton", "down", "--state-dir", dir, NULL };
    char *const clean[] = { "rm", "-rf", dir, NULL };
    status st = run_self(up) == 0 ? measure_all(tokens, out, err)
                                  : error_set(err, ST_IO, "the cluster did not start: see above");
    (void)run_self(down);
    pid_t pid = fork();
    if (pid == 0) {
        (void)execvp(clean[0], clean);
        _exit(127);
    }
    if (pid > 0)
        (void)waitpid(pid, NULL, 0);
    return st;
}
