#include "transfer/ucx_link.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucs/debug/log_def.h>

#include "common/clock.h"
#include "common/log.h"

#define SETTLE_QUIET_US 5000u
#define SETTLE_MAX_US   100000u

/* A message on its way: UCX wants the head to stay until it is sent. */
struct ucx_send {
    struct ucx_link *link;
    struct ucx_send *next;
    void (*done)(void *arg, bool ok);
    void *arg;
    struct wire_head head;
    uint8_t copy[UCX_LINK_COPY_BYTES];
};

/* What UCX calls an error is a peer's end as often as not; whoever decides that logs it. */
static ucs_log_func_rc_t forward_log(const char *file, unsigned line, const char *function, ucs_log_level_t level,
                                     const ucs_log_component_config_t *component, const char *message, va_list ap)
{
    (void)file, (void)line, (void)component;
    if (level > UCS_LOG_LEVEL_WARN)
        return UCS_LOG_FUNC_RC_CONTINUE;
    char text[256], quoted[512];
    (void)vsnprintf(text, sizeof text, message, ap);
    const char *q = log_quote(quoted, sizeof quoted, text);
    if (level == UCS_LOG_LEVEL_FATAL)
        log_error("ucx", "where=%s text=%s", function, q);
    else
        log_debug("ucx", "where=%s text=%s", function, q);
    return UCS_LOG_FUNC_RC_STOP;
}

static void take_over_logging(void)
{
    ucs_log_push_handler(forward_log);
}

struct setting {
    const char *name, *value;
};

/* Names of a transport's own settings stand without its prefix, as ucp_config_modify wants them. */
static const struct setting shared_settings[] = {
    { "RNDV_THRESH", "inf" }, /* data goes where the receiver copies it, never by a remote put */
    { "ZCOPY_THRESH", "auto" },    { "PROTO_ENABLE", "n" },    { "UNIFIED_MODE", "n" },
    { "ADDRESS_DEBUG_INFO", "n" }, { "MAX_EAGER_LANES", "1" }, { "KEEPALIVE_INTERVAL", "1s" },
};
/* One DATA message with its heads is one segment; larger ones would be gathered by a copy. */
static const struct setting network_settings[] = { { "TX_SEG_SIZE", "140k" }, { "RX_SEG_SIZE", "140k" } };

static bool apply(ucp_config_t *config, const struct setting *settings, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ucp_config_modify(config, settings[i].name, settings[i].value) != UCS_OK)
            return false;
    return true;
}
#define APPLY(config, table) apply(config, table, sizeof table / sizeof table[0])

static status ucx_error(struct error *err, const char *what, ucs_status_t st)
{
    return error_set(err, st == UCS_ERR_NO_MEMORY ? ST_NO_MEMORY : ST_IO, "UCX: %s: %s", what, ucs_status_string(st));
}

/* What a context is opened for. */
struct purpose {
    const char *name, *device;
    uint64_t features;
};

static status open_context(struct ucx_link *link, const struct purpose *purpose, struct error *err)
{
    ucp_config_t *config;
    ucs_status_t st = ucp_config_read(NULL, NULL, &config);
    if (st != UCS_OK)
        return ucx_error(err, "cannot read its configuration (a UCX_ variable may be wrong)", st);
    bool ok = APPLY(config, shared_settings) && (link->mapped || APPLY(config, network_settings)) &&
              ucp_config_modify(config, "TLS", link->transports) == UCS_OK &&
              ucp_config_modify(config, "NET_DEVICES", purpose->device) == UCS_OK;
    ucp_params_t params = { .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME,
                            .features = purpose->features | UCP_FEATURE_WAKEUP,
                            .name = purpose->name };
    st = ok ? ucp_init(&params, config, &link->context) : UCS_ERR_INVALID_PARAM;
    ucp_config_release(config);
    if (st != UCS_OK) {
        link->context = NULL;
        if (st == UCS_ERR_NO_DEVICE)
            return error_set(err, ST_UNSUPPORTED, "UCX finds no device with the transports %s", link->transports);
        return ucx_error(err, "cannot open a context", st);
    }
    return ST_OK;
}

static ucs_status_t on_message(void *arg, const void *head, size_t head_len, void *data, size_t len,
                               const ucp_am_recv_param_t *param)
{
    struct ucx_link *link = arg;
    bool whole = !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV);
    if (link->receive)
        link->receive(link->arg, link, head, head_len, data, len, whole);
    return UCS_OK;
}

