#include "engine/jinja_print.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/jinja_run.h"
#include "engine/jinja_text.h"

enum { NUMBER_BYTES = 64 };

static void add_text(struct jinja_heap *heap, struct jinja_buf *out, const char *text)
{
    jinja_buf_add(heap, out, text, strlen(text));
}

static void add_str(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_str *s)
{
    jinja_buf_add(heap, out, s->bytes, s->len);
}

static void add_int(struct jinja_heap *heap, struct jinja_buf *out, int64_t i)
{
    char text[NUMBER_BYTES];
    snprintf(text, sizeof text, "%" PRId64, i);
    add_text(heap, out, text);
}

/* The shortest digits that read back as f, as "d.ddde+xx". */
static void shortest(double f, char text[static NUMBER_BYTES])
{
    for (int digits = 0; digits < 17; digits++) {
        snprintf(text, NUMBER_BYTES, "%.*e", digits, f);
        if (strtod(text, NULL) == f)
            return;
    }
}

/* Python's repr: plain from 1e-4 to below 1e16, always with a point or an exponent. */
static void add_finite(struct jinja_heap *heap, struct jinja_buf *out, double f)
{
    char text[NUMBER_BYTES], digits[NUMBER_BYTES];
    shortest(fabs(f), text);
    char *mark = strchr(text, 'e');
    int exponent = atoi(mark + 1), n = 0;
    for (char *c = text; c < mark; c++)
        if (*c != '.')
            digits[n++] = *c;
    if (signbit(f))
        jinja_buf_char(heap, out, '-');
    if (exponent < -4 || exponent >= 16) {
        jinja_buf_add(heap, out, text, (size_t)(mark - text));
        snprintf(digits, sizeof digits, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        add_text(heap, out, digits);
    } else if (exponent < 0) {
        add_text(heap, out, "0.");
        jinja_buf_fill(heap, out, '0', (size_t)(-exponent - 1));
        jinja_buf_add(heap, out, digits, (size_t)n);
    } else {
        int whole = exponent + 1 < n ? exponent + 1 : n;
        jinja_buf_add(heap, out, digits, (size_t)whole);
        jinja_buf_fill(heap, out, '0', (size_t)(exponent + 1 - whole));
        jinja_buf_char(heap, out, '.');
        if (n > whole)
            jinja_buf_add(heap, out, digits + whole, (size_t)(n - whole));
        else
            jinja_buf_char(heap, out, '0');
    }
}

static void add_float(struct jinja_heap *heap, struct jinja_buf *out, double f, const char *nan, const char *inf)
{
    if (isnan(f)) {
        add_text(heap, out, nan);
    } else if (isinf(f)) {
        add_text(heap, out, f < 0 ? "-" : "");
        add_text(heap, out, inf);
    } else {
        add_finite(heap, out, f);
    }
}

static void add_repr_char(struct jinja_heap *heap, struct jinja_buf *out, int32_t code, char quote)
{
    static const char plain[] = "\nn\rr\tt\\\\";
    char text[16];
    for (const char *p = plain; *p; p += 2)
        if (code == *p) {
            snprintf(text, sizeof text, "\\%c", p[1]);
            add_text(heap, out, text);
            return;
        }
    if (code == quote) {
        jinja_buf_char(heap, out, '\\');
        jinja_buf_char(heap, out, quote);
    } else if (jinja_is_printable(code)) {
        jinja_put_char(heap, out, code);
    } else {
        snprintf(text, sizeof text, code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)code);
        add_text(heap, out, text);
    }
}

static void add_repr_str(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_str *s)
{
    bool single = s->len && memchr(s->bytes, '\'', s->len), twice = s->len && memchr(s->bytes, '"', s->len);
    char quote = single && !twice ? '"' : '\'';
    jinja_buf_char(heap, out, quote);
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        at += jinja_char_at(s->bytes + at, s->len - at, &code);
        add_repr_char(heap, out, code, quote);
    }
    jinja_buf_char(heap, out, quote);
}

static void repr(struct jinja_heap *heap, struct jinja_buf *out, struct jinja_value v, unsigned depth);

static void add_repr_list(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_list *list, unsigned depth)
{
    static const struct {
        const char *open, *close;
    } marks[] = {
        [FORM_LIST] = { "[", "]" },
        [FORM_TUPLE] = { "(", ")" },
        [FORM_KEYS] = { "dict_keys([", "])" },
        [FORM_VALUES] = { "dict_values([", "])" },
        [FORM_ITEMS] = { "dict_items([", "])" },
    };
    if (list->form == FORM_GENERATOR)
        jinja_fail(heap, ST_UNSUPPORTED, "printing a generator is not supported (it lacks |list)");
    add_text(heap, out, marks[list->form].open);
    for (size_t i = 0; i < list->n; i++) {
        if (i)
            add_text(heap, out, ", ");
        repr(heap, out, list->items[i], depth + 1);
    }
    if (list->form == FORM_TUPLE && list->n == 1)
        jinja_buf_char(heap, out, ',');
    add_text(heap, out, marks[list->form].close);
}

