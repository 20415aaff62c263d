/* store.h - the blocks of a KV block manager: tier 2, host memory, over tier 3, a disk tier.
 * It keeps the books and reads and writes its own slots; sockets, transfers and memory that others map are the
 * caller's. One loop thread owns a store: it calls store_run() when store_event_fd() is readable or store_next_us() has
 * come, and right after an open, a commit or a wipe if it wants no delay. Callbacks come out of the calls that say so.
 * They may call anything here but destroy and dump.
 *
 * Slots are all of one size, store_options.slot_bytes, and a block of another size is refused (SIZE): a transfer
 * pool has one geometry, and size classes in one memory would need a way to move room between them. Formats
 * (kv_format) of equal size share the slots and nothing else: a block is the same only if hash, format, salt, seed,
 * tokens and verified parent are the same. A host that serves models of other sizes runs a store for each.
 *
 * Life of a slot (block_pool.h has the states): an offer reserves it; whoever fills it commits or aborts; committed
 * behind a committed parent it is registered, found, and written through to disk. A ticket holds blocks for a borrower:
 * those in memory at once, those on disk as they are read. It ends when it is closed and at its deadline in any case;
 * after that slots are reused even if a frozen borrower copies still, whom the generation tells. Nothing waits for the
 * disk.
 *
 * It is a cache: what is asked for may be gone, and what is handed out is what was asked for. All memory but that of
 * open tickets and of a dump is taken at create. docs/KV.md, "Manager: store". */
#ifndef BATON_KVBM_STORE_H
#define BATON_KVBM_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"
#include "kvbm/disk_tier.h"
#include "kvbm/eviction.h"

#define STORE_MAX_BLOCK_TOKENS 508u        /* four words behind them on disk stand for all tokens before them */
#define STORE_WORK_BYTES       (16u << 20) /* zeroed, read back and verified in one run at most */
#define STORE_MAX_SUSPECTS     64u         /* that wait for their turn to be looked at */
#define STORE_SUSPECT_PAUSE_US 10000u      /* from one look to the next */

enum store_tier { STORE_HOST, STORE_DISK, STORE_TIER_COUNT };

/* Which blocks are worth a slot. NAME, as configured. */
#define STORE_ADMISSIONS(X)                                                                                            \
    X(SECOND_SIGHT, "second-sight") /* offered before, shared by sequences of its worker, or on disk */                \
    X(ALL, "all")                                                                                                      \
    X(NONE, "none") /* what is on disk is served still */

enum store_admission {
#define X(name, text) STORE_ADMIT_##name,
    STORE_ADMISSIONS(X)
#undef X
        STORE_ADMISSION_COUNT
};

const char *store_admission_name(enum store_admission admission);
/* False for any other word. */
bool store_admission_parse(const char *name, enum store_admission *out);

/* What an offer of a block comes to. */
#define STORE_VERDICTS(X)                                                                                              \
    X(WANTED, "wanted")                                                                                                \
    X(PRESENT, "present")     /* it is in memory                                     */                                \
    X(COMING, "coming")       /* a slot is reserved for it already                   */                                \
    X(ADMISSION, "admission") /* not worth a slot (yet)                              */                                \
    X(PARENT, "parent")       /* the block before it is not here and does not come   */                                \
    X(SIZE, "size")           /* not of this store's slots                           */                                \
    X(QUOTA, "quota")         /* of its salt, and none of its own blocks may go      */                                \
    X(ROOM, "room")           /* every slot is held, or as many reserved as may be   */                                \
    X(SALTS, "salts")         /* as many salts as there may be                       */                                \
    X(WIPING, "wiping")       /* its salt is being wiped                             */                                \
    X(COLLISION, "collision") /* its hash stands for something else here             */

enum store_verdict {
#define X(name, text) STORE_##name,
    STORE_VERDICTS(X)
#undef X
        STORE_VERDICT_COUNT
};

const char *store_verdict_name(enum store_verdict verdict);

