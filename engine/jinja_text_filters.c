#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/jinja_builtins.h"
#include "engine/jinja_case.h"
#include "engine/jinja_print.h"
#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

enum { MAX_NUMBER_BYTES = 400, MAX_DECIMALS = 300 };

static const struct jinja_str *input(const struct jinja_call *call)
{
    return jinja_to_str(call->heap, call->self);
}

static struct jinja_value filter_string(const struct jinja_call *call)
{
    return jinja_of_str(input(call));
}

static struct jinja_value filter_upper(const struct jinja_call *call)
{
    return jinja_of_str(jinja_upper(call->heap, input(call)));
}

static struct jinja_value filter_lower(const struct jinja_call *call)
{
    return jinja_of_str(jinja_lower(call->heap, input(call)));
}

static struct jinja_value filter_capitalize(const struct jinja_call *call)
{
    return jinja_of_str(jinja_capitalize(call->heap, input(call)));
}

static bool between_words(int32_t code)
{
    return jinja_is_space(code) || code == '-' || code == '(' || code == '{' || code == '[' || code == '<';
}

/* Not str.title(): words end at white space, hyphens and opening brackets only. */
static struct jinja_value filter_title(const struct jinja_call *call)
{
    const struct jinja_str *s = input(call);
    struct jinja_buf out = { 0 };
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        size_t first = jinja_char_at(s->bytes + at, s->len - at, &code), end = at + first, n;
        bool between = between_words(code);
        for (; end < s->len; end += n) {
            n = jinja_char_at(s->bytes + end, s->len - end, &code);
            if (between_words(code) != between)
                break;
        }
        const struct jinja_str *head = jinja_upper(call->heap, jinja_str_new(call->heap, s->bytes + at, first));
        const struct jinja_str *tail =
            jinja_lower(call->heap, jinja_str_new(call->heap, s->bytes + at + first, end - at - first));
        jinja_buf_add(call->heap, &out, head->bytes, head->len);
        jinja_buf_add(call->heap, &out, tail->bytes, tail->len);
        at = end;
    }
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

static struct jinja_value filter_trim(const struct jinja_call *call)
{
    struct jinja_value chars = call->arg[0];
    bool plain = !jinja_given(chars) || chars.kind == JINJA_NONE;
    return jinja_of_str(jinja_strip(call->heap, input(call), plain ? NULL : jinja_arg_str(call, chars), true, true));
}

static struct jinja_value filter_replace(const struct jinja_call *call)
{
    struct jinja_value count = call->arg[2];
    int64_t max = !jinja_given(count) || count.kind == JINJA_NONE ? -1 : jinja_arg_int(call, count);
    return jinja_of_str(jinja_replace(call->heap, input(call), jinja_to_str(call->heap, call->arg[0]),
                                      jinja_to_str(call->heap, call->arg[1]), max));
}

static struct jinja_value filter_center(const struct jinja_call *call)
{
    const struct jinja_str *name = jinja_str_new(call->heap, "center", 6);
    struct jinja_value width = jinja_given(call->arg[0]) ? call->arg[0] : jinja_int(80);
    struct jinja_args args = { .n = 1, .at = &width };
    return jinja_call(call->run, jinja_attr(call->heap, jinja_of_str(input(call)), name), &args);
}

static struct jinja_value filter_default(const struct jinja_call *call)
{
    bool falsy_too = jinja_given(call->arg[1]) && jinja_truth(call->heap, call->arg[1]);
    if (call->self.kind != JINJA_UNDEFINED && !(falsy_too && !jinja_truth(call->heap, call->self)))
        return call->self;
    return jinja_given(call->arg[0]) ? call->arg[0] : jinja_of_str(jinja_str_new(call->heap, "", 0));
}

/* What indent puts before a line: a width in spaces or the text itself. */
static const struct jinja_str *indentation(const struct jinja_call *call, struct jinja_value width)
{
    if (width.kind == JINJA_STR)
        return width.str;
    int64_t n = jinja_given(width) ? jinja_arg_int(call, width) : 4;
    struct jinja_buf spaces = { 0 };
    jinja_charge(call->heap, n > 0 ? (uint64_t)n / 8 : 0);
    jinja_buf_fill(call->heap, &spaces, ' ', n > 0 ? (size_t)n : 0);
    return jinja_str_of_buf(call->heap, &spaces);
}

