#include "transfer/rdma_memory.h"

#include <string.h>

status rdma_memory_register(const struct ucx_link *link, void *base, size_t bytes, bool remote, ucp_mem_h *out,
                            struct error *err)
{
    ucp_mem_map_params_t params = { .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                                                  UCP_MEM_MAP_PARAM_FIELD_PROT | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
                                    .address = base,
                                    .length = bytes,
                                    .prot = UCP_MEM_MAP_PROT_LOCAL_READ | UCP_MEM_MAP_PROT_LOCAL_WRITE,
                                    .memory_type = UCS_MEMORY_TYPE_HOST };
    if (remote)
        params.prot |= UCP_MEM_MAP_PROT_REMOTE_READ;
    ucs_status_t st = ucp_mem_map(link->context, &params, out);
    if (st == UCS_OK)
        return ST_OK;
    return error_set(err, ST_NO_MEMORY, "UCX cannot register %zu MiB for RDMA: %s (is the memlock limit too low?)",
                     bytes >> 20, ucs_status_string(st));
}

void rdma_memory_unregister(const struct ucx_link *link, ucp_mem_h *memory)
{
    if (*memory)
        (void)ucp_mem_unmap(link->context, *memory);
    *memory = NULL;
}

status rdma_memory_key(const struct ucx_link *link, ucp_mem_h memory, uint8_t *out, size_t size, size_t *len,
                       struct error *err)
{
    void *packed;
    size_t n;
    ucs_status_t st = ucp_rkey_pack(link->context, memory, &packed, &n);
    if (st != UCS_OK)
        return error_set(err, ST_IO, "UCX makes no key for the KV pool: %s", ucs_status_string(st));
    status result = ST_OK;
    if (n > size)
        result = error_set(err, ST_LIMIT, "UCX key of %zu bytes is above %zu", n, size);
    else
        memcpy(out, packed, *len = n);
    ucp_rkey_buffer_release(packed);
    return result;
}

status rdma_memory_get(ucp_ep_h ep, ucp_rkey_h key, uint64_t from, void *to, size_t bytes, ucp_send_nbx_callback_t done,
                       void *arg, bool *under_way)
{
    ucp_request_param_t param = { .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                  .cb.send = done,
                                  .user_data = arg };
    ucs_status_ptr_t request = ucp_get_nbx(ep, to, bytes, from, key, &param);
    if (UCS_PTR_IS_ERR(request))
        return ST_CLOSED;
    *under_way = request != NULL;
    return ST_OK;
}