static ucs_status_t open_worker(struct ucx_link *link)
{
    ucp_worker_params_t params = { .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                   .thread_mode = UCS_THREAD_MODE_SINGLE };
    ucs_status_t st = ucp_worker_create(link->context, &params, &link->worker);
    if (st != UCS_OK) {
        link->worker = NULL;
        return st;
    }
    if (!link->receive)
        return ucp_worker_get_efd(link->worker, &link->fd);
    ucp_am_handler_param_t handler = { .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                                                     UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                       .id = WIRE_AM_ID,
                                       .flags = UCP_AM_FLAG_WHOLE_MSG,
                                       .cb = on_message,
                                       .arg = link };
    st = ucp_worker_set_am_recv_handler(link->worker, &handler);
    return st == UCS_OK ? ucp_worker_get_efd(link->worker, &link->fd) : st;
}

static status open_for(struct ucx_link *link, const struct purpose *purpose, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, take_over_logging);
    status st = open_context(link, purpose, err);
    if (st)
        return st;
    ucs_status_t ust = open_worker(link);
    if (ust == UCS_OK)
        return ST_OK;
    ucx_link_close(link);
    return ucx_error(err, "cannot open a worker", ust);
}

status ucx_link_open(struct ucx_link *link, bool mapped, const char *device, ucx_link_receive receive, void *arg,
                     struct error *err)
{
    const struct purpose purpose = { mapped ? "baton-same-host" : "baton-network", device, UCP_FEATURE_AM };
    /* TCP alone, as shared memory has no lane that notices a dead peer. */
    *link = (struct ucx_link){ .fd = -1, .mapped = mapped, .transports = "tcp", .receive = receive, .arg = arg };
    return open_for(link, &purpose, err);
}

status ucx_link_open_rdma(struct ucx_link *link, const char *transports, const char *device, struct error *err)
{
    const struct purpose purpose = { "baton-rdma", device, UCP_FEATURE_RMA };
    *link = (struct ucx_link){ .fd = -1, .transports = transports };
    return open_for(link, &purpose, err);
}

status ucx_link_open_beside(struct ucx_link *link, const struct ucx_link *of, struct error *err)
{
    *link = (struct ucx_link){ .context = of->context,
                               .beside = true,
                               .fd = -1,
                               .mapped = of->mapped,
                               .transports = of->transports,
                               .receive = of->receive,
                               .arg = of->arg };
    ucs_status_t st = open_worker(link);
    if (st == UCS_OK)
        return ST_OK;
    ucx_link_close(link);
    return ucx_error(err, "cannot open a worker", st);
}

/* UCX 1.13 aborts when a worker is destroyed whose answer to somebody's handshake still waits for its connection, which
 * is a matter of moments unless that somebody hangs: so, until nothing has moved for a while. */
static void settle(ucp_worker_h worker)
{
    const uint64_t end = clock_now_us() + SETTLE_MAX_US;
    uint64_t moved = clock_now_us(), now = moved;
    while (now < end && now < moved + SETTLE_QUIET_US) {
        if (ucp_worker_progress(worker))
            moved = now;
        else
            nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
        now = clock_now_us();
    }
}

void ucx_link_close(struct ucx_link *link)
{
    if (link->worker) {
        link->receive = NULL; /* nobody is there any more to be told */
        settle(link->worker);
        ucp_worker_destroy(link->worker);
    }
    if (link->context && !link->beside)
        ucp_cleanup(link->context);
    while (link->free_sends) {
        struct ucx_send *send = link->free_sends;
        link->free_sends = send->next;
        free(send);
    }
    *link = (struct ucx_link){ .fd = -1 };
}

status ucx_link_address(const struct ucx_link *link, uint8_t *out, size_t size, size_t *len, struct error *err)
{
    ucp_address_t *address;
    size_t n;
    ucs_status_t st = ucp_worker_get_address(link->worker, &address, &n);
    if (st != UCS_OK)
        return ucx_error(err, "no worker address", st);
    status result = ST_OK;
    if (n > size)
        result = error_set(err, ST_LIMIT, "UCX worker address of %zu bytes is above %zu", n, size);
    else
        memcpy(out, address, *len = n);
    ucp_worker_release_address(link->worker, address);
    return result;
}

