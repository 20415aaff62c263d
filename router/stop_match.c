#include "router/stop_match.h"

#include <string.h>

status stop_set_add(struct stop_set *set, struct arena *arena, const char *text, size_t len)
{
    ASSERT(len > 0 && len <= STOP_MAX_BYTES);
    if (set->n == STOP_MAX_STRINGS)
        return ST_LIMIT;
    struct stop_string *s = &set->strings[set->n];
    s->text = arena_copy(arena, text, len);
    s->fall = arena_take(arena, len * sizeof *s->fall);
    if (!s->text || !s->fall)
        return ST_NO_MEMORY;
    s->len = (uint16_t)len;
    /* fall[i]: the longest proper prefix that is also a suffix of text[0..i]. */
    for (uint16_t i = 1, k = 0; i < s->len; i++) {
        while (k > 0 && text[i] != text[k])
            k = s->fall[k - 1];
        k = (uint16_t)(k + (text[i] == text[k]));
        s->fall[i] = k;
    }
    if (len > set->longest)
        set->longest = len;
    set->n++;
    return ST_OK;
}

status stop_match_init(struct stop_match *m, const struct stop_set *set, struct arena *arena)
{
    *m = (struct stop_match){ .set = set };
    if (set->n == 0)
        return ST_OK;
    m->held = arena_take(arena, set->longest);
    return m->held ? ST_OK : ST_NO_MEMORY;
}

/* Feeds one byte to all automata. The length of the longest string that ends with it, 0: none. */
static size_t step(struct stop_match *m, char c)
{
    size_t found = 0;
    for (uint32_t i = 0; i < m->set->n; i++) {
        const struct stop_string *s = &m->set->strings[i];
        uint16_t k = m->at[i];
        while (k > 0 && s->text[k] != c)
            k = s->fall[k - 1];
        k = (uint16_t)(k + (s->text[k] == c));
        m->at[i] = k;
        if (k == s->len && s->len > found)
            found = s->len;
    }
    return found;
}

static size_t longest_prefix(const struct stop_match *m)
{
    size_t longest = 0;
    for (uint32_t i = 0; i < m->set->n; i++)
        if (m->at[i] > longest)
            longest = m->at[i];
    return longest;
}

/* The first n bytes of what is withheld and text together. */
static void show(const struct stop_match *m, const char *text, size_t n, struct text_buffer *out)
{
    size_t old = n < m->n_held ? n : m->n_held;
    text_buffer_append(out, m->held, old);
    text_buffer_append(out, text, n - old);
}

bool stop_match_push(struct stop_match *m, const char *text, size_t len, struct text_buffer *out)
{
    if (m->set->n == 0) {
        text_buffer_append(out, text, len);
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        size_t found = step(m, text[i]);
        if (found) {
            show(m, text, m->n_held + i + 1 - (m->set->keep ? 0 : found), out);
            m->n_held = 0;
            return true;
        }
    }
    size_t total = m->n_held + len, keep = longest_prefix(m), shown = total - keep;
    show(m, text, shown, out);
    if (shown >= m->n_held) {
        memcpy(m->held, text + (shown - m->n_held), keep);
    } else {
        memmove(m->held, m->held + shown, m->n_held - shown);
        memcpy(m->held + (m->n_held - shown), text, len);
    }
    m->n_held = keep;
    return false;
}

void stop_match_finish(struct stop_match *m, struct text_buffer *out)
{
    text_buffer_append(out, m->held, m->n_held);
    m->n_held = 0;
}
