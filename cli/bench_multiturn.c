/* baton bench multiturn - what a conversation gains from cached KV. */
#include <stdio.h>
#include <string.h>

#include "bench/bench_multiturn.h"
#include "cli/child.h"
#include "cli/command.h"
#include "cli/place.h"
#include "common/json_writer.h"
#include "router/cached_tokens.h"

#define OUTPUT_MAX_BYTES 65536u
#define GOAL             0.2 /* of the time until the first token without caching */
#define COMMAND_OUTPUT   2048

static double ratio_of(const struct bench_multiturn_row *r)
{
    return (double)r->first_token_us / (double)r->uncached_us;
}

static void write_row(struct json_writer *w, const struct bench_multiturn_row *r)
{
    json_write_object(w);
    json_field_uint(w, "prompt", r->prompt);
    json_field_uint(w, "cached", r->cached);
    json_field_uint(w, "theory", r->theory);
    if (r->has_tiers) {
        json_write_key(w, "tiers");
        json_write_object(w);
        for (int i = 0; i < KV_TIER_COUNT; i++)
            json_field_uint(w, cached_tokens_tier((enum kv_tier)i), r->by_tier[i]);
        json_write_end(w);
    }
    json_field_real(w, "first_token_ms", (double)r->first_token_us / 1e3);
    json_field_real(w, "uncached_ms", (double)r->uncached_us / 1e3);
    json_field_real(w, "ratio", ratio_of(r));
    json_write_end(w);
}

static void print_json(const struct bench_multiturn_result *result)
{
    struct text_buffer page;
    struct json_writer w;
    const uint32_t n_turns = result->n_rows - result->restarted;
    text_buffer_init(&page, OUTPUT_MAX_BYTES);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_string(&w, "model", result->model);
    json_write_key(&w, "turns");
    json_write_array(&w);
    for (uint32_t i = 0; i < n_turns; i++)
        write_row(&w, &result->rows[i]);
    json_write_end(&w);
    if (result->restarted) {
        json_write_key(&w, "restarted");
        write_row(&w, &result->rows[n_turns]);
    }
    json_field_uint(&w, "wrong", bench_multiturn_wrong(result));
    json_write_end(&w);
    puts(text_buffer_text(&page));
    text_buffer_free(&page);
}

static void print_row(const char *turn, const struct bench_multiturn_row *r)
{
    printf("%-10s %8u %8u %8u %10.2f %10.2f %7.3f", turn, r->prompt, r->cached, r->theory,
           (double)r->first_token_us / 1e3, (double)r->uncached_us / 1e3, ratio_of(r));
    for (int i = 0; i < KV_TIER_COUNT && r->has_tiers; i++)
        printf(" %s=%u", cached_tokens_tier((enum kv_tier)i), r->by_tier[i]);
    puts(r->cached == r->theory ? "" : "  wrong");
}

static void print_page(const struct bench_multiturn_result *result)
{
    const uint32_t n_turns = result->n_rows - result->restarted, wrong = bench_multiturn_wrong(result);
    char turn[16];
    printf("%s: tokens of each prompt, and milliseconds until the first token\n", result->model);
    printf("%-10s %8s %8s %8s %10s %10s %7s\n", "turn", "prompt", "cached", "theory", "ms", "uncached", "ratio");
    for (uint32_t i = 0; i < n_turns; i++) {
        (void)snprintf(turn, sizeof turn, "%u", i + 1);
        print_row(turn, &result->rows[i]);
    }
    if (result->restarted)
        print_row("restarted", &result->rows[n_turns]);
    printf("time until the first token at turn %u: %.3f of that without caching, goal %.2f\n", n_turns,
           ratio_of(&result->rows[n_turns - 1]), GOAL);
    if (result->restarted)
        printf("and after the restart: %.3f\n", ratio_of(&result->rows[n_turns]));
    if (wrong)
        printf("%u of %u prompts have other cached tokens than the theory says\n", wrong, result->n_rows);
}

static status restart(void *ctx, struct error *err)
{
    char output[COMMAND_OUTPUT];
    char *const argv[] = { "sh", "-c", ctx, NULL };
    int code = 0;
    status st = child_run(argv, output, sizeof output, &code, err);
    if (st == ST_OK && code != 0)
        st = error_set(err, ST_IO, "the command of --restart ended with code %d: %.300s", code, output);
    return st;
}

/* The one that was named, or that of the cluster of the state folder. */
static status find_url(const struct place *place, const char **url, char *own, size_t size, struct error *err)
{
    struct state_dir dir;
    if (*url)
        return ST_OK;
    status st = place_find(place, &dir, err);
    if (st == ST_OK)
        st = place_url(&dir, own, size, err);
    *url = own;
    return st;
}

static int run(const struct command *self, int argc, char **argv)
{
    struct place place = { NULL, NULL };
    const char *url = NULL, *model = NULL, *command = NULL;
    int64_t turns = 12, words = 60, answer = 48, block = 16, timeout = 120;
    bool debug = false, as_json = false;
    char own_url[128];
    struct bench_multiturn_result result;
    struct error err;
    int code;
    const struct option_row rows[] = {
        { "url", 0, OPTION_TEXT, &url, "URL", "Router; default: that of the cluster in the state folder", 0, 0 },
        { "model", 0, OPTION_TEXT, &model, "NAME", "Model (the first that the router serves)", 0, 0 },
        { "turns", 0, OPTION_INT, &turns, "N", "Turns (12)", 1, BENCH_MULTITURN_MAX_TURNS },
        { "words", 0, OPTION_INT, &words, "N", "Words of each question (60)", 1, BENCH_MULTITURN_MAX_WORDS },
        { "answer", 0, OPTION_INT, &answer, "N", "Tokens of each answer at most (48)", 1, 65536 },
        { "block-tokens", 0, OPTION_INT, &block, "N", "Tokens of a KV block (16)", 1, 512 },
        { "debug-extensions", 0, OPTION_FLAG, &debug, "",
          "The router has them: compares with no_cache instead of another salt, and tells tiers", 0, 0 },
        { "restart", 0, OPTION_TEXT, &command, "COMMAND",
          "Shell command that restarts all workers; the last turn is asked again", 0, 0 },
        { "timeout", 0, OPTION_INT, &timeout, "SECONDS", "For each request, and to be ready after a restart (120)", 1,
          3600 },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
        PLACE_ROWS(&place),
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    struct bench_multiturn_options o = {
        .model = model,
        .turns = (uint32_t)turns,
        .question_words = (uint32_t)words,
        .answer_tokens = (uint32_t)answer,
        .block_tokens = (uint32_t)block,
        .debug = debug,
        .timeout_us = (uint64_t)timeout * 1000000,
        .restart = command ? restart : NULL,
        .ctx = (void *)(uintptr_t)command,
    };
    status st = find_url(&place, &url, own_url, sizeof own_url, &err);
    o.url = url;
    if (st != ST_OK || bench_multiturn(&o, &result, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    if (as_json)
        print_json(&result);
    else
        print_page(&result);
    return bench_multiturn_wrong(&result) ? EXIT_FAILED : EXIT_DONE;
}

const struct command command_bench_multiturn = { "bench multiturn", "", "What a conversation gains from cached KV",
                                                 run };
