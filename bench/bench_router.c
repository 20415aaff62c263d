#include "bench/bench_router.h"

#include <getopt.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/router_rig.h"
#include "bench/router_traffic.h"
#include "common/json_writer.h"
#include "common/log.h"
#include "engine/tokenizer.h"

#define WARM_UP_REQUESTS 2000u
#define FAST_STEP_US     100u   /* workers are held back by the window instead */
#define PACED_STEP_US    10000u /* of the latency phase */
#define PACED_STREAMS    16u
#define LOADED_ROUTER    0.8 /* shares of a processor of the loaded phase, which the first of the two ends */
#define LOADED_CLIENT    0.6
#define LOADED_ROUNDS    4u /* to find its pace: fewer tokens share a wakeup than at full speed */
#define IDLE_US          1000000u
#define PATH_BYTES       1024

struct settings {
    char router[PATH_BYTES], model[PATH_BYTES], busy_poll[32];
    uint32_t workers, connections, tokens;
    uint64_t requests; /* of the memory phase */
    double seconds;    /* of each other phase */
    bool json;
};

struct figures {
    struct traffic_result requests, streams, paced, paced_direct, loaded, loaded_direct, memory;
    uint64_t loaded_step_us;
    double idle_cpu_us; /* a second */
    double cpu_us_per_request, cpu_us_per_token, cpu_us_per_token_paced;
    double rss_start_mib, rss_mib;
    double cpu_total_s; /* getrusage, the whole life of the router */
};

/* ---- settings --------------------------------------------------------------------- */

static void usage(FILE *to, const char *name)
{
    (void)fprintf(to,
                  "usage: %s [--seconds S] [--requests N] [--connections N] [--workers N] [--tokens N]\n"
                  "          [--busy-poll TIME] [--router PROGRAM] [--model FOLDER] [--json]\n"
                  "Measures baton-router alone on one processor, with mock workers and a load client on another.\n"
                  "  --seconds S      length of each timed phase (4)\n"
                  "  --requests N     requests of the memory phase (20000)\n"
                  "  --connections N  clients at one time, 1 to %u (64)\n"
                  "  --workers N      mock decode workers, 1 to %u (2)\n"
                  "  --tokens N       tokens of a streamed answer, 2 to %u (64)\n"
                  "  --busy-poll TIME of the router, which has its processor for itself (0: it sleeps at once)\n"
                  "  --router PROGRAM baton-router; beside this program if not given\n"
                  "  --model FOLDER   tokenizer and template of the model served; the built-in model if not given\n"
                  "  --json           one object on standard output\n",
                  name, TRAFFIC_MAX_REQUESTS - 1, RIG_MAX_WORKERS, TRAFFIC_MAX_TOKENS);
}

/* The first of the places where a file can stand, relative to the folder of this program or to the current one. */
static bool find_beside(const char *const places[], const char *probe, char out[PATH_BYTES])
{
    char self[PATH_BYTES], path[2 * PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = '\0';
    const char *dir = dirname(self);
    for (size_t i = 0; places[i]; i++) {
        const char *base = strncmp(places[i], "./", 2) == 0 ? "." : dir;
        (void)snprintf(path, sizeof path, "%s/%s%s", base, places[i], probe);
        if (access(path, R_OK) != 0)
            continue;
        (void)snprintf(out, PATH_BYTES, "%.900s/%s", base, places[i]);
        return true;
    }
    return false;
}

static bool read_count(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || value < least || value > most)
        return false;
    *out = value;
    return true;
}

static bool read_seconds(const char *text, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0.2 && value <= 3600))
        return false;
    *out = value;
    return true;
}

static bool read_path(const char *text, char out[PATH_BYTES])
{
    return snprintf(out, PATH_BYTES, "%s", text) < PATH_BYTES;
}

