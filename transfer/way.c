#include "transfer/way.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

#define WAY_TIMEOUT_US 3000000u /* for connecting to a peer's blocks and testing the way */
#define WAY_RETRY_US   1000000u

static void try_to_open(void *arg);

/* Who takes hears of it before his takes end. */
static void drop(struct transfer_way *way)
{
    bool had = way->peer != NULL;
    way->peer = NULL;
    way->transport = TRANSPORT_NONE;
    if (had && way->changed)
        way->changed(way->arg);
    timer_cancel(way->timers, &way->retry);
    transfer_disconnect(&way->connecting);
}

static void try_later(struct transfer_way *way)
{
    drop(way);
    timer_set(way->timers, &way->retry, clock_now_us() + WAY_RETRY_US, try_to_open, way);
}

static void on_ready(void *arg, status st, enum transfer_transport transport, const char *why)
{
    struct transfer_way *way = arg;
    if (st != ST_OK) {
        log_warn("no way to the blocks of a worker", "peer=%s reason=\"%s\"", way->name, why);
        try_later(way);
        return;
    }
    log_info("way to the blocks of a worker", "peer=%s transport=%s", way->name, transfer_transport_name(transport));
    way->peer = way->connecting;
    way->transport = transport;
    if (way->changed)
        way->changed(way->arg);
}

/* Takes under way have ended by themselves. */
static void on_lost(void *arg)
{
    struct transfer_way *way = arg;
    log_warn("way to the blocks of a worker lost", "peer=%s", way->name);
    try_later(way);
}

static void try_to_open(void *arg)
{
    struct transfer_way *way = arg;
    struct error err;
    const struct transfer_peer_options options = {
        .description = way->description,
        .description_len = way->description_len,
        .mode = way->mode,
        .timeout_us = WAY_TIMEOUT_US,
        .on_ready = on_ready,
        .on_lost = on_lost,
        .arg = way,
    };
    if (transfer_connect(way->transfer, &options, &way->connecting, &err) == ST_OK)
        return;
    log_warn("no way to the blocks of a worker", "peer=%s reason=\"%s\"", way->name, err.text);
    try_later(way);
}

void transfer_way_open(struct transfer_way *way, const uint8_t *description, size_t len)
{
    uint8_t *copy = len && !way->connecting ? malloc(len) : NULL;
    if (!copy)
        return;
    memcpy(copy, description, len);
    free(way->description);
    way->description = copy;
    way->description_len = len;
    timer_cancel(way->timers, &way->retry);
    try_to_open(way);
}

void transfer_way_close(struct transfer_way *way)
{
    drop(way);
    free(way->description);
    way->description = NULL;
    way->description_len = 0;
}
