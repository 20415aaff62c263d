/* baseline.h - runs that were kept under a name, to compare later ones with: a JSON object in a file each, in the
 * folder that was named or in $XDG_STATE_HOME/baton-baselines. */
#ifndef BATON_CLI_BASELINE_H
#define BATON_CLI_BASELINE_H

#include <jansson.h>

#include "common/status.h"

#define BASELINE_MAX_NAME 64u

/* Letters, digits and . _ -, and no . at the beginning. */
MUST_CHECK status baseline_check_name(const char *name, struct error *err);
/* dir NULL: the usual one. The file of this name is replaced. */
MUST_CHECK status baseline_save(const char *dir, const char *name, const char *text, size_t len, struct error *err);
/* ST_NOT_FOUND: there is none, ST_INVALID: it does not have this schema. The caller decrefs it. */
MUST_CHECK status baseline_load(const char *dir, const char *name, const char *schema, json_t **out, struct error *err);

#endif
