/* control.h - the supervisor's ear: one line of JSON in, one line of JSON out,
 * over a Unix socket in the state folder.
 *   {"op":"status"}                      {"op":"scale","role":"decode","n":2}
 *   {"op":"drain","id":"prefill-1"}      {"op":"down","timeout_s":30}
 *   {"op":"weights_gc"}
 * Answers have "ok"; where it is false, "error" says why. */
#ifndef BATON_CLI_CONTROL_H
#define BATON_CLI_CONTROL_H

#include <jansson.h>

#include "cli/state_dir.h"
#include "common/json_writer.h"
#include "common/loop.h"

#define CONTROL_MAX_REQUEST_BYTES 65536u
#define CONTROL_MAX_REPLY_BYTES   ((size_t)1 << 20)
#define CONTROL_MAX_CONNECTIONS   32u
#define CONTROL_TIMEOUT_S         5 /* for a request to arrive and for an answer */

struct control_server;

/* Writes the members of the answer's object except "ok"; a status other than ST_OK makes it an error, with err's text.
 */
typedef status (*control_fn)(void *ctx, const json_t *request, struct json_writer *reply, struct error *err);

/* Loop thread only. A socket file that lies there is replaced: the caller holds the folder's lock. */
MUST_CHECK status control_server_create(struct loop *loop, const struct state_dir *dir, control_fn fn, void *ctx,
                                        struct control_server **out, struct error *err);
/* Also removes the socket file. */
void control_server_destroy(struct control_server **server);

/* Asks and waits, at most CONTROL_TIMEOUT_S. ST_NOT_FOUND: nobody listens there. When the answer says so, the
 * status is not ST_OK and err has its error. *reply (may be NULL) is the caller's to json_decref. */
MUST_CHECK status control_call(const struct state_dir *dir, const char *request, json_t **reply, struct error *err);

#endif
