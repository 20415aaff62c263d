/* bench_multiturn.h - a conversation with a running cluster, turn after turn: how many tokens of each prompt were
 * cached, how many should have been, and what that saved until the first token. Under a salt of its own, so that
 * nothing of an earlier run is found. Blocking; one thread. */
#ifndef BATON_BENCH_BENCH_MULTITURN_H
#define BATON_BENCH_BENCH_MULTITURN_H

#include "bench/chat_turn.h"

#define BENCH_MULTITURN_MAX_TURNS 256u
#define BENCH_MULTITURN_MAX_WORDS 4096u

struct bench_multiturn_options {
    const char *url, *model; /* model NULL: the first that the router serves */
    uint32_t turns;
    uint32_t question_words, answer_tokens; /* of each turn; answers may be shorter */
    uint32_t block_tokens;                  /* of the workers */
    bool
        debug; /* the router has --debug-extensions: uncached is no_cache instead of another salt, and tiers are told */
    uint64_t timeout_us; /* of each request, and of being ready after a restart */
    /* Restarts all workers, after which the last turn is asked again. NULL: it is not. */
    status (*restart)(void *ctx, struct error *err);
    void *ctx;
};

struct bench_multiturn_row {
    uint32_t prompt, cached; /* tokens */
    uint32_t theory;         /* the full blocks of its first prompt - 1 tokens whose KV was computed before */
    bool has_tiers;
    uint32_t by_tier[KV_TIER_COUNT];
    uint64_t first_token_us, uncached_us; /* until the first token; the latter of the same prompt with nothing cached */
};

struct bench_multiturn_result {
    char model[256];
    struct bench_multiturn_row
        rows[BENCH_MULTITURN_MAX_TURNS + 1]; /* a turn each; the last one again after a restart */
    uint32_t n_rows;
    bool restarted; /* there is that row */
};

MUST_CHECK status bench_multiturn(const struct bench_multiturn_options *options, struct bench_multiturn_result *out,
                                  struct error *err);
/* Rows whose cached tokens are not the theory's. */
uint32_t bench_multiturn_wrong(const struct bench_multiturn_result *result);

#endif
