#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/failpoint.h"
#include "transfer/mover.h"

/* Of a batch: bytes, then generations. */
#define PART_BYTES   (MOVER_BATCH_BYTES + MOVER_BATCH_SPANS * sizeof(uint64_t))
#define MEMORY_BYTES (MOVER_BATCHES * PART_BYTES)

/* Neighbours in the lender's pool that become one get. */
struct piece {
    uint64_t from; /* from the header page */
    uint8_t *to;
    size_t bytes;
};

static uint8_t *part_of(const struct batch *batch)
{
    return batch->reader->memory + (size_t)(batch - batch->reader->window) * PART_BYTES;
}

static uint64_t *generations_of(const struct batch *batch)
{
    return (uint64_t *)(void *)(part_of(batch) + MOVER_BATCH_BYTES);
}

static void on_got(void *request, ucs_status_t st, void *arg)
{
    struct batch *batch = arg;
    ucp_request_free(request);
    batch->under_way--;
    batch->reader->under_way--;
    batch->reader->broken |= st != UCS_OK;
}

static void get(struct batch *batch, const struct piece *piece)
{
    struct reader *reader = batch->reader;
    bool under_way = false;
    if (reader->broken || !piece->bytes)
        return;
    if (rdma_memory_get(reader->ep, reader->key, reader->pool + piece->from, piece->to, piece->bytes, on_got, batch,
                        &under_way))
        reader->broken = true;
    batch->under_way += under_way;
    reader->under_way += under_way;
}

/* True: a get went out for what came before. */
static bool extend(struct batch *batch, struct piece *piece, uint64_t from, size_t bytes)
{
    bool another = from != piece->from + piece->bytes;
    bool sent = another && piece->bytes;
    if (another) {
        get(batch, piece);
        *piece = (struct piece){ from, piece->to + piece->bytes, 0 };
    }
    piece->bytes += bytes;
    return sent;
}

static void ask_bytes(struct mover *m, struct batch *batch)
{
    struct job *job = batch->job;
    const struct pool_identity *lender = &job->peer->lender.pool;
    struct piece piece = { .to = part_of(batch) };
    struct run run;
    uint32_t gets = 0;
    while (batch->bytes < MOVER_BATCH_BYTES && gets < MOVER_BATCH_GETS - 1 &&
           job->cursor.span < batch->first_span + MOVER_BATCH_SPANS &&
           run_cursor_next(&job->cursor, MOVER_BATCH_BYTES - batch->bytes, &run)) {
        uint64_t block = job->take->spans[run.span].remote_block * transfer_block_bytes(&m->geometry);
        gets += extend(batch, &piece, pool_blocks_offset(lender) + block + run.offset, run.bytes);
        batch->bytes += run.bytes;
        batch->n_spans = run.span - batch->first_span + 1;
    }
    get(batch, &piece);
}

static void ask_generations(struct batch *batch)
{
    const struct transfer_span *spans = batch->job->take->spans + batch->first_span;
    struct piece piece = { .to = (uint8_t *)generations_of(batch) };
    batch->checking = true;
    for (uint32_t i = 0; i < batch->n_spans; i++)
        (void)extend(batch, &piece, pool_generations_offset() + spans[i].remote_block * sizeof(uint64_t),
                     sizeof(uint64_t));
    get(batch, &piece);
}

static bool is_full(const struct reader *reader)
{
    return reader->next - reader->first == MOVER_BATCHES;
}

static struct batch *begin_batch(struct reader *reader, struct job *job)
{
    struct batch *batch = &reader->window[reader->next++ % MOVER_BATCHES];
    *batch = (struct batch){ .reader = reader, .job = job };
    if (job) {
        batch->cursor = job->cursor;
        batch->first_span = job->cursor.span;
        job->open_requests++;
    }
    return batch;
}

