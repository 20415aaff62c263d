/* Workers and managers that offer, lend and pull blocks while messages are lost, late and repeated, bits flip, nodes
 * die, freeze and come again, and pools are full. Whatever is taken is compared with what its hash says (in
 * virtual_exchange.c), every pull ends by its deadline, and in the end nothing is lent, taken, reserved or held. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/effort.h"
#include "virtual_exchange.h"

#define SEQUENCES 6u

static struct {
    struct borrower_counters borrower;
    struct lender_counters lender;
    struct offers_counters offers;
    struct acceptor_counters acceptor;
    uint64_t flipped;
} seen;

/* All of these structs are rows of u64. */
static void add(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
        ((uint64_t *)to)[i] += ((const uint64_t *)from)[i];
}

static void count(const struct vx_node *node)
{
    add(&seen.borrower, borrower_counters(node->borrower), sizeof seen.borrower);
    add(&seen.lender, lender_counters(node->lender), sizeof seen.lender);
    add(&seen.offers, offers_counters(node->offers), sizeof seen.offers);
    add(&seen.acceptor, acceptor_counters(node->acceptor), sizeof seen.acceptor);
}

/* Sequences that begin alike: every second one of two salts. */
static void make_sequence(uint32_t which, struct block_seed_parts *parts, uint32_t tokens[])
{
    *parts = (struct block_seed_parts){ .weights = 1, .salt = { which % 2, 0 } };
    for (uint32_t i = 0; i < VX_CHAIN * VX_BLOCK_TOKENS; i++)
        tokens[i] = i < 5 * VX_BLOCK_TOKENS ? 1000 + i : 1000 * (which + 2) + i;
}

static void compute(struct vx *vx, struct vx_node *node)
{
    struct block_seed_parts parts;
    uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];
    make_sequence(vx_draw(vx, SEQUENCES), &parts, tokens);
    (void)vx_compute(node, &parts, tokens, 1 + vx_draw(vx, VX_CHAIN), node->index != 0 && vx_draw(vx, 4));
}

/* What the node lacks of a sequence. */
static void pull(struct vx *vx, struct vx_node *node)
{
    struct block_seed_parts parts;
    uint32_t tokens[VX_CHAIN * VX_BLOCK_TOKENS];
    struct vx_node *holder = &vx->nodes[vx_draw(vx, VX_NODES)];
    make_sequence(vx_draw(vx, SEQUENCES), &parts, tokens);
    uint32_t first = vx_has(node, &parts, tokens, VX_CHAIN);
    if (holder == node || first == VX_CHAIN)
        return;
    uint32_t n = 1 + vx_draw(vx, VX_CHAIN - first);
    vx->n_by_layer = vx->next_key % 2 ? (uint32_t)(vx->next_key * 7 % (n + 1)) : 0;
    struct vx_pull *p =
        vx_pull(node, holder, &parts, tokens, first, n, 100 + vx_draw(vx, vx_draw(vx, 2) ? 5000 : 9000000));
    if (p && vx_draw(vx, 5) == 0)
        p->cancel_at = 1 + vx_draw(vx, VX_LAYERS);
    if (p && vx_draw(vx, 20) == 0) { /* frozen while it takes, for longer than its loan lasts */
        vx_run(vx, vx_draw(vx, 30000));
        vx_freeze(node, VX_FROZEN_US + vx_draw(vx, 3000000));
    }
}

static void cancel(struct vx *vx)
{
    struct vx_pull *p = &vx->pulls[vx_draw(vx, VX_MAX_PULLS)];
    if (p->node && vx_is_up(p->node))
        borrower_cancel(p->pull);
}

static void trouble(struct vx *vx, struct vx_node *node)
{
    uint32_t what = vx_draw(vx, 100);
    if (what < 3 && node->alive) {
        count(node);
        vx_kill(node);
    } else if (what < 30) {
        vx_restart(node);
    } else if (what < 40) {
        vx_freeze(node, 1000 + vx_draw(vx, vx_draw(vx, 2) ? 100000 : 5000000));
    } else if (what < 60 && vx_is_up(node)) {
        vx_crowd_out(node);
    } else if (what < 70 && vx_is_up(node)) {
        vx_hog(node);
    }
}

static void step(struct vx *vx)
{
    struct vx_node *node = &vx->nodes[vx_draw(vx, VX_NODES)];
    if (vx_draw(vx, 4) == 0)
        trouble(vx, node);
    if (vx_is_up(node) && vx_draw(vx, 2))
        compute(vx, node);
    else if (vx_is_up(node))
        pull(vx, node);
    if (vx_draw(vx, 16) == 0)
        cancel(vx);
    vx_run(vx, vx_draw(vx, vx_draw(vx, 12) ? 1000 : vx_draw(vx, 6) ? 300000 : 4000000));
}

static void run_round(uint64_t random, uint32_t steps)
{
    const struct vx_options options = { .random = random,
                                        .lose = .05,
                                        .twice = .1,
                                        .late = .05,
                                        .flip = random % 3 ? 0 : .01,
                                        .slow = .3,
                                        .fail = .05,
                                        .refuse = .01,
                                        .by_tcp = random % 2 };
    struct vx *vx = vx_create(&options);
    for (uint32_t i = 0; i < steps; i++)
        step(vx);
    vx_run(vx, 30000000); /* whatever was lost, it ends */
    for (uint32_t i = 0; i < VX_NODES; i++) {
        struct vx_node *node = &vx->nodes[i];
        if (node->alive)
            count(node);
        if (node->alive && node->n_hogged)
            vx_hog(node);
    }
    seen.flipped += vx->flipped;
    vx_assert_at_rest(vx);
    vx_destroy(vx);
}

static void test_blocks_move_under_faults(void **state)
{
    (void)state;
    uint64_t rounds = is_long() ? 20000 : 400;
    for (uint64_t i = 1; i <= rounds; i++)
        run_round(i, 300);
    const struct borrower_counters *b = &seen.borrower;
    assert_true(b->whole > 0 && b->partial > 0 && b->empty > 0 && b->stale > 0 && b->timeouts > 0 && b->lost > 0);
    assert_true(b->cancelled > 0 && b->late > 0 && b->damaged > 0 && b->malformed == 0);
    const struct lender_counters *l = &seen.lender;
    assert_true(l->repeated > 0 && l->stale > 0 && l->lost_blocks > 0 && l->damaged > 0 && l->busy > 0 && l->cut > 0);
    assert_true(l->ended_by_time > 0 && l->ended_by_loss > 0 && l->malformed == 0);
    const struct offers_counters *o = &seen.offers;
    assert_true(o->taken > 0 && o->present > 0 && o->gone > 0 && o->lost > 0 && o->damaged > 0 && o->queue_full > 0);
    assert_true(o->no_manager > 0 && o->expired > 0 && o->failed > 0 && o->late > 0 && o->malformed == 0);
    const struct acceptor_counters *a = &seen.acceptor;
    assert_true(a->taken > 0 && a->repeated > 0 && a->lost > 0 && a->full > 0 && a->malformed == 0);
    /* A bit that flipped is found wherever the take was seen to its end: never more often than it flipped. */
    assert_true(b->damaged + a->damaged > 0 && b->damaged + a->damaged <= seen.flipped);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_blocks_move_under_faults) };
    return cmocka_run_group_tests_name("exchange", tests, NULL, NULL);
}
