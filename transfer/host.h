/* host.h - where this process runs, as far as shared memory and sockets care. */
#ifndef BATON_TRANSFER_HOST_H
#define BATON_TRANSFER_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

struct host_identity {
    uint8_t boot[16];   /* of the kernel's boot id */
    uint64_t ipc_space; /* inode of the name space */
    uint64_t net_space;
};

MUST_CHECK status host_identity_read(struct host_identity *out, struct error *err);
bool host_identity_equal(const struct host_identity *a, const struct host_identity *b);

#define HOST_DEVICE_BYTES 32
/* Name of the network device that has this IP address; NOT_FOUND when none has it. */
MUST_CHECK status host_device_of(const char *address, char out[HOST_DEVICE_BYTES], struct error *err);
/* NULL, "" and addresses of 127.0.0.0/8 and ::1. */
bool host_is_loopback(const char *address);

#endif