/* Why a block left host memory. */
#define STORE_REMOVALS(X)                                                                                              \
    X(EVICTED, "evicted") /* room was needed                                           */                              \
    X(QUOTA, "quota")     /* room was needed for another block of its salt              */                             \
    X(DAMAGED, "damaged") /* its checksum was wrong                                     */                             \
    X(BEHIND, "behind")   /* the block before it was damaged                            */                             \
    X(WIPED, "wiped")

enum store_removal {
#define X(name, text) STORE_REMOVED_##name,
    STORE_REMOVALS(X)
#undef X
        STORE_REMOVAL_COUNT
};

const char *store_removal_name(enum store_removal removal);

/* Why a committed block was not written to disk, besides the refusals of the disk tier itself. */
#define STORE_UNWRITTEN(X)                                                                                             \
    X(QUEUE, "queue")   /* as many wait as may                                     */                                  \
    X(LATE, "late")     /* the disk was busy for too long                          */                                  \
    X(GONE, "gone")     /* evicted or wiped before its turn                        */                                  \
    X(PARENT, "parent") /* the block before it is not on disk: nobody would ask    */                                  \
    X(DISK, "disk")     /* the disk tier refused it (disk_metrics says why)        */                                  \
    X(FAILED, "failed") /* the write failed, or did not end in time                */

enum store_unwritten {
#define X(name, text) STORE_UNWRITTEN_##name,
    STORE_UNWRITTEN(X)
#undef X
        STORE_UNWRITTEN_COUNT
};

const char *store_unwritten_name(enum store_unwritten why);

/* A block as events and dumps tell of it. */
struct store_block {
    struct block_hash hash, parent; /* parent: the chain's seed for a first block, which is no block's hash */
    bool is_first;                  /* of its chain */
    uint64_t format, salt, checksum;
    uint32_t n_tokens;
    const uint32_t *tokens; /* [n_tokens], for the time of the call; NULL where only the disk has them */
    uint32_t slot;          /* STORE_HOST */
    uint64_t stored_s;      /* wall clock */
};

struct store;

struct store_options {
    /* Slots: slot i lies at memory + i * slot_bytes; zeros at create. Mapped by borrowers, written by those who fill
     * reserved slots. Both borrowed for life. */
    uint8_t *memory;
    _Atomic uint64_t *generations; /* [n_slots]; raised (release) before a slot's first byte is rewritten */
    uint64_t slot_bytes;           /* kv_block_bytes of the formats that it serves */
    uint32_t n_slots;
    uint32_t block_tokens; /* at most STORE_MAX_BLOCK_TOKENS */
    const struct eviction_policy *policy;
    struct disk_tier *disk; /* borrowed for life, run by store_run(); its max_payload_bytes >= slot_bytes. NULL: none */
    enum store_admission admission;
    uint32_t max_seen;  /* hashes that second-sight remembers: 16 bytes each */
    uint32_t max_salts; /* with blocks in memory */
    uint32_t max_reserved;
    uint32_t max_tickets, max_ticket_blocks;
    uint32_t max_pins, max_pinned; /* chains, and blocks of all of them together; 0: half of the slots */
    uint32_t max_reads;            /* of disk at once, all tickets together; at most a quarter of the tier's slots */
    uint32_t max_writes;           /* blocks that wait for the disk, and as many again on their way */
    uint64_t salt_quota_bytes;     /* of host memory; 0: no limit */
    uint64_t ticket_us;            /* a ticket's deadline and its renewals lie no farther ahead than this */
    uint64_t pin_us;               /* the same for pins */
    uint64_t read_us, write_us;    /* what a read of disk, and a write with its time in the queue, may take */
    bool verify_host;              /* blocks in memory are verified once more when a ticket hands them out */
    /* Of a block's payload (slot_bytes), as its maker makes it; NULL: XXH3-64 of the bytes. What checks blocks of the
     * disk tier is its own option, and must be the same. */
    uint64_t (*checksum)(void *ctx, uint64_t format, const void *payload);
    /* For KV events: block is found in the tier, or no longer. NULL: nobody is told. Out of commit, run, open, offer
     * and wipe; not for what a disk tier held at create (dump it), nor while it has lost its file. Nothing of the store
     * may be called. */
    void (*stored)(void *ctx, enum store_tier tier, const struct store_block *block);
    void (*removed)(void *ctx, enum store_tier tier, const struct store_block *block);
    uint64_t (*now_us)(void *ctx), (*wall_s)(void *ctx); /* NULL: the real clocks. The disk tier's must be the same */
    void *ctx;
};

