/* baton doctor - is this machine fit to run a cluster, and what to do where it is not. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/child.h"
#include "cli/command.h"
#include "cli/model_store.h"
#include "cli/place.h"
#include "common/json_writer.h"
#include "engine/engine.h"
#include "engine/weight_image.h"

#define OUTPUT_MAX_BYTES    ((size_t)65536)
#define LEAST_FILES         4096
#define WEIGHTS_PROBE_BYTES ((size_t)8 << 20)
#define LEAST_MEMORY        ((uint64_t)2 << 30)

enum verdict { FINE, NOTE, BAD };
static const char *const verdict_names[] = { "ok", "note", "fail" };

struct examination {
    struct text_buffer page;
    struct json_writer json;
    bool as_json;
    unsigned n_bad;
};

/* what: a word; advice NULL where nothing is to be done. */
static void say(struct examination *e, enum verdict verdict, const char *what, const char *advice, const char *fmt, ...)
    PRINTF_LIKE(5, 6);
static void say(struct examination *e, enum verdict verdict, const char *what, const char *advice, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    e->n_bad += verdict == BAD;
    if (!e->as_json) {
        text_buffer_printf(&e->page, "%-5s %-12s %s\n", verdict_names[verdict], what, text);
        if (advice)
            text_buffer_printf(&e->page, "%18s -> %s\n", "", advice);
        return;
    }
    json_write_object(&e->json);
    json_field_string(&e->json, "check", what);
    json_field_string(&e->json, "verdict", verdict_names[verdict]);
    json_field_string(&e->json, "found", text);
    if (advice)
        json_field_string(&e->json, "advice", advice);
    json_write_end(&e->json);
}

static void first_line_of(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "r");
    out[0] = '\0';
    if (file && fgets(out, (int)size, file))
        out[strcspn(out, "\n")] = '\0';
    if (file)
        fclose(file);
}

static void check_etcd(struct examination *e)
{
    char output[1024];
    int code;
    struct error err;
    char *const argv[] = { (char *)"etcd", (char *)"--version", NULL };
    if (child_run(argv, output, sizeof output, &code, &err) != ST_OK || code != 0)
        say(e, BAD, "etcd", "run deploy/setup.sh, or install the package etcd-server, or give `baton up --etcd URL`",
            "the program etcd is not in PATH");
    else
        say(e, FINE, "etcd", NULL, "%.*s", (int)strcspn(output, "\n"), output);
}

static void check_daemons(struct examination *e)
{
    static const char *const names[] = { "baton-router", "baton-prefill", "baton-decode", "baton-kvbm" };
    char bin[1024], path[1100];
    struct error err;
    if (executable_folder(bin, sizeof bin, &err) != ST_OK)
        return;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        snprintf(path, sizeof path, "%s/%s", bin, names[i]);
        if (access(path, X_OK) != 0)
            say(e, BAD, "daemons", "build all targets: cmake --build --preset release", "%s: %s", path,
                strerror(errno));
    }
}

static void check_port(struct examination *e, uint16_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
        say(e, FINE, "port", NULL, "127.0.0.1:%u is free", port);
    else
        say(e, NOTE, "port", "a cluster may run already (baton status); give another port: baton up --port N",
            "127.0.0.1:%u: %s", port, strerror(errno));
    close(fd);
}

static void check_memory(struct examination *e)
{
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    say(e, memory < LEAST_MEMORY ? NOTE : FINE, "memory",
        memory < LEAST_MEMORY ? "set --set worker.kv_memory=64MiB and use small models" : NULL, "%.1f GiB",
        (double)memory / (double)(1 << 30));
}

/* What the kernel gives, rather than what its settings say. */
static void check_weight_pages(struct examination *e)
{
    struct weight_image image;
    struct error err;
    if (weight_image_create("doctor", WEIGHTS_PROBE_BYTES, &image, &err) != ST_OK) {
        say(e, BAD, "weights", "free memory, or use smaller models", "%s", err.text);
        return;
    }
    memset(image.content, 1, image.content_bytes);
    enum page_kind kind = page_kind_of(image.map);
    weight_image_close(&image);
    say(e, kind == PAGES_PLAIN ? NOTE : FINE, "weights",
        kind == PAGES_PLAIN ? "for a little more speed, as root: echo advise > "
                              "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
                            : NULL,
        "packed weights, which workers share, get %s pages", page_kind_name(kind));
}

