/* What comes to the admin port of a KV block manager. */
#include <stddef.h>
#include <stdint.h>

#include "kvbm/kv_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct salt_key key = { .len = 1 };
    struct kv_request request;
    struct error err;
    if (kv_request_read((const char *)data, size, (1u << KV_REQUEST_MEMBER_COUNT) - 1, 0, &key, &request, &err) !=
        ST_OK)
        return 0;
    ASSERT(!(request.given & 1u << KV_REQUEST_TOKENS) == !request.n_tokens);
    kv_request_free(&request);
    return 0;
}