static void add_repr_dict(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_dict *dict, unsigned depth)
{
    jinja_buf_char(heap, out, '{');
    for (size_t i = 0; i < dict->n; i++) {
        if (i)
            add_text(heap, out, ", ");
        repr(heap, out, dict->pairs[i].key, depth + 1);
        add_text(heap, out, ": ");
        repr(heap, out, dict->pairs[i].value, depth + 1);
    }
    jinja_buf_char(heap, out, '}');
}

static void add_repr_range(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_range *range)
{
    char text[3 * NUMBER_BYTES];
    if (range->step == 1)
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ")", range->start, range->stop);
    else
        snprintf(text, sizeof text, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start, range->stop,
                 range->step);
    add_text(heap, out, text);
}

static void add_repr_loop(struct jinja_heap *heap, struct jinja_buf *out, const struct jinja_loop *loop)
{
    char text[3 * NUMBER_BYTES];
    snprintf(text, sizeof text, "<LoopContext %zu/%zu>", loop->index0 + 1, loop->items.n);
    add_text(heap, out, text);
}

static void repr(struct jinja_heap *heap, struct jinja_buf *out, struct jinja_value v, unsigned depth)
{
    jinja_charge(heap, 1);
    if (depth > JINJA_MAX_NESTING)
        jinja_fail(heap, ST_LIMIT, "values nest deeper than %d", JINJA_MAX_NESTING);
    switch ((enum jinja_kind)v.kind) {
    case JINJA_UNDEFINED:
        add_text(heap, out, "Undefined");
        break;
    case JINJA_NONE:
        add_text(heap, out, "None");
        break;
    case JINJA_BOOL:
        add_text(heap, out, v.boolean ? "True" : "False");
        break;
    case JINJA_INT:
        add_int(heap, out, v.integer);
        break;
    case JINJA_FLOAT:
        add_float(heap, out, v.real, "nan", "inf");
        break;
    case JINJA_STR:
        add_repr_str(heap, out, v.str);
        break;
    case JINJA_LIST:
        add_repr_list(heap, out, v.list, depth);
        break;
    case JINJA_DICT:
        add_repr_dict(heap, out, v.dict, depth);
        break;
    case JINJA_RANGE:
        add_repr_range(heap, out, v.range);
        break;
    case JINJA_NAMESPACE:
        add_text(heap, out, "<Namespace ");
        add_repr_dict(heap, out, v.dict, depth);
        jinja_buf_char(heap, out, '>');
        break;
    case JINJA_LOOP:
        add_repr_loop(heap, out, v.loop);
        break;
    case JINJA_MACRO:
        add_text(heap, out, "<Macro ");
        add_repr_str(heap, out, v.macro->node->value.str);
        jinja_buf_char(heap, out, '>');
        break;
    default:
        jinja_fail(heap, ST_UNSUPPORTED, "printing a %s is not supported", jinja_type_name(v));
    }
}

void jinja_print(struct jinja_heap *heap, struct jinja_buf *out, struct jinja_value v)
{
    if (v.kind == JINJA_STR)
        add_str(heap, out, v.str);
    else if (v.kind != JINJA_UNDEFINED)
        repr(heap, out, v, 0);
}

const struct jinja_str *jinja_to_str(struct jinja_heap *heap, struct jinja_value v)
{
    if (v.kind == JINJA_STR)
        return v.str;
    struct jinja_buf out = { 0 };
    jinja_print(heap, &out, v);
    return jinja_str_of_buf(heap, &out);
}

struct json_out {
    struct jinja_heap *heap;
    struct jinja_buf *out;
    const struct jinja_json_style *style;
    unsigned depth;
};

static void json_escape(struct json_out *j, int32_t code)
{
    char text[16];
    if (code >= 0x10000)
        snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800u + ((unsigned)(code - 0x10000) >> 10),
                 0xDC00u + ((unsigned)code & 0x3FF));
    else
        snprintf(text, sizeof text, "\\u%04x", (unsigned)code);
    add_text(j->heap, j->out, text);
}

static void json_char(struct json_out *j, int32_t code)
{
    static const char plain[] = "\"\"\\\\\nn\rr\tt\bb\ff";
    for (const char *p = plain; *p; p += 2)
        if (code == *p) {
            jinja_buf_char(j->heap, j->out, '\\');
            jinja_buf_char(j->heap, j->out, p[1]);
            return;
        }
    if (code < 0x20 || (j->style->ensure_ascii && code >= 0x7F))
        json_escape(j, code);
    else
        jinja_put_char(j->heap, j->out, code);
}