static void check_huge_pages(struct examination *e)
{
    char shmem[256], thp[256], reserved[64];
    first_line_of("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shmem, sizeof shmem);
    first_line_of("/sys/kernel/mm/transparent_hugepage/enabled", thp, sizeof thp);
    first_line_of("/proc/sys/vm/nr_hugepages", reserved, sizeof reserved);
    say(e, FINE, "huge pages", NULL, "private memory: %s; shared memory: %s; reserved: %s", thp[0] ? thp : "unknown",
        shmem[0] ? shmem : "unknown", reserved[0] ? reserved : "unknown");
    check_weight_pages(e);
}

static void check_processor(struct examination *e)
{
    struct error err;
    if (engine_isa_check(ENGINE_REFERENCE, CLASS_PORTABLE, &err) != ST_OK) {
        say(e, BAD, "processor", "use a processor with AVX2 and FMA (x86-64-v3)", "%s", err.text);
        return;
    }
    if (engine_isa_check(ENGINE_AMX, CLASS_AMX, &err) == ST_OK)
        say(e, FINE, "processor", NULL, "AMX: the amx kernels run, and class amx can be had");
    else if (engine_isa_check(ENGINE_AVX512, CLASS_PORTABLE, &err) == ST_OK)
        say(e, FINE, "processor", NULL, "AVX-512 with VNNI: the avx512 kernels run");
    else
        say(e, NOTE, "processor", "answers are the same, and slower than with AVX-512", "%s: the avx2 kernels run",
            err.text);
    say(e, FINE, "cores", NULL, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
}

static void check_limits(struct examination *e)
{
    struct rlimit files = { 0, 0 }, locked = { 0, 0 };
    char scope[32];
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    bool few = files.rlim_max < LEAST_FILES;
    say(e, few ? NOTE : FINE, "open files",
        few ? "raise the hard limit (ulimit -Hn, LimitNOFILE= of a unit): each client takes one" : NULL, "at most %llu",
        (unsigned long long)files.rlim_max);
    if (locked.rlim_cur == RLIM_INFINITY)
        say(e, FINE, "memlock", NULL, "unlimited");
    else
        say(e, FINE, "memlock", NULL, "%llu KiB; matters only where an RDMA network is used",
            (unsigned long long)locked.rlim_cur / 1024);
    first_line_of("/proc/sys/kernel/yama/ptrace_scope", scope, sizeof scope);
    say(e, FINE, "ptrace", NULL, "ptrace_scope is %s; KV moves by mappings, which need none of it",
        scope[0] ? scope : "absent");
}

#define RDMA_DEVICES "/sys/class/infiniband"

/* What the kernel has; at its start a daemon says what UCX makes of it. */
static void check_rdma(struct examination *e)
{
    char names[256] = "";
    size_t at = 0;
    DIR *folder = opendir(RDMA_DEVICES);
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.' && at < sizeof names)
            at += (size_t)snprintf(names + at, sizeof names - at, " %s", entry->d_name);
    if (folder)
        closedir(folder);
    if (at)
        say(e, FINE, "rdma", NULL, "devices:%s; KV moves between hosts by RDMA where both have such", names);
    else
        say(e, FINE, "rdma", NULL,
            "no device in " RDMA_DEVICES ": KV moves between hosts by TCP, and --transfer rdma does not start");
}

static void check_models(struct examination *e)
{
    const struct known_model *model = &known_models[0];
    enum model_condition condition = known_model_condition(model);
    bool whole = condition == MODEL_WHOLE;
    say(e, whole ? FINE : NOTE, "model", whole ? NULL : "run: baton model fetch smollm2", "%s is %s", model->name,
        model_condition_name(condition));
}

static int run(const struct command *self, int argc, char **argv)
{
    struct examination e = { .n_bad = 0 };
    int64_t port = 8000;
    int code;
    const struct option_row rows[] = {
        { "json", 0, OPTION_FLAG, &e.as_json, "", "One JSON object", 0, 0 },
        { "port", 0, OPTION_INT, &port, "PORT", "Port of the API to look at (8000)", 1, 65535 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    text_buffer_init(&e.page, OUTPUT_MAX_BYTES);
    json_writer_init(&e.json, &e.page);
    if (e.as_json) {
        json_write_object(&e.json);
        json_write_key(&e.json, "checks");
        json_write_array(&e.json);
    }
    check_processor(&e);
    check_memory(&e);
    check_huge_pages(&e);
    check_limits(&e);
    check_rdma(&e);
    check_etcd(&e);
    check_daemons(&e);
    check_port(&e, (uint16_t)port);
    check_models(&e);
    if (e.as_json) {
        json_write_end(&e.json);
        json_field_bool(&e.json, "ok", e.n_bad == 0);
        json_write_end(&e.json);
        text_buffer_char(&e.page, '\n');
    }
    fputs(text_buffer_text(&e.page), stdout);
    text_buffer_free(&e.page);
    return e.n_bad ? EXIT_FAILED : EXIT_DONE;
}

const struct command command_doctor = { "doctor", "", "Is this machine fit, and what to do", run };
