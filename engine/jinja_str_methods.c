#include <utf8proc.h>

#include "engine/jinja_builtins.h"
#include "engine/jinja_case.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

/* A parameter that may be absent or None. */
static const struct jinja_str *str_or_null(const struct jinja_call *call, struct jinja_value v)
{
    return !jinja_given(v) || v.kind == JINJA_NONE ? NULL : jinja_arg_str(call, v);
}

static int64_t int_or(const struct jinja_call *call, struct jinja_value v, int64_t absent)
{
    return jinja_given(v) ? jinja_arg_int(call, v) : absent;
}

static struct jinja_value str_strip(const struct jinja_call *call)
{
    return jinja_of_str(jinja_strip(call->heap, call->self.str, str_or_null(call, call->arg[0]), true, true));
}

static struct jinja_value str_lstrip(const struct jinja_call *call)
{
    return jinja_of_str(jinja_strip(call->heap, call->self.str, str_or_null(call, call->arg[0]), true, false));
}

static struct jinja_value str_rstrip(const struct jinja_call *call)
{
    return jinja_of_str(jinja_strip(call->heap, call->self.str, str_or_null(call, call->arg[0]), false, true));
}

static struct jinja_value str_split(const struct jinja_call *call)
{
    return jinja_split(call->heap, call->self.str, str_or_null(call, call->arg[0]), int_or(call, call->arg[1], -1),
                       false);
}

static struct jinja_value str_rsplit(const struct jinja_call *call)
{
    return jinja_split(call->heap, call->self.str, str_or_null(call, call->arg[0]), int_or(call, call->arg[1], -1),
                       true);
}

static struct jinja_value str_splitlines(const struct jinja_call *call)
{
    bool keep = jinja_given(call->arg[0]) && jinja_truth(call->heap, call->arg[0]);
    return jinja_splitlines(call->heap, call->self.str, keep);
}

static struct jinja_value str_replace(const struct jinja_call *call)
{
    return jinja_of_str(jinja_replace(call->heap, call->self.str, jinja_arg_str(call, call->arg[0]),
                                      jinja_arg_str(call, call->arg[1]), int_or(call, call->arg[2], -1)));
}