static bool ask_more(struct mover *m, struct transfer_peer *peer)
{
    struct reader *reader = peer->reader;
    struct job *job;
    bool any = false;
    TAILQ_FOREACH(job, &peer->jobs, queue)
    {
        while (job->cursor.span < job->take->n_spans) {
            if (is_full(reader))
                return any;
            if (!job->started_us)
                job->started_us = clock_now_us();
            ask_bytes(m, begin_batch(reader, job));
            any = true;
        }
    }
    return any;
}

/* The generations were read when all bytes had come, those of the span's other batches excepted, which have them read
 * on their own. There is no look before: it would cost the time that it could save. */
static bool is_as_lent(const struct batch *batch)
{
    const struct transfer_span *spans = batch->job->take->spans + batch->first_span;
    for (uint32_t i = 0; i < batch->n_spans; i++)
        if (generations_of(batch)[i] != spans[i].remote_generation)
            return false;
    return true;
}

static status copy_out(struct mover *m, struct batch *batch)
{
    struct job *job = batch->job;
    struct run_cursor cursor = batch->cursor;
    if (!is_as_lent(batch))
        return ST_STALE;
    copier_scatter(m, job, &cursor, 0, part_of(batch), batch->bytes);
    return atomic_load_explicit(&job->take->cancelled, memory_order_relaxed) ? ST_CANCELLED : ST_OK;
}

static void deliver(struct mover *m, struct batch *batch)
{
    struct job *job = batch->job;
    if (!job)
        return;
    status st = copy_out(m, batch);
    batch->job = NULL;
    job->open_requests--;
    if (st || (!job->open_requests && job->cursor.span == job->take->n_spans))
        takes_end(m, job, st);
}

/* Bytes and generations are there, or nobody waits for them. */
static bool is_whole(const struct batch *batch)
{
    return !batch->under_way && (batch->checking || !batch->job);
}

bool rdma_work(struct mover *m, struct transfer_peer *peer)
{
    struct reader *reader = peer->reader;
    bool any = false;
    for (uint64_t i = reader->first; i < reader->next; i++) {
        struct batch *batch = &reader->window[i % MOVER_BATCHES];
        if (batch->under_way || batch->checking || !batch->job || reader->broken)
            continue;
        (void)FAILPOINT("transfer.take.before_generation");
        ask_generations(batch);
        any = true;
    }
    while (reader->first < reader->next && !reader->broken &&
           is_whole(&reader->window[reader->first % MOVER_BATCHES])) {
        deliver(m, &reader->window[reader->first++ % MOVER_BATCHES]);
        any = true;
    }
    any |= ask_more(m, peer);
    peer->broken |= reader->broken;
    return any || peer->broken;
}

void rdma_forget(struct transfer_peer *peer, struct job *job)
{
    struct reader *reader = peer->reader;
    if (!reader)
        return;
    for (uint64_t i = reader->first; job->open_requests && i < reader->next; i++) {
        struct batch *batch = &reader->window[i % MOVER_BATCHES];
        if (batch->job != job)
            continue;
        batch->job = NULL;
        job->open_requests--;
    }
}

static void on_endpoint_failed(void *arg, ucp_ep_h ep, ucs_status_t st)
{
    (void)ep, (void)st;
    ((struct reader *)arg)->broken = true;
}

static void free_reader(struct reader *reader)
{
    if (reader->key)
        ucp_rkey_destroy(reader->key);
    rdma_memory_unregister(&reader->mover->to_rdma, &reader->registered);
    if (reader->memory)
        (void)munmap(reader->memory, MEMORY_BYTES);
    free(reader);
}

