/* state_dir.h - the folder in which one local cluster keeps what it knows.
 *   lock           held by the supervisor as long as it lives
 *   control.sock   where the supervisor listens
 *   weights.sock   where it gives packed weights to workers
 *   cluster.key    the secret by which its processes know each other, drawn at each start
 *   salt.key       the key under which a request's cache_salt becomes the salt of its KV, drawn once: what is on disk
 *                  is found under it after a restart
 *   state.json     pids, ports and options, replaced as a whole
 *   logs/ID.log    what each process says, and ID.log.1 before that
 *   etcd/          etcd's data */
#ifndef BATON_CLI_STATE_DIR_H
#define BATON_CLI_STATE_DIR_H

#include <stdbool.h>
#include <stddef.h>

#include "common/status.h"

#define STATE_DIR_MAX_BYTES  1024 /* of the folder's path */
#define STATE_PATH_MAX_BYTES 1536 /* of a path inside */

struct state_dir {
    char path[STATE_DIR_MAX_BYTES]; /* absolute */
    char cluster[64];               /* the cluster's name */
};

/* dir, or else $XDG_STATE_HOME/baton/NAME (name NULL: "default"). The cluster has that name; without one it is called
 * as the folder's last part, as far as that may stand in an etcd key. Creates nothing. */
MUST_CHECK status state_dir_resolve(const char *dir, const char *name, struct state_dir *out, struct error *err);
/* The folder and logs/, for this user only. */
MUST_CHECK status state_dir_create(const struct state_dir *dir, struct error *err);
/* "FOLDER/FILE" in buf, which is returned. */
const char *state_dir_path(const struct state_dir *dir, const char *file, char buf[STATE_PATH_MAX_BYTES]);
/* ST_AGAIN while a supervisor holds it, ST_NOT_FOUND without a folder. The lock goes with the last copy of *fd. */
MUST_CHECK status state_dir_lock(const struct state_dir *dir, int *fd, struct error *err);
/* The file is replaced by rename: a reader sees the old text or the new one. */
MUST_CHECK status state_dir_write(const struct state_dir *dir, const char *file, const void *text, size_t len,
                                  struct error *err);

/* mkdir -p; the new ones with this mode. */
MUST_CHECK status make_folders(const char *path, unsigned mode, struct error *err);

#endif