void store_defaults(struct store_options *options);

/* ST_INVALID with the option that is wrong; ST_NO_MEMORY. */
MUST_CHECK status store_create(const struct store_options *options, struct store **out, struct error *err);
/* NULL-safe. Ends tickets without telling. Nobody may be writing into reserved slots any more. The disk tier is
 * destroyed next, without another run; a wipe that is going on is not told its end. */
void store_destroy(struct store **store);

int store_event_fd(const struct store *store);     /* of the disk tier; -1 without one */
void store_run(struct store *store);               /* inside a callback: runs again afterwards */
uint64_t store_next_us(const struct store *store); /* UINT64_MAX: nothing to wait for */

/* ---- chains ------------------------------------------------------------------------------------------------ */

/* The beginning of a sequence, from its first token on: full blocks only. Read before a call returns. */
struct store_chain {
    uint64_t format;                 /* fingerprint of the kv_format */
    uint64_t salt;                   /* id of the salt, for quotas and wipes: store_salt_id() */
    struct block_hash seed;          /* block_seed(), which covers the salt itself */
    const struct block_hash *hashes; /* [n_blocks] */
    const uint32_t *tokens;          /* [n_blocks * block_tokens] */
    uint32_t n_blocks;
};

/* Two salts with one id share a quota and are wiped together, and share no block. */
static inline uint64_t store_salt_id(struct block_hash salt)
{
    return salt.low;
}

uint64_t store_format_id(const char *kv_format_text);

/* How much of a chain is here: its first `host` blocks in memory, and `disk` more behind them on disk (whose tokens are
 * compared when they are read). Nothing is held, nothing counts as used. */
struct store_found {
    uint32_t host, disk;
    uint32_t coming; /* behind those in memory, where none is on disk: being fetched (store_offer.is_fetch) */
};
struct store_found store_find(struct store *store, const struct store_chain *chain);

/* ---- putting ----------------------------------------------------------------------------------------------- */

/* A slot in one of its lives: what a borrower or a filler names. */
struct store_slot {
    uint32_t slot;
    uint64_t generation;
};

/* Where slot's bytes lie: slot_bytes of them. */
uint8_t *store_memory(const struct store *store, uint32_t slot);

struct store_offer {
    /* All of the chain up to the last offered block: those before `first` say which parent is meant. */
    struct store_chain chain;
    uint32_t first;
    uint64_t block_bytes;
    const uint64_t *checksums; /* [n_blocks - first], made where the block was completed. NULL: store_commit_summed */
    const bool *shared; /* [n_blocks - first]: more than one sequence of the offering worker used it. NULL: none */
    bool is_fetch;      /* somebody wants them now and they are fetched for him: no admission, and tickets may wait */
};

struct store_answer {
    enum store_verdict verdict;
    struct store_slot slot; /* WANTED: reserved for it */
};

/* Answers for each offered block: out[n_blocks - first]. Every WANTED one has to be filled and committed, or
 * aborted, in any order: a slot is never taken back, as somebody may be writing into it; so whoever fills it has the
 * deadline. May evict. */
void store_offer(struct store *store, const struct store_offer *offer, struct store_answer out[]);

/* The slot holds all bytes of its block, and the caller found the checksum right. Registered at once if the block
 * before it is, else as soon as that is. ST_OK; ST_CANCELLED: it is not kept (the block before it was aborted, or its
 * salt wiped), the slot is free; ST_STALE: no such reservation. */
