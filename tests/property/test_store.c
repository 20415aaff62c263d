/* The store against a naive model: random offers, commits, aborts, finds, tickets, pins, wipes, flipped bits, failures
 * of the disk and restarts. What is handed out is right as long as it is held, what events tell is what is found,
 * parents outlive their children, a wipe leaves no byte, and in the end every slot was given back. */
#include <stdlib.h>

#include "../unit/kvbm/store_rig.h"
#include "tests/unit/effort.h"

#define SALTS        3u
#define FORMATS      2u
#define TREE         62u /* blocks of a tree with two roots, each with two children, five high */
#define NODES        (SALTS * FORMATS * TREE)
#define SLOTS        24u
#define RESERVATIONS 64u
#define TICKETS      6u
#define STEPS        8000u
#define FEW_RUNS     400u /* after which whatever the disk has begun is over */

struct reservation {
    uint32_t node;
    struct store_slot slot;
    bool doomed; /* the block before it did not come, or its salt was wiped */
    bool unsure; /* or perhaps not */
};

struct lending {
    bool open;
    uint32_t node;
    uint32_t n_true; /* of its blocks are the node's */
    uint64_t id;
    struct rig_reader reader;
    struct rig_chain impostor; /* where that is fewer than all */
};

struct model {
    struct store_rig rig;
    struct rig_chain nodes[NODES]; /* each the chain up to it */
    bool known[STORE_TIER_COUNT][NODES], seen[NODES];
    bool usurped[NODES]; /* an impostor was asked for, for which a slot may be reserved under the node's hash */
    struct reservation reserved[RESERVATIONS];
    uint32_t n_reserved;
    struct lending lent[TICKETS];
    bool faults, wiping;
    uint64_t wipe_salt;
    int wiped;
    status wipe_outcome;
    uint64_t random;
    /* So that the test knows it has tested something. */
    uint32_t commits, hits[STORE_TIER_COUNT], wipes_good, flips, restarts, cancelled, impostors[2];
};

static uint32_t draw(struct model *m, uint32_t below)
{
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(m->random >> 33) % below;
}

/* ---- the tree --------------------------------------------------------------------------------------------- */

static uint32_t parent_of(uint32_t node)
{
    const uint32_t at = node % TREE;
    return at < 2 ? UINT32_MAX : node - at + (at - 2) / 2;
}

static bool stands_behind(uint32_t node, uint32_t before)
{
    while (node != UINT32_MAX && node != before)
        node = parent_of(node);
    return node == before;
}

static uint64_t salt_of(uint32_t node)
{
    return 0x21 + node / (FORMATS * TREE);
}

static void make_nodes(struct model *m)
{
    for (uint32_t node = 0; node < NODES; node++) {
        uint32_t path[CHAIN_MAX], n = 0, numbers[CHAIN_MAX];
        for (uint32_t at = node; at != UINT32_MAX; at = parent_of(at))
            path[n++] = at % TREE;
        for (uint32_t i = 0; i < n; i++)
            numbers[i] = path[n - 1 - i] + 1;
        chain_make(&m->nodes[node], salt_of(node), STORE_FORMAT + node / TREE % FORMATS, numbers, n);
    }
}

