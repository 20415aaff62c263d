/* disk_tier_internal.h - what the files of the disk tier share.
 *   disk_tier.c      puts, gets, deadlines
 *   disk_life.c      made, begun anew, ended
 *   disk_health.c    failures, probes, jobs
 *   disk_segments.c  the life of segments: opened, finished, reclaimed, cleared
 *   disk_recovery.c  the index from what the file holds
 *   disk_wipe.c      zeroing, and its proof
 * A segment's work is done by jobs: each has at most one operation on its way, and is advanced when that ends. */
#ifndef BATON_KVBM_DISK_TIER_INTERNAL_H
#define BATON_KVBM_DISK_TIER_INTERNAL_H

#include "kvbm/disk_format.h"
#include "kvbm/disk_index.h"
#include "kvbm/disk_tier.h"
#include "kvbm/disk_wear.h"

/* STATE, and the states that may follow it. */
#define SEGMENT_STATES(X)                                                                                              \
    X(FREE, TO(OPENING) | TO(SEALING) | TO(SEALED) | TO(OPEN) | TO(READY)) /* the last four at start               */  \
    X(OPENING, TO(READY) | TO(FREE)) /* its space is reserved and its head written */                                  \
    X(READY, TO(OPEN))                                                                                                 \
    X(OPEN, TO(SEALING))                    /* takes records                              */                           \
    X(SEALING, TO(SEALED) | TO(RECLAIMING)) /* full; waits for its footer                 */                           \
    X(SEALED, TO(RECLAIMING))                                                                                          \
    X(RECLAIMING, TO(FREE)) /* what was hit moves on, the rest goes       */

enum segment_state {
#define X(name, next) SEGMENT_##name,
    SEGMENT_STATES(X)
#undef X
        SEGMENT_STATE_COUNT
};

#define NO_SEGMENT UINT32_MAX

struct disk_segment {
    enum segment_state state;
    bool clean;             /* FREE: reads as zeros */
    uint32_t reads, writes; /* on their way in it */
    uint64_t sequence, fill, opened_s;
    struct disk_record_list records;
};

struct disk_job {
    struct disk_io_op op;
    struct disk_tier *tier;
    void (*advance)(struct disk_tier *tier, int64_t result);
    bool active, waiting; /* waiting: for op */
    int step;
    uint32_t segment;
    uint64_t at; /* of a range that is worked through, or of a record */
};

enum slot_state { SLOT_FREE, SLOT_AWAITED, SLOT_ABANDONED /* the disk has it still, but nobody waits */ };

struct disk_slot {
    struct disk_io_op op;
    struct disk_tier *tier;
    enum slot_state state;
    bool is_put, has_tokens;
    uint32_t generation;
    disk_record_id record;
    struct disk_call call;
    void *payload; /* of a get; the caller's */
    struct disk_block want;
    uint32_t tokens[DISK_MAX_TOKENS];
    uint8_t *buffer; /* a record */
};

struct wipe {
    struct disk_job job;
    struct disk_wipe_call call;
    bool requested, all;
    uint64_t salt;
    uint32_t segment;
    disk_record_id record;
    uint64_t bytes;
    uint8_t *buffer;
};

struct disk_tier {
    struct disk_tier_options options;
    char *path;
    struct disk_io *io;
    int epoll_fd;
    uint64_t store, sequence, super_written;
    uint32_t n_segments;
    struct disk_segment *segments;
    uint32_t open, ready; /* or NO_SEGMENT */
    struct disk_index *index;
    bool index_full; /* a segment is reclaimed although others are free */
    struct disk_wear wear;
    enum disk_health health;
    uint64_t probe_at_us;
    struct disk_slot *slots;
    uint32_t n_puts, n_used;
    struct disk_job opener, sealer, reclaimer, cleaner, prober;
    uint8_t *opener_page, *prober_page, *reclaimer_buffer, *footer, *zeros;
    uint64_t readmitted_bytes; /* of the segment being reclaimed */
    disk_record_id readmitted;
    bool no_punch;
    struct wipe wipe;
    void (*changed)(void *ctx, const struct disk_block *block, bool found);
    void *changed_ctx;
    struct disk_io_op sync_op; /* of a recovery; its done is set while it is on its way */
    struct disk_metrics count;
};