MUST_CHECK status store_commit(struct store *store, struct store_slot slot);
/* The same, of a block whose offer did not say its checksum. */
MUST_CHECK status store_commit_summed(struct store *store, struct store_slot slot, uint64_t checksum);
/* It could not be filled (damaged: its checksum was wrong, which is counted). Nobody may write into it any more. What
 * was reserved behind it is not kept either. Stale ones are ignored. */
void store_abort(struct store *store, struct store_slot slot, bool damaged);
/* A ticket waits for it (store_request.await_coming). */
bool store_is_awaited(const struct store *store, struct store_slot slot);

/* Somebody got other bytes from this slot than its checksum says: it is looked at before it is lent again, or by
 * store_run in its turn (what is beyond STORE_MAX_SUSPECTS only then), and dropped with all behind it where it is
 * damaged here, which is counted. So whoever blames what is good costs no more than the loans that he asks for. Stale
 * ones are ignored. */
void store_suspect(struct store *store, struct store_slot slot);

/* ---- getting ----------------------------------------------------------------------------------------------- */

/* A block that a ticket holds. */
struct store_lent {
    struct store_slot slot;
    uint64_t checksum;
    enum store_tier from; /* where it was found */
};

struct store_reader {
    /* Blocks [first, first + n) of the chain are ready, in order; held until the ticket ends. Never NULL. */
    void (*ready)(void *ctx, uint64_t ticket, uint32_t first, const struct store_lent *lent, uint32_t n);
    /* Once: no more blocks will be ready. ST_OK: all that were promised are; else why the run ends before: ST_NOT_FOUND
     * (gone from disk meanwhile, or another block under its hash), ST_CORRUPT, ST_IO, ST_TIMEOUT (the disk), ST_LIMIT
     * (no slot, or its salt's quota), ST_CANCELLED (its salt is wiped). The ticket stays open. */
    void (*done)(void *ctx, uint64_t ticket, status st, uint32_t n_ready);
    /* The deadline has come: the ticket is closed. Without done() before if that was not called. */
    void (*over)(void *ctx, uint64_t ticket);
    void *ctx;
};

struct store_request {
    struct store_chain chain;
    uint32_t first; /* the borrower has the blocks before it */
    uint64_t deadline_us;
    bool await_coming;                 /* what is coming is promised, too, and ready when it is committed */
    const struct store_reader *reader; /* copied */
};

/* Holds the blocks from `first` on that are in memory, and begins to read those behind them from disk, in order.
 * *promised is as store_find() has it, what is awaited counted with those in memory. Callbacks come from store_run()
 * only. ST_NOT_FOUND: nothing from `first` on; ST_AGAIN: as many tickets as may be; ST_CANCELLED: its salt is being
 * wiped; ST_TIMEOUT: the deadline lies behind; ST_NO_MEMORY. */
MUST_CHECK status store_open(struct store *store, const struct store_request *request, uint64_t *ticket,
                             struct store_found *promised);
/* Ends it, without callbacks. Nothing happens if it has ended. */
void store_close(struct store *store, uint64_t ticket);
/* The borrower gave a sign of life. False: it has ended. */
bool store_renew(struct store *store, uint64_t ticket, uint64_t deadline_us);

/* ---- pinning and wiping --------------------------------------------------------------------------------------- */

/* Nothing evicts the leading blocks of the chain that are in memory now, until `until_us`, or as long as may be if that
 * is less. A chain that is pinned already gets the new time. *n_pinned: how many blocks. ST_NOT_FOUND: none is here;
 * ST_LIMIT: as many chains or blocks pinned as may be. */
MUST_CHECK status store_pin(struct store *store, const struct store_chain *chain, uint64_t until_us,
                            uint32_t *n_pinned);
/* Of the chain as it was pinned. False: it is not. */
bool store_unpin(struct store *store, const struct store_chain *chain);

struct store_wiped {
    uint32_t blocks;     /* forgotten in memory */
    uint32_t slots;      /* zeroed and read back, those that held such bytes of old included */
    uint32_t slots_left; /* lent, being filled, or not reached when the deadline came */
    uint32_t slots_bad;  /* did not read back as zeros */
    uint64_t host_bytes, disk_bytes;
    status disk; /* of the disk tier's wipe; ST_OK without one */
};

