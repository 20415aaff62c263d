/* etcd_parts.h - what the client's files call of each other, beside the calls themselves. */
#ifndef BATON_COMMON_ETCD_PARTS_H
#define BATON_COMMON_ETCD_PARTS_H

#include "common/etcd.h"

/* Gives a lease back, once; lease 0: nothing to do. done (may be NULL) is called in any case, later. */
void etcd_revoke(struct etcd *etcd, int64_t lease, void (*done)(void *arg), void *arg);
/* Frees without a word to etcd. */
void etcd_registration_end(struct etcd_registration *reg);

#endif
