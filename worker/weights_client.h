/* weights_client.h - packed weights that outlive this worker: with the holder of this machine (baton up), or else in
 * systemd's store of descriptors, where it is started by that. One thread, during the start; what is held counts as
 * used until destroy. */
#ifndef BATON_WORKER_WEIGHTS_CLIENT_H
#define BATON_WORKER_WEIGHTS_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/weights.h"

struct weights_client;

struct weights_client_options {
    const char *holder;        /* "FOLDER/FILE" of its socket; "": none */
    uint64_t timeout_us;       /* for another worker to pack */
    bool (*told_to_end)(void); /* looked at while waiting */
};

MUST_CHECK status weights_client_create(const struct weights_client_options *options, struct weights_client **out);
void weights_client_destroy(struct weights_client **client);
/* NULL where there is neither a holder nor systemd's store. Lives as long as the client. */
const struct weights_store *weights_client_store(const struct weights_client *client);

#endif
