#include "engine/pretokenizer_scan.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "engine/pretokenizer.h"

enum kind {
    OTHER,
    LETTER,
    DIGIT,
    SPACE,
    LINE_END, /* \r and \n, which are white space, too */
    WIDE,     /* part of a character beyond ASCII     */
};

static enum kind kind_of(char c)
{
    static const uint8_t kinds[128] = {
        ['\t'] = SPACE, ['\v'] = SPACE, ['\f'] = SPACE, [' '] = SPACE,  ['\n'] = LINE_END, ['\r'] = LINE_END,
        ['0'] = DIGIT,  ['1'] = DIGIT,  ['2'] = DIGIT,  ['3'] = DIGIT,  ['4'] = DIGIT,     ['5'] = DIGIT,
        ['6'] = DIGIT,  ['7'] = DIGIT,  ['8'] = DIGIT,  ['9'] = DIGIT,  ['A'] = LETTER,    ['B'] = LETTER,
        ['C'] = LETTER, ['D'] = LETTER, ['E'] = LETTER, ['F'] = LETTER, ['G'] = LETTER,    ['H'] = LETTER,
        ['I'] = LETTER, ['J'] = LETTER, ['K'] = LETTER, ['L'] = LETTER, ['M'] = LETTER,    ['N'] = LETTER,
        ['O'] = LETTER, ['P'] = LETTER, ['Q'] = LETTER, ['R'] = LETTER, ['S'] = LETTER,    ['T'] = LETTER,
        ['U'] = LETTER, ['V'] = LETTER, ['W'] = LETTER, ['X'] = LETTER, ['Y'] = LETTER,    ['Z'] = LETTER,
        ['a'] = LETTER, ['b'] = LETTER, ['c'] = LETTER, ['d'] = LETTER, ['e'] = LETTER,    ['f'] = LETTER,
        ['g'] = LETTER, ['h'] = LETTER, ['i'] = LETTER, ['j'] = LETTER, ['k'] = LETTER,    ['l'] = LETTER,
        ['m'] = LETTER, ['n'] = LETTER, ['o'] = LETTER, ['p'] = LETTER, ['q'] = LETTER,    ['r'] = LETTER,
        ['s'] = LETTER, ['t'] = LETTER, ['u'] = LETTER, ['v'] = LETTER, ['w'] = LETTER,    ['x'] = LETTER,
        ['y'] = LETTER, ['z'] = LETTER,
    };
    return (uint8_t)c < 0x80 ? (enum kind)kinds[(uint8_t)c] : WIDE;
}

static bool stands(const char *text, size_t len, size_t at, enum kind kind)
{
    return at < len && kind_of(text[at]) == kind;
}

/* The end of the run of a kind that starts at from. */
static size_t run_end(const char *text, size_t len, size_t from, enum kind kind)
{
    while (stands(text, len, from, kind))
        from++;
    return from;
}

static enum scan_outcome matched(size_t end, size_t *out)
{
    *out = end;
    return SCAN_MATCH;
}

/* A run that is followed by a character beyond ASCII may be longer than it looks. */
static enum scan_outcome match_run(const char *text, size_t len, size_t end, size_t *out)
{
    return stands(text, len, end, WIDE) ? SCAN_UNSURE : matched(end, out);
}

/* \s+(?!\S)|\s+, and before them \s*[\r\n]+ when lines count. */
static enum scan_outcome match_space(const char *text, size_t len, size_t at, bool lines, size_t *out)
{
    size_t end = at, line_end = 0;
    while (end < len) {
        enum kind kind = kind_of(text[end]);
        if (kind != SPACE && kind != LINE_END)
            break;
        end++;
        if (kind == LINE_END)
            line_end = end;
    }
    if (stands(text, len, end, WIDE))
        return SCAN_UNSURE;
    if (lines && line_end > 0)
        return matched(line_end, out);
    return matched(end < len && end - at > 1 ? end - 1 : end, out);
}