static bool read_option(struct settings *s, int option)
{
    uint64_t n = 0;
    bool good = true;
    switch (option) {
    case 's':
        return read_seconds(optarg, &s->seconds);
    case 'n':
        return read_count(optarg, 1, 100000000, &s->requests);
    case 'c':
        good = read_count(optarg, 1, TRAFFIC_MAX_REQUESTS - 1, &n);
        s->connections = (uint32_t)n;
        return good;
    case 'w':
        good = read_count(optarg, 1, RIG_MAX_WORKERS, &n);
        s->workers = (uint32_t)n;
        return good;
    case 't':
        good = read_count(optarg, 2, TRAFFIC_MAX_TOKENS, &n);
        s->tokens = (uint32_t)n;
        return good;
    case 'b':
        return snprintf(s->busy_poll, sizeof s->busy_poll, "%s", optarg) < (int)sizeof s->busy_poll;
    case 'r':
        return read_path(optarg, s->router);
    case 'm':
        return read_path(optarg, s->model);
    default:
        s->json = true;
        return option == 'j';
    }
}

/* -1: go on; else the exit code. */
static int read_settings(struct settings *s, int argc, char **argv)
{
    static const struct option options[] = {
        { "seconds", required_argument, NULL, 's' },
        { "requests", required_argument, NULL, 'n' },
        { "connections", required_argument, NULL, 'c' },
        { "workers", required_argument, NULL, 'w' },
        { "tokens", required_argument, NULL, 't' },
        { "busy-poll", required_argument, NULL, 'b' },
        { "router", required_argument, NULL, 'r' },
        { "model", required_argument, NULL, 'm' },
        { "json", no_argument, NULL, 'j' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    static const char *const routers[] = { "baton-router", NULL };
    static const char *const models[] = { "../../../models/baton-tiny", "./models/baton-tiny", NULL };
    int option;
    *s = (struct settings){ .workers = 2, .connections = 64, .tokens = 64, .requests = 20000, .seconds = 4 };
    (void)snprintf(s->busy_poll, sizeof s->busy_poll, "0");
    optind = 0; /* start anew: the command line of the caller was read before */
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'h') {
            usage(stdout, argv[0]);
            return 0;
        }
        if (option == '?' || !read_option(s, option)) {
            if (option != '?')
                (void)fprintf(stderr, "%s: %s is not an allowed value\n", argv[0], optarg);
            usage(stderr, argv[0]);
            return 2;
        }
    }
    if (optind < argc) {
        (void)fprintf(stderr, "%s: what is %s?\n", argv[0], argv[optind]);
        usage(stderr, argv[0]);
        return 2;
    }
    if ((s->router[0] || find_beside(routers, "", s->router)) &&
        (s->model[0] || find_beside(models, "/tokenizer.json", s->model)))
        return -1;
    (void)fprintf(stderr, "%s: %s; name it with %s\n", argv[0],
                  s->router[0] ? "the built-in model is not found" : "baton-router is not beside this program",
                  s->router[0] ? "--model FOLDER" : "--router PROGRAM");
    return 2;
}

static status letter_ids(const char *model, uint32_t *out, struct error *err)
{
    struct tokenizer *tokenizer;
    status st = tokenizer_load_folder(model, &tokenizer, err);
    if (st != ST_OK)
        return st;
    for (size_t i = 0; i < sizeof TRAFFIC_LETTERS - 1 && st == ST_OK; i++) {
        out[i] = tokenizer_id(tokenizer, &TRAFFIC_LETTERS[i], 1);
        if (out[i] == TOKENIZER_NONE)
            st = error_set(err, ST_UNSUPPORTED, "%s has no token for the letter %c", model, TRAFFIC_LETTERS[i]);
    }
    tokenizer_destroy(&tokenizer);
    return st;
}

/* ---- phases ----------------------------------------------------------------------- */

struct bench {
    struct settings settings;
    struct router_rig *rig;
    struct traffic *traffic;
    struct figures figures;
};

static uint64_t duration(const struct bench *b)
{
    return (uint64_t)(b->settings.seconds * 1e6);
}