struct store_wipe_call {
    const uint64_t *salt; /* id, read before the call returns; NULL: everything */
    uint64_t deadline_us;
    /* Out of store_run(). ST_OK: every byte of it that slots and disk ever held reads as zero. ST_TIMEOUT: wiped is
     * what was done; lent slots follow as their loans end, wipe again for the rest. ST_CORRUPT: slots_bad; else the
     * disk's status: wipe again. */
    void (*done)(void *ctx, status st, const struct store_wiped *wiped); /* not NULL */
    void *ctx;
};

/* From now on no block of the salt is found or admitted (until it is over), pins on it end, tickets get none that they
 * have not got. Blocks that are lent are zeroed when their ticket ends. ST_AGAIN: another wipe is going on. */
MUST_CHECK status store_wipe(struct store *store, const struct store_wipe_call *call);

/* ---- what there is -------------------------------------------------------------------------------------------- */

/* Tells of every block that is found in the tier, parents before their children, in pieces between which the store may
 * change: whoever applies its events from the beginning on behind all pieces knows what there is. */
struct store_dump;
MUST_CHECK status store_dump_begin(struct store *store, enum store_tier tier, struct store_dump **out);
/* About n places more, and the rest of the chain at hand. False: that was all. */
bool store_dump_some(struct store_dump *dump, uint32_t n, void (*each)(void *ctx, const struct store_block *block),
                     void *ctx);
/* At any time, also when the store is gone. */
void store_dump_end(struct store_dump **dump);

#define STORE_COUNTERS(X)                                                                                              \
    X(offers, "blocks offered")                                                                                        \
    X(commits, "slots filled and committed")                                                                           \
    X(aborts, "slots reserved and not filled")                                                                         \
    X(orphans, "slots filled and not kept, as the block before them did not come")                                     \
    X(damaged_offers, "slots filled with bytes of another checksum")                                                   \
    X(damaged_host, "blocks in memory that had changed when they were to be lent or written")                          \
    X(mismatches, "blocks whose hash was right and content was not")                                                   \
    X(asked, "blocks asked for by tickets, those that were not promised included")                                     \
    X(tickets, "tickets opened")                                                                                       \
    X(tickets_refused, "tickets not opened: too many")                                                                 \
    X(tickets_over, "tickets that ended by their deadline")                                                            \
    X(promoted, "blocks read from disk into slots")                                                                    \
    X(promoted_unkept, "of these, lent only, as the block before them is not in memory")                               \
    X(promotion_failures, "reads from disk that ended a run")                                                          \
    X(promotion_no_room, "runs that ended for want of a slot")                                                         \
    X(written, "blocks written through to disk")                                                                       \
    X(wipes, "wipes begun")                                                                                            \
    X(wiped_slots, "slots zeroed and read back")                                                                       \
    X(bad_slots, "slots that did not read back as zeros")

struct store_stats {
#define X(name, help) uint64_t name;
    STORE_COUNTERS(X)
#undef X
    uint64_t verdicts[STORE_VERDICT_COUNT];
    uint64_t removed[STORE_REMOVAL_COUNT];
    uint64_t unwritten[STORE_UNWRITTEN_COUNT];
    struct store_tier_stats {
        uint64_t blocks, bytes, capacity_bytes;
        uint64_t hit_blocks, hit_tokens; /* made ready for tickets */
        uint64_t oldest_s;               /* age of the oldest block (on disk: of its segment); 0: none */
    } tiers[STORE_TIER_COUNT];
    /* Now. */
    uint32_t slots_free, slots_reserved, slots_held, slots_pinned; /* held: by tickets */
    uint32_t open_tickets, pins, reads, writes_waiting, salts;
    bool wiping;
};
/* The disk's part of tiers[] is its own metrics, repeated. */
void store_stats(struct store *store, struct store_stats *out);

#endif
