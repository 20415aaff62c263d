/* baton bench disk - the disk tier of KV beside plain reads and writes. */
#include <signal.h>
#include <stdio.h>

#include "bench/bench_disk.h"
#include "cli/command.h"
#include "common/json_writer.h"
#include "common/log.h"
#include "common/quantity.h"

#define OUTPUT_MAX_BYTES 65536u

static volatile sig_atomic_t stopped;

static void on_stop(int number)
{
    (void)number;
    stopped = 1;
}

static void print_json(const struct bench_disk_options *o, const struct bench_disk_result *r)
{
    struct text_buffer page;
    struct json_writer w;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_string(&w, "io", r->io);
    json_field_bool(&w, "direct", r->direct);
    json_field_uint(&w, "blocks", r->blocks);
    json_field_uint(&w, "block_bytes", o->block_bytes);
    json_field_uint(&w, "extent_bytes", r->extent_bytes);
    json_field_uint(&w, "depth", o->depth);
    json_field_real(&w, "put_mbps", r->put / 1e6);
    json_field_real(&w, "plain_write_mbps", r->plain_write / 1e6);
    json_field_real(&w, "put_ratio", r->put / r->plain_write);
    json_field_real(&w, "get_mbps", r->get / 1e6);
    json_field_real(&w, "plain_read_mbps", r->plain_read / 1e6);
    json_field_real(&w, "get_ratio", r->get / r->plain_read);
    json_field_real(&w, "random_gets_per_s", r->random_gets);
    json_field_real(&w, "rebuild_s", r->rebuild_s);
    json_field_real(&w, "rebuild_s_per_100_gb", r->rebuild_s_per_100_gb);
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

static void print_page(const struct bench_disk_options *o, const struct bench_disk_result *r)
{
    printf("%llu blocks of %u bytes (%llu on disk), %u on their way; %s, %s the page cache\n",
           (unsigned long long)r->blocks, o->block_bytes, (unsigned long long)r->extent_bytes, o->depth, r->io,
           r->direct ? "past" : "through");
    printf("%-28s %10s %10s %7s\n", "MB/s of payload", "tier", "plain", "ratio");
    printf("%-28s %10.1f %10.1f %7.2f\n", "put, in order", r->put / 1e6, r->plain_write / 1e6, r->put / r->plain_write);
    printf("%-28s %10.1f %10.1f %7.2f\n", "get, in order", r->get / 1e6, r->plain_read / 1e6, r->get / r->plain_read);
    printf("%-28s %10.1f %10.0f gets/s\n", "get, at random", r->random_gets * o->block_bytes / 1e6, r->random_gets);
    printf("index rebuilt in %.3f s, so 100 GB in %.2f s\n", r->rebuild_s, r->rebuild_s_per_100_gb);
}

static bool parse_size(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    return quantity_parse_size(text, out) == ST_OK && *out >= least && *out <= most;
}

static int run(const struct command *self, int argc, char **argv)
{
    const char *folder = ".", *block = "360KiB", *total = "2GiB";
    int64_t depth = 32;
    bool as_json = false;
    struct bench_disk_options o = { .seconds = 3, .stop = &stopped };
    struct bench_disk_result result;
    struct error err;
    uint64_t block_bytes;
    int code;
    const struct option_row rows[] = {
        { "folder", 0, OPTION_TEXT, &folder, "DIR",
          "On the disk that is measured; a folder is made in it and removed (.)", 0, 0 },
        { "block", 0, OPTION_TEXT, &block, "SIZE", "Payload of a block, 4KiB to 16MiB (360KiB: 16 tokens of SmolLM2)",
          0, 0 },
        { "total", 0, OPTION_TEXT, &total, "SIZE", "All blocks together, at least 8 of them (2GiB)", 0, 0 },
        { "seconds", 0, OPTION_REAL, &o.seconds, "S", "Time of reading at random (3)", 0.01, 3600 },
        { "depth", 0, OPTION_INT, &depth, "N", "Operations on their way (32)", 1, BENCH_DISK_MAX_DEPTH },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (!parse_size(block, BENCH_DISK_MIN_BLOCK, BENCH_DISK_MAX_BLOCK, &block_bytes))
        return command_misuse(self, "--block %.40s is no size from 4KiB to 16MiB", block);
    if (!parse_size(total, 8 * block_bytes, BENCH_DISK_MAX_TOTAL, &o.total_bytes))
        return command_misuse(self, "--total %.40s is no size from eight blocks to 1TiB", total);
    o.folder = folder;
    o.block_bytes = (uint32_t)block_bytes;
    o.depth = (uint32_t)depth;
    log_init("bench", LOG_WARN);
    (void)signal(SIGINT, on_stop);
    (void)signal(SIGTERM, on_stop);
    status st = bench_disk(&o, &result, &err);
    if (st == ST_CANCELLED)
        return EXIT_INTERRUPTED;
    if (st != ST_OK)
        return command_failed(self, "%s", err.text);
    if (as_json)
        print_json(&o, &result);
    else
        print_page(&o, &result);
    return EXIT_DONE;
}

const struct command command_bench_disk = { "bench disk", "", "The disk tier of KV, beside plain reads and writes",
                                            run };
