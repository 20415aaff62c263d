#include "common/stray_variable.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/config_internal.h"
#include "common/log.h"

#define PREFIX       "BATON_"
#define PREFIX_BYTES (sizeof PREFIX - 1)

/* Names alone, of all roles: nothing of theirs is used but the spelling. */
static const char *const known[] = {
#define FIELD(name, ...) #name,
#include "common/daemon.def"
#include "kvbm/daemon/config.def"
#include "router/config.def"
#include "worker/config.def"
#undef FIELD
};

static const char *const roles[] = { "ROUTER_", "PREFILL_", "DECODE_", "KVBM_" };

static size_t prefix_of(const char *name)
{
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (!strncmp(name + PREFIX_BYTES, roles[i], strlen(roles[i])))
            return PREFIX_BYTES + strlen(roles[i]);
    return PREFIX_BYTES;
}

bool stray_variable(const char *name, char *nearest, size_t size)
{
    const char *best = NULL;
    size_t least = SIZE_MAX, prefix;
    if (strncmp(name, PREFIX, PREFIX_BYTES) != 0)
        return false;
    prefix = prefix_of(name);
    size_t len = strlen(name + prefix);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t distance = config_edit_distance(name + prefix, len, known[i]);
        if (distance < least) {
            least = distance;
            best = known[i];
        }
    }
    if (least == 0 || least > len / 4 + 1)
        return false;
    int n = snprintf(nearest, size, "%.*s%s", (int)prefix, name, best);
    for (int i = 0; i < n && (size_t)i < size; i++)
        nearest[i] = (char)toupper((unsigned char)nearest[i]);
    return true;
}

void stray_variables_warn(void)
{
    char name[2 * CONFIG_NAME_BYTES], nearest[2 * CONFIG_NAME_BYTES];
    for (char **variable = environ; *variable; variable++) {
        size_t len = strcspn(*variable, "=");
        if (len >= sizeof name)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)len, *variable);
        if (stray_variable(name, nearest, sizeof nearest))
            log_warn("there is no such option, the variable has no effect", "variable=%s nearest=%s", name, nearest);
    }
}