static struct jinja_value str_join(const struct jinja_call *call)
{
    struct jinja_items items = jinja_items(call->heap, call->arg[0]);
    struct jinja_buf out = { 0 };
    for (size_t i = 0; i < items.n; i++) {
        const struct jinja_str *s = jinja_arg_str(call, items.at[i]);
        if (i)
            jinja_buf_add(call->heap, &out, call->self.str->bytes, call->self.str->len);
        jinja_buf_add(call->heap, &out, s->bytes, s->len);
    }
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

/* Byte bounds of [start:end], both optional, in arguments 1 and 2. */
struct window {
    size_t from, to;
    bool empty; /* starts behind its end or the string's */
};

static size_t window_edge(const struct jinja_call *call, struct jinja_value v, int64_t absent)
{
    int64_t n = (int64_t)call->self.str->chars;
    int64_t at = !jinja_given(v) || v.kind == JINJA_NONE ? absent : jinja_arg_int(call, v);
    if (at < 0)
        at = at < -n ? 0 : at + n;
    return (size_t)at;
}

static struct window window_of(const struct jinja_call *call)
{
    const struct jinja_str *s = call->self.str;
    size_t from = window_edge(call, call->arg[1], 0), to = window_edge(call, call->arg[2], (int64_t)s->chars);
    return (struct window){ jinja_byte_offset(s, from), jinja_byte_offset(s, to), from > s->chars || from > to };
}

static bool has_affix(const struct jinja_str *s, struct window w, const struct jinja_str *affix, bool at_end)
{
    if (w.empty || w.to - w.from < affix->len)
        return false;
    return memcmp(s->bytes + (at_end ? w.to - affix->len : w.from), affix->bytes, affix->len) == 0;
}

static struct jinja_value has_any_affix(const struct jinja_call *call, bool at_end)
{
    struct window w = window_of(call);
    if (call->arg[0].kind != JINJA_LIST || call->arg[0].list->form != FORM_TUPLE)
        return jinja_bool(has_affix(call->self.str, w, jinja_arg_str(call, call->arg[0]), at_end));
    const struct jinja_list *choices = call->arg[0].list;
    for (size_t i = 0; i < choices->n; i++)
        if (has_affix(call->self.str, w, jinja_arg_str(call, choices->items[i]), at_end))
            return jinja_bool(true);
    return jinja_bool(false);
}

static struct jinja_value str_startswith(const struct jinja_call *call)
{
    return has_any_affix(call, false);
}

static struct jinja_value str_endswith(const struct jinja_call *call)
{
    return has_any_affix(call, true);
}

static struct jinja_value found_at(const struct jinja_call *call, bool last, bool must)
{
    const struct jinja_str *s = call->self.str, *needle = jinja_arg_str(call, call->arg[0]);
    struct window w = window_of(call);
    size_t at = SIZE_MAX;
    if (!w.empty)
        at = last ? jinja_find_last(call->heap, s, needle, w.from, w.to)
                  : jinja_find(call->heap, s, needle, w.from, w.to);
    if (at == SIZE_MAX && must)
        jinja_fail(call->heap, ST_INVALID, "substring not found");
    return jinja_int(at == SIZE_MAX ? -1 : (int64_t)jinja_count_chars(s->bytes, at));
}

static struct jinja_value str_find(const struct jinja_call *call)
{
    return found_at(call, false, false);
}

static struct jinja_value str_rfind(const struct jinja_call *call)
{
    return found_at(call, true, false);
}

static struct jinja_value str_index(const struct jinja_call *call)
{
    return found_at(call, false, true);
}

static struct jinja_value str_rindex(const struct jinja_call *call)
{
    return found_at(call, true, true);
}

static struct jinja_value str_count(const struct jinja_call *call)
{
    const struct jinja_str *s = call->self.str, *needle = jinja_arg_str(call, call->arg[0]);
    struct window w = window_of(call);
    int64_t n = 0;
    if (w.empty)
        return jinja_int(0);
    if (!needle->len)
        return jinja_int((int64_t)jinja_count_chars(s->bytes + w.from, w.to - w.from) + 1);
    for (size_t at = w.from; (at = jinja_find(call->heap, s, needle, at, w.to)) != SIZE_MAX; at += needle->len) {
        jinja_charge(call->heap, 1);
        n++;
    }
    return jinja_int(n);
}

static struct jinja_value str_upper(const struct jinja_call *call)
{
    return jinja_of_str(jinja_upper(call->heap, call->self.str));
}

static struct jinja_value str_lower(const struct jinja_call *call)
{
    return jinja_of_str(jinja_lower(call->heap, call->self.str));
}

static struct jinja_value str_title(const struct jinja_call *call)
{
    return jinja_of_str(jinja_title(call->heap, call->self.str));
}

static struct jinja_value str_capitalize(const struct jinja_call *call)
{
    return jinja_of_str(jinja_capitalize(call->heap, call->self.str));
}

static struct jinja_value str_removeprefix(const struct jinja_call *call)
{
    const struct jinja_str *s = call->self.str, *affix = jinja_arg_str(call, call->arg[0]);
    if (!has_affix(s, (struct window){ 0, s->len, false }, affix, false))
        return call->self;
    return jinja_of_str(jinja_str_new(call->heap, s->bytes + affix->len, s->len - affix->len));
}

static struct jinja_value str_removesuffix(const struct jinja_call *call)
{
    const struct jinja_str *s = call->self.str, *affix = jinja_arg_str(call, call->arg[0]);
    if (!has_affix(s, (struct window){ 0, s->len, false }, affix, true))
        return call->self;
    return jinja_of_str(jinja_str_new(call->heap, s->bytes, s->len - affix->len));
}

static struct jinja_value partitioned(const struct jinja_call *call, bool last)
{
    const struct jinja_str *s = call->self.str, *sep = jinja_arg_str(call, call->arg[0]);
    const struct jinja_str *none = jinja_str_new(call->heap, "", 0);
    struct jinja_list *out = jinja_list_new(call->heap, FORM_TUPLE, 3);
    if (!sep->len)
        jinja_fail(call->heap, ST_INVALID, "empty separator");
    size_t at = last ? jinja_find_last(call->heap, s, sep, 0, s->len) : jinja_find(call->heap, s, sep, 0, s->len);
    for (int i = 0; i < 3; i++)
        out->items[i] = jinja_of_str(none);
    if (at == SIZE_MAX) {
        out->items[last ? 2 : 0] = call->self;
        return jinja_of_list(out);
    }
    out->items[0] = jinja_of_str(jinja_str_new(call->heap, s->bytes, at));
    out->items[1] = jinja_of_str(sep);
    out->items[2] = jinja_of_str(jinja_str_new(call->heap, s->bytes + at + sep->len, s->len - at - sep->len));
    return jinja_of_list(out);
}

static struct jinja_value str_partition(const struct jinja_call *call)
{
    return partitioned(call, false);
}

static struct jinja_value str_rpartition(const struct jinja_call *call)
{
    return partitioned(call, true);
}

/* left and right fill characters around the string. */
static struct jinja_value padded(const struct jinja_call *call, size_t left, size_t right)
{
    const struct jinja_str *s = call->self.str, *fill = str_or_null(call, call->arg[1]);
    struct jinja_buf out = { 0 };
    if (fill && fill->chars != 1)
        jinja_fail(call->heap, ST_INVALID, "the fill character must be exactly one character long");
    if (!fill)
        fill = jinja_str_new(call->heap, " ", 1);
    jinja_charge(call->heap, (left + right) / 8);
    for (size_t i = 0; i < left; i++)
        jinja_buf_add(call->heap, &out, fill->bytes, fill->len);
    jinja_buf_add(call->heap, &out, s->bytes, s->len);
    for (size_t i = 0; i < right; i++)
        jinja_buf_add(call->heap, &out, fill->bytes, fill->len);
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

/* Characters lacking to the width in argument 0. */
static size_t lacking(const struct jinja_call *call)
{
    int64_t width = jinja_arg_int(call, call->arg[0]), n = (int64_t)call->self.str->chars;
    return width > n ? (size_t)(width - n) : 0;
}

static struct jinja_value str_ljust(const struct jinja_call *call)
{
    return padded(call, 0, lacking(call));
}

static struct jinja_value str_rjust(const struct jinja_call *call)
{
    return padded(call, lacking(call), 0);
}

static struct jinja_value str_center(const struct jinja_call *call)
{
    size_t n = lacking(call), width = call->self.str->chars + n;
    size_t left = n / 2 + (n & width & 1);
    return padded(call, left, n - left);
}

static struct jinja_value str_zfill(const struct jinja_call *call)
{
    const struct jinja_str *s = call->self.str;
    struct jinja_buf out = { 0 };
    size_t n = lacking(call), sign = s->len && (s->bytes[0] == '+' || s->bytes[0] == '-');
    jinja_charge(call->heap, n / 8);
    jinja_buf_add(call->heap, &out, s->bytes, sign);
    jinja_buf_fill(call->heap, &out, '0', n);
    jinja_buf_add(call->heap, &out, s->bytes + sign, s->len - sign);
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

static bool is_alpha(int32_t code)
{
    utf8proc_category_t c = utf8proc_category(code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

/* Decimal digits, and the superscripts, circled and so on that Unicode counts
 * as digits without a category of their own. */
static bool is_digit(int32_t code)
{
    static const int32_t runs[][2] = {
        { 0xB2, 0xB3 },     { 0xB9, 0xB9 },       { 0x1369, 0x1371 },   { 0x19DA, 0x19DA },   { 0x2070, 0x2070 },
        { 0x2074, 0x2079 }, { 0x2080, 0x2089 },   { 0x2460, 0x2468 },   { 0x2474, 0x247C },   { 0x2488, 0x2490 },
        { 0x24EA, 0x24EA }, { 0x24F5, 0x24FD },   { 0x24FF, 0x24FF },   { 0x2776, 0x277E },   { 0x2780, 0x2788 },
        { 0x278A, 0x2792 }, { 0x10A40, 0x10A43 }, { 0x10E60, 0x10E68 }, { 0x11052, 0x1105A }, { 0x1F100, 0x1F10A }
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++)
        if (code >= runs[i][0] && code <= runs[i][1])
            return true;
    return utf8proc_category(code) == UTF8PROC_CATEGORY_ND;
}

static bool is_alnum(int32_t code)
{
    utf8proc_category_t c = utf8proc_category(code);
    return is_alpha(code) || is_digit(code) || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

static bool is_ascii(int32_t code)
{
    return code < 0x80;
}

static struct jinja_value all_chars(const struct jinja_call *call, bool (*is)(int32_t code), bool when_empty)
{
    const struct jinja_str *s = call->self.str;
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        at += jinja_char_at(s->bytes + at, s->len - at, &code);
        if (!is(code))
            return jinja_bool(false);
    }
    return jinja_bool(s->len > 0 || when_empty);
}

static struct jinja_value str_isalpha(const struct jinja_call *call)
{
    return all_chars(call, is_alpha, false);
}

static struct jinja_value str_isdigit(const struct jinja_call *call)
{
    return all_chars(call, is_digit, false);
}

static struct jinja_value str_isalnum(const struct jinja_call *call)
{
    return all_chars(call, is_alnum, false);
}

static struct jinja_value str_isspace(const struct jinja_call *call)
{
    return all_chars(call, jinja_is_space, false);
}

static struct jinja_value str_isascii(const struct jinja_call *call)
{
    return all_chars(call, is_ascii, true);
}

static struct jinja_value str_isupper(const struct jinja_call *call)
{
    return jinja_bool(jinja_is_upper(call->self.str));
}

static struct jinja_value str_islower(const struct jinja_call *call)
{
    return jinja_bool(jinja_is_lower(call->self.str));
}

const struct jinja_builtin jinja_str_methods[] = {
    { "strip", str_strip, 0, { "chars" } },
    { "lstrip", str_lstrip, 0, { "chars" } },
    { "rstrip", str_rstrip, 0, { "chars" } },
    { "split", str_split, 0, { "sep", "maxsplit" } },
    { "rsplit", str_rsplit, 0, { "sep", "maxsplit" } },
    { "splitlines", str_splitlines, 0, { "keepends" } },
    { "replace", str_replace, 2, { "old", "new", "count" } },
    { "join", str_join, 1, { "iterable" } },
    { "startswith", str_startswith, 1, { "prefix", "start", "end" } },
    { "endswith", str_endswith, 1, { "suffix", "start", "end" } },
    { "find", str_find, 1, { "sub", "start", "end" } },
    { "rfind", str_rfind, 1, { "sub", "start", "end" } },
    { "index", str_index, 1, { "sub", "start", "end" } },
    { "rindex", str_rindex, 1, { "sub", "start", "end" } },
    { "count", str_count, 1, { "sub", "start", "end" } },
    { "upper", str_upper, 0, { 0 } },
    { "lower", str_lower, 0, { 0 } },
    { "title", str_title, 0, { 0 } },
    { "capitalize", str_capitalize, 0, { 0 } },
    { "removeprefix", str_removeprefix, 1, { "prefix" } },
    { "removesuffix", str_removesuffix, 1, { "suffix" } },
    { "partition", str_partition, 1, { "sep" } },
    { "rpartition", str_rpartition, 1, { "sep" } },
    { "ljust", str_ljust, 1, { "width", "fillchar" } },
    { "rjust", str_rjust, 1, { "width", "fillchar" } },
    { "center", str_center, 1, { "width", "fillchar" } },
    { "zfill", str_zfill, 1, { "width" } },
    { "isalpha", str_isalpha, 0, { 0 } },
    { "isdigit", str_isdigit, 0, { 0 } },
    { "isalnum", str_isalnum, 0, { 0 } },
    { "isspace", str_isspace, 0, { 0 } },
    { "isascii", str_isascii, 0, { 0 } },
    { "isupper", str_isupper, 0, { 0 } },
    { "islower", str_islower, 0, { 0 } },
    { 0 },
};
