/* baton bench serve - load on a server that speaks OpenAI's API, and what its answers' times were. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "bench/serve_report.h"
#include "bench/serve_server.h"
#include "cli/baseline.h"
#include "cli/command.h"
#include "cli/place.h"
#include "common/quantity.h"

#define OUTPUT_MAX_BYTES    ((size_t)1 << 30)
#define DEFAULT_DURATION_US SECONDS(30)
#define MAX_TIME_US         HOURS(24 * 7)
#define DEFAULT_CONNECTIONS 1024
#define SPARE_FILES         64
#define MAX_PREFIXES        100000
#define MAX_COMMAND_BYTES   2048u

/* As they were given. */
struct given {
    struct place place;
    const char *url, *model, *endpoint, *trace, *arrivals, *input, *output, *turns, *pause, *cache;
    const char *duration, *timeout, *slo_ttft, *slo_itl, *slo_tpot, *slo_e2e;
    const char *html, *records, *baselines, *save, *against;
    struct option_list facts;
    double rate, speed, length_scale;
    int64_t concurrency, requests, warmup, connections, prefixes, prefix_tokens, seed;
    bool may_end, as_json;
};

/* What they mean. */
struct bench {
    struct given given;
    struct trace trace;
    struct serve_traffic traffic;
    struct serve_options run;
    struct serve_slo slo;
    struct serve_address address;
    struct serve_server server;
    struct prompt_words words;
    struct machine machine;
    struct serve_identity identity;
    json_t *baseline;
    char path[SERVE_URL_BYTES + 32], salt[64], command[MAX_COMMAND_BYTES], started[32];
};

/* ---- options --------------------------------------------------------------------------------- */

static status parse_time(const char *name, const char *text, uint64_t *out, struct error *err)
{
    if (!text)
        return ST_OK;
    if (quantity_parse_time(text, out) == ST_OK && *out > 0 && *out <= MAX_TIME_US)
        return ST_OK;
    return error_set(err, ST_INVALID, "--%s: \"%.40s\" is not allowed; it takes a time such as 500ms, up to 7 days",
                     name, text);
}

/* How requests come, and that nothing was given that says otherwise. */
static status read_arrivals(struct bench *b, struct error *err)
{
    const struct given *g = &b->given;
    const bool closed = g->concurrency > 0, open = g->rate > 0;
    if (closed && open)
        return error_set(err, ST_INVALID, "--rate is of an open loop and --concurrency of a closed one: give one");
    if (!closed && !open && !g->trace)
        return error_set(err, ST_INVALID,
                         "how do requests come? --rate N (open loop), --concurrency N (closed loop) or --trace FILE "
                         "(when it says)");
    b->traffic.arrivals = closed                          ? ARRIVE_CLOSED
                          : !open                         ? ARRIVE_REPLAY
                          : !strcmp(g->arrivals, "fixed") ? ARRIVE_FIXED
                                                          : ARRIVE_POISSON;
    if (b->traffic.arrivals != ARRIVE_REPLAY && g->speed != 1)
        return error_set(err, ST_INVALID,
                         "--speed is of a --trace whose times are used: without --rate and --concurrency");
    if (!g->trace && g->length_scale != 1)
        return error_set(err, ST_INVALID, "--length-scale is of a --trace");
    if (g->trace && (g->input || g->output || g->turns || g->prefixes))
        return error_set(err, ST_INVALID,
                         "a --trace says how long requests are and what they share: --input, --output, --turns and "
                         "--prefixes do not go with it");
    if (!g->prefixes != !g->prefix_tokens)
        return error_set(err, ST_INVALID, "--prefixes and --prefix-tokens go together");
    return ST_OK;
}

