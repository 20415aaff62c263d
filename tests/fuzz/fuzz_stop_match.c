/* Stop strings and text from any bytes, in pieces of any length: what is shown is the text up to the
 * first complete stop string, as a naive search finds it. Input: number of strings, their lengths
 * and bytes, then pairs of piece length and piece. */
#include <string.h>

#include "router/stop_match.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
    const uint8_t *at;
    size_t left;
};

static size_t take_byte(struct bytes *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

static const char *take(struct bytes *in, size_t *n)
{
    const char *piece = (const char *)in->at;
    *n = *n < in->left ? *n : in->left;
    in->at += *n;
    in->left -= *n;
    return piece;
}

static void read_set(struct bytes *in, struct arena *arena, struct stop_set *set)
{
    size_t n = take_byte(in);
    set->keep = n & 32;
    n = n % 5;
    for (size_t i = 0; i < n; i++) {
        size_t len = 1 + take_byte(in) % 16;
        const char *text = take(in, &len);
        if (len)
            ASSERT(stop_set_add(set, arena, text, len) == ST_OK);
    }
}

/* Where the shown text ends; all of it when nothing stops it. */
static size_t naive_cut(const struct stop_set *set, const char *text, size_t len, bool *stopped)
{
    for (size_t end = 1; end <= len; end++) {
        size_t longest = 0;
        for (uint32_t i = 0; i < set->n; i++) {
            size_t n = set->strings[i].len;
            if (n <= end && n > longest && !memcmp(text + end - n, set->strings[i].text, n))
                longest = n;
        }
        *stopped = longest > 0;
        if (longest)
            return set->keep ? end : end - longest;
    }
    *stopped = false;
    return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes in = { data, size };
    struct arena *arena = arena_create(1 << 20);
    struct stop_set set = { 0 };
    struct stop_match m;
    struct text_buffer all, shown;
    bool stopped = false, expected;
    read_set(&in, arena, &set);
    text_buffer_init(&all, 1 << 24);
    text_buffer_init(&shown, 1 << 24);
    ASSERT(stop_match_init(&m, &set, arena) == ST_OK);
    while (in.left) {
        size_t n = take_byte(&in) % 8;
        const char *piece = take(&in, &n);
        text_buffer_append(&all, piece, n);
        stopped = stopped || stop_match_push(&m, piece, n, &shown);
        ASSERT(shown.len <= all.len && !memcmp(text_buffer_text(&shown), text_buffer_text(&all), shown.len));
    }
    if (!stopped)
        stop_match_finish(&m, &shown);
    ASSERT(shown.len == naive_cut(&set, text_buffer_text(&all), all.len, &expected) && stopped == expected);
    text_buffer_free(&all);
    text_buffer_free(&shown);
    arena_destroy(&arena);
    return 0;
}