static status run_phase(struct bench *b, const char *what, const struct traffic_phase *phase,
                        struct traffic_result *out, struct error *err)
{
    (void)fprintf(stderr, "%s ...\n", what);
    return traffic_run(b->traffic, b->rig, phase, out, err);
}

/* Both kinds of request at once: what a router's memory has to stand. */
static struct traffic_phase mixed(const struct bench *b, uint64_t n)
{
    return (struct traffic_phase){ .n_connections = b->settings.connections,
                                   .stream_tokens = 16,
                                   .stream_every = 8,
                                   .n_requests = n,
                                   .step_us = FAST_STEP_US };
}

static status warm_up(struct bench *b, struct error *err)
{
    struct traffic_phase phase = mixed(b, WARM_UP_REQUESTS);
    struct traffic_result result;
    status st = run_phase(b, "warming up", &phase, &result, err);
    b->figures.rss_start_mib = (double)result.rss_bytes / (1u << 20);
    return st;
}

static void on_idle_over(void *arg)
{
    router_rig_done(arg);
}

/* Pings and published load cost something without any request. */
static status measure_idle(struct bench *b, struct error *err)
{
    struct process_probe before, after;
    struct timer timer = { 0 };
    status st = process_probe_read(b->rig->router_child.pid, &before, err);
    if (st != ST_OK)
        return st;
    timer_set(loop_timers(b->rig->loop), &timer, timers_now(loop_timers(b->rig->loop)) + IDLE_US, on_idle_over, b->rig);
    st = router_rig_run(b->rig, 10 * IDLE_US, err);
    timer_cancel(loop_timers(b->rig->loop), &timer);
    if (st == ST_OK)
        st = process_probe_read(b->rig->router_child.pid, &after, err);
    if (st == ST_OK)
        b->figures.idle_cpu_us = (double)(after.cpu_ns - before.cpu_ns) / 1000.0;
    return st;
}

static status measure_requests(struct bench *b, struct error *err)
{
    struct traffic_phase phase = { .n_connections = b->settings.connections,
                                   .duration_us = duration(b),
                                   .step_us = FAST_STEP_US };
    struct traffic_result *r = &b->figures.requests;
    status st = run_phase(b, "short requests", &phase, r, err);
    if (st == ST_OK)
        b->figures.cpu_us_per_request = r->requests ? r->router_cpu_us / (double)r->requests : NAN;
    return st;
}

static double per_second(uint64_t n, const struct traffic_result *r)
{
    return r->load.elapsed_us ? (double)n * 1e6 / (double)r->load.elapsed_us : 0;
}

/* What is left a token when each request is charged as a short one. */
static double cost_of_token(const struct bench *b, const struct traffic_result *r)
{
    double tokens = (double)r->streamed;
    return tokens > 0 ? (r->router_cpu_us - (double)r->requests * b->figures.cpu_us_per_request) / tokens : NAN;
}

static status measure_streams(struct bench *b, struct error *err)
{
    struct traffic_phase phase = { .n_connections = b->settings.connections,
                                   .stream_tokens = b->settings.tokens,
                                   .stream_every = 1,
                                   .duration_us = duration(b),
                                   .step_us = FAST_STEP_US,
                                   .window = 4 * b->settings.connections };
    status st = run_phase(b, "streams, as fast as they go", &phase, &b->figures.streams, err);
    if (st == ST_OK)
        b->figures.cpu_us_per_token = cost_of_token(b, &b->figures.streams);
    return st;
}

static struct traffic_phase paced(const struct bench *b, uint64_t step_us)
{
    return (struct traffic_phase){ .n_connections = PACED_STREAMS,
                                   .stream_tokens = b->settings.tokens,
                                   .stream_every = 1,
                                   .duration_us = duration(b),
                                   .step_us = step_us };
}

/* The same streams without the router: what a token's way from a worker to a client on another processor costs anyway,
 * the waking of the client and its reading among it. */
static status measure_direct(struct bench *b, struct traffic_phase phase, struct traffic_result *out, struct error *err)
{
    phase.direct = true;
    return run_phase(b, "the same without the router", &phase, out, err);
}

