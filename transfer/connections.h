/* connections.h - the TCP connections that UCX accepts for us. UCX bounds neither their number nor their time, and
 * stops to listen for good when descriptors run out; so of those on which nothing has come about only some may stay.
 * What is cut is shut down, upon which UCX, whose socket it is, closes it as after any peer's end. Transfer thread. */
#ifndef BATON_TRANSFER_CONNECTIONS_H
#define BATON_TRANSFER_CONNECTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONNECTIONS_MAX_PORTS 64u
#define CONNECTIONS_IDLE      64u      /* connections without a result that may stay */
#define CONNECTIONS_MOST      512u     /* of them, however young; beyond CONNECTIONS_IDLE only */
#define CONNECTIONS_QUIET_US  3000000u /* those that have been silent for so long are cut */

/* Ports on which this process listens by TCP. */
struct ports {
    uint16_t of[CONNECTIONS_MAX_PORTS];
    uint32_t n;
};

void ports_listening(struct ports *out);
/* What is in all and not in known: opened between two looks. */
void ports_subtract(struct ports *all, const struct ports *known);

/* Looks at what was accepted on these ports. A connection has come to something once its peer has got so many bytes
 * from us. Returns how many were cut. */
uint32_t connections_bound(const struct ports *ports, size_t result_bytes);

#endif
