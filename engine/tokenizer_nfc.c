#include "engine/tokenizer_nfc.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/utf8.h"

/* Code points below this are never changed and never composed with. */
#define FIRST_AFFECTED      0x300
#define FIRST_AFFECTED_LEAD 0xCC
/* No canonical decomposition is longer. */
#define MAX_DECOMPOSITION   4

struct range {
    uint32_t first, last;
};

/* Characters, and blocks with such characters, that gained a combining class
 * or a composition after Unicode 9: they neither move nor compose. */
static const struct range inert[] = {
    { 0x7FD, 0x7FD },     { 0x897, 0x89F },     { 0x8CA, 0x8D3 },     { 0x9FE, 0x9FE },     { 0xC3C, 0xC3C },
    { 0xD3B, 0xD3C },     { 0xEBA, 0xEBA },     { 0xECE, 0xECE },     { 0x1715, 0x1715 },   { 0x1ABF, 0x1ACE },
    { 0x1DF6, 0x1DFA },   { 0xA82C, 0xA82C },   { 0x105C0, 0x105FF }, { 0x10D24, 0x10D27 }, { 0x10D69, 0x10D6D },
    { 0x10EAB, 0x10EAC }, { 0x10EFC, 0x10EFF }, { 0x10F46, 0x10F50 }, { 0x10F82, 0x10F85 }, { 0x11070, 0x11070 },
    { 0x1133B, 0x1133B }, { 0x11380, 0x113FF }, { 0x1145E, 0x1145E }, { 0x11839, 0x1183A }, { 0x11930, 0x11930 },
    { 0x11935, 0x11935 }, { 0x11938, 0x11938 }, { 0x1193D, 0x1193E }, { 0x11943, 0x11943 }, { 0x119E0, 0x119E0 },
    { 0x11A34, 0x11A34 }, { 0x11A47, 0x11A47 }, { 0x11A99, 0x11A99 }, { 0x11D42, 0x11D42 }, { 0x11D44, 0x11D45 },
    { 0x11D97, 0x11D97 }, { 0x11F00, 0x11F5F }, { 0x16100, 0x1613F }, { 0x16D40, 0x16D7F }, { 0x16FF0, 0x16FF1 },
    { 0x1E08F, 0x1E08F }, { 0x1E130, 0x1E136 }, { 0x1E2AE, 0x1E2AE }, { 0x1E2EC, 0x1E2EF }, { 0x1E4D0, 0x1E4FF },
    { 0x1E5D0, 0x1E5FF },
};

static bool is_inert(uint32_t cp)
{
    size_t low = 0, high = sizeof inert / sizeof *inert;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (cp > inert[mid].last)
            low = mid + 1;
        else if (cp < inert[mid].first)
            high = mid;
        else
            return true;
    }
    return false;
}

/* A stretch of code points between inert ones. */
struct stretch {
    utf8proc_int32_t *cps;
    size_t n, capacity;
    utf8proc_int32_t *sorted; /* [capacity] scratch of the reordering */
};

static status reserve(struct stretch *s, size_t n)
{
    if (n <= s->capacity)
        return ST_OK;
    size_t capacity = n * 2;
    utf8proc_int32_t *cps = realloc(s->cps, capacity * sizeof *cps);
    if (!cps)
        return ST_NO_MEMORY;
    s->cps = cps;
    utf8proc_int32_t *sorted = realloc(s->sorted, capacity * sizeof *sorted);
    if (!sorted)
        return ST_NO_MEMORY;
    s->sorted = sorted;
    s->capacity = capacity;
    return ST_OK;
}

static status decompose(struct stretch *s, uint32_t cp)
{
    status st = reserve(s, s->n + MAX_DECOMPOSITION);
    if (st != ST_OK)
        return st;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)cp, s->cps + s->n, MAX_DECOMPOSITION, UTF8PROC_DECOMPOSE, NULL);
    ASSERT(n >= 0 && n <= MAX_DECOMPOSITION);
    s->n += (size_t)n;
    return ST_OK;
}

static unsigned combining_class(utf8proc_int32_t cp)
{
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xFF;
}

/* A stable counting sort: utf8proc's own reordering is quadratic in a run of marks. */
static void sort_marks(struct stretch *s, size_t first, size_t end)
{
    uint32_t place[257] = { 0 };
    for (size_t i = first; i < end; i++)
        place[combining_class(s->cps[i]) + 1]++;
    for (size_t k = 1; k < 257; k++)
        place[k] += place[k - 1];
    for (size_t i = first; i < end; i++)
        s->sorted[place[combining_class(s->cps[i])]++] = s->cps[i];
    memcpy(s->cps + first, s->sorted, (end - first) * sizeof *s->cps);
}

static void reorder(struct stretch *s)
{
    for (size_t i = 0; i < s->n;) {
        size_t end = i;
        bool sorted = true;
        unsigned last = 0;
        for (; end < s->n; end++) {
            unsigned class = combining_class(s->cps[end]);
            if (class == 0)
                break;
            sorted = sorted && class >= last;
            last = class;
        }
        if (!sorted)
            sort_marks(s, i, end);
        i = end + 1;
    }
}

/* Composes the stretch, writes it behind out and empties it. */
static size_t compose(struct stretch *s, char *out)
{
    if (s->n == 0)
        return 0;
    reorder(s);
    utf8proc_ssize_t n = utf8proc_normalize_utf32(s->cps, (utf8proc_ssize_t)s->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    ASSERT(n >= 0);
    size_t written = 0;
    for (utf8proc_ssize_t i = 0; i < n; i++)
        written += utf8_put((uint32_t)s->cps[i], out + written);
    s->n = 0;
    return written;
}

static status normalize(struct stretch *s, const char *text, size_t len, char *out, size_t *out_len)
{
    size_t written = 0;
    for (const char *p = text, *end = text + len; p < end;) {
        uint32_t cp = utf8_next(&p);
        if (is_inert(cp)) {
            written += compose(s, out + written);
            written += utf8_put(cp, out + written);
            continue;
        }
        /* Nothing before such a starter has to do with what follows: stretches stay short. */
        if (cp < FIRST_AFFECTED)
            written += compose(s, out + written);
        status st = decompose(s, cp);
        if (st != ST_OK)
            return st;
    }
    *out_len = written + compose(s, out + written);
    return ST_OK;
}

static bool is_affected(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        for (uint64_t eight; len - i > sizeof eight; i += sizeof eight) {
            memcpy(&eight, text + i, sizeof eight);
            if (eight & 0x8080808080808080u)
                break;
        }
        if ((uint8_t)text[i] >= FIRST_AFFECTED_LEAD)
            return true;
    }
    return false;
}

_Static_assert(FIRST_AFFECTED >> 6 == (FIRST_AFFECTED_LEAD & 0x1F), "the lead byte of the first affected character");

status nfc_normalize(const char *text, size_t len, char **out, size_t *out_len)
{
    *out = NULL;
    if (!is_affected(text, len))
        return ST_OK;
    /* NFC takes at most three times the bytes (Unicode Standard Annex 15). */
    char *normal = malloc(len * 3 + 1);
    if (!normal)
        return ST_NO_MEMORY;
    struct stretch s = { 0 };
    status st = normalize(&s, text, len, normal, out_len);
    free(s.cps);
    free(s.sorted);
    if (st != ST_OK) {
        free(normal);
        return st;
    }
    *out = normal;
    return ST_OK;
}