static status read_traffic(struct bench *b, struct error *err)
{
    const struct given *g = &b->given;
    struct serve_traffic *t = &b->traffic;
    status st = read_arrivals(b, err);
    t->users = (uint32_t)g->concurrency;
    t->rate = g->rate;
    t->speed = g->speed;
    t->length_scale = g->length_scale;
    t->prefixes = (uint32_t)g->prefixes;
    t->prefix_tokens = (uint32_t)g->prefix_tokens;
    t->seed = (uint64_t)g->seed;
    if (st == ST_OK)
        st = option_distribution("input", g->input ? g->input : "128", &t->input, err);
    if (st == ST_OK)
        st = option_distribution("output", g->output ? g->output : "64", &t->output, err);
    if (st == ST_OK)
        st = option_distribution("turns", g->turns ? g->turns : "1", &t->turns, err);
    if (st == ST_OK)
        st = option_distribution("pause", g->pause, &t->pause_ms, err);
    if (st == ST_OK && g->trace) {
        st = trace_load(g->trace, TRACE_NEEDS_ARRIVALS, &b->trace, err);
        t->trace = &b->trace;
    }
    return st;
}

static status read_limits(struct bench *b, struct error *err)
{
    const struct given *g = &b->given;
    struct serve_options *o = &b->run;
    status st = parse_time("duration", g->duration, &o->duration_us, err);
    if (st == ST_OK)
        st = parse_time("timeout", g->timeout, &o->timeout_us, err);
    if (st == ST_OK)
        st = parse_time("slo-ttft", g->slo_ttft, &b->slo.ttft_us, err);
    if (st == ST_OK)
        st = parse_time("slo-itl", g->slo_itl, &b->slo.itl_us, err);
    if (st == ST_OK)
        st = parse_time("slo-tpot", g->slo_tpot, &b->slo.tpot_us, err);
    if (st == ST_OK)
        st = parse_time("slo-e2e", g->slo_e2e, &b->slo.e2e_us, err);
    if (!g->duration && !g->requests && !g->trace)
        o->duration_us = DEFAULT_DURATION_US;
    o->n_requests = g->requests ? (uint64_t)g->requests : SERVE_MAX_REQUESTS;
    o->n_warmup = (uint64_t)g->warmup;
    if (st == ST_OK && g->requests && g->warmup >= g->requests)
        st = error_set(err, ST_INVALID, "--warmup %lld leaves nothing of --requests %lld", (long long)g->warmup,
                       (long long)g->requests);
    return st;
}

static status check_names(const struct given *g, struct error *err)
{
    status st = g->save ? baseline_check_name(g->save, err) : ST_OK;
    if (st == ST_OK && g->against)
        st = baseline_check_name(g->against, err);
    for (size_t i = 0; i < g->facts.n && st == ST_OK; i++) {
        const char *text = g->facts.items[i];
        size_t len = strcspn(text, "=");
        enum serve_fact fact = serve_fact_find(text, len);
        if (!text[len] || fact == SERVE_FACT_COUNT || fact == SERVE_FACT_MODEL || fact == SERVE_FACT_CLIENT ||
            fact == SERVE_FACT_TRAFFIC)
            st = error_set(err, ST_INVALID,
                           "--fact: \"%.60s\" is not allowed; it takes NAME=TEXT with tokenizer, hardware, cache, "
                           "transport, cluster or versions",
                           text);
    }
    return st;
}

/* Files that may be open, as far as the machine allows. */
static status allow_connections(struct bench *b, struct error *err)
{
    struct rlimit limit;
    const int64_t given = b->given.connections;
    b->run.connections = (uint32_t)(b->traffic.arrivals == ARRIVE_CLOSED ? b->given.concurrency
                                    : given                              ? given
                                                                         : DEFAULT_CONNECTIONS);
    if (b->traffic.arrivals == ARRIVE_CLOSED && given)
        return error_set(err, ST_INVALID, "--connections is of an open loop: a closed one has --concurrency");
    const rlim_t wanted = b->run.connections + SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return ST_OK;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted)
        return error_set(err, ST_LIMIT, "%u connections need %llu open files, and the limit is %llu (ulimit -n)",
                         b->run.connections, (unsigned long long)wanted, (unsigned long long)limit.rlim_cur);
    return ST_OK;
}

/* ---- who is measured ----------------------------------------------------------------------------- */

static char *fact_of(struct bench *b, enum serve_fact fact)
{
    return b->identity.facts[fact];
}

