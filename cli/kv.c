/* baton kv - what the KV block managers keep, and how to make them forget it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/http_client.h"
#include "cli/kv_targets.h"

#define STATUS_TIMEOUT_MS 5000u
#define WIPE_TIMEOUT_MS   3700000u /* they have deadlines of their own: wipe_timeout, an hour at most */
#define BODY_MAX_BYTES    4096u

/* {"answers": [one object a target]} to standard output. */
static void print_answers(json_t *answers)
{
    json_t *root = json_pack("{s:o}", "answers", answers);
    json_dumpf(root, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(root);
}

/* ---- status ------------------------------------------------------------------- */

static void print_tier(const char *id, const char *tier, const json_t *t)
{
    double mib = 1 << 20;
    printf("%-12s %-6s %10lld %9.1f MiB %9.1f MiB %12lld %10llds  %s\n", id, tier, json_number(t, "blocks"),
           (double)json_number(t, "bytes") / mib, (double)json_number(t, "capacity_bytes") / mib,
           json_number(t, "hit_tokens"), json_number(t, "oldest_s"), json_text(t, "state"));
}

static void print_heads(void)
{
    printf("%-12s %-6s %10s %13s %13s %12s %11s  %s\n", "ID", "TIER", "BLOCKS", "HELD", "ROOM", "HIT TOKENS", "OLDEST",
           "STATE");
}

static void print_status(const struct kv_target *target, const json_t *answer)
{
    const char *tier;
    json_t *t, *tiers = json_object_get(answer, "tiers");
    if (!json_is_true(json_object_get(answer, "open"))) {
        printf("%-12s waits for the first worker of its host\n", target->id);
        return;
    }
    json_object_foreach(tiers, tier, t)
    {
        print_tier(target->id, tier, t);
    }
    printf("%-12s %s, loans %lld, salts %lld, pinned %lld%s\n", "", json_text(answer, "kv_format"),
           json_number(answer, "loans"), json_number(answer, "salts"),
           json_number(json_object_get(tiers, "host"), "pinned"),
           json_is_true(json_object_get(answer, "wiping")) ? ", wiping" : "");
}

static int run_status(const struct command *self, int argc, char **argv)
{
    static struct kv_targets targets; /* large */
    struct kv_place place = { .admin.n = 0 };
    struct error err;
    bool as_json = false;
    int code;
    const struct option_row rows[] = { KV_PLACE_ROWS(&place),
                                       { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 } };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (kv_targets_find(&place, KV_MANAGERS | KV_EVERYWHERE, &targets, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    json_t *answers = json_array();
    code = targets.missed ? EXIT_FAILED : EXIT_DONE;
    for (size_t i = 0; i < targets.n; i++) {
        json_t *answer;
        if (kv_target_ask(&targets.items[i], "/kv/status", NULL, STATUS_TIMEOUT_MS, &answer, &err) != ST_OK) {
            code = command_failed(self, "%s", err.text);
            continue;
        }
        json_object_set_new(answer, "id", json_string(targets.items[i].id));
        if (!as_json && json_array_size(answers) == 0)
            print_heads();
        if (!as_json)
            print_status(&targets.items[i], answer);
        json_array_append_new(answers, answer);
    }
    if (as_json)
        print_answers(answers);
    else
        json_decref(answers);
    return code;
}

const struct command command_kv_status = { "kv status", "", "Blocks, bytes and hits by tier", run_status };

/* ---- wipe ------------------------------------------------------------------------- */

static void print_wiped(const struct kv_target *target, const json_t *answer)
{
    printf("%s: %lld blocks forgotten, %lld bytes of memory and %lld of disk zeroed and read back\n", target->id,
           json_number(answer, "blocks"), json_number(answer, "host_bytes"), json_number(answer, "disk_bytes"));
}

/* All are asked, also after one that failed: what can be wiped is. Workers first, so that none offers a manager what
 * that has wiped already. */
static int wipe(const struct command *self, const struct kv_targets *targets, const char *body, bool as_json)
{
    struct error err;
    int code = targets->missed ? EXIT_FAILED : EXIT_DONE;
    json_t *answers = json_array();
    for (size_t i = 0; i < targets->n; i++) {
        json_t *answer;
        if (kv_target_ask(&targets->items[i], "/kv/wipe", body, WIPE_TIMEOUT_MS, &answer, &err) != ST_OK) {
            code = command_failed(self, "not wiped: %s", err.text);
            continue;
        }
        if (!as_json)
            print_wiped(&targets->items[i], answer);
        json_object_set_new(answer, "id", json_string(targets->items[i].id));
        json_array_append_new(answers, answer);
    }
    if (as_json)
        print_answers(answers);
    else
        json_decref(answers);
    return code;
}

static int run_wipe(const struct command *self, int argc, char **argv)
{
    static struct kv_targets targets; /* large */
    struct kv_place place = { .admin.n = 0 };
    struct error err;
    const char *salt = NULL;
    bool node = false, as_json = false;
    int code;
    const struct option_row rows[] = {
        KV_PLACE_ROWS(&place),
        { "salt", 0, OPTION_TEXT, &salt, "S", "Blocks of requests with this cache_salt", 0, 0 },
        { "node", 0, OPTION_FLAG, &node, "", "All blocks of this host", 0, 0 },
        { "json", 0, OPTION_FLAG, &as_json, "", "One JSON object", 0, 0 },
    };
    if (!command_options(self, argc, argv, rows, COUNT_OF(rows), NULL, &code))
        return code;
    if (!salt == !node)
        return command_misuse(self, "it takes --salt or --node, one of the two");
    if (node && place.etcd)
        return command_misuse(self,
                              "--node is for one host, and --etcd names a cluster: give --admin of its processes");
    const unsigned who = KV_WORKERS | KV_MANAGERS | (salt ? KV_ROUTERS | KV_EVERYWHERE : 0);
    if (kv_targets_find(&place, who, &targets, &err) != ST_OK)
        return command_failed(self, "%s", err.text);
    if (salt && kv_targets_agree(&targets, &err) != ST_OK)
        return command_failed(self, "nothing is wiped: %s", err.text);
    json_t *body = salt ? json_pack("{s:s}", "salt", salt) : json_pack("{s:b}", "all", true);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    code = text ? wipe(self, &targets, text, as_json) : command_misuse(self, "--salt is no UTF-8 text");
    free(text);
    json_decref(body);
    return code;
}

const struct command command_kv_wipe = { "kv wipe", "", "Zero the blocks of a salt, or all, and read that back",
                                         run_wipe };

/* ---- the group --------------------------------------------------------------------------- */

static int run(const struct command *self, int argc, char **argv)
{
    static const struct command *const commands[] = { &command_kv_status, &command_kv_find, &command_kv_pin,
                                                      &command_kv_unpin,  &command_kv_wipe, NULL };
    (void)self;
    return command_dispatch("baton kv", commands, argc, argv);
}

const struct command command_kv = { "kv", "status|find|pin|unpin|wipe",
                                    "KV blocks outside the workers: what there is, pin it, wipe it", run };
