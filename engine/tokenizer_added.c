#include "engine/tokenizer_added.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/utf8.h"

void added_set_free(struct added_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        free(set->tokens[i].text);
    free(set->tokens);
    *set = (struct added_set){ 0 };
}

status added_set_push(struct added_set *set, const struct added_token *token)
{
    if (set->n == set->capacity) {
        size_t capacity = set->capacity ? set->capacity * 2 : 64;
        struct added_token *tokens = realloc(set->tokens, capacity * sizeof *tokens);
        if (!tokens)
            return ST_NO_MEMORY;
        set->tokens = tokens;
        set->capacity = capacity;
    }
    char *text = malloc(token->len + 1);
    if (!text)
        return ST_NO_MEMORY;
    memcpy(text, token->text, token->len);
    set->tokens[set->n] = *token;
    set->tokens[set->n++].text = text;
    return ST_OK;
}

static int compare_text(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

static int compare_tokens(const void *a, const void *b)
{
    const struct added_token *x = a, *y = b;
    int order = compare_text(x->text, x->len, y->text, y->len);
    if (order != 0)
        return order;
    if (x->special != y->special)
        return x->special ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Sorted, so that the first and the last tell of all; empty texts stand in front. */
static int only_first_byte(const struct added_set *set)
{
    if (set->n == 0 || set->tokens[0].len == 0 || set->tokens[0].text[0] != set->tokens[set->n - 1].text[0])
        return -1;
    return (uint8_t)set->tokens[0].text[0];
}

void added_set_freeze(struct added_set *set)
{
    if (set->n > 0)
        qsort(set->tokens, set->n, sizeof *set->tokens, compare_tokens);
    uint32_t i = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        while (i < set->n && (set->tokens[i].len == 0 || (uint8_t)set->tokens[i].text[0] < byte))
            i++;
        set->first[byte] = i;
    }
    set->first[256] = (uint32_t)set->n;
    set->only = only_first_byte(set);
}

/* The first token of [low, high) whose byte at depth is >= byte; all of them share the bytes before. */
static size_t lower_bound(const struct added_set *set, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct added_token *token = &set->tokens[mid];
        if (token->len <= depth || (uint8_t)token->text[depth] < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool starts_with(const char *text, size_t len, const struct added_token *token)
{
    return token->len <= len && memcmp(text, token->text, token->len) == 0;
}

/* The longest token that text starts with; NULL when there is none. */
static const struct added_token *longest(const struct added_set *set, const char *text, size_t len)
{
    const struct added_token *best = NULL;
    uint8_t byte = (uint8_t)text[0];
    size_t low = set->first[byte], high = set->first[byte + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (high - low == 1)
            return starts_with(text, len, &set->tokens[low]) ? &set->tokens[low] : best;
        if (set->tokens[low].len == depth)
            best = &set->tokens[low];
        if (depth == len)
            break;
        byte = (uint8_t)text[depth];
        low = lower_bound(set, low, high, depth, byte);
        high = lower_bound(set, low, high, depth, byte + 1u);
    }
    return best;
}

const struct added_token *added_set_exact(const struct added_set *set, const char *text, size_t len)
{
    const struct added_token *token = len > 0 && set->n > 0 ? longest(set, text, len) : NULL;
    return token && token->len == len ? token : NULL;
}

static bool is_space(uint32_t cp)
{
    return (cp >= 0x9 && cp <= 0xD) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F ||
           cp == 0x3000;
}

/* Circled and squared letters: alphabetic although they are symbols. */
static bool is_letter_symbol(uint32_t cp)
{
    return (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
           (cp >= 0x1F170 && cp <= 0x1F189);
}

/* \w of Unicode Technical Standard 18: alphabetic, marks, decimal digits, connectors, joiners. */
static bool is_word(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL) || c == UTF8PROC_CATEGORY_PC || cp == 0x200C ||
           cp == 0x200D || is_letter_symbol(cp);
}

static size_t char_before(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80);
    return at;
}

static uint32_t char_at(const char *text, size_t at)
{
    const char *p = text + at;
    return utf8_next(&p);
}

static bool stands_alone(const struct added_walk *walk, size_t start, size_t end)
{
    return (start == 0 || !is_word(char_at(walk->text, char_before(walk->text, start)))) &&
           (end == walk->len || !is_word(char_at(walk->text, end)));
}

static size_t strip_left(const struct added_walk *walk, size_t start)
{
    while (start > walk->done) {
        size_t before = char_before(walk->text, start);
        if (!is_space(char_at(walk->text, before)))
            break;
        start = before;
    }
    return start;
}

static size_t strip_right(const struct added_walk *walk, size_t end)
{
    while (end < walk->len && is_space(char_at(walk->text, end))) {
        const char *p = walk->text + end;
        (void)utf8_next(&p);
        end = (size_t)(p - walk->text);
    }
    return end;
}

/* Where the next token can start at the earliest; the length of the text when nowhere. */
static size_t next_start(const struct added_walk *walk)
{
    const struct added_set *set = walk->set;
    size_t at = walk->at;
    if (set->only >= 0) {
        const char *found = memchr(walk->text + at, set->only, walk->len - at);
        return found ? (size_t)(found - walk->text) : walk->len;
    }
    while (at < walk->len && set->first[(uint8_t)walk->text[at]] == set->first[(uint8_t)walk->text[at] + 1])
        at++;
    return at;
}

/* The next token from walk->at on; the search goes on behind it even when its conditions do not hold. */
static const struct added_token *find_next(struct added_walk *walk, size_t *start, size_t *end)
{
    while (walk->set->n > 0 && (walk->at = next_start(walk)) < walk->len) {
        const struct added_token *token = longest(walk->set, walk->text + walk->at, walk->len - walk->at);
        if (!token) {
            walk->at++;
            continue;
        }
        *start = walk->at;
        walk->at = *end = *start + token->len;
        if (token->special && !walk->with_special)
            continue;
        if (token->single_word && !stands_alone(walk, *start, *end))
            continue;
        return token;
    }
    return NULL;
}

void added_walk_next(struct added_walk *walk, struct added_span *span)
{
    size_t start = walk->len, end = walk->len;
    span->token = find_next(walk, &start, &end);
    if (!span->token)
        start = end = walk->len;
    else if (span->token->lstrip)
        start = strip_left(walk, start);
    if (span->token && span->token->rstrip)
        end = strip_right(walk, end);
    span->start = walk->done;
    span->end = start > walk->done ? start : walk->done;
    walk->done = end;
}
