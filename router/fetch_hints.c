#include "router/fetch_hints.h"

#include <stdbool.h>
#include <string.h>

#include "kvbm/kv_format.h"

static uint32_t useful(const struct fetch_ask *ask, uint32_t tokens)
{
    return tokens < ask->n_tokens ? tokens : ask->n_tokens - 1;
}

static bool is_asked(const struct fetch_ask *ask, const struct kv_match *m)
{
    return !strcmp(m->id, ask->decode->id) || (ask->prefill && !strcmp(m->id, ask->prefill->id));
}

/* The longest beginning in the device of one of those that are asked. */
static uint32_t held(const struct fetch_ask *ask)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < ask->n_matches; i++) {
        uint32_t tokens = useful(ask, ask->matches[i].tokens[KV_TIER_DEVICE]);
        if (tokens > longest && is_asked(ask, &ask->matches[i]))
            longest = tokens;
    }
    return longest;
}

static const struct instance *who_computes(const struct fetch_ask *ask)
{
    return ask->prefill ? ask->prefill : ask->decode;
}

/* Its blocks can be taken as they are. */
static bool fits(const struct fetch_ask *ask, const struct kv_match *m)
{
    const struct instance *to = who_computes(ask);
    const char *format = kv_format_of_worker(to->kv_format);
    return m->address[0] && m->weights == to->weights && !strcmp(m->format, format ? format : to->kv_format);
}

static struct fetch_hint hint_of(const struct fetch_ask *ask, const struct kv_match *m)
{
    uint32_t whole = m->tokens[KV_TIER_COUNT - 1];
    int tier = KV_TIER_DEVICE;
    while (m->tokens[tier] < whole)
        tier++;
    return (struct fetch_hint){ m, useful(ask, whole), (enum kv_tier)tier };
}

static bool is_better(const struct fetch_hint *a, const struct fetch_hint *b, const char *host)
{
    if (a->tokens != b->tokens)
        return a->tokens > b->tokens;
    if (a->tier != b->tier)
        return a->tier < b->tier;
    return !strcmp(a->holder->host, host) && strcmp(b->holder->host, host) != 0;
}

/* Into its place among the n best so far; returns how many there are then. */
static uint32_t offer(struct fetch_hint out[FETCH_HINTS_MAX], uint32_t n, const struct fetch_hint *hint,
                      const char *host)
{
    uint32_t at = n;
    while (at > 0 && is_better(hint, &out[at - 1], host))
        at--;
    if (at == FETCH_HINTS_MAX)
        return n;
    n += n < FETCH_HINTS_MAX;
    memmove(&out[at + 1], &out[at], (n - 1 - at) * sizeof *out);
    out[at] = *hint;
    return n;
}

uint32_t fetch_hints_choose(const struct fetch_ask *ask, struct fetch_hint out[FETCH_HINTS_MAX])
{
    const char *host = who_computes(ask)->host;
    uint32_t longest = held(ask), n = 0;
    for (uint32_t i = 0; i < ask->n_matches; i++) {
        const struct kv_match *m = &ask->matches[i];
        struct fetch_hint hint = hint_of(ask, m);
        if (hint.tokens > longest && !is_asked(ask, m) && fits(ask, m))
            n = offer(out, n, &hint, host);
    }
    return n;
}