static status open_reader(struct mover *m, const struct wire_key *head, const uint8_t *address, const uint8_t *key,
                          struct reader **out, struct error *err)
{
    struct reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return error_set(err, ST_NO_MEMORY, "no memory for a transfer peer");
    reader->mover = m;
    reader->pool = head->pool;
    void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    reader->memory = memory == MAP_FAILED ? NULL : memory;
    status st = reader->memory ? ST_OK : error_set(err, ST_NO_MEMORY, "no memory for a transfer peer");
    if (st == ST_OK)
        st = rdma_memory_register(&m->to_rdma, reader->memory, MEMORY_BYTES, false, &reader->registered, err);
    if (st == ST_OK)
        st = ucx_link_connect(&m->to_rdma, address, on_endpoint_failed, reader, &reader->ep, err);
    if (st == ST_OK && ucp_ep_rkey_unpack(reader->ep, key, &reader->key) != UCS_OK) {
        reader->key = NULL;
        st = error_set(err, ST_UNSUPPORTED, "UCX cannot use the lender's key for RDMA");
    }
    if (st == ST_OK) {
        *out = reader;
        return ST_OK;
    }
    if (reader->ep)
        ucx_link_disconnect(&m->to_rdma, &reader->ep);
    free_reader(reader);
    return st;
}

void rdma_open(struct mover *m, struct transfer_peer *peer, const uint8_t *payload, size_t len)
{
    struct wire_key head;
    uint64_t address[WIRE_MAX_ADDRESS / 8] = { 0 }, key[WIRE_MAX_KEY / 8] = { 0 };
    if (wire_key_decode(payload, len, &head) ||
        !proof_holds(&m->key, PROOF_RDMA, &peer->terms, payload + WIRE_PROOF_BYTES, len - WIRE_PROOF_BYTES,
                     head.proof)) {
        mover_count(&m->stats.malformed, 1);
        peer->hopeless = error_set(&peer->why, ST_CORRUPT, "the lender's key for RDMA is damaged");
        return;
    }
    memcpy(address, payload + sizeof head, head.address_len);
    memcpy(key, payload + sizeof head + head.address_len, head.key_len);
    peer->hopeless = open_reader(m, &head, (const uint8_t *)address, (const uint8_t *)key, &peer->reader, &peer->why);
    if (peer->hopeless)
        return;
    struct batch *test = begin_batch(peer->reader, NULL);
    get(test, &(struct piece){ 0, part_of(test), POOL_PAGE });
}

status rdma_read_header(struct transfer_peer *peer)
{
    struct reader *reader = peer->reader;
    if (reader->broken)
        return error_set(&peer->why, ST_CLOSED, "the connection for RDMA failed");
    if (reader->under_way)
        return ST_AGAIN;
    reader->first = reader->next = 0;
    if (FAILPOINT("transfer.rdma.header") == FAILPOINT_FLIP)
        reader->memory[POOL_PAGE - 1] ^= 1;
    if (!pool_header_matches(reader->memory, &peer->lender.pool))
        return error_set(&peer->why, ST_STALE, "the pool read by RDMA is not the one that was described");
    return ST_OK;
}

void rdma_leave(struct mover *m, struct transfer_peer *peer)
{
    struct reader *reader = peer->reader;
    peer->reader = NULL;
    if (!reader)
        return;
    for (uint64_t i = reader->first; i < reader->next; i++)
        ASSERT(!reader->window[i % MOVER_BATCHES].job);
    ucx_link_disconnect(&m->to_rdma, &reader->ep);
    LIST_INSERT_HEAD(&m->left_readers, reader, left);
}

void rdma_bury(struct mover *m)
{
    struct reader *next;
    for (struct reader *reader = LIST_FIRST(&m->left_readers); reader; reader = next) {
        next = LIST_NEXT(reader, left);
        if (reader->under_way)
            continue;
        LIST_REMOVE(reader, left);
        free_reader(reader);
    }
}

void rdma_close(struct mover *m)
{
    struct reader *reader;
    LIST_FOREACH(reader, &m->left_readers, left)
    {
        if (reader->key)
            ucp_rkey_destroy(reader->key);
        reader->key = NULL;
    }
    ucx_link_close(&m->to_rdma);
    while ((reader = LIST_FIRST(&m->left_readers)) != NULL) {
        LIST_REMOVE(reader, left);
        rdma_memory_unregister(&m->rdma, &reader->registered);
        free_reader(reader);
    }
    rdma_memory_unregister(&m->rdma, &m->registered);
    ucx_link_close(&m->rdma);
}
