/* disk_tier.h - KV blocks on local disk (tier 3): a log of segments in one file, with an index in memory.
 * One thread owns a tier; it watches disk_tier_event_fd() and calls disk_tier_run() when that is readable or when
 * disk_tier_next_us() has come. Nothing here waits for the disk but create and destroy. Callbacks come out of
 * disk_tier_run() and disk_tier_cancel() only, and may call anything here but destroy.
 *
 * It is a cache: a block that is asked for may be gone, and is never a wrong one. Whatever is read is compared with
 * what was asked for (identity, parent, tokens) and with the block's checksum before it is handed out. A write that has
 * ended survives the death of this process; the loss of power may take what was written since the last segment was
 * finished.
 *
 * Room is made a segment at a time, the oldest first: writes stay sequential and no space fragments, at the price of
 * evicting in the order of writing. So what was read since it was written is written again, up to a quarter of
 * the segment, as S3-FIFO gives a second round: prefixes in use move on together, and the rest is let go. */
#ifndef BATON_KVBM_DISK_TIER_H
#define BATON_KVBM_DISK_TIER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "kvbm/block_hash.h"
#include "kvbm/disk_io.h"

#define DISK_TIER_FILE            "kv.log"
#define DISK_TIER_MIN_SEGMENTS    4u
#define DISK_TIER_MAX_SLOTS       192u
#define DISK_TIER_MAX_BLOCK_BYTES (64u << 20)

/* Why a put was not taken. */
#define DISK_REFUSALS(X)                                                                                               \
    X(TAKEN, "taken")                                                                                                  \
    X(PRESENT, "present")     /* it is there, or on its way there                  */                                  \
    X(BUSY, "busy")           /* too many operations, or no segment is ready       */                                  \
    X(WEAR, "wear")           /* the day's budget of writes                        */                                  \
    X(QUOTA, "quota")         /* of its salt                                       */                                  \
    X(INDEX, "index")         /* as many blocks or salts as the index holds        */                                  \
    X(READ_ONLY, "read_only") /* the disk is degraded                              */                                  \
    X(WIPING, "wiping")       /* its salt is being wiped                           */                                  \
    X(SIZE, "size")           /* payload or tokens beyond the bounds               */                                  \
    X(CHECKSUM, "checksum")   /* the payload is not what its checksum was made of  */

enum disk_refusal {
#define X(name, text) DISK_##name,
    DISK_REFUSALS(X)
#undef X
        DISK_REFUSAL_COUNT
};

#define DISK_ERRORS(X)                                                                                                 \
    X(NO_SPACE, "no_space")                                                                                            \
    X(WRITE, "write")                                                                                                  \
    X(READ, "read")                                                                                                    \
    X(SHORT, "short")       /* a read or write moved less than asked            */                                     \
    X(CHECKSUM, "checksum") /* a block read is not the block written            */                                     \
    X(FOREIGN, "foreign")   /* same hash, other tokens or parent                */                                     \
    X(LOST, "lost")         /* the file is gone from its folder                 */                                     \
    X(TORN, "torn")         /* found at start: a write that a crash interrupted */                                     \
    X(FOOTER, "footer")     /* found at start: a segment without one            */

enum disk_error {
#define X(name, text) DISK_ERROR_##name,
    DISK_ERRORS(X)
#undef X
        DISK_ERROR_COUNT
};

/* STATE, and the states that may follow it. */
#define DISK_HEALTHS(X)                                                                                                \
    X(HEALTHY, TO(READ_ONLY) | TO(LOST))                                                                               \
    X(READ_ONLY, TO(HEALTHY) | TO(LOST)) /* a write failed: probed after a pause     */                                \
    X(LOST, TO(HEALTHY))                 /* no file: made anew where its folder is    */

enum disk_health {
#define X(name, next) DISK_IS_##name,
    DISK_HEALTHS(X)
#undef X
        DISK_HEALTH_COUNT
};

const char *disk_refusal_name(enum disk_refusal refusal);
const char *disk_error_name(enum disk_error error);
const char *disk_health_name(enum disk_health health);

struct disk_block {
    struct block_hash hash, parent;
    uint64_t format; /* fingerprint of the kv_format */
    uint64_t salt;   /* id of the salt; the hash covers the salt itself */
    uint64_t checksum;
    uint32_t payload_bytes, n_tokens;
    const uint32_t *tokens; /* borrowed; NULL in disk_tier_at */
    bool is_first;          /* of its chain: parent is the seed; for those who are told of it, not compared */
    uint64_t stored_s;      /* wall clock, when it was written; not read by put */
};

struct disk_tier;

struct disk_tier_options {
    const char *folder;                     /* made when it is missing; its parent is not */
    uint64_t capacity_bytes, segment_bytes; /* segment: a multiple of DISK_IO_ALIGN */
    uint32_t max_payload_bytes;
    uint32_t max_blocks, max_salts; /* that the index holds */
    uint32_t slots;                 /* puts and gets at most on their way; puts get three of four */
    uint64_t wear_bytes_per_day;    /* 0: no limit */
    uint64_t salt_quota_bytes;      /* 0: no limit */
    uint64_t probe_us;              /* pause after a failure, and between looks at the file */
    unsigned wait_ms;               /* of a single operation at create and destroy */
    bool no_uring, no_direct;
    /* Checksum of a payload as its maker makes it; NULL: XXH3-64 of the bytes. */
    uint64_t (*checksum)(void *ctx, const struct disk_block *block, const void *payload);
    /* Opens the file; NULL: disk_io_open. A test brings its own. */
    status (*open_io)(void *ctx, unsigned depth, struct disk_io **out, struct error *err);
    uint64_t (*now_us)(void *ctx), (*wall_s)(void *ctx); /* NULL: the real clocks */
    void *ctx;
};