/* What the supervisor of a cluster knows, and the router does not. */
static void describe_cluster(struct bench *b, const json_t *state)
{
    const json_t *options = json_object_get(state, "options");
    json_t *kept = json_object();
    static const char *const keys[] = { "router", "prefill", "decode", "kvbm", "kv_disk", "set" };
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        json_t *value = json_object_get(options, keys[i]);
        if (value && kept)
            json_object_set(kept, keys[i], value);
    }
    char *text = kept ? json_dumps(kept, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    text_copy(fact_of(b, SERVE_FACT_CLUSTER), SERVE_FACT_BYTES, text ? text : "");
    text_copy(fact_of(b, SERVE_FACT_TRANSPORT), SERVE_FACT_BYTES, json_text(options, "transfer"));
    free(text);
    json_decref(kept);
}

/* The server that was named, or that of the cluster of the state folder. */
static status find_server(struct bench *b, struct error *err)
{
    const struct given *g = &b->given;
    struct state_dir dir;
    json_t *state = NULL;
    const bool named = g->place.dir || g->place.name;
    char url[SERVE_URL_BYTES] = "";
    status st = ST_OK;
    if (!g->url || named)
        st = place_find(&g->place, &dir, err);
    if (st == ST_OK && (!g->url || named))
        st = place_status(&dir, &state, err);
    if (st == ST_OK && state)
        describe_cluster(b, state);
    if (st == ST_OK)
        text_copy(url, sizeof url, g->url ? g->url : json_text(state, "url"));
    json_decref(state);
    if (st == ST_OK && !url[0])
        st = error_set(err, ST_NOT_FOUND, "the cluster has no router yet");
    if (st == ST_OK)
        st = serve_address_parse(url, &b->address, err);
    return st == ST_OK ? serve_server_ask(b->address.url, g->model, b->run.timeout_us, &b->server, &b->words, err) : st;
}

static void describe_traffic(struct bench *b)
{
    struct text_buffer text;
    const struct serve_options *o = &b->run;
    text_buffer_init(&text, SERVE_FACT_BYTES);
    serve_traffic_describe(&b->traffic, &text);
    text_buffer_printf(&text, ", %s%s", b->given.endpoint, o->api.ignore_eos ? "" : ", answers may end early");
    if (o->n_requests < SERVE_MAX_REQUESTS)
        text_buffer_printf(&text, ", %llu requests", (unsigned long long)o->n_requests);
    if (o->duration_us)
        text_buffer_printf(&text, ", for %g s", (double)o->duration_us / 1e6);
    text_buffer_printf(&text, ", %u connections, timeout %g s, warm-up %llu", o->connections,
                       (double)o->timeout_us / 1e6, (unsigned long long)o->n_warmup);
    text_copy(fact_of(b, SERVE_FACT_TRAFFIC), SERVE_FACT_BYTES, text_buffer_text(&text));
    text_buffer_free(&text);
}

static void identify(struct bench *b)
{
    char machine[256];
    const struct serve_server *s = &b->server;
    (void)snprintf(machine, sizeof machine, "%.120s, %u cores, %.1f GiB", b->machine.cpu, b->machine.cores,
                   (double)b->machine.memory_bytes / (double)GIB(1));
    (void)snprintf(fact_of(b, SERVE_FACT_MODEL), SERVE_FACT_BYTES, "%s%s%s", s->model, s->about[0] ? " " : "",
                   s->about);
    text_copy(fact_of(b, SERVE_FACT_TOKENIZER), SERVE_FACT_BYTES, s->tokenizer);
    text_copy(fact_of(b, SERVE_FACT_CLIENT), SERVE_FACT_BYTES, machine);
    text_copy(fact_of(b, SERVE_FACT_HARDWARE), SERVE_FACT_BYTES, b->address.is_here ? machine : "");
    text_copy(fact_of(b, SERVE_FACT_CACHE), SERVE_FACT_BYTES,
              !strcmp(b->given.cache, "cold") ? "cold: nothing of earlier runs is found" : "");
    describe_traffic(b);
    if (s->version[0])
        (void)snprintf(fact_of(b, SERVE_FACT_VERSIONS), SERVE_FACT_BYTES,
                       "client baton " BATON_VERSION ", server %s, kernel %s", s->version, b->machine.kernel);
    for (size_t i = 0; i < b->given.facts.n; i++) {
        const char *text = b->given.facts.items[i];
        size_t len = strcspn(text, "=");
        text_copy(fact_of(b, serve_fact_find(text, len)), SERVE_FACT_BYTES, text + len + 1);
    }
}