static status measure_latency(struct bench *b, struct error *err)
{
    struct traffic_phase phase = paced(b, PACED_STEP_US);
    status st = run_phase(b, "streams at a moderate pace", &phase, &b->figures.paced, err);
    if (st == ST_OK)
        b->figures.cpu_us_per_token_paced = cost_of_token(b, &b->figures.paced);
    return st == ST_OK ? measure_direct(b, phase, &b->figures.paced_direct, err) : st;
}

static double added_p50(const struct traffic_result *routed, const struct traffic_result *direct)
{
    return routed->token_p50_us - direct->token_p50_us;
}

static double router_share(const struct traffic_result *r)
{
    return r->load.elapsed_us ? r->router_cpu_us / (double)r->load.elapsed_us : 0;
}

/* How far beyond its pace a phase was: 1 where the router or the client is as busy as it may be. */
static double excess(const struct traffic_result *r)
{
    return fmax(router_share(r) / LOADED_ROUTER, r->load.busy / LOADED_CLIENT);
}

static status measure_loaded(struct bench *b, struct error *err)
{
    struct traffic_result *r = &b->figures.loaded;
    double step = PACED_STREAMS / fmax(per_second(b->figures.streams.streamed, &b->figures.streams), 1) * 1e6;
    step *= excess(&b->figures.streams);
    struct traffic_phase phase = { 0 };
    status st = ST_OK;
    for (uint32_t round = 0; round <= LOADED_ROUNDS && st == ST_OK; round++) {
        bool last = round == LOADED_ROUNDS;
        phase = paced(b, (uint64_t)fmax(step, FAST_STEP_US));
        if (!last)
            phase.duration_us /= LOADED_ROUNDS;
        st = run_phase(b, last ? "streams at the highest pace that is looked at" : "looking for it", &phase, r, err);
        step = (double)phase.step_us * excess(r);
    }
    b->figures.loaded_step_us = phase.step_us;
    return st == ST_OK ? measure_direct(b, phase, &b->figures.loaded_direct, err) : st;
}

static status measure_memory(struct bench *b, struct error *err)
{
    struct traffic_phase phase = mixed(b, b->settings.requests);
    status st = run_phase(b, "memory", &phase, &b->figures.memory, err);
    if (st == ST_OK)
        b->figures.rss_mib = (double)b->figures.memory.rss_bytes / (1u << 20);
    return st;
}

static status measure(struct bench *b, struct error *err)
{
    static status (*const phases[])(struct bench *, struct error *) = {
        warm_up, measure_idle, measure_requests, measure_streams, measure_latency, measure_loaded, measure_memory,
    };
    uint32_t ids[sizeof TRAFFIC_LETTERS - 1];
    struct rusage total;
    struct router_rig_options options = { .router = b->settings.router,
                                          .busy_poll = b->settings.busy_poll,
                                          .model = b->settings.model,
                                          .n_workers = b->settings.workers };
    status st = letter_ids(b->settings.model, ids, err);
    if (st != ST_OK)
        return st;
    options.worker.token_ids = ids;
    options.worker.n_token_ids = sizeof ids / sizeof ids[0];
    options.worker.step_us = FAST_STEP_US;
    traffic_attach(b->traffic, &options.worker);
    (void)fprintf(stderr, "starting etcd, baton-router and %u mock workers ...\n", b->settings.workers);
    st = router_rig_create(&options, &b->rig, err);
    if (st != ST_OK)
        return st;
    for (size_t i = 0; i < sizeof phases / sizeof phases[0] && st == ST_OK; i++)
        st = phases[i](b, err);
    router_rig_destroy(&b->rig, &total);
    b->figures.cpu_total_s = (double)(total.ru_utime.tv_sec + total.ru_stime.tv_sec) +
                             (double)(total.ru_utime.tv_usec + total.ru_stime.tv_usec) / 1e6;
    return st;
}

