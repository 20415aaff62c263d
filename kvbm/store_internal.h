/* store_internal.h - what the files of the store share.
 *   store.c          made, run, ended; what there is
 *   store_index.c    blocks found by what they are
 *   store_salts.c    what each salt has in memory
 *   store_slots.c    slots reserved, filled, registered, forgotten, zeroed
 *   store_offers.c   putting
 *   store_disk.c     reads and writes of the disk tier
 *   store_tickets.c  getting: what a ticket holds
 *   store_ready.c    and how its blocks become ready
 *   store_suspects.c what borrowers say came damaged
 *   store_pins.c, store_wipe.c, store_dump.c
 * A slot's state is block_pool's. RESERVED ones have one owner, whoever fills them; children that are not
 * registered yet own their parent; tickets own (as transfers) what they hold; a pin owns the end of its chain. */
#ifndef BATON_KVBM_STORE_INTERNAL_H
#define BATON_KVBM_STORE_INTERNAL_H

#include "kvbm/block_pool.h"
#include "kvbm/eviction_internal.h"
#include "kvbm/store.h"

#define NO_SLOT    BLOCK_NONE
#define NO_ACCOUNT UINT32_MAX

/* Of all tokens from the first one to a block's last, and the seed: SHA-256, cut. Behind a block's tokens on disk it
 * stands for the blocks before it, where a hash that collides could stand for others. */
#define DIGEST_WORDS 4u
struct store_digest {
    uint32_t words[DIGEST_WORDS];
};

/* What a block is. */
struct store_name {
    uint64_t format, salt;
    struct block_hash seed, hash, before; /* before: of its parent, or the seed */
    const uint32_t *tokens;
};

/* Bytes of a slot that a wipe waits for. */
enum { WIPE_NEW = 1, /* of the block that it is */ WIPE_OLD = 2 /* of the one it was, until it is filled */ };

struct store_slot_record {
    struct block_hash seed, hash, before;
    uint64_t format, salt, checksum, stored_s;
    uint64_t old_salt; /* overlaid */
    struct store_digest digest;
    uint32_t account; /* of its salt, unless FREE */
    uint32_t parent;  /* indexed ones; NO_SLOT: the first of its chain */
    uint32_t oldest_child, newest_child;
    uint32_t next, previous; /* its neighbours among its parent's children */
    uint32_t newer, older;   /* REGISTERED: neighbours among its salt's */
    uint32_t due;            /* in the list of what may be registered now */
    uint32_t wipe;           /* which wipe waits for it */
    uint8_t wipe_bytes;      /* WIPE_NEW, WIPE_OLD */
    uint8_t failed;          /* a status: what tickets that wait for it learn; it is never filled */
    bool indexed : 1;        /* found: REGISTERED, or on its way to that */
    bool is_read : 1;        /* filled from disk */
    bool to_disk : 1;        /* waits for the disk, or is being written */
    bool dirty : 1;          /* has bytes of salt */
    bool overlaid : 1;       /* and of old_salt, as it is not filled */
    bool is_pinned : 1;
    bool is_unwanted : 1; /* RESERVED: not to be kept once it is filled */
    bool is_fetched : 1;  /* RESERVED: tickets may wait for it */
    bool is_suspect : 1;  /* filled: is to be looked at before it is lent */
};

struct salt_account {
    uint64_t salt;
    uint32_t slots;          /* that are not FREE; 0: the account is free */
    uint32_t oldest, newest; /* of its REGISTERED slots */
    uint32_t next;           /* in its bucket, or in the free list */
};

struct store_salts {
    struct salt_account *accounts;
    uint32_t *buckets; /* account plus one */
    uint32_t mask, used, max, free, open;
};

struct store_read {
    struct store *store;
    uint32_t slot;
    uint64_t disk_ticket;
    bool used;
};

struct store_write {
    struct store *store;
    struct store_slot slot;
    uint64_t deadline_us, disk_ticket;
    bool used; /* on its way */
};

struct ticket_block {
    uint32_t slot;
    enum store_tier from;
};