static status load_baseline(struct bench *b, struct error *err)
{
    const struct given *g = &b->given;
    struct text_buffer differences;
    if (!g->against)
        return ST_OK;
    status st = baseline_load(g->baselines, g->against, SERVE_SCHEMA, &b->baseline, err);
    if (st != ST_OK)
        return st;
    text_buffer_init(&differences, 64u * SERVE_FACT_BYTES);
    uint32_t n = serve_identity_compare(&b->identity, json_object_get(b->baseline, "identity"), &differences);
    if (n > 0)
        fputs(text_buffer_text(&differences), stderr);
    text_buffer_free(&differences);
    if (n == 0)
        return ST_OK;
    return error_set(err, ST_INVALID,
                     "this run cannot be compared with \"%s\", for %u reason%s; nothing was sent. What the server does "
                     "not tell can be told with --fact NAME=TEXT, in both runs",
                     g->against, n, n > 1 ? "s" : "");
}

/* ---- the run ------------------------------------------------------------------------------------------ */

static void show_progress(void *ctx, uint64_t elapsed_us, uint64_t sent, uint64_t ended, uint64_t failed)
{
    (void)ctx;
    (void)fprintf(stderr, "\r%llu s: %llu sent, %llu ended, %llu failed ", (unsigned long long)(elapsed_us / 1000000),
                  (unsigned long long)sent, (unsigned long long)ended, (unsigned long long)failed);
}

static void prepare(struct bench *b, int argc, char **argv)
{
    struct serve_options *o = &b->run;
    time_t now = time(NULL);
    struct tm tm;
    size_t len = 0;
    o->api = (struct serve_api){ .model = b->server.model,
                                 .chat = !strcmp(b->given.endpoint, "chat"),
                                 .ignore_eos = !b->given.may_end };
    (void)snprintf(b->salt, sizeof b->salt, "bench-serve-%lld-%lld", (long long)now, (long long)getpid());
    if (!strcmp(b->given.cache, "cold"))
        o->api.salt = b->salt;
    (void)snprintf(b->path, sizeof b->path, "%s%s", b->address.base,
                   o->api.chat ? "/v1/chat/completions" : "/v1/completions");
    o->host = b->address.host;
    o->port = b->address.port;
    o->path = b->path;
    o->traffic = &b->traffic;
    o->words = &b->words;
    o->on_progress = isatty(STDERR_FILENO) ? show_progress : NULL;
    (void)strftime(b->started, sizeof b->started, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    len = (size_t)snprintf(b->command, sizeof b->command, "baton bench");
    for (int i = 0; i < argc && len < sizeof b->command; i++)
        len += (size_t)snprintf(b->command + len, sizeof b->command - len, " %s", argv[i]);
}

/* Before a run of hours, whose results would be lost. */
static status check_files(const struct given *g, struct error *err)
{
    const char *const paths[] = { g->html, g->records };
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        FILE *file = paths[i] ? fopen(paths[i], "ae") : NULL;
        if (paths[i] && !file)
            return error_set(err, ST_IO, "%s: %s", paths[i], strerror(errno));
        if (file)
            (void)fclose(file);
    }
    return ST_OK;
}

static status write_page(const char *path, struct text_buffer *page, struct error *err)
{
    FILE *file = page->state == ST_OK ? fopen(path, "we") : NULL;
    bool ok = file && fwrite(text_buffer_text(page), 1, page->len, file) == page->len;
    if (file && fclose(file) != 0)
        ok = false;
    status st = page->state != ST_OK ? error_set(err, page->state, "%s: %s", path, status_text(page->state))
                : !ok                ? error_set(err, ST_IO, "%s: %s", path, strerror(errno))
                                     : ST_OK;
    text_buffer_free(page);
    return st;
}

static status write_files(const struct bench *b, const struct serve_report *report, const struct text_buffer *json,
                          struct error *err)
{
    const struct given *g = &b->given;
    struct text_buffer page;
    status st = ST_OK;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    if (g->html) {
        serve_report_html(report, &page);
        st = write_page(g->html, &page, err);
        text_buffer_init(&page, OUTPUT_MAX_BYTES);
    }
    if (st == ST_OK && g->records) {
        serve_report_records(report->run, &page);
        st = write_page(g->records, &page, err);
    }
    if (st == ST_OK && g->save)
        st = baseline_save(g->baselines, g->save, json->data, json->len, err);
    return st;
}

