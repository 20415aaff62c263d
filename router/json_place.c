#include "router/json_place.h"

#include <stdbool.h>
#include <stdio.h>

/* An object or array that is open. */
struct level {
    bool is_array;
    size_t index;
    const char *name; /* of the member being read; NULL: its name comes next */
    size_t name_len;
};

struct place {
    struct level levels[JSON_PLACE_MAX_DEPTH];
    size_t depth; /* may be larger than there are levels */
};

/* NULL: outside of everything, or too deep to be told. */
static struct level *innermost(struct place *p)
{
    return p->depth > 0 && p->depth <= JSON_PLACE_MAX_DEPTH ? &p->levels[p->depth - 1] : NULL;
}

static void open_level(struct place *p, bool is_array)
{
    p->depth++;
    struct level *level = innermost(p);
    if (level)
        *level = (struct level){ .is_array = is_array };
}

static void next_item(struct place *p)
{
    struct level *level = innermost(p);
    if (!level)
        return;
    level->index++;
    level->name = NULL;
}

static size_t string_length(const char *text, size_t left)
{
    size_t n = 0;
    while (n < left && text[n] != '"')
        n += text[n] == '\\' ? 2 : 1;
    return n < left ? n : left;
}

static void take_string(struct place *p, const char *text, size_t len)
{
    struct level *level = innermost(p);
    if (!level || level->is_array || level->name)
        return;
    level->name = text;
    level->name_len = len;
}

static void walk(struct place *p, const char *text, size_t end)
{
    for (size_t i = 0; i < end; i++) {
        size_t len;
        switch (text[i]) {
        case '{':
        case '[':
            open_level(p, text[i] == '[');
            break;
        case '}':
        case ']':
            p->depth--;
            break;
        case ',':
            next_item(p);
            break;
        case '"':
            len = string_length(text + i + 1, end - i - 1);
            take_string(p, text + i + 1, len);
            i += len + 1;
            break;
        default:
            break;
        }
    }
}

void json_place_find(const char *text, size_t end, char *out, size_t size)
{
    struct place p = { .depth = 0 };
    size_t used = 0;
    walk(&p, text, end);
    out[0] = '\0';
    for (size_t i = 0; i < p.depth && i < JSON_PLACE_MAX_DEPTH && used < size; i++) {
        const struct level *level = &p.levels[i];
        if (level->is_array)
            used += (size_t)snprintf(out + used, size - used, "[%zu]", level->index);
        else
            used += (size_t)snprintf(out + used, size - used, "%s%.*s", i ? "." : "", (int)level->name_len,
                                     level->name ? level->name : "");
    }
}
