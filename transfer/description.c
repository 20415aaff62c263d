#include "transfer/description.h"

#include <string.h>
#include <xxhash.h>

#define DESCRIPTION_MAGIC 0x32445442u /* "BTD2" */

struct fixed_part {
    uint32_t magic;
    uint16_t len[2]; /* same-host address, network address */
    uint32_t rdma;
    struct transfer_geometry geometry;
    uint64_t n_blocks, incarnation, nonce;
    uint32_t pid, fd;
    uint64_t ipc_space, net_space;
    uint8_t boot[16];
};
_Static_assert(sizeof(struct fixed_part) == 96, "fixed_part is a wire format");
_Static_assert(sizeof(struct fixed_part) + 8 + 2 * DESCRIPTION_MAX_PART <= DESCRIPTION_MAX_BYTES, "all of it fits");

size_t description_encode(const struct description *d, uint8_t out[DESCRIPTION_MAX_BYTES])
{
    const struct bytes_view *const parts[2] = { &d->same_address, &d->net_address };
    struct fixed_part f = { .magic = DESCRIPTION_MAGIC,
                            .rdma = d->rdma,
                            .geometry = d->pool.geometry,
                            .n_blocks = d->pool.n_blocks,
                            .incarnation = d->pool.incarnation,
                            .nonce = d->pool.nonce,
                            .pid = d->pid,
                            .fd = d->fd,
                            .ipc_space = d->host.ipc_space,
                            .net_space = d->host.net_space };
    memcpy(f.boot, d->host.boot, sizeof f.boot);
    size_t at = sizeof f;
    for (int i = 0; i < 2; i++) {
        ASSERT(parts[i]->len <= DESCRIPTION_MAX_PART);
        f.len[i] = (uint16_t)parts[i]->len;
        if (parts[i]->len)
            memcpy(out + at, parts[i]->data, parts[i]->len);
        at += parts[i]->len;
    }
    memcpy(out, &f, sizeof f);
    uint64_t sum = XXH3_64bits(out, at);
    memcpy(out + at, &sum, sizeof sum);
    return at + sizeof sum;
}

static bool sum_holds(const uint8_t *data, size_t len)
{
    uint64_t sum;
    memcpy(&sum, data + len - sizeof sum, sizeof sum);
    return sum == XXH3_64bits(data, len - sizeof sum);
}

status description_decode(const uint8_t *data, size_t len, struct description *out, struct error *err)
{
    struct fixed_part f;
    if (!data || len < sizeof f + 8 || len > DESCRIPTION_MAX_BYTES)
        return error_set(err, ST_CORRUPT, "a transfer description of %zu bytes cannot be", len);
    memcpy(&f, data, sizeof f);
    if (f.magic != DESCRIPTION_MAGIC || f.rdma > DESCRIPTION_RDMA_ONLY)
        return error_set(err, ST_CORRUPT, "not a transfer description, or one of another version");
    if (sizeof f + 8 + f.len[0] + f.len[1] != len || !sum_holds(data, len))
        return error_set(err, ST_CORRUPT, "transfer description is damaged");
    for (int i = 0; i < 2; i++)
        if (f.len[i] > DESCRIPTION_MAX_PART)
            return error_set(err, ST_CORRUPT, "transfer description has a part of %u bytes", f.len[i]);
    if (!f.len[0] != !f.pid)
        return error_set(err, ST_CORRUPT, "transfer description has an address without a region");
    status st = pool_check_geometry(&f.geometry, f.n_blocks, err);
    if (st)
        return ST_CORRUPT;
    *out = (struct description){
        .host = { .ipc_space = f.ipc_space, .net_space = f.net_space },
        .pool = { f.geometry, f.n_blocks, f.incarnation, f.nonce },
        .rdma = (enum description_rdma)f.rdma,
        .pid = f.pid,
        .fd = f.fd,
        .same_address = { data + sizeof f, f.len[0] },
        .net_address = { data + sizeof f + f.len[0], f.len[1] },
    };
    memcpy(out->host.boot, f.boot, sizeof f.boot);
    return ST_OK;
}