static uint32_t node_of(const struct model *m, const struct store_block *block)
{
    for (uint32_t node = 0; node < NODES; node++) {
        const struct rig_chain *c = &m->nodes[node];
        if (block_hash_equal(c->hashes[c->chain.n_blocks - 1], block->hash) && c->chain.format == block->format)
            return node;
    }
    fail_msg("a block that nobody made");
    return 0;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void doom_behind(struct model *m, uint32_t node)
{
    for (uint32_t i = 0; i < m->n_reserved; i++)
        if (m->reserved[i].node != node && stands_behind(m->reserved[i].node, node))
            m->reserved[i].doomed = true;
}

static void on_stored(void *ctx, enum store_tier tier, const struct store_block *block)
{
    struct model *m = (struct model *)ctx; /* the rig is its first member */
    const uint32_t node = node_of(m, block), parent = parent_of(node);
    assert_false(m->known[tier][node]);
    if (tier == STORE_HOST) {
        assert_true(parent == UINT32_MAX || m->known[tier][parent]);
        assert_true(block->checksum == m->nodes[node].checksums[m->nodes[node].chain.n_blocks - 1]);
    }
    m->known[tier][node] = true;
}

static void on_removed(void *ctx, enum store_tier tier, const struct store_block *block)
{
    struct model *m = (struct model *)ctx;
    const uint32_t node = node_of(m, block);
    assert_true(m->known[tier][node]);
    m->known[tier][node] = false;
    if (tier != STORE_HOST)
        return;
    for (uint32_t other = 0; other < NODES; other++)
        assert_true(!m->known[tier][other] || parent_of(other) != node);
    doom_behind(m, node);
}

/* ---- putting -------------------------------------------------------------------------------------------------- */

static void forget_reservation(struct model *m, uint32_t i)
{
    m->reserved[i] = m->reserved[--m->n_reserved];
}

static bool is_refused_for(const struct model *m, enum store_verdict verdict, uint32_t node, bool has_parent,
                           bool shared, bool known)
{
    switch (verdict) {
    case STORE_PRESENT:
        return known;
    case STORE_COMING:
        return !known && has_parent;
    case STORE_PARENT:
        return !has_parent;
    case STORE_ADMISSION:
        return has_parent && !shared && !m->seen[node] && !known;
    case STORE_COLLISION:
        return has_parent && !known && m->usurped[node];
    case STORE_QUOTA:
    case STORE_ROOM:
        return has_parent && !known;
    default:
        return false;
    }
}

static void note_verdict(struct model *m, uint32_t node, const struct store_answer *a, bool *has_parent, bool shared,
                         bool known)
{
    if (a->verdict == STORE_WANTED) {
        assert_true(*has_parent && !known);
        assert_in_range(m->n_reserved, 0, RESERVATIONS - 1);
        m->reserved[m->n_reserved++] = (struct reservation){ node, a->slot, false, false };
        m->seen[node] &= shared; /* what is shared was not asked */
        return;
    }
    assert_true(is_refused_for(m, a->verdict, node, *has_parent, shared, known));
    *has_parent = a->verdict == STORE_PRESENT || a->verdict == STORE_COMING;
    if (!*has_parent && a->verdict != STORE_COLLISION)
        m->seen[node] = true;
}

static void offer(struct model *m)
{
    const uint32_t node = draw(m, NODES);
    const struct rig_chain *c = &m->nodes[node];
    const uint32_t n = c->chain.n_blocks, first = draw(m, 4) ? 0 : draw(m, n);
    struct store_answer answers[CHAIN_MAX];
    bool shared[CHAIN_MAX], known[CHAIN_MAX], has_parent;
    uint32_t path[CHAIN_MAX];
    for (uint32_t i = n, at = node; i-- > 0; at = parent_of(at)) {
        path[i] = at;
        known[i] = m->known[STORE_HOST][at];
        shared[i] = draw(m, 3) == 0;
    }
    const struct store_offer o = { .chain = c->chain,
                                   .first = first,
                                   .block_bytes = STORE_BYTES,
                                   .checksums = c->checksums + first,
                                   .shared = shared + first };
    store_offer(m->rig.store, &o, answers);
    if (m->wiping && salt_of(node) == m->wipe_salt) {
        for (uint32_t i = first; i < n; i++)
            assert_int_equal(answers[i - first].verdict, STORE_WIPING);
        return;
    }
    /* Room for one may have been made of another. */
    has_parent = !first || answers[0].verdict != STORE_PARENT;
    for (uint32_t i = first; i < n; i++)
        note_verdict(m, path[i], &answers[i - first], &has_parent, shared[i],
                     known[i] && (answers[i - first].verdict == STORE_PRESENT || m->known[STORE_HOST][path[i]]));
}

/* Of two reservations of a block the older one was given up when the block before it did not come from disk, and what
 * stands behind the block stands behind the newer one. */
static void abort_reservation(struct model *m, const struct reservation *r)
{
    bool twice = false;
    for (uint32_t i = 0; i < m->n_reserved; i++)
        twice |= m->reserved[i].node == r->node;
    for (uint32_t i = 0; i < m->n_reserved && twice; i++)
        m->reserved[i].unsure |= stands_behind(m->reserved[i].node, r->node);
    if (!twice && !r->doomed)
        doom_behind(m, r->node);
    store_abort(m->rig.store, r->slot, draw(m, 2));
}

static void finish_reservation(struct model *m)
{
    if (!m->n_reserved)
        return;
    const uint32_t i = draw(m, m->n_reserved);
    const struct reservation r = m->reserved[i];
    const struct rig_chain *c = &m->nodes[r.node];
    forget_reservation(m, i);
    if (draw(m, 8) == 0) {
        abort_reservation(m, &r);
        return;
    }
    store_rig_fill(&m->rig, c, c->chain.n_blocks - 1, r.slot);
    const uint32_t parent = parent_of(r.node);
    const bool parent_known = parent == UINT32_MAX || m->known[STORE_HOST][parent];
    const status st = store_commit(m->rig.store, r.slot);
    m->commits++;
    if (st == ST_OK) {
        assert_true(!r.doomed || r.unsure);
        assert_true(!parent_known || m->known[STORE_HOST][r.node]);
        return;
    }
    /* Or the block before it was to come from disk, and did not. */
    assert_int_equal(st, ST_CANCELLED);
    assert_true(r.doomed || r.unsure || !parent_known || store_rig_stats(&m->rig).promotion_failures);
    m->cancelled++;
}

/* ---- getting -------------------------------------------------------------------------------------------------- */

static bool is_true(const struct lending *l)
{
    return !l->reader.n_ready || l->reader.first + l->reader.n_ready <= l->n_true;
}

static void check_lent(struct model *m, const struct lending *l)
{
    store_rig_compare(&m->rig, &m->nodes[l->node], &l->reader);
}

/* A chain that was made to collide: all hashes are the node's, one token of block n_true is another. */
static void make_impostor(struct model *m, uint32_t node, struct rig_chain *out, uint32_t *n_true)
{
    *out = m->nodes[node];
    out->chain.hashes = out->hashes;
    out->chain.tokens = out->tokens;
    *n_true = draw(m, out->chain.n_blocks);
    out->tokens[*n_true * CHAIN_TOKENS + draw(m, CHAIN_TOKENS)] ^= 1;
}

static void open_ticket(struct model *m)
{
    struct lending *l = &m->lent[draw(m, TICKETS)];
    if (l->open)
        return;
    l->node = draw(m, NODES);
    const struct rig_chain *c = &m->nodes[l->node];
    struct store_found found;
    const uint32_t first = draw(m, 3) ? 0 : draw(m, c->chain.n_blocks);
    l->n_true = c->chain.n_blocks;
    if (draw(m, 8) == 0) {
        make_impostor(m, l->node, &l->impostor, &l->n_true);
        c = &l->impostor;
        for (uint32_t i = c->chain.n_blocks, at = l->node; i-- > l->n_true; at = parent_of(at))
            m->usurped[at] = true;
    }
    const status st = store_rig_start(&m->rig, c, first, &l->reader, &l->id, &found);
    l->open = st == ST_OK;
    if (m->wiping && salt_of(l->node) == m->wipe_salt)
        assert_int_equal(st, ST_CANCELLED);
    else if (st != ST_OK)
        assert_int_equal(st, ST_NOT_FOUND);
}

static void end_lending(struct model *m, struct lending *l)
{
    const bool is_impostor = l->n_true < m->nodes[l->node].chain.n_blocks;
    assert_true(is_true(l));
    for (uint32_t i = 0; is_impostor && i < l->reader.n_ready; i++)
        m->impostors[l->reader.lent[i].from]++;
    for (uint32_t i = 0; i < l->reader.n_ready; i++)
        m->hits[l->reader.lent[i].from]++;
    l->open = false;
}

static void close_ticket(struct model *m)
{
    struct lending *l = &m->lent[draw(m, TICKETS)];
    if (!l->open)
        return;
    check_lent(m, l);
    store_close(m->rig.store, l->id);
    end_lending(m, l);
}

/* What is handed out stays as it is until the ticket is over. */
static void turn(struct model *m)
{
    m->rig.disk.now_us += draw(m, 4) ? 1 : 20;
    store_run(m->rig.store);
    for (uint32_t i = 0; i < TICKETS; i++) {
        struct lending *l = &m->lent[i];
        if (!l->open)
            continue;
        if (l->reader.over) {
            end_lending(m, l);
            continue;
        }
        assert_in_range(l->reader.done, 0, 1);
        assert_true(is_true(l));
        if (draw(m, 8) == 0)
            check_lent(m, l);
    }
}

static void check_find(struct model *m)
{
    const uint32_t node = draw(m, NODES);
    const struct rig_chain *c = &m->nodes[node];
    uint32_t path[CHAIN_MAX], host = 0;
    const uint32_t n = c->chain.n_blocks;
    for (uint32_t i = n, at = node; i-- > 0; at = parent_of(at))
        path[i] = at;
    const bool wiped = m->wiping && salt_of(node) == m->wipe_salt;
    while (!wiped && host < n && m->known[STORE_HOST][path[host]])
        host++;
    uint32_t disk = host;
    while (!wiped && disk < n && m->known[STORE_DISK][path[disk]])
        disk++;
    struct rig_chain impostor;
    uint32_t n_true;
    make_impostor(m, node, &impostor, &n_true);
    assert_int_equal(store_find(m->rig.store, &impostor.chain).host, host < n_true ? host : n_true);
    const struct store_found found = store_find(m->rig.store, &c->chain);
    assert_int_equal(found.host, host);
    if (found.disk) /* a disk that did not answer is not asked for a while */
        assert_int_equal(found.disk, disk - host);
    else
        assert_true(m->faults || disk == host || store_rig_stats(&m->rig).promotion_failures);
}

/* ---- pins, wipes, flips, restarts -------------------------------------------------------------------------------- */

static void pin_or_unpin(struct model *m)
{
    const struct rig_chain *c = &m->nodes[draw(m, NODES)];
    uint32_t n;
    if (draw(m, 2)) {
        (void)store_unpin(m->rig.store, &c->chain);
        return;
    }
    const status st = store_pin(m->rig.store, &c->chain, m->rig.disk.now_us + draw(m, 300), &n);
    assert_true(st == ST_OK || st == ST_NOT_FOUND || st == ST_LIMIT);
}

static void on_wiped(void *ctx, status st, const struct store_wiped *wiped)
{
    struct model *m = ctx;
    m->wiping = false;
    m->wiped++;
    m->wipe_outcome = st;
    if (st != ST_OK) {
        assert_true(m->faults || wiped->slots_left || wiped->disk == ST_TIMEOUT || wiped->disk == ST_AGAIN);
        assert_int_equal(wiped->slots_bad, 0);
        return;
    }
    m->wipes_good++;
    assert_false(store_rig_holds_salt(&m->rig, m->wipe_salt));
    assert_false(rig_holds_salt(&m->rig.disk, m->wipe_salt));
    for (uint32_t node = 0; node < NODES; node++)
        if (salt_of(node) == m->wipe_salt)
            assert_false(m->known[STORE_HOST][node] || m->known[STORE_DISK][node]);
}

static void wipe(struct model *m)
{
    const uint64_t salt = salt_of(draw(m, NODES));
    const struct store_wipe_call call = { &salt, m->rig.disk.now_us + 1500, on_wiped, m };
    if (m->wiping) {
        assert_int_equal(store_wipe(m->rig.store, &call), ST_AGAIN);
        return;
    }
    assert_int_equal(store_wipe(m->rig.store, &call), ST_OK);
    m->wiping = true;
    m->wipe_salt = salt;
    for (uint32_t i = 0; i < m->n_reserved; i++)
        if (salt_of(m->reserved[i].node) == salt)
            m->reserved[i].doomed = true;
}

/* Or may have been read and verified for a ticket that has not got it yet. */
static bool is_lent(const struct model *m, uint32_t slot, uint32_t node)
{
    for (uint32_t i = 0; i < TICKETS; i++) {
        const struct lending *l = &m->lent[i];
        if (l->open && !l->reader.done && stands_behind(l->node, node))
            return true;
        for (uint32_t k = 0; l->open && k < l->reader.n_ready; k++)
            if (l->reader.lent[k].slot.slot == slot)
                return true;
    }
    return false;
}

struct slots {
    const struct model *model;
    uint32_t slots[SLOTS], nodes[SLOTS], n;
};

static void note_slot(void *ctx, const struct store_block *block)
{
    struct slots *s = ctx;
    s->nodes[s->n] = node_of(s->model, block);
    s->slots[s->n++] = block->slot;
}

static void flip(struct model *m)
{
    struct slots s = { .model = m };
    store_rig_dump(m->rig.store, STORE_HOST, note_slot, &s);
    if (!s.n)
        return;
    const uint32_t at = draw(m, s.n), slot = s.slots[at];
    if (is_lent(m, slot, s.nodes[at]))
        return;
    /* Not the bytes by which a wiped salt is known. */
    store_memory(m->rig.store, slot)[draw(m, STORE_BYTES / 8) * 8 + 4] ^= (uint8_t)(1u << draw(m, 8));
    m->flips++;
}

static void note_on_disk(void *ctx, const struct store_block *block)
{
    struct model *m = ctx;
    m->known[STORE_DISK][node_of(m, block)] = true;
}

static void start(struct model *m)
{
    struct error err;
    const unsigned fails = m->rig.disk.disk.fail_one_in;
    memset(m->known, 0, sizeof m->known);
    memset(m->seen, 0, sizeof m->seen);
    memset(m->rig.memory, 0, SLOTS * STORE_BYTES);
    m->rig.disk.disk.fail_one_in = m->rig.disk.disk.spoil = 0;
    m->rig.disk.disk.hung = false;
    rig_open(&m->rig.disk);
    m->rig.disk.disk.fail_one_in = fails;
    m->rig.options.disk = m->rig.disk.tier;
    if (store_create(&m->rig.options, &m->rig.store, &err) != ST_OK)
        fail_msg("%s", err.text);
    store_rig_dump(m->rig.store, STORE_DISK, note_on_disk, m);
}

static void restart(struct model *m)
{
    const uint32_t way = draw(m, 3); /* as it should be; killed; without power */
    if (way)
        simulated_crash(&m->rig.disk.disk, way == 2);
    m->rig.disk.disk.hung = false;
    store_destroy(&m->rig.store);
    disk_tier_destroy(&m->rig.disk.tier);
    m->n_reserved = 0;
    m->wiping = false;
    for (uint32_t i = 0; i < TICKETS; i++)
        m->lent[i].open = false;
    m->restarts++;
    start(m);
}

static void disturb(struct model *m)
{
    if (draw(m, 3) == 0)
        m->rig.disk.disk.hung = !m->rig.disk.disk.hung;
    else
        m->rig.disk.disk.spoil = 1;
}

/* ---- the play -----------------------------------------------------------------------------------------------------
 */

static void step(struct model *m)
{
    const uint32_t what = draw(m, 1000);
    if (what < 150)
        offer(m);
    else if (what < 400)
        finish_reservation(m);
    else if (what < 520)
        open_ticket(m);
    else if (what < 600)
        close_ticket(m);
    else if (what < 650)
        check_find(m);
    else if (what < 660)
        pin_or_unpin(m);
    else if (what < 664)
        wipe(m);
    else if (what < 670)
        flip(m);
    else if (what < 671)
        restart(m);
    else if (what < 680 && m->faults)
        disturb(m);
    else
        turn(m);
}

static void count_known(void *ctx, const struct store_block *block)
{
    (void)block;
    ++*(uint32_t *)ctx;
}

static void check_dumps(struct model *m)
{
    for (int tier = 0; tier < STORE_TIER_COUNT; tier++) {
        uint32_t told = 0, known = 0;
        store_rig_dump(m->rig.store, (enum store_tier)tier, count_known, &told);
        for (uint32_t node = 0; node < NODES; node++)
            known += m->known[tier][node];
        assert_int_equal(told, known);
    }
}

/* Everything is given back; then everything is wiped. */
static void finish(struct model *m)
{
    m->rig.disk.disk.hung = false;
    m->rig.disk.disk.fail_one_in = m->rig.disk.disk.spoil = 0;
    while (m->n_reserved)
        finish_reservation(m);
    for (uint32_t i = 0; i < TICKETS; i++)
        if (m->lent[i].open)
            store_close(m->rig.store, m->lent[i].id);
    m->rig.disk.now_us += 2000; /* past probes and deadlines */
    for (unsigned i = 0; i < FEW_RUNS; i++)
        store_run(m->rig.store);
    assert_false(m->wiping);
    struct store_stats stats = store_rig_stats(&m->rig);
    assert_int_equal(stats.slots_reserved + stats.slots_held + stats.open_tickets + stats.reads + stats.pins +
                         stats.writes_waiting,
                     0);
    assert_int_equal(stats.slots_free + stats.tiers[STORE_HOST].blocks, SLOTS);
    check_dumps(m);
    const struct store_wipe_call call = { NULL, m->rig.disk.now_us + 1000, on_wiped, m };
    m->faults = false;
    m->wipes_good--; /* the one that comes now is not counted */
    assert_int_equal(store_wipe(m->rig.store, &call), ST_OK);
    for (unsigned i = 0; i < 10 * FEW_RUNS; i++)
        store_run(m->rig.store);
    assert_int_equal(m->wipe_outcome, ST_OK);
    stats = store_rig_stats(&m->rig);
    assert_int_equal(stats.slots_free, SLOTS);
    assert_int_equal(stats.salts, 0);
    for (uint64_t salt = salt_of(0); salt <= salt_of(NODES - 1); salt++)
        assert_false(store_rig_holds_salt(&m->rig, salt) || rig_holds_salt(&m->rig.disk, salt));
}

static uint64_t base_seed;

/* The count-th play: each has a seed of its own. */
static void play(uint64_t count, uint32_t steps, uint32_t segments, unsigned fail_one_in, int error)
{
    struct model *m = calloc(1, sizeof *m);
    assert_non_null(m);
    make_nodes(m);
    store_rig_init(&m->rig, SLOTS, segments);
    m->random = m->rig.disk.disk.random = base_seed + count - 1;
    m->rig.disk.options.probe_us = 200;
    m->rig.options.admission = STORE_ADMIT_SECOND_SIGHT;
    m->rig.options.max_seen = 2 * steps; /* more than are ever refused */
    m->rig.options.max_reserved = RESERVATIONS / 2;
    m->rig.options.salt_quota_bytes = 14 * STORE_BYTES;
    m->rig.options.stored = on_stored;
    m->rig.options.removed = on_removed;
    m->faults = fail_one_in > 0;
    m->rig.disk.disk.fail_one_in = fail_one_in;
    m->rig.disk.disk.error = error;
    start(m);
    for (uint32_t i = 0; i < steps; i++) {
        step(m);
        if (i % 64 == 0)
            check_dumps(m);
    }
    finish(m);
    assert_in_range(m->commits, steps / 50, steps);
    assert_in_range(m->hits[STORE_HOST], steps / 100, steps);
    assert_in_range(m->hits[STORE_DISK], fail_one_in ? 5 : steps / 200, steps);
    assert_in_range(m->wipes_good, fail_one_in ? 0 : 3, steps);
    assert_in_range(m->cancelled, 1, steps);
    assert_in_range(m->flips, 1, steps);
    assert_in_range(m->impostors[STORE_HOST], 1, steps);
    assert_true(m->impostors[STORE_DISK] > 0 || fail_one_in);
    assert_in_range(m->restarts, 1, steps);
    store_rig_free(&m->rig);
    free(m);
}

/* A million operations where that is asked for. */
static uint32_t steps(void)
{
    return is_long() ? 1000000 / 6 : STEPS;
}

static void what_is_handed_out_is_right(void **state)
{
    (void)state;
    play(1, steps(), 60, 0, 0);
    play(2, steps(), 60, 0, 0);
}

static void also_on_a_disk_that_evicts(void **state)
{
    (void)state;
    play(3, steps(), 8, 0, 0);
}

static void also_on_a_disk_that_fails(void **state)
{
    (void)state;
    play(4, steps(), 60, 60, EIO);
    play(5, steps(), 8, 60, ENOSPC);
    play(6, steps(), 20, 60, SIMULATED_SHORT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_handed_out_is_right),
        cmocka_unit_test(also_on_a_disk_that_evicts),
        cmocka_unit_test(also_on_a_disk_that_fails),
    };
    base_seed = test_seed();
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
