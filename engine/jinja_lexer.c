#include "engine/jinja_lexer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/jinja_text.h"

enum { MAX_BRACKETS = 100, MAX_NUMBER_BYTES = 64 };

struct lexer {
    struct jinja_heap *heap;
    const char *src;
    size_t len;
    size_t pos;
    bool line_starting; /* the last tag ended with a newline, or nothing came yet */
    char brackets[MAX_BRACKETS];
    size_t n_brackets;
    struct jinja_token *tokens;
    size_t n;
    size_t cap;
};

static struct jinja_token *token_add(struct lexer *lx, enum jinja_token_type type, const char *text, size_t len)
{
    if (lx->n == lx->cap) {
        size_t cap = lx->cap ? 2 * lx->cap : 64;
        struct jinja_token *grown = jinja_alloc_array(lx->heap, cap, sizeof *grown);
        if (lx->n)
            memcpy(grown, lx->tokens, lx->n * sizeof *grown);
        lx->tokens = grown;
        lx->cap = cap;
    }
    struct jinja_token *token = &lx->tokens[lx->n++];
    *token = (struct jinja_token){ .type = type, .line = lx->heap->line, .text = text, .len = len };
    return token;
}

/* Moves on and keeps count of lines. */
static void advance_to(struct lexer *lx, size_t pos)
{
    for (; lx->pos < pos; lx->pos++)
        lx->heap->line += lx->src[lx->pos] == '\n';
}

static bool starts(const struct lexer *lx, size_t pos, const char *text)
{
    size_t len = strlen(text);
    return pos <= lx->len && lx->len - pos >= len && memcmp(lx->src + pos, text, len) == 0;
}

static size_t skip_space(const struct lexer *lx, size_t pos)
{
    return pos + jinja_leading_space(lx->src + pos, lx->len - pos);
}

/* The end of a tag that closes with mark ("%}", "#}" or "}}") at pos, sign
 * included; 0 when none is there. */
static size_t tag_end(const struct lexer *lx, size_t pos, const char *mark)
{
    bool prints = mark[0] == '}';
    if (starts(lx, pos, "-") && starts(lx, pos + 1, mark))
        return skip_space(lx, pos + 3);
    if (!prints && starts(lx, pos, "+") && starts(lx, pos + 1, mark))
        return pos + 3;
    if (!starts(lx, pos, mark))
        return 0;
    return pos + 2 + (!prints && starts(lx, pos + 2, "\n"));
}

static void finish_tag(struct lexer *lx, size_t end)
{
    lx->line_starting = lx->src[end - 1] == '\n';
    advance_to(lx, end);
}