#define DISK_JOBS        6u
#define DISK_CHUNK_BYTES (1u << 20) /* of zeros at a time */
#define FOOTER_SPARE     2u         /* entries that a recovery may add to a segment */

static inline uint64_t segment_offset(const struct disk_tier *tier, uint32_t segment)
{
    return DISK_FIRST_SEGMENT + segment * tier->options.segment_bytes;
}

uint64_t disk_now(const struct disk_tier *tier);
uint64_t disk_wall(const struct disk_tier *tier);
/* Counts it and, where it was a write, makes the tier read-only; result: bytes moved or a negative errno. */
void disk_tier_write_failed(struct disk_tier *tier, int64_t result);
void disk_tier_read_failed(struct disk_tier *tier, int64_t result);
/* Starts the job's next operation; what it writes counts as wear. */
void disk_job_submit(struct disk_job *job, enum disk_io_kind kind, uint64_t offset, uint64_t bytes, void *data);
void disk_job_init(struct disk_tier *tier, struct disk_job *job, void (*advance)(struct disk_tier *, int64_t));
bool disk_job_start(struct disk_job *job);
void disk_job_end(struct disk_job *job);

uint64_t disk_checksum(const struct disk_tier *tier, const struct disk_record *r, const void *payload);
void disk_block_of(const struct disk_record *r, struct disk_block *out);
/* Whether buffer holds what the record says. */
bool disk_record_intact(const struct disk_tier *tier, const struct disk_record *r, const uint8_t *buffer);
/* The next superblock, and where it is written; super_written is raised when it has been. */
void disk_super_of(struct disk_tier *tier, void *page);
static inline uint64_t disk_super_offset(const struct disk_tier *tier)
{
    return (tier->super_written + 1) % DISK_SUPERBLOCKS * DISK_PAGE;
}

/* disk_health.c */
/* Looks after each pause whether the file is there still; when a write failed, whether one succeeds now. */
void disk_tier_probe(struct disk_tier *tier);
void disk_prober_advance(struct disk_tier *tier, int64_t result);

/* disk_life.c */
/* Another file in place of one that is gone; nothing may be on its way. */
MUST_CHECK status disk_tier_reopen(struct disk_tier *tier, struct error *err);

/* disk_segments.c */
void disk_segment_enter(struct disk_segment *segment, enum segment_state state);
bool disk_segment_has_room(const struct disk_tier *tier, const struct disk_segment *segment, uint64_t extent);
/* Reserves room for a record (PENDING) at the end of the log. DISK_TAKEN, DISK_BUSY or DISK_INDEX. */
enum disk_refusal disk_segments_append(struct disk_tier *tier, struct disk_record *record, disk_record_id *out);
void disk_segments_init_jobs(struct disk_tier *tier);
/* Starts and continues whatever work is due. */
void disk_segments_run(struct disk_tier *tier);
bool disk_segments_idle(const struct disk_tier *tier);
/* Encodes the footer into tier->footer; returns its length. */
uint64_t disk_segment_footer(struct disk_tier *tier, uint32_t segment, uint64_t *offset);

/* disk_recovery.c */
MUST_CHECK status disk_tier_recover(struct disk_tier *tier, struct error *err);
/* Writes the superblock now. */
MUST_CHECK status disk_tier_save(struct disk_tier *tier);

/* disk_wipe.c */
void disk_wipe_init_job(struct disk_tier *tier);
void disk_wipe_run(struct disk_tier *tier);
bool disk_wipe_covers(const struct disk_tier *tier, uint64_t salt);

#endif