static int report(const struct command *self, const struct bench *b, const struct serve_run *run,
                  const struct serve_summary *summary)
{
    struct error err;
    struct text_buffer json, page;
    const struct serve_report r = {
        .run = run,
        .summary = summary,
        .identity = &b->identity,
        .machine = &b->machine,
        .slo = b->slo,
        .n_warmup = b->run.n_warmup,
        .url = b->address.url,
        .command = b->command,
        .started = b->started,
        .baseline = b->baseline,
        .baseline_name = b->given.against,
    };
    text_buffer_init(&json, OUTPUT_MAX_BYTES);
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    serve_report_json(&r, &json);
    if (b->given.as_json)
        text_buffer_append(&page, text_buffer_text(&json), json.len);
    else
        serve_report_table(&r, &page);
    status st = json.state == ST_OK ? write_files(b, &r, &json, &err) : error_set(&err, json.state, "no memory");
    text_buffer_free(&json);
    int code = command_print(&page);
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    if (run->interrupted)
        return EXIT_INTERRUPTED;
    if (code == EXIT_DONE && summary->n_done == 0)
        return command_failed(self, "no request was answered");
    return code;
}

static int measure(const struct command *self, struct bench *b)
{
    struct serve_run *run = NULL;
    struct serve_summary *summary = NULL;
    struct error err;
    status st = serve_run(&b->run, &run, &err);
    if (b->run.on_progress)
        (void)fprintf(stderr, "\n");
    if (st == ST_OK && serve_summarise(run, b->run.n_warmup, &b->slo, &summary) != ST_OK)
        st = error_set(&err, ST_NO_MEMORY, "no memory for the figures");
    int code = st == ST_OK ? report(self, b, run, summary) : command_failed(self, "%s", err.text);
    serve_run_free(&run);
    free(summary);
    return code;
}

