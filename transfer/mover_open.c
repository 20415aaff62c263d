#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/log.h"
#include "transfer/mover.h"

static void on_message(void *arg, struct ucx_link *link, const void *head, size_t head_len, const uint8_t *payload,
                       size_t len, bool whole)
{
    struct mover *m = arg;
    struct wire_head h;
    bool sound = whole && wire_head_decode(head, head_len, len, &h) == ST_OK;
    bool answers =
        sound && (h.kind == WIRE_CHALLENGE || h.kind == WIRE_WELCOME || h.kind == WIRE_DATA || h.kind == WIRE_END);
    if (!sound || answers != (link == &m->to_same_host || link == &m->to_network))
        mover_count(&m->stats.malformed, 1);
    else if (answers)
        borrower_receive(m, link, &h, payload, len);
    else
        lender_receive(m, link, &h, payload, len);
}

/* The pool in memory that other processes of this host can map. */
static status open_mapped_pool(struct mover *m, struct error *err)
{
    status st = ucx_link_open(&m->same_host, true, "lo", on_message, m, err);
    if (st)
        return st;
    st = region_create(pool_bytes(&m->identity), &m->region, err);
    if (st == ST_OK)
        st = ucx_link_open_beside(&m->to_same_host, &m->same_host, err);
    return st == ST_OK ? pool_init(&m->pool, &m->identity, m->region.base, err) : st;
}

static void close_mapped_pool(struct mover *m)
{
    ucx_link_close(&m->to_same_host);
    if (m->region.base) {
        region_destroy(&m->region);
        m->pool.base = NULL;
    }
    ucx_link_close(&m->same_host);
}

static status open_private_pool(struct mover *m, struct error *err)
{
    size_t bytes = pool_bytes(&m->identity);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return error_set(err, ST_NO_MEMORY, "no memory for a KV pool of %zu MiB", bytes >> 20);
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* only a wish: attention reads pieces of a few KiB from anywhere */
    status st = pool_init(&m->pool, &m->identity, memory, err);
    if (st)
        (void)munmap(memory, bytes);
    return st;
}

static status open_pool(struct mover *m, struct error *err)
{
    char quoted[600];
    if (m->mode == TRANSFER_TCP)
        return open_private_pool(m, err);
    status st = open_mapped_pool(m, err);
    if (st == ST_OK || m->mode == TRANSFER_SHM)
        return st;
    log_warn("KV pool cannot be mapped by others, tcp only", "why=%s", log_quote(quoted, sizeof quoted, err->text));
    close_mapped_pool(m);
    return open_private_pool(m, err);
}

static status describe(struct mover *m, struct error *err)
{
    uint8_t same[DESCRIPTION_MAX_PART], net[DESCRIPTION_MAX_PART];
    struct description d = { .host = m->host, .pool = m->identity, .pid = m->region.pid, .fd = m->region.fd };
    status st = ST_OK;
    if (m->region.base) {
        d.same_address.data = same;
        st = ucx_link_address(&m->same_host, same, sizeof same, &d.same_address.len, err);
    }
    if (st == ST_OK && m->network.context) {
        d.net_address.data = net;
        st = ucx_link_address(&m->network, net, sizeof net, &d.net_address.len, err);
    }
    if (st == ST_OK)
        m->description_len = description_encode(&d, m->description);
    return st;
}

status mover_open(struct mover *m, struct error *err)
{
    struct ports before;
    ports_listening(&before);
    status st = host_identity_read(&m->host, err);
    if (st == ST_OK)
        st = open_pool(m, err);
    if (st == ST_OK && m->mode != TRANSFER_SHM)
        st = ucx_link_open(&m->network, false, m->network_device, on_message, m, err);
    if (st == ST_OK && m->network.context)
        st = ucx_link_open_beside(&m->to_network, &m->network, err);
    if (st == ST_OK)
        st = describe(m, err);
    if (st == ST_OK && lender_init(m))
        st = error_set(err, ST_NO_MEMORY, "no memory for the transfer thread");
    ports_listening(&m->ports);
    ports_subtract(&m->ports, &before);
    if (st)
        mover_close(m);
    return st;
}

void mover_close(struct mover *m)
{
    bool is_private = m->pool.base && !m->region.base;
    close_mapped_pool(m);
    ucx_link_close(&m->to_network);
    ucx_link_close(&m->network);
    if (is_private)
        (void)munmap(m->pool.base, m->pool.bytes);
    m->pool.base = NULL;
    lender_free(m);
}
