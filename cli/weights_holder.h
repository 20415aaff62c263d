/* weights_holder.h - keeps packed weights for the workers of this cluster (proto/weights_message.h).
 * Holds descriptors only: memory that nobody here maps. What no worker uses stays, so that the next one starts
 * at once, until weights_holder_gc or the end of this process. Loop thread only. */
#ifndef BATON_CLI_WEIGHTS_HOLDER_H
#define BATON_CLI_WEIGHTS_HOLDER_H

#include <sys/types.h>

#include "cli/state_dir.h"
#include "common/json_writer.h"
#include "common/loop.h"

#define WEIGHTS_MAX_HELD   64u  /* keys */
#define WEIGHTS_MAX_LEASES 512u /* connections */

struct weights_holder;

/* The name of a process for people, or NULL. */
typedef const char *(*weights_user_fn)(void *ctx, pid_t pid);

/* Listens at WEIGHTS_SOCKET in the folder. */
MUST_CHECK status weights_holder_create(struct loop *loop, const struct state_dir *dir, weights_user_fn user, void *ctx,
                                        struct weights_holder **out, struct error *err);
void weights_holder_destroy(struct weights_holder **holder);

/* The value of a key: [{"key":..., "bytes":..., "pages":..., "state":"held"|"packing", "users":["decode-0"]}],
 * with "packer" while it is packed.
 * holder may be NULL: it holds nothing. */
void weights_holder_write(const struct weights_holder *holder, struct json_writer *w);
/* Forgets what nobody uses: writes "freed": an array of {"key", "bytes"}. What stays is in weights_holder_write. */
void weights_holder_gc(struct weights_holder *holder, struct json_writer *w);

#endif
