/* baton replay-decisions - decides again what a router's decision log holds: the same inputs give the same choice; or
 * by another policy, to see what it would have chosen. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/decision_replay.h"
#include "common/json_writer.h"

#define PAGE_BYTES ((size_t)4 << 20)

static void print_spread(const char *title, const struct replay_side *side, bool with_policy)
{
    printf("\n%-32s %10s", title, "logged");
    printf(with_policy ? " %10s\n" : "\n", "policy");
    for (uint32_t i = 0; i < side->n; i++) {
        printf("%-32s %10llu", side->at[i].id, (unsigned long long)side->at[i].logged);
        if (with_policy)
            printf(" %10llu", (unsigned long long)side->at[i].policy);
        printf("\n");
    }
}

static void print_errors(const struct replay *r)
{
    printf("\n%-32s %10s %10s %10s\n", "predicted, against what came", "requests", "median", "p90");
    for (int i = 0; i < DECISION_PART_COUNT; i++)
        if (r->errors[i].n > 0)
            printf("%-32s %10zu %9.1f%% %9.1f%%\n", decision_part_name((enum decision_part)i), r->errors[i].n,
                   100 * replay_error_at(r, i, 0.5), 100 * replay_error_at(r, i, 0.9));
}

static void print_page(const struct replay *r, const char *policy)
{
    printf("%llu decisions, %llu outcomes", (unsigned long long)r->decisions, (unsigned long long)r->outcomes);
    if (r->cut)
        printf("; %llu of which not all workers were logged", (unsigned long long)r->cut);
    if (policy) {
        printf("\n%s chooses the same workers and route in %llu of %llu\n", policy, (unsigned long long)r->same,
               (unsigned long long)r->compared);
        printf("predicted time to the first token, mean: %.3f ms as logged, %.3f ms by %s\n",
               replay_mean_ms(r, r->logged_us), replay_mean_ms(r, r->policy_us), policy);
    } else {
        printf("\nthe same choice in %llu of %llu\n", (unsigned long long)r->same, (unsigned long long)r->compared);
    }
    print_spread("decode worker", &r->decodes, policy != NULL);
    print_spread("prefill worker", &r->prefills, policy != NULL);
    if (r->outcomes)
        print_errors(r);
}

static void write_spread(struct json_writer *w, const char *key, const struct replay_side *side, bool with_policy)
{
    json_write_key(w, key);
    json_write_array(w);
    for (uint32_t i = 0; i < side->n; i++) {
        json_write_object(w);
        json_field_string(w, "id", side->at[i].id);
        json_field_uint(w, "logged", side->at[i].logged);
        if (with_policy)
            json_field_uint(w, "policy", side->at[i].policy);
        json_write_end(w);
    }
    json_write_end(w);
}

static void write_errors(struct json_writer *w, const struct replay *r)
{
    json_write_key(w, "errors");
    json_write_object(w);
    for (int i = 0; i < DECISION_PART_COUNT; i++) {
        if (r->errors[i].n == 0)
            continue;
        json_write_key(w, decision_part_name((enum decision_part)i));
        json_write_object(w);
        json_field_uint(w, "requests", r->errors[i].n);
        json_field_real(w, "p50", replay_error_at(r, i, 0.5));
        json_field_real(w, "p90", replay_error_at(r, i, 0.9));
        json_write_end(w);
    }
    json_write_end(w);
}

static int print_json(const struct replay *r, const char *policy)
{
    struct text_buffer page;
    struct json_writer w;
    text_buffer_init(&page, PAGE_BYTES);
    json_writer_init(&w, &page);
    json_write_object(&w);
    json_field_uint(&w, "decisions", r->decisions);
    json_field_uint(&w, "outcomes", r->outcomes);
    json_field_uint(&w, "cut", r->cut);
    json_field_uint(&w, "compared", r->compared);
    json_field_uint(&w, "same", r->same);
    if (policy) {
        json_field_string(&w, "policy", policy);
        json_field_real(&w, "logged_ms", replay_mean_ms(r, r->logged_us));
        json_field_real(&w, "policy_ms", replay_mean_ms(r, r->policy_us));
    }
    write_spread(&w, "decode", &r->decodes, policy != NULL);
    write_spread(&w, "prefill", &r->prefills, policy != NULL);
    write_errors(&w, r);
    json_write_end(&w);
    text_buffer_char(&page, '\n');
    return command_print(&page);
}

/* What differs goes to standard error, at most so many. */
#define MOST_TOLD 20u

static void tell_difference(void *ctx, const char *text)
{
    uint64_t *told = ctx;
    if ((*told)++ < MOST_TOLD)
        fprintf(stderr, "%s\n", text);
}

static int run(const struct command *self, int argc, char **argv)
{
    const char *policy = NULL;
    bool as_json = false;
    int code;
    uint64_t told = 0;
    struct arguments arguments = { .n = 0 };
    struct error err;
    struct replay_options options = { .differs = tell_difference, .ctx = &told };
    const struct option_row rows[] = {
        { "policy", 0, OPTION_TEXT, &policy, "NAME",
          "Decide by this policy: cache-aware, kv-overlap, least-loaded, round-robin, random or power-of-two", 0, 0 },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), &arguments, &code))
        return code;
    if (arguments.n != 1)
        return command_misuse(self, "one FILE is needed, a router's --decision-log");
    if (policy && !pick_policy_find(policy, &options.policy))
        return command_misuse(self,
                              "--policy %.40s is none of cache-aware, kv-overlap, least-loaded, round-robin, random, "
                              "power-of-two",
                              policy);
    options.by_policy = policy != NULL;
    struct replay *replay = NULL;
    FILE *file = fopen(arguments.items[0], "re");
    if (!file)
        return command_failed(self, "%s cannot be read: %s", arguments.items[0], strerror(errno));
    status st = replay_run(file, &options, &replay, &err);
    (void)fclose(file);
    if (st != ST_OK)
        return command_failed(self, "%s: %s", arguments.items[0], err.text);
    code = EXIT_DONE;
    if (as_json)
        code = print_json(replay, policy);
    else
        print_page(replay, policy);
    if (!policy && replay->same < replay->compared)
        code =
            command_failed(self, "%llu of %llu decisions are not what the same inputs give now",
                           (unsigned long long)(replay->compared - replay->same), (unsigned long long)replay->compared);
    replay_free(&replay);
    return code;
}

const struct command command_replay = { "replay-decisions", "FILE", "Decide again what a router's decision log holds",
                                        run };