/* The length of a contraction's letters, which stand in lower case behind an apostrophe; 0: none. */
static size_t contraction(char first, char second)
{
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return 1;
    bool two = (first == 'l' && second == 'l') || (first == 'v' && second == 'e') || (first == 'r' && second == 'e');
    return two ? 2 : 0;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static enum scan_outcome scan_gpt2(const char *text, size_t len, size_t at, size_t *start, size_t *end)
{
    *start = at;
    if (at == len)
        return SCAN_NONE;
    if (text[at] == '\'' && at + 1 < len) {
        size_t n = contraction(text[at + 1], at + 2 < len ? text[at + 2] : '\0');
        if (n > 0)
            return matched(at + 1 + n, end);
    }
    size_t from = at + (text[at] == ' ');
    enum kind kind = from < len ? kind_of(text[from]) : SPACE;
    if (kind == WIDE)
        return SCAN_UNSURE;
    if (kind == SPACE || kind == LINE_END)
        return match_space(text, len, at, false, end);
    return match_run(text, len, run_end(text, len, from, kind), end);
}

/* U+017F, whose lower case is in ASCII, behind an apostrophe is no match here; scan_lines is unsure of it then. */
static enum scan_outcome match_any_contraction(const char *text, size_t len, size_t at, size_t *end)
{
    if (text[at] != '\'' || at + 1 == len)
        return SCAN_NONE;
    size_t n = contraction(lower(text[at + 1]), at + 2 < len ? lower(text[at + 2]) : '\0');
    return n > 0 ? matched(at + 1 + n, end) : SCAN_NONE;
}

/*  ?[^\s\p{L}\p{N}]+[\r\n]*, or no match. */
static enum scan_outcome match_symbols(const char *text, size_t len, size_t at, size_t *end)
{
    size_t from = at + (text[at] == ' ');
    if (stands(text, len, from, WIDE))
        return SCAN_UNSURE;
    size_t behind = run_end(text, len, from, OTHER);
    if (behind == from)
        return SCAN_NONE;
    if (stands(text, len, behind, WIDE))
        return SCAN_UNSURE;
    return matched(run_end(text, len, behind, LINE_END), end);
}

static enum scan_outcome match_digits(const char *text, size_t len, size_t at, size_t most, size_t *end)
{
    size_t behind = at;
    while (behind < at + most && stands(text, len, behind, DIGIT))
        behind++;
    return behind == at + most ? matched(behind, end) : match_run(text, len, behind, end);
}

/* Llama 3's and Qwen 2's, which differ in how many digits make a piece. */
static enum scan_outcome scan_lines(const char *text, size_t len, size_t at, size_t digits, size_t *end)
{
    enum scan_outcome found = match_any_contraction(text, len, at, end);
    if (found != SCAN_NONE)
        return found;
    enum kind kind = kind_of(text[at]);
    if (kind == WIDE)
        return SCAN_UNSURE;
    if (kind == DIGIT)
        return match_digits(text, len, at, digits, end);
    size_t letters = at + (kind != LETTER);
    if (kind != LINE_END) {
        if (stands(text, len, letters, WIDE))
            return SCAN_UNSURE;
        if (stands(text, len, letters, LETTER))
            return match_run(text, len, run_end(text, len, letters, LETTER), end);
    }
    found = match_symbols(text, len, at, end);
    return found == SCAN_NONE ? match_space(text, len, at, true, end) : found;
}

static enum scan_outcome scan_llama3(const char *text, size_t len, size_t at, size_t *start, size_t *end)
{
    *start = at;
    return at == len ? SCAN_NONE : scan_lines(text, len, at, 3, end);
}

static enum scan_outcome scan_qwen2(const char *text, size_t len, size_t at, size_t *start, size_t *end)
{
    *start = at;
    return at == len ? SCAN_NONE : scan_lines(text, len, at, 1, end);
}

/* Unlike the others it leaves something between its matches. */
static enum scan_outcome scan_digit(const char *text, size_t len, size_t at, size_t *start, size_t *end)
{
    for (; at < len; at++) {
        enum kind kind = kind_of(text[at]);
        if (kind != DIGIT && kind != WIDE)
            continue;
        *start = at;
        *end = at + 1;
        return kind == DIGIT ? SCAN_MATCH : SCAN_UNSURE;
    }
    return SCAN_NONE;
}

scanner scanner_of(const char *pattern, size_t len)
{
    static const struct {
        const char *pattern;
        scanner scan;
    } known[] = {
        { PATTERN_GPT2, scan_gpt2 },
        { PATTERN_LLAMA3, scan_llama3 },
        { PATTERN_QWEN2, scan_qwen2 },
        { PATTERN_DIGIT, scan_digit },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].pattern) == len && memcmp(known[i].pattern, pattern, len) == 0)
            return known[i].scan;
    return NULL;
}
