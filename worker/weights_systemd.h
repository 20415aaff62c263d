/* weights_systemd.h - packed weights in the descriptor store of a systemd unit (FileDescriptorStoreMax=): a worker that
 * is restarted gets them back. The protocol is that of sd_notify(3) and sd_listen_fds(3). */
#ifndef BATON_WORKER_WEIGHTS_SYSTEMD_H
#define BATON_WORKER_WEIGHTS_SYSTEMD_H

#include "engine/weights.h"

/* NULL when this process was not started by systemd (no NOTIFY_SOCKET). */
const struct weights_store *weights_systemd_store(void);

#endif