/* Text before a tag that opens at end with the given sign. */
static void lex_data(struct lexer *lx, size_t end, char sign, bool strips_line)
{
    const char *text = lx->src + lx->pos;
    size_t len = end - lx->pos;
    if (sign == '-') {
        len -= jinja_trailing_space(text, len);
    } else if (sign != '+' && strips_line) {
        size_t line = len;
        while (line > 0 && text[line - 1] != '\n')
            line--;
        if ((line > 0 || lx->line_starting) && jinja_leading_space(text + line, len - line) == len - line)
            len = line;
    }
    if (len)
        token_add(lx, TOKEN_DATA, text, len);
    advance_to(lx, end);
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

/* One \x, \u, \U or octal escape at *at (after the backslash). */
static void lex_numeric_escape(struct lexer *lx, struct jinja_buf *out, const char **at, const char *end)
{
    char kind = **at;
    int base = 16;
    size_t n = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;
    if (digit_value(kind) < 8) {
        base = 8;
        n = 3;
    } else {
        (*at)++;
    }
    int64_t code = 0;
    size_t got = 0;
    for (; got < n && *at < end && digit_value(**at) < base; got++)
        code = code * base + digit_value(*(*at)++);
    if ((base == 16 && got < n) || !utf8proc_codepoint_valid((int32_t)(code > 0x10FFFF ? -1 : code)))
        jinja_fail(lx->heap, ST_INVALID, "a string holds a wrong \\%c escape", kind);
    jinja_put_char(lx->heap, out, (int32_t)code);
}

/* Python turns what is not ASCII into escapes before it looks at backslashes,
 * so a backslash before such a character yields the escape's own text. */
static void lex_unknown_escape(struct lexer *lx, struct jinja_buf *out, const char **at, const char *end)
{
    int32_t code;
    size_t len = jinja_char_at(*at, (size_t)(end - *at), &code);
    jinja_buf_char(lx->heap, out, '\\');
    if (code < 0x80) {
        jinja_buf_add(lx->heap, out, *at, len);
    } else {
        char text[16];
        int n = snprintf(text, sizeof text,
                         code < 0x100     ? "x%02x"
                         : code < 0x10000 ? "u%04x"
                                          : "U%08x",
                         (unsigned)code);
        jinja_buf_add(lx->heap, out, text, (size_t)n);
    }
    *at += len;
}

static void lex_escape(struct lexer *lx, struct jinja_buf *out, const char **at, const char *end)
{
    static const char plain[] = "\\\\''\"\"a\ab\bf\fn\nr\rt\tv\v";
    char c = **at;
    for (const char *p = plain; *p; p += 2)
        if (*p == c) {
            jinja_buf_char(lx->heap, out, p[1]);
            (*at)++;
            return;
        }
    if (c == '\n')
        (*at)++;
    else if (c == 'x' || c == 'u' || c == 'U' || (c >= '0' && c <= '7'))
        lex_numeric_escape(lx, out, at, end);
    else if (c == 'N')
        jinja_fail(lx->heap, ST_UNSUPPORTED, "the escape \\N{...} is not supported");
    else
        lex_unknown_escape(lx, out, at, end);
}

static void lex_string(struct lexer *lx)
{
    char quote = lx->src[lx->pos];
    size_t end = lx->pos + 1;
    bool escaped = false;
    while (end < lx->len && lx->src[end] != quote) {
        escaped |= lx->src[end] == '\\';
        end += lx->src[end] == '\\' ? 2 : 1;
    }
    if (end >= lx->len)
        jinja_fail(lx->heap, ST_INVALID, "a string is not closed");
    const char *at = lx->src + lx->pos + 1, *last = lx->src + end;
    if (!escaped) {
        token_add(lx, TOKEN_STRING, at, (size_t)(last - at));
    } else {
        struct jinja_buf out = { 0 };
        while (at < last) {
            if (*at != '\\') {
                jinja_buf_char(lx->heap, &out, *at++);
            } else {
                at++;
                lex_escape(lx, &out, &at, last);
            }
        }
        token_add(lx, TOKEN_STRING, out.bytes, out.len);
    }
    advance_to(lx, end + 1);
}

static size_t digits_end(const struct lexer *lx, size_t pos, int base)
{
    while (pos < lx->len && (digit_value(lx->src[pos]) < base ||
                             (lx->src[pos] == '_' && pos + 1 < lx->len && digit_value(lx->src[pos + 1]) < base)))
        pos++;
    return pos;
}

/* The end of ".5", "e7" or ".5e7" at pos, else pos. */
static size_t fraction_end(const struct lexer *lx, size_t pos)
{
    if (lx->pos > 0 && lx->src[lx->pos - 1] == '.')
        return pos; /* as in a.0.1 */
    size_t end = pos;
    if (starts(lx, pos, ".") && pos + 1 < lx->len && digit_value(lx->src[pos + 1]) < 10)
        end = digits_end(lx, pos + 1, 10);
    if (starts(lx, end, "e") || starts(lx, end, "E")) {
        size_t digits = end + 1 + (starts(lx, end + 1, "+") || starts(lx, end + 1, "-"));
        if (digits < lx->len && digit_value(lx->src[digits]) < 10)
            end = digits_end(lx, digits, 10);
    }
    return end;
}

static void lex_number(struct lexer *lx)
{
    int base = 10;
    size_t from = lx->pos;
    if (lx->src[from] == '0' && from + 1 < lx->len) {
        char c = lx->src[from + 1] | 0x20;
        int prefixed = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        size_t first = from + 2 + (prefixed != 10 && starts(lx, from + 2, "_"));
        if (prefixed != 10 && first < lx->len && digit_value(lx->src[first]) < prefixed) {
            base = prefixed;
            from = first;
        }
    }
    size_t end = digits_end(lx, from, base), whole = end;
    if (base == 10)
        end = fraction_end(lx, end);
    /* As in Python, nothing but zeros follows a leading zero. */
    if (base == 10 && end == whole && lx->src[from] == '0')
        end = whole = digits_end(lx, from, 1);
    char text[MAX_NUMBER_BYTES];
    size_t n = 0;
    for (size_t i = from; i < end && n < sizeof text - 1; i++)
        if (lx->src[i] != '_')
            text[n++] = lx->src[i];
    text[n] = 0;
    struct jinja_token *token =
        token_add(lx, end > whole ? TOKEN_FLOAT : TOKEN_INTEGER, lx->src + lx->pos, end - lx->pos);
    errno = 0;
    if (end > whole)
        token->real = strtod(text, NULL);
    else
        token->integer = strtoll(text, NULL, base);
    if (end - from >= sizeof text || (end == whole && errno == ERANGE))
        jinja_fail(lx->heap, ST_UNSUPPORTED, "the number %s is beyond 64 bits", text);
    advance_to(lx, end);
}

static bool name_char(int32_t code, bool first)
{
    if (code < 0x80)
        return code == '_' || ((code | 0x20) >= 'a' && (code | 0x20) <= 'z') || (!first && code >= '0' && code <= '9');
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
        return true;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
        return !first;
    default:
        return false;
    }
}