void disk_tier_defaults(struct disk_tier_options *options);

/* Reads the index from the footers (and scans what has none). ST_CLOSED: another process has the folder;
 * ST_UNSUPPORTED: a newer format; ST_INVALID: options. */
MUST_CHECK status disk_tier_create(const struct disk_tier_options *options, struct disk_tier **out, struct error *err);
/* Ends what is on its way (no callback) and keeps the wear budget. */
void disk_tier_destroy(struct disk_tier **tier);

int disk_tier_event_fd(const struct disk_tier *tier);
void disk_tier_run(struct disk_tier *tier);
/* On the clock of deadlines; UINT64_MAX: nothing to wait for. */
uint64_t disk_tier_next_us(const struct disk_tier *tier);

/* How an operation ends. */
struct disk_call {
    uint64_t deadline_us; /* absolute; ST_TIMEOUT then, even if the disk hangs */
    /* found: what was read, NULL after a put and when st is not ST_OK; for the time of the call. */
    void (*done)(void *ctx, status st, const struct disk_block *found);
    void *ctx;
};

/* Copies block and payload before it returns. ticket (may be NULL) names the operation for disk_tier_cancel. A put
 * whose deadline passed may still be written. */
MUST_CHECK enum disk_refusal disk_tier_put(struct disk_tier *tier, const struct disk_block *block, const void *payload,
                                           const struct disk_call *call, uint64_t *ticket);
/* Reads the block of want's hash and format into payload (want->payload_bytes), which is written only right before
 * done(ST_OK). Salt, parent, payload_bytes and (where want->tokens is not NULL) tokens must be those stored.
 * ST_NOT_FOUND, ST_AGAIN (too many on their way) and ST_IO (no disk) come at once; done gets ST_OK, ST_NOT_FOUND
 * (dropped meanwhile, or a block of other tokens), ST_CORRUPT or ST_IO (the block has been dropped), ST_TIMEOUT,
 * ST_CANCELLED. */
MUST_CHECK status disk_tier_get(struct disk_tier *tier, const struct disk_block *want, void *payload,
                                const struct disk_call *call, uint64_t *ticket);
/* Calls done with ST_CANCELLED before it returns; does nothing when it has been done. */
void disk_tier_cancel(struct disk_tier *tier, uint64_t ticket);

/* Whether a get would find it now; out (may be NULL) without tokens. */
bool disk_tier_find(struct disk_tier *tier, struct block_hash hash, uint64_t format, struct disk_block *out);
/* Forgets a block until the next start: its bytes stay until its segment is reused. */
void disk_tier_drop(struct disk_tier *tier, struct block_hash hash, uint64_t format);
/* Told of each block that a get finds from now on, and of each that it does no longer, in the order in which that comes
 * about; nothing of the tier may be called then. While the tier has lost its file (DISK_IS_LOST) nothing is found and
 * nobody told. NULL: nobody. */
void disk_tier_watch(struct disk_tier *tier, void (*changed)(void *ctx, const struct disk_block *block, bool found),
                     void *ctx);
/* Blocks that a get would find have places, by which all can be looked at: below disk_tier_places. */
uint32_t disk_tier_places(const struct disk_tier *tier);
/* False: no block has this place. */
bool disk_tier_at(struct disk_tier *tier, uint32_t place, struct disk_block *out);
#define DISK_NO_PLACE UINT32_MAX
/* DISK_NO_PLACE: a get would not find it. */
uint32_t disk_tier_place(const struct disk_tier *tier, struct block_hash hash, uint64_t format);

struct disk_wipe_call {
    const uint64_t *salt; /* read before the call returns; NULL: everything */
    uint64_t deadline_us;
    /* ST_OK: every byte of them that this tier ever wrote reads as zero; bytes: how many were zeroed and read back. */
    void (*done)(void *ctx, status st, uint64_t bytes); /* not NULL */
    void *ctx;
};
/* From now on no block of the salt is found or taken. ST_AGAIN: another wipe is going on; ST_IO: no disk. When it fails
 * or times out the blocks stay forgotten until the next start; wipe again. */
MUST_CHECK status disk_tier_wipe(struct disk_tier *tier, const struct disk_wipe_call *call);

struct disk_metrics {
    enum disk_health health;
    const char *io; /* how it reads and writes */
    bool direct;
    uint64_t bytes, blocks, capacity_bytes, segments_free, segments;
    uint64_t reads, read_bytes, writes, write_bytes; /* of blocks, ended well */
    uint64_t readmitted, evicted, timeouts;          /* blocks; operations */
    uint64_t refused[DISK_REFUSAL_COUNT], errors[DISK_ERROR_COUNT];
    uint64_t wear_bytes; /* all that this life wrote */
    int64_t wear_left;   /* of the budget; INT64_MAX: no limit */
    uint64_t oldest_s;   /* age of the oldest segment with blocks; 0: none */
};
void disk_tier_metrics(struct disk_tier *tier, struct disk_metrics *out);

#endif
