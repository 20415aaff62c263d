/* place.h - which cluster a command means: the options --state-dir and --name. */
#ifndef BATON_CLI_PLACE_H
#define BATON_CLI_PLACE_H

#include <jansson.h>

#include "cli/command.h"
#include "cli/state_dir.h"

struct place {
    const char *dir, *name; /* as given; NULL */
};

/* clang-format off */
#define PLACE_ROWS(place) \
    { "state-dir", 0, OPTION_TEXT, &(place)->dir, "DIR", "State folder; default: $XDG_STATE_HOME/baton/NAME", 0, 0 }, \
    { "name", 0, OPTION_TEXT, &(place)->name, "NAME", "Name of the cluster; default: the last part of the state folder", 0, 0 }
/* clang-format on */

MUST_CHECK status place_find(const struct place *place, struct state_dir *out, struct error *err);
/* The supervisor's status; ST_NOT_FOUND when no cluster runs there. The caller decrefs it. */
MUST_CHECK status place_status(const struct state_dir *dir, json_t **out, struct error *err);
/* Of its router; ST_NOT_FOUND, too, when it has none yet. */
MUST_CHECK status place_url(const struct state_dir *dir, char *out, size_t size, struct error *err);
/* Members of a JSON object; "" and 0 where absent. */
const char *json_text(const json_t *object, const char *key);
long long json_number(const json_t *object, const char *key);

void sleep_ms(unsigned ms);

#endif