/* ---- figures ----------------------------------------------------------------------- */

static double rounded(double value)
{
    return round(value * 100) / 100;
}

static void print_json(const struct bench *b)
{
    const struct figures *f = &b->figures;
    struct text_buffer text;
    struct json_writer w;
    text_buffer_init(&text, 16384);
    json_writer_init(&w, &text);
    json_write_object(&w);
    json_field_real(&w, "requests_per_s", rounded(per_second(f->requests.requests, &f->requests)));
    json_field_real(&w, "events_per_s", rounded(per_second(f->streams.streamed, &f->streams)));
    json_field_real(&w, "cpu_us_per_request", rounded(f->cpu_us_per_request));
    json_field_real(&w, "cpu_us_per_token", rounded(f->cpu_us_per_token));
    json_field_real(&w, "cpu_us_per_token_paced", rounded(f->cpu_us_per_token_paced));
    json_field_real(&w, "token_p50_us", f->paced.token_p50_us);
    json_field_real(&w, "token_p99_us", f->paced.token_p99_us);
    json_field_real(&w, "direct_p50_us", f->paced_direct.token_p50_us);
    json_field_real(&w, "direct_p99_us", f->paced_direct.token_p99_us);
    json_field_real(&w, "added_p50_us", added_p50(&f->paced, &f->paced_direct));
    json_field_real(&w, "loaded_token_p50_us", f->loaded.token_p50_us);
    json_field_real(&w, "loaded_token_p99_us", f->loaded.token_p99_us);
    json_field_real(&w, "loaded_direct_p50_us", f->loaded_direct.token_p50_us);
    json_field_real(&w, "loaded_direct_p99_us", f->loaded_direct.token_p99_us);
    json_field_real(&w, "loaded_added_p50_us", added_p50(&f->loaded, &f->loaded_direct));
    json_field_real(&w, "loaded_tokens_per_s", rounded(per_second(f->loaded.streamed, &f->loaded)));
    json_field_real(&w, "loaded_router", rounded(router_share(&f->loaded)));
    json_field_real(&w, "loaded_client", rounded(f->loaded.load.busy));
    json_field_real(&w, "ttft_p50_us", f->paced.ttft_p50_us);
    json_field_real(&w, "runqueue_us", rounded(f->paced.router_wait_us));
    json_field_real(&w, "client_runqueue_us", rounded(f->paced.client_wait_us));
    json_field_real(&w, "steal", f->paced.steal < 0 ? NAN : rounded(f->paced.steal));
    json_field_real(&w, "rss_start_mib", rounded(f->rss_start_mib));
    json_field_real(&w, "rss_mib", rounded(f->rss_mib));
    json_field_uint(&w, "memory_requests", f->memory.requests);
    json_field_real(&w, "idle_cpu_us_per_s", rounded(f->idle_cpu_us));
    json_field_real(&w, "cpu_total_s", rounded(f->cpu_total_s));
    json_field_bool(&w, "client_bound_requests", load_is_bottleneck(&f->requests.load));
    json_field_bool(&w, "client_bound_events", load_is_bottleneck(&f->streams.load));
    json_write_end(&w);
    (void)printf("%s\n", text_buffer_text(&text));
    text_buffer_free(&text);
}

static void print_rate(const char *what, double rate, const char *unit, const struct load_stats *load)
{
    (void)printf("%-28s %10.0f %s; the client was busy for %.0f %%%s\n", what, rate, unit, 100 * load->busy,
                 load_is_bottleneck(load) ? ": the limit is the client's, not the router's" : "");
}

static void print_latency(const char *what, const struct traffic_result *routed, const struct traffic_result *direct,
                          uint64_t step_us)
{
    (void)printf("%-28s %10.0f us: %.0f us with it (p99 %.0f), %.0f without (p99 %.0f) at %.0f tokens/s (%u streams, "
                 "%llu us a step); router busy for %.0f %%, client for %.0f\n",
                 what, added_p50(routed, direct), routed->token_p50_us, routed->token_p99_us, direct->token_p50_us,
                 direct->token_p99_us, per_second(routed->streamed, routed), PACED_STREAMS, (unsigned long long)step_us,
                 100 * router_share(routed), 100 * routed->load.busy);
}

