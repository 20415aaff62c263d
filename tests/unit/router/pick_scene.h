/* A few workers of equal speed to choose from. */
#ifndef BATON_TESTS_PICK_SCENE_H
#define BATON_TESTS_PICK_SCENE_H

#include <string.h>

#include "router/pick.h"

#define SCENE_MAX 8

struct pick_scene {
    struct pick_candidate decodes[SCENE_MAX], prefills[SCENE_MAX];
    struct pick_input in;
};

/* 100 us a token to compute, 1000 bytes of KV a token; 1 us a token to hand over, 10 to fetch. */
static inline struct pick_candidate scene_worker(uint32_t place)
{
    struct pick_candidate c = { .usable = true,
                                .place = place,
                                .format = 1,
                                .host = 1,
                                .kv_blocks = 1000,
                                .kv_free = 1000,
                                .token_bytes = 1000,
                                .rates = { .prefill_base = 500, .prefill_token = 100, .step = 5000 } };
    c.rates.handoff[0] = (struct pick_line){ 300, 0.001f };
    c.rates.handoff[1] = (struct pick_line){ 900, 0.004f };
    for (int tier = 0; tier < KV_TIER_COUNT; tier++)
        c.rates.pull[tier] = (struct pick_line){ 1000, 0.01f };
    return c;
}

static inline void scene_init(struct pick_scene *s, enum pick_policy policy, uint32_t n_decodes, uint32_t n_prefills)
{
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < n_decodes; i++)
        s->decodes[i] = scene_worker(i);
    for (uint32_t i = 0; i < n_prefills; i++)
        s->prefills[i] = scene_worker(i);
    s->in = (struct pick_input){ .policy = policy,
                                 .request = { .n_tokens = 1000, .block_tokens = 16 },
                                 .decodes = s->decodes,
                                 .prefills = s->prefills,
                                 .n_decodes = n_decodes,
                                 .n_prefills = n_prefills,
                                 .decode_places = n_decodes,
                                 .prefill_places = n_prefills };
}

static inline struct pick_choice scene_pick(struct pick_scene *s)
{
    struct pick_choice choice;
    pick(&s->in, &choice);
    return choice;
}

/* As kv_view tells it. */
static inline void scene_holds(struct pick_candidate *c, enum kv_tier tier, uint32_t tokens)
{
    for (int t = (int)tier; t < KV_TIER_COUNT; t++)
        c->cached[t] = tokens;
}

#endif
