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
    bool answers = sound && (h.kind == WIRE_CHALLENGE || h.kind == WIRE_WELCOME || h.kind == WIRE_KEY ||
                             h.kind == WIRE_DATA || h.kind == WIRE_END);
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
    if (m->mode == TRANSFER_TCP || m->mode == TRANSFER_RDMA)
        return open_private_pool(m, err);
    status st = open_mapped_pool(m, err);
    if (st == ST_OK || m->mode == TRANSFER_SHM)
        return st;
    log_warn("KV pool cannot be mapped by others, tcp only", "why=%s", log_quote(quoted, sizeof quoted, err->text));
    close_mapped_pool(m);
    return open_private_pool(m, err);
}

static status make_rdma_offer(struct mover *m, struct error *err)
{
    uint8_t address[WIRE_MAX_ADDRESS], key[WIRE_MAX_KEY];
    size_t address_len, key_len;
    status st = rdma_memory_register(&m->rdma, m->pool.base, m->pool.bytes, true, &m->registered, err);
    if (st == ST_OK)
        st = rdma_memory_key(&m->rdma, m->registered, key, sizeof key, &key_len, err);
    if (st == ST_OK)
        st = ucx_link_address(&m->rdma, address, sizeof address, &address_len, err);
    if (st == ST_OK)
        m->rdma_offer_len =
            wire_key_encode((uint64_t)(uintptr_t)m->pool.base, address, address_len, key, key_len, m->rdma_offer);
    return st;
}

/* Where nobody insists on it, other ways do without. */
static status open_rdma(struct mover *m, struct error *err)
{
    char quoted[600];
    if (!m->rdma_over.transports)
        return ST_OK;
    status st = ucx_link_open_rdma(&m->rdma, m->rdma_over.transports, m->rdma_over.device, err);
    if (st == ST_OK)
        st = ucx_link_open_beside(&m->to_rdma, &m->rdma, err);
    if (st == ST_OK)
        st = make_rdma_offer(m, err);
    if (st == ST_OK)
        return ST_OK;
    rdma_close(m);
    if (m->mode == TRANSFER_RDMA) {
        struct error why = *err;
        return error_set(err, st, "--transfer rdma: %s (--transfer auto takes what there is)", why.text);
    }
    const char *why = log_quote(quoted, sizeof quoted, err->text);
    if (st == ST_UNSUPPORTED)
        log_info("no KV by rdma", "why=%s", why);
    else
        log_warn("no KV by rdma", "why=%s", why);
    return ST_OK;
}

static status describe(struct mover *m, struct error *err)
{
    uint8_t same[DESCRIPTION_MAX_PART], net[DESCRIPTION_MAX_PART];
    struct description d = { .host = m->host, .pool = m->identity, .pid = m->region.pid, .fd = m->region.fd };
    status st = ST_OK;
    if (m->rdma.context)
        d.rdma = m->mode == TRANSFER_RDMA ? DESCRIPTION_RDMA_ONLY : DESCRIPTION_RDMA;
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
        st = open_rdma(m, err);
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
    rdma_close(m);
    close_mapped_pool(m);
    ucx_link_close(&m->to_network);
    ucx_link_close(&m->network);
    if (is_private)
        (void)munmap(m->pool.base, m->pool.bytes);
    m->pool.base = NULL;
    lender_free(m);
}