/* 0 when no name starts here. */
static size_t name_end(const struct lexer *lx, size_t pos)
{
    size_t end = pos;
    while (end < lx->len) {
        int32_t code;
        size_t n = jinja_char_at(lx->src + end, lx->len - end, &code);
        if (!name_char(code, end == pos))
            break;
        end += n;
    }
    return end > pos ? end : 0;
}

static void balance(struct lexer *lx, int op)
{
    static const char pairs[] = "(){}[]";
    const char *at = op < 0x80 ? strchr(pairs, op) : NULL;
    if (!at)
        return;
    if ((at - pairs) % 2 == 0) {
        if (lx->n_brackets == MAX_BRACKETS)
            jinja_fail(lx->heap, ST_LIMIT, "brackets nest deeper than %d", MAX_BRACKETS);
        lx->brackets[lx->n_brackets++] = at[1];
    } else if (lx->n_brackets == 0 || lx->brackets[--lx->n_brackets] != op) {
        jinja_fail(lx->heap, ST_INVALID, "unexpected '%c'", op);
    }
}

static void lex_operator(struct lexer *lx)
{
    static const char *const doubles[] = { "//", "**", "==", "!=", ">=", "<=" };
    char c = lx->src[lx->pos];
    int op = c;
    size_t n = 1;
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
        if (starts(lx, lx->pos, doubles[i])) {
            op = JINJA_OP2(doubles[i][0], doubles[i][1]);
            n = 2;
        }
    if (n == 1 && (c == 0 || !strchr("+-/*%~[](){}><=.:|,;", c)))
        jinja_fail(lx->heap, ST_INVALID, "unexpected character '%.*s'",
                   (int)jinja_char_at(lx->src + lx->pos, lx->len - lx->pos, &(int32_t){ 0 }), lx->src + lx->pos);
    balance(lx, op);
    token_add(lx, TOKEN_OPERATOR, lx->src + lx->pos, n)->op = op;
    advance_to(lx, lx->pos + n);
}

/* The inside of {% %} or {{ }}, to its end. */
static void lex_tag(struct lexer *lx, const char *mark, enum jinja_token_type end_type)
{
    lx->n_brackets = 0;
    for (;;) {
        size_t end = lx->n_brackets ? 0 : tag_end(lx, lx->pos, mark);
        if (end) {
            token_add(lx, end_type, lx->src + lx->pos, 2);
            finish_tag(lx, end);
            return;
        }
        size_t space = skip_space(lx, lx->pos);
        if (space > lx->pos) {
            advance_to(lx, space);
            continue;
        }
        if (lx->pos >= lx->len)
            jinja_fail(lx->heap, ST_INVALID, "unexpected end of template, expected '%s'", mark);
        char c = lx->src[lx->pos];
        size_t name = name_end(lx, lx->pos);
        if (c == '"' || c == '\'') {
            lex_string(lx);
        } else if (c >= '0' && c <= '9') {
            lex_number(lx);
        } else if (name) {
            token_add(lx, TOKEN_NAME, lx->src + lx->pos, name - lx->pos);
            advance_to(lx, name);
        } else {
            lex_operator(lx);
        }
    }
}