static void json_str(struct json_out *j, const struct jinja_str *s)
{
    jinja_buf_char(j->heap, j->out, '"');
    for (size_t at = 0; at < s->len;) {
        int32_t code;
        at += jinja_char_at(s->bytes + at, s->len - at, &code);
        json_char(j, code);
    }
    jinja_buf_char(j->heap, j->out, '"');
}

static void json_value(struct json_out *j, struct jinja_value v);

static void json_scalar(struct json_out *j, struct jinja_value v)
{
    switch ((enum jinja_kind)v.kind) {
    case JINJA_NONE:
        add_text(j->heap, j->out, "null");
        break;
    case JINJA_BOOL:
        add_text(j->heap, j->out, v.boolean ? "true" : "false");
        break;
    case JINJA_INT:
        add_int(j->heap, j->out, v.integer);
        break;
    case JINJA_FLOAT:
        add_float(j->heap, j->out, v.real, "NaN", "Infinity");
        break;
    default:
        jinja_fail(j->heap, ST_INVALID, "Object of type %s is not JSON serializable", jinja_type_name(v));
    }
}

static void json_key(struct json_out *j, struct jinja_value key)
{
    if (key.kind == JINJA_STR) {
        json_str(j, key.str);
        return;
    }
    if (key.kind != JINJA_NONE && !jinja_is_number(key))
        jinja_fail(j->heap, ST_INVALID, "keys must be str, int, float, bool or None, not %s", jinja_type_name(key));
    jinja_buf_char(j->heap, j->out, '"');
    json_scalar(j, key);
    jinja_buf_char(j->heap, j->out, '"');
}

static void json_newline(struct json_out *j)
{
    if (!j->style->indent)
        return;
    jinja_buf_char(j->heap, j->out, '\n');
    for (unsigned i = 0; i < j->depth; i++)
        add_str(j->heap, j->out, j->style->indent);
}

/* Before item i of a list or an object. */
static void json_separate(struct json_out *j, size_t i)
{
    if (i)
        add_str(j->heap, j->out, j->style->between_items);
    json_newline(j);
}

static void json_list(struct json_out *j, const struct jinja_list *list)
{
    if (list->form > FORM_TUPLE)
        json_scalar(j, jinja_of_list((struct jinja_list *)(uintptr_t)list));
    jinja_buf_char(j->heap, j->out, '[');
    j->depth++;
    for (size_t i = 0; i < list->n; i++) {
        json_separate(j, i);
        json_value(j, list->items[i]);
    }
    j->depth--;
    if (list->n)
        json_newline(j);
    jinja_buf_char(j->heap, j->out, ']');
}

/* Insertion sort into a copy: objects of tools are small, and it is charged. */
static struct jinja_pair *sorted_pairs(struct json_out *j, const struct jinja_dict *dict)
{
    struct jinja_pair *pairs = jinja_alloc_array(j->heap, dict->n, sizeof *pairs);
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = i;
        for (; at > 0 && jinja_ordered(j->heap, '<', dict->pairs[i].key, pairs[at - 1].key); at--) {
            jinja_charge(j->heap, 1);
            pairs[at] = pairs[at - 1];
        }
        pairs[at] = dict->pairs[i];
    }
    return pairs;
}

static void json_dict(struct json_out *j, const struct jinja_dict *dict)
{
    const struct jinja_pair *pairs = j->style->sort_keys ? sorted_pairs(j, dict) : dict->pairs;
    jinja_buf_char(j->heap, j->out, '{');
    j->depth++;
    for (size_t i = 0; i < dict->n; i++) {
        json_separate(j, i);
        json_key(j, pairs[i].key);
        add_str(j->heap, j->out, j->style->after_key);
        json_value(j, pairs[i].value);
    }
    j->depth--;
    if (dict->n)
        json_newline(j);
    jinja_buf_char(j->heap, j->out, '}');
}

static void json_value(struct json_out *j, struct jinja_value v)
{
    jinja_charge(j->heap, 1);
    if (j->depth > JINJA_MAX_NESTING)
        jinja_fail(j->heap, ST_LIMIT, "values nest deeper than %d", JINJA_MAX_NESTING);
    if (v.kind == JINJA_STR)
        json_str(j, v.str);
    else if (v.kind == JINJA_LIST)
        json_list(j, v.list);
    else if (v.kind == JINJA_DICT)
        json_dict(j, v.dict);
    else
        json_scalar(j, v);
}

void jinja_json(struct jinja_heap *heap, struct jinja_buf *out, struct jinja_value v,
                const struct jinja_json_style *style)
{
    struct json_out j = { heap, out, style, 0 };
    json_value(&j, v);
}