/* Whether the report names a lane of one of the transports ("rc" stands for rc_mlx5 and rc_verbs). */
static bool names_lane(const char *report, const char *transports)
{
    char wanted[16];
    for (const char *p = transports; *p; p += *p == ',') {
        size_t len = strcspn(p, ",");
        (void)snprintf(wanted, sizeof wanted, ":%.*s", (int)len, p);
        p += len;
        for (const char *at = strstr(report, wanted); at; at = strstr(at + 1, wanted))
            if (at[len + 1] == '/' || at[len + 1] == '_')
                return true;
    }
    return false;
}

/* UCX picks lanes without a word; its report is the only place that tells. */
static bool lanes_as_wanted(const struct ucx_link *link, ucp_ep_h ep)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return false;
    ucp_ep_print_info(ep, f);
    bool ok = fclose(f) == 0 && names_lane(text, link->transports);
    free(text);
    return ok;
}

status ucx_link_connect(struct ucx_link *link, const uint8_t *address, ucp_err_handler_cb_t failed, void *arg,
                        ucp_ep_h *out, struct error *err)
{
    ucp_ep_params_t params = { .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                             UCP_EP_PARAM_FIELD_ERR_HANDLER,
                               .address = (const ucp_address_t *)(const void *)address,
                               .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                               .err_handler = { failed, arg } };
    ucp_ep_h ep;
    ucs_status_t st = ucp_ep_create(link->worker, &params, &ep);
    if (st != UCS_OK)
        return ucx_error(err, "cannot make an endpoint", st);
    if (!lanes_as_wanted(link, ep)) {
        ucx_link_disconnect(link, &ep);
        return error_set(err, ST_LIMIT, "UCX chose other lanes than %s", link->transports);
    }
    *out = ep;
    return ST_OK;
}

static void on_closed(void *request, ucs_status_t st, void *arg)
{
    (void)st;
    struct ucx_link *link = arg;
    link->closing--;
    ucp_request_free(request);
}

void ucx_link_disconnect(struct ucx_link *link, ucp_ep_h *ep)
{
    ucp_request_param_t param = { .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                                                  UCP_OP_ATTR_FIELD_USER_DATA,
                                  .flags = UCP_EP_CLOSE_FLAG_FORCE,
                                  .cb.send = on_closed,
                                  .user_data = link };
    ucs_status_ptr_t request = ucp_ep_close_nbx(*ep, &param);
    *ep = NULL;
    if (UCS_PTR_IS_PTR(request))
        link->closing++;
}

static struct ucx_send *send_new(struct ucx_link *link)
{
    struct ucx_send *send = link->free_sends;
    if (send)
        link->free_sends = send->next;
    else
        send = malloc(sizeof *send);
    return send;
}

static void send_ended(struct ucx_send *send, bool ok)
{
    void (*done)(void *arg, bool ok) = send->done;
    void *arg = send->arg;
    send->next = send->link->free_sends;
    send->link->free_sends = send;
    if (done)
        done(arg, ok);
}

static void on_sent(void *request, ucs_status_t st, void *arg)
{
    ucp_request_free(request);
    send_ended(arg, st == UCS_OK);
}

status ucx_link_send(struct ucx_link *link, ucp_ep_h ep, const struct wire_head *head, const void *payload, size_t len,
                     void (*done)(void *arg, bool ok), void *arg)
{
    struct ucx_send *send = send_new(link);
    if (!send)
        return ST_NO_MEMORY;
    send->link = link;
    send->done = done;
    send->arg = arg;
    send->head = *head;
    if (!done && len) {
        ASSERT(len <= sizeof send->copy);
        payload = memcpy(send->copy, payload, len);
    }
    ucp_request_param_t param = { .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                                                  UCP_OP_ATTR_FIELD_USER_DATA,
                                  .flags = UCP_AM_SEND_FLAG_EAGER,
                                  .cb.send = on_sent,
                                  .user_data = send };
    ucs_status_ptr_t request = ucp_am_send_nbx(ep, WIRE_AM_ID, &send->head, sizeof send->head, payload, len, &param);
    if (UCS_PTR_IS_ERR(request)) {
        send->done = NULL;
        send_ended(send, false);
        return ST_CLOSED;
    }
    if (!request)
        send_ended(send, true);
    return ST_OK;
}

#define PROGRESS_PER_TURN 64

bool ucx_link_progress(struct ucx_link *link)
{
    bool any = false;
    for (int i = 0; i < PROGRESS_PER_TURN && ucp_worker_progress(link->worker); i++)
        any = true;
    return any;
}

bool ucx_link_arm(struct ucx_link *link)
{
    return ucp_worker_arm(link->worker) == UCS_OK;
}
