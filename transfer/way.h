/* way.h - the way to the blocks of one peer, kept open: tried again after a pause when it does not come about or
 * breaks, until it is closed. Loop thread only. */
#ifndef BATON_TRANSFER_WAY_H
#define BATON_TRANSFER_WAY_H

#include "common/timers.h"
#include "transfer/transfer.h"

struct transfer_way {
    /* Set by the owner before the first open, and left alone: */
    struct transfer *transfer; /* borrowed */
    struct timers *timers;     /* borrowed */
    enum transfer_mode mode;
    const char *name; /* of the peer, for the log; borrowed */
    /* peer has changed: there is a way, or none any more. May be NULL. */
    void (*changed)(void *arg);
    void *arg;
    /* Read by the owner: */
    struct transfer_peer *peer; /* to take from; NULL while there is no way */
    enum transfer_transport transport;
    /* internal */
    struct transfer_peer *connecting;
    uint8_t *description;
    size_t description_len;
    struct timer retry;
};

/* description is the peer's transfer_description, and is copied. Does nothing when the way is open, or being opened. */
void transfer_way_open(struct transfer_way *way, const uint8_t *description, size_t len);
/* Takes under way end ST_CLOSED. It may be opened again, or its memory freed. */
void transfer_way_close(struct transfer_way *way);

#endif