/* Blocks [first, delivered) are the borrower's, [delivered, issued) held or being read, [issued, end) not begun. */
struct ticket {
    uint32_t generation;
    bool open, told;
    status outcome; /* for done() */
    uint64_t deadline_us, stalled_us;
    struct store_reader reader;
    uint64_t format, salt;
    struct block_hash seed;
    uint32_t first, base, delivered, issued, end;
    uint32_t anchor;            /* slot of the block before first, held; NO_SLOT: none, or not in memory */
    struct store_digest digest; /* up to block issued - 1 */
    void *memory;               /* holds what follows */
    size_t memory_bytes;
    struct ticket_block *blocks; /* [end - first] */
    struct block_hash *hashes;   /* [1 + end - base]: of base - 1 (or the seed), and on */
    uint32_t *tokens;            /* [(end - base) * block_tokens] */
};

struct pin {
    bool used;
    uint32_t slot, n_blocks;
    uint64_t until_us;
};

struct wipe_state {
    bool active, all, disk_pending;
    uint32_t number;
    uint64_t salt;
    struct store_wipe_call call;
    uint32_t cursor, waiting;
    struct store_wiped wiped;
};

struct store {
    struct store_options options;
    struct block_pool *pool;
    _Atomic uint64_t *generations;
    struct store_slot_record *slots;
    uint32_t *tokens; /* [n_slots * block_tokens] */
    uint32_t *cells;  /* [n_cells], hashed */
    uint32_t n_cells;
    struct store_salts salts;
    struct ghosts seen;
    enum store_removal reason; /* of what block_pool tells of next */
    uint32_t due;              /* first of those that may be registered now */
    uint32_t n_reserved;       /* for offers */
    struct ticket *tickets;
    uint32_t n_tickets, n_held;
    uint32_t first_ticket; /* whose turn it is to be looked at first */
    struct store_read *reads;
    uint32_t n_reads;
    uint64_t read_at_us;         /* when the last one ended well */
    struct store_write *waiting; /* a ring of max_writes */
    uint32_t write_head, n_waiting;
    struct store_write *writes; /* [max_writes] on their way */
    uint32_t n_writes;
    uint32_t *disk_tokens;    /* of one block, with its digest */
    uint64_t disk_away_until; /* it did not answer: not asked before */
    struct pin *pins;
    uint32_t n_pins, n_pinned;
    struct store_slot suspects[STORE_MAX_SUSPECTS]; /* a ring */
    uint32_t suspect_head, n_suspects;
    uint64_t suspect_us; /* when the next one may be looked at */
    struct wipe_state wipe;
    bool work_left; /* run again at once */
    bool is_running;
    struct store_stats count;
};

static inline uint64_t store_now(const struct store *store)
{
    return store->options.now_us(store->options.ctx);
}

static inline uint32_t *store_tokens_of(const struct store *store, uint32_t slot)
{
    return store->tokens + (size_t)slot * store->options.block_tokens;
}

struct store_name store_name_of(const struct store *store, const struct store_chain *chain, uint32_t i);

/* store_index.c */
MUST_CHECK status store_index_create(struct store *store);
void store_index_add(struct store *store, uint32_t slot);
void store_index_remove(struct store *store, uint32_t slot);
/* The slot of that name behind that parent. NO_SLOT when there is none; *collides: as another one has its hash. */
uint32_t store_index_find(struct store *store, const struct store_name *name, uint32_t parent, bool *collides);
/* How many leading blocks of the chain are registered; *last: the last one of them. */
uint32_t store_match(struct store *store, const struct store_chain *chain, uint32_t *last);
/* How many behind the first n of them, the last of which is *last, are being fetched; *last: the last of these. */
uint32_t store_match_coming(struct store *store, const struct store_chain *chain, uint32_t n, uint32_t *last);
/* Of the block behind the one with digest `before` (NULL: the chain's first). */
void store_digest_next(const struct store *store, const struct store_digest *before, const struct store_name *name,
                       struct store_digest *out);

