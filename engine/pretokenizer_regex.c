#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/pretokenizer_regex.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/pretokenizer_scan.h"
#include "engine/pretokenizer_syntax.h"

/* Backtracking steps and memory that one match may take. The families'
 * patterns step back at most once per byte of the text; a text that exceeds
 * this under some other pattern is refused, not waited for. */
#define MATCH_STEPS    100000000u
#define MATCH_HEAP_KIB 262144u

struct regex {
    pcre2_code *code;
    pcre2_match_context *limits;
    bool jit;
    scanner scan; /* NULL when the pattern is not one of those that are known */
};

struct regex_scratch {
    pcre2_match_data *match;
};

static status compile(const char *pattern, pcre2_code **out, struct error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return error_set(err, ST_NO_MEMORY, "no memory for a regular expression");
    (void)pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code = 0;
    PCRE2_SIZE where = 0;
    *out =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE | PCRE2_NEVER_BACKSLASH_C, &code, &where, context);
    pcre2_compile_context_free(context);
    if (*out)
        return ST_OK;
    PCRE2_UCHAR why[160] = "";
    (void)pcre2_get_error_message(code, why, sizeof why);
    return error_set(err, ST_UNSUPPORTED, "the regular expression does not compile: %s", (const char *)why);
}

/* Fills regex; what is there already when it fails is for regex_destroy. */
static status prepare(struct regex *regex, const char *pattern, struct error *err)
{
    regex->limits = pcre2_match_context_create(NULL);
    if (!regex->limits)
        return error_set(err, ST_NO_MEMORY, "no memory for a regular expression");
    (void)pcre2_set_match_limit(regex->limits, MATCH_STEPS);
    (void)pcre2_set_heap_limit(regex->limits, MATCH_HEAP_KIB);
    status st = compile(pattern, &regex->code, err);
    /* Without executable memory the interpreter gives the same matches. */
    if (st == ST_OK)
        regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    return st;
}

status regex_create(const char *pattern, size_t len, bool literal, struct regex **out, struct error *err)
{
    char *translated = NULL;
    status st =
        literal ? pattern_quote(pattern, len, &translated, err) : pattern_translate(pattern, len, &translated, err);
    if (st != ST_OK)
        return st;
    struct regex *regex = calloc(1, sizeof *regex);
    st = regex ? prepare(regex, translated, err) : error_set(err, ST_NO_MEMORY, "no memory for a regular expression");
    free(translated);
    if (st == ST_OK) {
        regex->scan = literal ? NULL : scanner_of(pattern, len);
        *out = regex;
    } else {
        regex_destroy(&regex);
    }
    return st;
}

void regex_destroy(struct regex **regex)
{
    if (!*regex)
        return;
    pcre2_code_free((*regex)->code);
    pcre2_match_context_free((*regex)->limits);
    free(*regex);
    *regex = NULL;
}

static status scratch_create(struct regex_scratch **out)
{
    struct regex_scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch)
        return ST_NO_MEMORY;
    scratch->match = pcre2_match_data_create(1, NULL);
    if (!scratch->match) {
        free(scratch);
        return ST_NO_MEMORY;
    }
    *out = scratch;
    return ST_OK;
}

void regex_scratch_destroy(struct regex_scratch **scratch)
{
    if (!*scratch)
        return;
    pcre2_match_data_free((*scratch)->match);
    free(*scratch);
    *scratch = NULL;
}

/* The text was checked once: PCRE2 would check all of it at every match. */
static int match(const struct regex *regex, struct regex_scratch *scratch, const struct regex_walk *walk)
{
    PCRE2_SPTR text = (PCRE2_SPTR)walk->text;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (regex->jit)
        rc = pcre2_jit_match(regex->code, text, walk->len, walk->at, 0, scratch->match, regex->limits);
    /* Compiled code uses 32 KiB of stack; the interpreter takes its frames from the heap. */
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(regex->code, text, walk->len, walk->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, scratch->match,
                         regex->limits);
    return rc;
}

static size_t char_len(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

static status found(struct regex_walk *walk, size_t end)
{
    walk->at = walk->last_end = end;
    walk->any = true;
    return ST_OK;
}

static status match_next(const struct regex *regex, struct regex_scratch *scratch, struct regex_walk *walk,
                         size_t *start, size_t *end)
{
    while (walk->at <= walk->len) {
        int rc = match(regex, scratch, walk);
        if (rc == PCRE2_ERROR_NOMATCH)
            return ST_NOT_FOUND;
        if (rc < 0)
            return rc == PCRE2_ERROR_NOMEMORY ? ST_NO_MEMORY : ST_UNSUPPORTED;
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(scratch->match);
        if (ends[0] == ends[1] && walk->any && walk->last_end == ends[1]) {
            walk->at += walk->at < walk->len ? char_len((uint8_t)walk->text[walk->at]) : 1;
            continue;
        }
        *start = ends[0];
        *end = ends[1];
        return found(walk, *end);
    }
    return ST_NOT_FOUND;
}

status regex_next(const struct regex *regex, struct regex_scratch **scratch, struct regex_walk *walk, size_t *start,
                  size_t *end)
{
    if (regex->scan) {
        enum scan_outcome outcome = regex->scan(walk->text, walk->len, walk->at, start, end);
        if (outcome == SCAN_MATCH)
            return found(walk, *end);
        if (outcome == SCAN_NONE)
            return ST_NOT_FOUND;
        walk->at = *start;
    }
    status st = *scratch ? ST_OK : scratch_create(scratch);
    return st == ST_OK ? match_next(regex, *scratch, walk, start, end) : st;
}