static void print_people(const struct bench *b)
{
    const struct figures *f = &b->figures;
    const struct traffic_result *p = &f->paced;
    double stream_us = f->cpu_us_per_request + b->settings.tokens * f->cpu_us_per_token;
    (void)printf("baton-router --busy-poll %s on one processor; %u mock workers and %u clients on another\n\n",
                 b->settings.busy_poll, b->settings.workers, b->settings.connections);
    (void)printf("%-28s %10s %12s %18s\n", "processor time, us", "baton", "smg 1.13 (1)", "Dynamo 1.6 (2)");
    (void)printf("%-28s %10.1f %12s %18s\n", "a short request", f->cpu_us_per_request, "310", "-");
    (void)printf("%-28s %10.2f %12s %18s\n", "a streamed token", f->cpu_us_per_token, "25", "-");
    (void)printf("a request of %3u tokens        %9.0f %12s %18s\n", b->settings.tokens, stream_us,
                 b->settings.tokens == 64 ? "1900" : "-", b->settings.tokens == 64 ? "2300-2800" : "-");
    (void)printf("%-28s %10.1f %12s %18s\n", "resident memory, MiB", f->rss_mib, "69-82", "148-233");
    (void)printf(
        "(1) without tokenising, round robin. (2) frontend, kv mode. Measured earlier on a busy machine of two\n"
        "    processors, within 20 %%; prompts of 50 words as here.\n\n");
    print_rate("short requests", per_second(f->requests.requests, &f->requests), "requests/s", &f->requests.load);
    print_rate("streamed tokens", per_second(f->streams.streamed, &f->streams), "events/s", &f->streams.load);
    print_latency("latency added to a token (3)", p, &f->paced_direct, PACED_STEP_US);
    print_latency("  at the highest pace (4)", &f->loaded, &f->loaded_direct, f->loaded_step_us);
    (void)printf("%-28s %10.0f us at the moderate pace\n", "first token", p->ttft_p50_us);
    (void)printf("%-28s %10.1f us a wakeup at the router, %.1f us at the client; ", "run-queue wait there",
                 p->router_wait_us, p->client_wait_us);
    if (p->steal < 0)
        (void)printf("steal not known\n");
    else
        (void)printf("steal %.1f %%\n", 100 * p->steal);
    (void)printf("%-28s %10.2f us at that pace; idle %.0f us a second\n", "processor time a token",
                 f->cpu_us_per_token_paced, f->idle_cpu_us);
    (void)printf("%-28s %10.2f MiB, %.2f MiB after %llu more requests\n", "memory after warm-up", f->rss_start_mib,
                 f->rss_mib, (unsigned long long)f->memory.requests);
    (void)printf(
        "(3) p50 from a worker's emission to the client's receipt, less what it is without a router: from a worker on\n"
        "    the router's processor to the same client, at the same pace. (4) of which the router is busy for %.0f %%\n"
        "    or the client for %.0f %%\n",
        100 * LOADED_ROUTER, 100 * LOADED_CLIENT);
}

int bench_router(int argc, char **argv)
{
    static char name[] = "baton bench router"; /* for messages, those of getopt too */
    argv[0] = name;
    struct bench b = { 0 };
    struct error err = { "" };
    int code = read_settings(&b.settings, argc, argv);
    if (code >= 0)
        return code;
    log_init("bench", LOG_WARN);
    status st = traffic_create(&b.traffic, &err);
    if (st == ST_OK)
        st = measure(&b, &err);
    traffic_destroy(&b.traffic);
    if (st != ST_OK) {
        (void)fprintf(stderr, "%s: %s\n", argv[0], err.text);
        return 1;
    }
    if (b.settings.json)
        print_json(&b);
    else
        print_people(&b);
    return 0;
}