/* store_salts.c */
MUST_CHECK status store_salts_create(struct store_salts *salts, uint32_t max);
void store_salts_free(struct store_salts *salts);
/* Counts a slot of the salt. NO_ACCOUNT: there are as many salts as may be. */
uint32_t store_salts_count(struct store_salts *salts, uint64_t salt);
void store_salts_uncount(struct store_salts *salts, uint32_t account);
/* NO_ACCOUNT: it has no slot. */
uint32_t store_salts_find(const struct store_salts *salts, uint64_t salt);
void store_salts_link(struct store *store, uint32_t slot);
void store_salts_unlink(struct store *store, uint32_t slot);

/* store_slots.c */
MUST_CHECK status store_slots_create(struct store *store);
/* Takes a slot for a block behind parent. not WANTED: QUOTA, SALTS or ROOM. A block that is not indexed is not found
 * and never registered. */
enum store_verdict store_slots_reserve(struct store *store, const struct store_name *name, uint32_t parent,
                                       bool indexed, uint32_t *out);
/* All bytes of a RESERVED slot are there: it is registered if its parent is, and so is what waited for it. */
void store_slots_filled(struct store *store, uint32_t slot);
/* A RESERVED slot will not be filled, and what stands behind it not be registered. */
void store_slots_failed(struct store *store, uint32_t slot, status st);
/* A block and those behind it are not found any more. */
void store_slots_drop(struct store *store, uint32_t slot, enum store_removal reason, enum store_removal behind);
bool store_slot_has_data(const struct store *store, uint32_t slot);
bool store_slot_intact(const struct store *store, uint32_t slot);
/* Zeroes a slot that nobody owns, and its tokens; false: it does not read back as zeros. */
bool store_slots_zero(struct store *store, uint32_t slot);
void store_block_of(const struct store *store, uint32_t slot, struct store_block *out);

/* store_disk.c */
MUST_CHECK status store_disk_create(struct store *store);
void store_disk_cancel(struct store *store);
/* Whether a block of that name is said to be on disk; its tokens are compared when it is read. */
bool store_disk_has(struct store *store, const struct store_name *name);
/* Fills a RESERVED slot; ends in store_slots_filled or store_slots_failed. ST_AGAIN: as many reads as may be. */
MUST_CHECK status store_disk_read(struct store *store, uint32_t slot);
void store_disk_queue(struct store *store, uint32_t slot); /* to be written */
void store_disk_run(struct store *store);
uint64_t store_disk_next(const struct store *store);
void store_disk_wiped(struct store *store); /* ends reads that the wipe covers */

/* store_tickets.c */
struct ticket *store_ticket_at(const struct store *store, uint64_t id);
uint64_t store_ticket_id(const struct store *store, const struct ticket *ticket);
static inline struct ticket_block *store_ticket_block(const struct ticket *ticket, uint32_t i)
{
    return &ticket->blocks[i - ticket->first];
}
void store_ticket_hold(struct store *store, uint32_t slot);
/* Nothing is held, read or told of any more from block `end` on. */
void store_ticket_cut(struct store *store, struct ticket *ticket, uint32_t end, status outcome);
void store_ticket_end(struct store *store, struct ticket *ticket);
void store_tickets_close_all(struct store *store);
void store_tickets_wiped(struct store *store);

/* store_ready.c */
void store_tickets_run(struct store *store);
uint64_t store_tickets_next(const struct store *store);

/* store_suspects.c */
/* False: it is not what its checksum says; counted, and not found any more. */
bool store_look_at(struct store *store, uint32_t slot);
void store_suspects_run(struct store *store);
uint64_t store_suspects_next(const struct store *store);

/* store_pins.c */
void store_pins_run(struct store *store);
uint64_t store_pins_next(const struct store *store);
void store_pins_lost(struct store *store, uint32_t slot); /* it is not registered any more */
void store_pins_end_all(struct store *store);

/* store_wipe.c */
void store_wipe_run(struct store *store);
bool store_wipe_covers(const struct store *store, uint64_t salt);
/* Some bytes of a slot that was waited for are gone, by zeros or other bytes. */
void store_wipe_gone(struct store *store, uint32_t slot, uint8_t bytes, bool zeroed, bool good);

#endif