static void lex_comment(struct lexer *lx)
{
    for (size_t pos = lx->pos; pos < lx->len; pos++) {
        size_t end = tag_end(lx, pos, "#}");
        if (end) {
            finish_tag(lx, end);
            return;
        }
    }
    /* Jinja lets one pass that opens at the very end; so with raw below. */
    if (lx->pos < lx->len)
        jinja_fail(lx->heap, ST_INVALID, "a comment is not closed");
}

/* The end of a "{% word" tag's word at pos, else 0. */
static size_t word_end(const struct lexer *lx, size_t pos, const char *word)
{
    pos = skip_space(lx, pos);
    return starts(lx, pos, word) ? skip_space(lx, pos + strlen(word)) : 0;
}

/* Where the text of a raw block starts, if the tag at pos opens one; else 0.
 * The newline after it stays, unlike after other tags. */
static size_t raw_begin(const struct lexer *lx, size_t pos)
{
    size_t at = word_end(lx, pos, "raw");
    if (!at)
        return 0;
    if (starts(lx, at, "%}"))
        return at + 2;
    return starts(lx, at, "-%}") ? skip_space(lx, at + 3) : 0;
}

static void lex_raw(struct lexer *lx)
{
    for (size_t pos = lx->pos; pos < lx->len; pos++) {
        if (!starts(lx, pos, "{%"))
            continue;
        char sign = pos + 2 < lx->len ? lx->src[pos + 2] : 0;
        bool is_signed = sign == '-' || sign == '+';
        size_t at = word_end(lx, pos + 2 + is_signed, "endraw");
        size_t end = at ? tag_end(lx, at, "%}") : 0;
        if (end) {
            lex_data(lx, pos, sign, true);
            finish_tag(lx, end);
            return;
        }
    }
    if (lx->pos < lx->len)
        jinja_fail(lx->heap, ST_INVALID, "a raw block is not closed");
}

static size_t next_tag(const struct lexer *lx)
{
    for (size_t pos = lx->pos; pos + 1 < lx->len; pos++) {
        char c = lx->src[pos + 1];
        if (lx->src[pos] == '{' && (c == '%' || c == '{' || c == '#'))
            return pos;
    }
    return lx->len;
}

static void lex_next(struct lexer *lx)
{
    size_t tag = next_tag(lx);
    char kind = tag < lx->len ? lx->src[tag + 1] : 0;
    char sign = tag + 2 < lx->len ? lx->src[tag + 2] : 0;
    bool is_signed = sign == '-' || sign == '+';
    lex_data(lx, tag, kind ? sign : '+', kind != '{');
    if (!kind)
        return;
    size_t inside = tag + 2 + is_signed;
    size_t raw = kind == '%' ? raw_begin(lx, inside) : 0;
    if (raw) {
        finish_tag(lx, raw);
        lex_raw(lx);
        return;
    }
    if (kind != '#')
        token_add(lx, kind == '%' ? TOKEN_BLOCK_BEGIN : TOKEN_PRINT_BEGIN, lx->src + tag, 2);
    advance_to(lx, inside);
    if (kind == '#')
        lex_comment(lx);
    else
        lex_tag(lx, kind == '%' ? "%}" : "}}", kind == '%' ? TOKEN_BLOCK_END : TOKEN_PRINT_END);
}

/* Line ends become '\n', and one at the very end goes. */
static void normalise(struct lexer *lx, const char *source, size_t len)
{
    char *out = jinja_alloc(lx->heap, len);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n')
            continue;
        out[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n && out[n - 1] == '\n')
        n--;
    lx->src = out;
    lx->len = n;
}

const struct jinja_token *jinja_lex(struct jinja_heap *heap, const char *source, size_t len)
{
    heap->line = 1;
    if (!jinja_valid_utf8(source, len))
        jinja_fail(heap, ST_INVALID, "the template is not valid UTF-8");
    struct lexer lx = { .heap = heap, .line_starting = true };
    normalise(&lx, source, len);
    while (lx.pos < lx.len)
        lex_next(&lx);
    token_add(&lx, TOKEN_END, "", 0);
    return lx.tokens;
}
