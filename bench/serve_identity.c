#include "bench/serve_identity.h"

#include <string.h>

static const char *const names[] = {
#define X(name, text) text,
    SERVE_FACTS(X)
#undef X
};

const char *serve_fact_name(enum serve_fact fact)
{
    return names[fact];
}

enum serve_fact serve_fact_find(const char *name, size_t len)
{
    int i = 0;
    while (i < SERVE_FACT_COUNT && (strlen(names[i]) != len || strncmp(names[i], name, len) != 0))
        i++;
    return (enum serve_fact)i;
}

void serve_identity_write(const struct serve_identity *identity, struct json_writer *w)
{
    json_write_object(w);
    for (int i = 0; i < SERVE_FACT_COUNT; i++)
        json_field_string(w, names[i], identity->facts[i]);
    json_write_end(w);
}

static bool compare_fact(const char *name, const char *now, const char *then, struct text_buffer *out)
{
    if (!now[0] || !then[0]) {
        const char *who = now[0] ? "of the baseline" : then[0] ? "of this run" : "of either run";
        text_buffer_printf(out, "%s: %s it is not known", name, who);
        if (now[0] || then[0])
            text_buffer_printf(out, "; of the other it is \"%s\"", now[0] ? now : then);
        text_buffer_char(out, '\n');
        return false;
    }
    if (!strcmp(now, then))
        return true;
    text_buffer_printf(out, "%s: this run has \"%s\", the baseline \"%s\"\n", name, now, then);
    return false;
}

uint32_t serve_identity_compare(const struct serve_identity *now, const json_t *then, struct text_buffer *out)
{
    uint32_t n = 0;
    for (int i = 0; i < SERVE_FACT_COUNT; i++) {
        const char *value = json_string_value(json_object_get(then, names[i]));
        n += !compare_fact(names[i], now->facts[i], value ? value : "", out);
    }
    return n;
}