static int bench(const struct command *self, struct bench *b, int argc, char **argv)
{
    struct error err;
    status st = check_names(&b->given, &err);
    if (st == ST_OK)
        st = read_traffic(b, &err);
    if (st == ST_OK)
        st = read_limits(b, &err);
    if (st == ST_OK)
        st = allow_connections(b, &err);
    if (st == ST_INVALID)
        return command_misuse(self, "%s", err.text);
    if (st == ST_OK)
        st = find_server(b, &err);
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    prepare(b, argc, argv);
    machine_read(&b->machine);
    identify(b);
    if (load_baseline(b, &err) != ST_OK || check_files(&b->given, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    return measure(self, b);
}

static int run(const struct command *self, int argc, char **argv)
{
    static struct bench b; /* large */
    struct given *g = &b.given;
    int code;
    b = (struct bench){ .given = { .arrivals = "poisson",
                                   .endpoint = "chat",
                                   .cache = "cold",
                                   .pause = "0",
                                   .timeout = "60s",
                                   .speed = 1,
                                   .length_scale = 1,
                                   .seed = 1 } };
    const struct option_row rows[] = {
        { "url", 0, OPTION_TEXT, &g->url, "URL", "Server; default: the router of the cluster in the state folder", 0,
          0 },
        { "model", 0, OPTION_TEXT, &g->model, "NAME", "Model (the first that the server has)", 0, 0 },
        { "endpoint", 0, OPTION_WORD, &g->endpoint, "chat|completions", "What is called (chat)", 0, 0 },
        { "rate", 0, OPTION_REAL, &g->rate, "N", "Open loop: conversations a second, whatever becomes of them", 0.001,
          SERVE_MAX_RATE },
        { "arrivals", 0, OPTION_WORD, &g->arrivals, "poisson|fixed", "Of --rate: at random or in equal steps (poisson)",
          0, 0 },
        { "concurrency", 0, OPTION_INT, &g->concurrency, "N", "Closed loop: so many ask, each when it has its answer",
          1, SERVE_MAX_USERS },
        { "trace", 0, OPTION_TEXT, &g->trace, "FILE",
          "Lengths and shared prefixes of a trace (Mooncake, Azure, or own CSV), and its times without the above", 0,
          0 },
        { "speed", 0, OPTION_REAL, &g->speed, "X", "Replays the trace so many times as fast (1)", 1e-3, 1e6 },
        { "length-scale", 0, OPTION_REAL, &g->length_scale, "X", "Times the trace's lengths (1)", 1e-4, 100 },
        { "input", 0, OPTION_TEXT, &g->input, "TOKENS", "Of each question: " DISTRIBUTION_FORMS " (128)", 0, 0 },
        { "output", 0, OPTION_TEXT, &g->output, "TOKENS", "Of each answer, likewise (64)", 0, 0 },
        { "may-end", 0, OPTION_FLAG, &g->may_end, "", "Answers may end before: no ignore_eos is sent", 0, 0 },
        { "turns", 0, OPTION_TEXT, &g->turns, "N", "Questions of each conversation, likewise (1)", 0, 0 },
        { "pause", 0, OPTION_TEXT, &g->pause, "MS", "Milliseconds from an answer to the next question, likewise (0)", 0,
          0 },
        { "prefixes", 0, OPTION_INT, &g->prefixes, "N", "Conversations begin with one of so many texts", 1,
          MAX_PREFIXES },
        { "prefix-tokens", 0, OPTION_INT, &g->prefix_tokens, "N", "Tokens of each of these", 1, SERVE_MAX_TOKENS },
        { "seed", 0, OPTION_INT, &g->seed, "N", "Of all that is drawn (1)", 0, 1e15 },
        { "cache", 0, OPTION_WORD, &g->cache, "cold|as-found",
          "cold: under a cache_salt of this run, so that nothing earlier is found; as-found: without (cold)", 0, 0 },
        { "requests", 0, OPTION_INT, &g->requests, "N", "At most", 1, SERVE_MAX_REQUESTS },
        { "duration", 0, OPTION_TEXT, &g->duration, "TIME",
          "Asks nothing new after it (30s without --requests and --trace)", 0, 0 },
        { "warmup", 0, OPTION_INT, &g->warmup, "N", "First requests that do not count (0)", 0, SERVE_MAX_REQUESTS - 1 },
        { "timeout", 0, OPTION_TEXT, &g->timeout, "TIME", "Of each request (60s)", 0, 0 },
        { "connections", 0, OPTION_INT, &g->connections, "N", "Of an open loop at most (1024)", 1,
          LOAD_MAX_CONNECTIONS },
        { "slo-ttft", 0, OPTION_TEXT, &g->slo_ttft, "TIME", "Objective: to the first token, from when it was due", 0,
          0 },
        { "slo-itl", 0, OPTION_TEXT, &g->slo_itl, "TIME", "Objective: the longest time between two tokens", 0, 0 },
        { "slo-tpot", 0, OPTION_TEXT, &g->slo_tpot, "TIME", "Objective: mean time of a token after the first", 0, 0 },
        { "slo-e2e", 0, OPTION_TEXT, &g->slo_e2e, "TIME", "Objective: to the end, from when it was due", 0, 0 },
        { "json", 0, OPTION_FLAG, &g->as_json, "", "One JSON object", 0, 0 },
        { "html", 0, OPTION_TEXT, &g->html, "FILE", "A page with plots, which needs nothing else", 0, 0 },
        { "records", 0, OPTION_TEXT, &g->records, "FILE", "A line of JSON for each request", 0, 0 },
        { "save-baseline", 0, OPTION_TEXT, &g->save, "NAME", "Keeps this run under a name", 0, 0 },
        { "against", 0, OPTION_TEXT, &g->against, "NAME", "Compares with a run that was kept, if it was alike", 0, 0 },
        { "baselines", 0, OPTION_TEXT, &g->baselines, "DIR", "Where they are ($XDG_STATE_HOME/baton-baselines)", 0, 0 },
        { "fact", 0, OPTION_LIST, &g->facts, "NAME=TEXT",
          "What a comparison must know and the server does not tell: tokenizer, hardware, cache, transport, cluster, "
          "versions",
          0, 0 },
        PLACE_ROWS(&g->place),
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    code = bench(self, &b, argc, argv);
    trace_free(&b.trace);
    json_decref(b.baseline);
    return code;
}

const struct command command_bench_serve = { "bench serve", "", "Load on a server, and the times of its answers", run };
