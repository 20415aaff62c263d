/* ucx_link.h - one UCX context and its worker: of the same host (mapped), of the network, or for gets.
 *
 * Everything that decides which transport is used is set here by
 * ucp_config_modify and overrides what UCX_* variables say; what a variable can
 * still change does not decide where data goes. UCX's own log lines go to ours.
 *
 * The transfer thread creates, uses and closes a link. */
#ifndef BATON_TRANSFER_UCX_LINK_H
#define BATON_TRANSFER_UCX_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucp/api/ucp.h>

#include "common/status.h"
#include "transfer/wire.h"

struct ucx_link;
struct ucx_send;

/* head is sizeof(struct wire_head) or not: both are outside bytes. whole is false when the payload did not come along.
 */
typedef void (*ucx_link_receive)(void *arg, struct ucx_link *link, const void *head, size_t head_len,
                                 const uint8_t *payload, size_t len, bool whole);

struct ucx_link {
    ucp_context_h context;
    bool beside; /* the context is another link's */
    ucp_worker_h worker;
    int fd; /* the worker's; borrowed */
    bool mapped;
    const char *transports; /* that endpoints may have; borrowed */
    uint32_t closing;       /* endpoints whose forced close is under way */
    struct ucx_send *free_sends;
    ucx_link_receive receive;
    void *arg;
};

/* TCP alone on device, without UCP_FEATURE_RMA. mapped: KV goes through a mapping (region.h), and messages need no
 * large segments. */
MUST_CHECK status ucx_link_open(struct ucx_link *link, bool mapped, const char *device, ucx_link_receive receive,
                                void *arg, struct error *err);
#define UCX_RDMA_TRANSPORTS "rc,dc"
/* These transports with UCP_FEATURE_RMA and without messages (rdma_memory.h has what goes over it). UNSUPPORTED: no
 * device has them. */
MUST_CHECK status ucx_link_open_rdma(struct ucx_link *link, const char *transports, const char *device,
                                     struct error *err);
/* Another worker of an open link's context, with an address of its own; closed before it. */
MUST_CHECK status ucx_link_open_beside(struct ucx_link *link, const struct ucx_link *of, struct error *err);
/* NULL-safe fields: also of a link that is all zeros. */
void ucx_link_close(struct ucx_link *link);

MUST_CHECK status ucx_link_address(const struct ucx_link *link, uint8_t *out, size_t size, size_t *len,
                                   struct error *err);

/* Endpoint with failure detection; failed is called during progress. LIMIT: the lanes are not those that were asked
 * for. */
MUST_CHECK status ucx_link_connect(struct ucx_link *link, const uint8_t *address, ucp_err_handler_cb_t failed,
                                   void *arg, ucp_ep_h *out, struct error *err);
/* Forced: returns at once, whatever the peer does. Nulls the handle. */
void ucx_link_disconnect(struct ucx_link *link, ucp_ep_h *ep);

/* Sends head and payload eagerly. With done, payload is left alone until done was called,
 * perhaps before the return, but not when an error is returned. Without, payload is copied
 * (at most UCX_LINK_COPY_BYTES) and a failure shows by the endpoint's error. */
#define UCX_LINK_COPY_BYTES WIRE_REQUEST_BYTES
MUST_CHECK status ucx_link_send(struct ucx_link *link, ucp_ep_h ep, const struct wire_head *head, const void *payload,
                                size_t len, void (*done)(void *arg, bool ok), void *arg);

/* True when anything happened. */
bool ucx_link_progress(struct ucx_link *link);
/* True: nothing is waiting, and fd becomes readable when something happens. */
bool ucx_link_arm(struct ucx_link *link);

#endif