static struct jinja_value filter_indent(const struct jinja_call *call)
{
    const struct jinja_str *before = indentation(call, call->arg[0]);
    bool first = jinja_given(call->arg[1]) && jinja_truth(call->heap, call->arg[1]);
    bool blank = jinja_given(call->arg[2]) && jinja_truth(call->heap, call->arg[2]);
    /* As Jinja does it: the added newline keeps a last empty line. */
    const struct jinja_str *text =
        jinja_str_join(call->heap, jinja_arg_str(call, call->self), jinja_str_new(call->heap, "\n", 1));
    const struct jinja_list *lines = jinja_splitlines(call->heap, text, false).list;
    struct jinja_buf out = { 0 };
    for (size_t i = 0; i < lines->n; i++) {
        const struct jinja_str *line = lines->items[i].str;
        if (i)
            jinja_buf_char(call->heap, &out, '\n');
        if (i ? blank || line->len : first)
            jinja_buf_add(call->heap, &out, before->bytes, before->len);
        jinja_buf_add(call->heap, &out, line->bytes, line->len);
    }
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

static struct jinja_value filter_length(const struct jinja_call *call)
{
    return jinja_int((int64_t)jinja_length(call->heap, call->self));
}

static struct jinja_value filter_abs(const struct jinja_call *call)
{
    struct jinja_value v = call->self;
    if (v.kind == JINJA_FLOAT)
        return jinja_float(fabs(v.real));
    int64_t i = jinja_arg_int(call, v);
    return i < 0 ? jinja_negate(call->heap, v) : jinja_int(i);
}

/* Digits of a number in s without white space around and "_" within, for
 * strtoll and strtod; false when Python would not read it. */
static bool number_text(const struct jinja_call *call, const struct jinja_str *s, char out[static MAX_NUMBER_BYTES])
{
    size_t n = 0;
    s = jinja_strip(call->heap, s, NULL, true, true);
    for (size_t i = 0; i < s->len; i++) {
        char c = s->bytes[i];
        bool between = i > 0 && i + 1 < s->len && s->bytes[i - 1] != '_' && s->bytes[i - 1] != '+' &&
                       s->bytes[i - 1] != '-' && s->bytes[i + 1] != '_';
        if ((c == '_' && !between) || c <= ' ' || n + 1 >= MAX_NUMBER_BYTES)
            return false;
        if (c != '_')
            out[n++] = c;
    }
    out[n] = 0;
    return n > 0;
}

static bool parse_real(const struct jinja_call *call, struct jinja_value v, double *out)
{
    char text[MAX_NUMBER_BYTES], *end;
    if (v.kind == JINJA_UNDEFINED)
        jinja_fail_undefined(call->heap, v);
    if (jinja_is_number(v))
        *out = jinja_as_real(v);
    if (v.kind != JINJA_STR)
        return jinja_is_number(v);
    if (!number_text(call, v.str, text) || strpbrk(text, "xX("))
        return false;
    *out = strtod(text, &end);
    return *end == 0;
}

static bool parse_int(const struct jinja_call *call, const struct jinja_str *s, int base, int64_t *out)
{
    char text[MAX_NUMBER_BYTES], *end;
    if (!number_text(call, s, text))
        return false;
    char *digits = text + (*text == '-' || *text == '+');
    char prefix = base == 2 ? 'b' : base == 8 ? 'o' : 'x';
    if ((base == 2 || base == 8 || base == 16) && digits[0] == '0' && (digits[1] | 0x20) == prefix)
        memmove(digits, digits + 2, strlen(digits + 2) + 1);
    if (*digits == 0 || *digits == '-' || *digits == '+')
        return false;
    long long value = strtoll(text, &end, base);
    if (*end == 0 && (value == INT64_MAX || value == INT64_MIN))
        jinja_fail(call->heap, ST_UNSUPPORTED, "an integer beyond 64 bits");
    *out = value;
    return *end == 0;
}

static struct jinja_value truncated(const struct jinja_call *call, double real, struct jinja_value otherwise)
{
    if (isnan(real) || isinf(real))
        return otherwise;
    if (fabs(real) >= 0x1p63)
        jinja_fail(call->heap, ST_UNSUPPORTED, "an integer beyond 64 bits");
    return jinja_int((int64_t)real);
}

static struct jinja_value filter_int(const struct jinja_call *call)
{
    struct jinja_value otherwise = jinja_given(call->arg[0]) ? call->arg[0] : jinja_int(0);
    int64_t base = jinja_given(call->arg[1]) ? jinja_arg_int(call, call->arg[1]) : 10, out = 0;
    double real = 0;
    if (base < 2 || base > 36)
        jinja_fail(call->heap, ST_UNSUPPORTED, "numbers of base %lld are not supported", (long long)base);
    if (jinja_as_int(call->self, &out) ||
        (call->self.kind == JINJA_STR && parse_int(call, call->self.str, (int)base, &out)))
        return jinja_int(out);
    return parse_real(call, call->self, &real) ? truncated(call, real, otherwise) : otherwise;
}

static struct jinja_value filter_float(const struct jinja_call *call)
{
    double real = 0;
    if (parse_real(call, call->self, &real))
        return jinja_float(real);
    return jinja_given(call->arg[0]) ? call->arg[0] : jinja_float(0);
}

/* Rounds half to even on the exact value, as both Python and printf do. */
static double rounded(double real, int decimals)
{
    char text[MAX_NUMBER_BYTES + MAX_DECIMALS];
    snprintf(text, sizeof text, "%.*f", decimals, real);
    return strtod(text, NULL);
}

static struct jinja_value filter_round(const struct jinja_call *call)
{
    int64_t decimals = jinja_given(call->arg[0]) ? jinja_arg_int(call, call->arg[0]) : 0, whole;
    const struct jinja_str *method = jinja_given(call->arg[1]) ? jinja_arg_str(call, call->arg[1]) : NULL;
    if (decimals < 0 || decimals > MAX_DECIMALS)
        jinja_fail(call->heap, ST_UNSUPPORTED, "rounding to %lld decimals is not supported", (long long)decimals);
    if (!jinja_is_number(call->self))
        jinja_fail(call->heap, ST_INVALID, "type %s cannot be rounded", jinja_type_name(call->self));
    double real = jinja_as_real(call->self), scale = pow(10, (double)decimals);
    if (!method || jinja_str_is(method, "common"))
        return jinja_as_int(call->self, &whole) ? jinja_int(whole) : jinja_float(rounded(real, (int)decimals));
    if (jinja_str_is(method, "ceil"))
        return jinja_float(ceil(real * scale) / scale);
    if (jinja_str_is(method, "floor"))
        return jinja_float(floor(real * scale) / scale);
    jinja_fail(call->heap, ST_INVALID, "method must be common, ceil or floor");
}

static bool flag(const struct jinja_call *call, struct jinja_value v)
{
    return jinja_given(v) && jinja_truth(call->heap, v);
}

/* (between items, after a key). */
static void json_separators(const struct jinja_call *call, struct jinja_value v, struct jinja_json_style *style)
{
    style->between_items = jinja_str_new(call->heap, ", ", style->indent ? 1 : 2);
    style->after_key = jinja_str_new(call->heap, ": ", 2);
    if (!jinja_given(v) || v.kind == JINJA_NONE)
        return;
    struct jinja_items both = jinja_items(call->heap, v);
    if (both.n != 2)
        jinja_fail(call->heap, ST_INVALID, "separators are two strings");
    style->between_items = jinja_arg_str(call, both.at[0]);
    style->after_key = jinja_arg_str(call, both.at[1]);
}

static struct jinja_value filter_tojson(const struct jinja_call *call)
{
    struct jinja_json_style style = { .ensure_ascii = flag(call, call->arg[0]), .sort_keys = flag(call, call->arg[3]) };
    struct jinja_buf out = { 0 };
    if (jinja_given(call->arg[1]) && call->arg[1].kind != JINJA_NONE)
        style.indent = indentation(call, call->arg[1]);
    json_separators(call, call->arg[2], &style);
    jinja_json(call->heap, &out, call->self, &style);
    return jinja_of_str(jinja_str_of_buf(call->heap, &out));
}

const struct jinja_builtin jinja_text_filters[] = {
    { "string", filter_string, 0, { 0 } },
    { "upper", filter_upper, 0, { 0 } },
    { "lower", filter_lower, 0, { 0 } },
    { "capitalize", filter_capitalize, 0, { 0 } },
    { "title", filter_title, 0, { 0 } },
    { "trim", filter_trim, 0, { "chars" } },
    { "replace", filter_replace, 2, { "old", "new", "count" } },
    { "center", filter_center, 0, { "width" } },
    { "default", filter_default, 0, { "default_value", "boolean" } },
    { "d", filter_default, 0, { "default_value", "boolean" } },
    { "indent", filter_indent, 0, { "width", "first", "blank" } },
    { "length", filter_length, 0, { 0 } },
    { "count", filter_length, 0, { 0 } },
    { "abs", filter_abs, 0, { 0 } },
    { "int", filter_int, 0, { "default", "base" } },
    { "float", filter_float, 0, { "default" } },
    { "round", filter_round, 0, { "precision", "method" } },
    { "tojson", filter_tojson, 0, { "ensure_ascii", "indent", "separators", "sort_keys" } },
    { 0 },
};
